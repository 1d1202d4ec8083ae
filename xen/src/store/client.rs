//! Our end of a xenstore connection: one request at a time, watch events kept aside as they come in between.
// poll(2) has no safe form in libc.
#![allow(unsafe_code)]
use super::wire::{self, HEADER, Inbox, Kind, PAYLOAD_MAX};
use super::{StoreError, Transaction, WatchEvent, XenStore};
use crate::grant::DomId;
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Different (path, token) pairs kept before all of them collapse into one event for each watch.
const EVENTS_MAX: usize = 4096;
/// Bytes read at once: more than one whole message.
const READ: usize = HEADER + PAYLOAD_MAX;
/// Reads of the stream in one look for watch events: what a guest that writes all the time can have us take in at once.
const READS_MAX: usize = 16;

/// A connection to xenstore over any stream, blocking or not: `/dev/xen/xenbus` or a unix socket.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    inbox: Inbox,
    request: u32,
    watches: Vec<WatchEvent>,
    events: Events,
    /// The stream broke, or what came over it made no sense; what follows cannot be understood.
    broken: bool,
}

/// Watch events not yet taken, each once, in the order in which they first fired.
#[derive(Debug, Default)]
struct Events {
    queue: VecDeque<WatchEvent>,
    known: HashSet<WatchEvent>,
    overflowed: bool,
}

impl Events {
    fn push(&mut self, event: WatchEvent) {
        if self.overflowed || self.known.contains(&event) {
            return;
        }
        if self.queue.len() == EVENTS_MAX {
            *self = Self {
                overflowed: true,
                ..Self::default()
            };
            return;
        }
        self.known.insert(event.clone());
        self.queue.push_back(event);
    }

    fn take(&mut self, watches: &[WatchEvent]) -> Vec<WatchEvent> {
        let Self {
            queue, overflowed, ..
        } = std::mem::take(self);
        if overflowed {
            watches.to_vec()
        } else {
            queue.into()
        }
    }
}

impl<S: Read + Write + AsFd + Send> Client<S> {
    /// Speak over `stream`.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            request: 0,
            watches: Vec::new(),
            events: Events::default(),
            broken: false,
        }
    }

    /// Our own domain's number, from the relative key `domid`.
    pub fn domid(&mut self) -> Result<DomId, StoreError> {
        let value = self.read(Transaction::NONE, "domid")?;
        let refused = |_| StoreError::Refused {
            operation: "read",
            path: "domid".into(),
            errno: format!("not a domain id: {value:?}"),
        };
        value.parse().map(DomId).map_err(refused)
    }

    /// Make a node with an empty value, and its parents; no error where it is there.
    pub fn mkdir(&mut self, t: Transaction, path: &str) -> Result<(), StoreError> {
        self.ask(Kind::Mkdir, t, "mkdir", path, &[]).map(drop)
    }

    /// The node's permissions: owner first (`n5`), then others (`r0`).
    pub fn permissions(&mut self, t: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        Ok(
            wire::strings(&self.ask(Kind::GetPerms, t, "get-perms of", path, &[])?)
                .map(text)
                .collect(),
        )
    }

    /// Set the node's permissions, as [`Self::permissions`] spells them.
    pub fn set_permissions(
        &mut self,
        t: Transaction,
        path: &str,
        permissions: &[&str],
    ) -> Result<(), StoreError> {
        let tail: Vec<u8> = permissions
            .iter()
            .flat_map(|p| p.bytes().chain([0]))
            .collect();
        self.ask(Kind::SetPerms, t, "set-perms of", path, &tail)
            .map(drop)
    }

    /// Ask about `path`: the payload is the path, a NUL, `tail`.
    fn ask(
        &mut self,
        kind: Kind,
        t: Transaction,
        operation: &'static str,
        path: &str,
        tail: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let refused = |errno: String| StoreError::Refused {
            operation,
            path: path.into(),
            errno,
        };
        if path.contains('\0') {
            return Err(refused("EINVAL".into()));
        }
        let mut payload = Vec::with_capacity(path.len() + 1 + tail.len());
        payload.extend_from_slice(path.as_bytes());
        payload.push(0);
        payload.extend_from_slice(tail);
        if payload.len() > PAYLOAD_MAX {
            return Err(refused("E2BIG".into()));
        }
        match self.exchange(kind, t, &payload)? {
            Ok(reply) => Ok(reply),
            Err(errno) => Err(match errno.as_str() {
                "ENOENT" => StoreError::Missing(path.into()),
                "EAGAIN" => StoreError::Conflict,
                _ => refused(errno),
            }),
        }
    }

    /// Send a request and wait for its reply; the inner error is an error name.
    fn exchange(
        &mut self,
        kind: Kind,
        t: Transaction,
        payload: &[u8],
    ) -> Result<Result<Vec<u8>, String>, StoreError> {
        if self.broken {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "broken before, connect again",
            )
            .into());
        }
        self.request = self.request.wrapping_add(1);
        let result = self
            .send(&wire::message(kind, self.request, t.0, payload))
            .and_then(|()| self.receive(kind));
        self.broken = result.is_err();
        Ok(result?)
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    poll(self.stream.as_fd(), libc::POLLOUT, true).map(|_| ())?
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The reply to the request just sent.
    fn receive(&mut self, kind: Kind) -> io::Result<Result<Vec<u8>, String>> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        loop {
            while let Some((header, payload)) = self
                .inbox
                .next_message()
                .map_err(|e| invalid(e.to_string()))?
            {
                if header.kind == Kind::WatchEvent as u32 {
                    self.events.push(watch_event(payload));
                } else if header.request != self.request {
                    return Err(invalid(format!(
                        "reply to request {}, expected {}",
                        header.request, self.request
                    )));
                } else if header.kind == Kind::Error as u32 {
                    return Ok(Err(wire::strings(payload)
                        .next()
                        .map(text)
                        .unwrap_or_default()));
                } else if header.kind == kind as u32 {
                    return Ok(Ok(payload.to_vec()));
                } else {
                    return Err(invalid(format!(
                        "reply of type {} to a request of type {}",
                        header.kind, kind as u32
                    )));
                }
            }
            self.fill(true)?;
        }
    }

    /// Read what is there, waiting for it if so asked. False: nothing was there.
    fn fill(&mut self, wait: bool) -> io::Result<bool> {
        let mut bytes = [0; READ];
        loop {
            if !poll(self.stream.as_fd(), libc::POLLIN, wait)? {
                return Ok(false);
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.inbox.extend(bytes.get(..n).unwrap_or_default());
                    return Ok(true);
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes in watch events that are there, as far as [`READS_MAX`] reads go; the descriptor stays readable where there are more.
    fn collect(&mut self) -> io::Result<()> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        for _ in 0..READS_MAX {
            while let Some((header, payload)) = self
                .inbox
                .next_message()
                .map_err(|e| invalid(e.to_string()))?
            {
                if header.kind != Kind::WatchEvent as u32 {
                    return Err(invalid(format!(
                        "reply of type {} to no request",
                        header.kind
                    )));
                }
                self.events.push(watch_event(payload));
            }
            if !self.fill(false)? {
                break;
            }
        }
        Ok(())
    }
}

impl<S: Read + Write + AsFd + Send> XenStore for Client<S> {
    fn read(&mut self, t: Transaction, path: &str) -> Result<String, StoreError> {
        Ok(text(&self.ask(Kind::Read, t, "read", path, &[])?))
    }

    fn write(&mut self, t: Transaction, path: &str, value: &str) -> Result<(), StoreError> {
        self.ask(Kind::Write, t, "write", path, value.as_bytes())
            .map(drop)
    }

    fn directory(&mut self, t: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        Ok(
            wire::strings(&self.ask(Kind::Directory, t, "directory", path, &[])?)
                .map(text)
                .collect(),
        )
    }

    fn remove(&mut self, t: Transaction, path: &str) -> Result<(), StoreError> {
        self.ask(Kind::Rm, t, "rm", path, &[]).map(drop)
    }

    fn begin(&mut self) -> Result<Transaction, StoreError> {
        let reply = self.ask(
            Kind::TransactionStart,
            Transaction::NONE,
            "transaction start",
            "",
            &[],
        )?;
        let number = wire::strings(&reply)
            .next()
            .map(text)
            .and_then(|n| n.parse().ok());
        number.map(Transaction).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "transaction without a number").into()
        })
    }

    fn end(&mut self, t: Transaction, commit: bool) -> Result<(), StoreError> {
        self.ask(
            Kind::TransactionEnd,
            t,
            "transaction end",
            if commit { "T" } else { "F" },
            &[],
        )
        .map(drop)
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let tail: Vec<u8> = token.bytes().chain([0]).collect();
        self.ask(Kind::Watch, Transaction::NONE, "watch", path, &tail)?;
        self.watches.push(WatchEvent {
            path: path.into(),
            token: token.into(),
        });
        Ok(())
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let tail: Vec<u8> = token.bytes().chain([0]).collect();
        self.ask(Kind::Unwatch, Transaction::NONE, "unwatch", path, &tail)?;
        self.watches
            .retain(|watch| watch.path != path || watch.token != token);
        // Another watch may share the token: only events below this path go.
        let gone = |event: &WatchEvent| event.token == token && is_below(&event.path, path);
        self.events.queue.retain(|event| !gone(event));
        self.events.known.retain(|event| !gone(event));
        Ok(())
    }

    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError> {
        if self.broken {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "broken before, connect again",
            )
            .into());
        }
        let result = self.collect();
        self.broken = result.is_err();
        result?;
        Ok(self.events.take(&self.watches))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || parent == "/")
}

fn watch_event(payload: &[u8]) -> WatchEvent {
    let mut strings = wire::strings(payload).map(text);
    WatchEvent {
        path: strings.next().unwrap_or_default(),
        token: strings.next().unwrap_or_default(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Wait until `fd` is ready, or only ask.
fn poll(fd: BorrowedFd<'_>, events: i16, wait: bool) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd, on our stack.
        match unsafe { libc::poll(&mut poll, 1, if wait { -1 } else { 0 }) } {
            -1 => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
            ready => return Ok(ready > 0),
        }
    }
}

#[cfg(test)]
mod tests;
