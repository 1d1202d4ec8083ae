//! Event channels: which handle owns which port, who may bind it, and what becomes of both when a handle dies.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sim_machine::Machine;
use sim_machine::port::{PORTS, Peer};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// All handles and ports.
#[derive(Default)]
pub struct Events {
    last: u32,
    handles: HashMap<u32, Handle>,
    /// (domain, port) of every open port, and the domain that may bind it.
    ports: BTreeMap<(u16, u32), u16>,
}

struct Handle {
    domid: u16,
    pipe: OwnedFd,
}

impl Events {
    /// Open a handle for a domain: its number, and the read end of its pipe.
    pub fn open(&mut self, domid: u16) -> io::Result<(u32, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        self.last = self.last.wrapping_add(1).max(1);
        self.handles
            .insert(self.last, Handle { domid, pipe: write });
        Ok((self.last, read))
    }

    /// The write end of a handle's pipe: in error when nobody has the read end any more.
    pub fn pipe(&self, handle: u32) -> Option<BorrowedFd<'_>> {
        self.handles.get(&handle).map(|handle| handle.pipe.as_fd())
    }

    /// Take a port that `remote` may bind.
    pub fn alloc(
        &mut self,
        machine: &Machine,
        handle: u32,
        domid: u16,
        remote: u16,
    ) -> Result<u32, Errno> {
        self.check(handle, domid)?;
        machine.alive(remote).ok_or(Errno::SRCH)?;
        self.take(machine, handle, domid, remote)
    }

    /// Bind a port of ours to one that `remote` holds ready for us. EINVAL: it is bound, or for somebody else.
    pub fn bind(
        &mut self,
        machine: &Machine,
        handle: u32,
        domid: u16,
        remote: u16,
        remote_port: u32,
    ) -> Result<u32, Errno> {
        self.check(handle, domid)?;
        let far = machine
            .alive(remote)
            .ok_or(Errno::SRCH)?
            .port(remote_port)
            .ok_or(Errno::INVAL)?;
        if self.ports.get(&(remote, remote_port)) != Some(&domid) {
            return Err(Errno::INVAL);
        }
        if let Some(peer) = far.peer() {
            self.reap_if_dead(machine, peer);
        }
        if far.peer().is_some() {
            return Err(Errno::INVAL);
        }
        let port = self.take(machine, handle, domid, remote)?;
        if let Some(near) = machine.domain(domid).and_then(|area| area.port(port)) {
            near.bind(Some(Peer {
                domid: remote,
                port: remote_port,
            }));
            far.bind(Some(Peer { domid, port }));
            // What was notified while nobody was bound may be lost: Xen raises an event at once (event_channel.c, evtchn_bind_interdomain).
            if near.raise().is_some() {
                self.wake(handle, port);
                near.written();
            }
        }
        Ok(port)
    }

    /// Close a port; its other end, if bound, can be bound anew by the same domain.
    pub fn close(
        &mut self,
        machine: &Machine,
        handle: u32,
        domid: u16,
        port: u32,
    ) -> Result<(), Errno> {
        let slot = machine
            .domain(domid)
            .and_then(|area| area.port(port))
            .ok_or(Errno::INVAL)?;
        if handle == 0 || slot.handle() != handle {
            return Err(Errno::NOTCONN);
        }
        if let Some(peer) = slot.peer() {
            if let Some(far) = machine
                .domain(peer.domid)
                .and_then(|area| area.port(peer.port))
            {
                far.bind(None);
                // Its last notifier was killed before it wrote the number: the far port would stay masked for ever.
                if far.is_unwritten() {
                    self.wake(far.handle(), peer.port);
                    far.written();
                }
            }
            self.ports
                .entry((peer.domid, peer.port))
                .and_modify(|allowed| *allowed = domid);
        }
        slot.open(0);
        self.ports.remove(&(domid, port));
        Ok(())
    }

    /// The domain that a handle is of.
    pub fn domain_of(&self, handle: u32) -> Option<u16> {
        self.handles.get(&handle).map(|handle| handle.domid)
    }

    /// A handle is gone, and with it its ports.
    pub fn release(&mut self, machine: &Machine, handle: u32) {
        let Some(Handle { domid, .. }) = self.handles.remove(&handle) else {
            return;
        };
        let ports: Vec<u32> = self
            .ports
            .range((domid, 0)..=(domid, u32::MAX))
            .map(|((_, port), _)| *port)
            .collect();
        for port in ports {
            // NOTCONN: another handle of the domain owns it.
            let _ = self.close(machine, handle, domid, port);
        }
    }

    /// Handles of a domain.
    pub fn handles_of(&self, domid: u16) -> Vec<u32> {
        self.handles
            .iter()
            .filter(|(_, handle)| handle.domid == domid)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Open ports of a domain, and how many of them are bound.
    pub fn counts(&self, machine: &Machine, domid: u16) -> (usize, usize) {
        let ports = || {
            self.ports
                .range((domid, 0)..=(domid, u32::MAX))
                .map(|((_, port), _)| *port)
        };
        let bound = |port: &u32| {
            machine
                .domain(domid)
                .and_then(|area| area.port(*port))
                .is_some_and(|slot| slot.peer().is_some())
        };
        (ports().count(), ports().filter(bound).count())
    }

    /// Whether the handle is the domain's.
    pub fn check(&self, handle: u32, domid: u16) -> Result<(), Errno> {
        self.handles
            .get(&handle)
            .filter(|handle| handle.domid == domid)
            .map(drop)
            .ok_or(Errno::BADF)
    }

    fn take(
        &mut self,
        machine: &Machine,
        handle: u32,
        domid: u16,
        remote: u16,
    ) -> Result<u32, Errno> {
        let port = (1..PORTS as u32)
            .find(|port| !self.ports.contains_key(&(domid, *port)))
            .ok_or(Errno::NOSPC)?;
        machine
            .domain(domid)
            .and_then(|area| area.port(port))
            .ok_or(Errno::NOSPC)?
            .open(handle);
        self.ports.insert((domid, port), remote);
        Ok(port)
    }

    /// A process that was killed may not have been noticed yet.
    fn reap_if_dead(&mut self, machine: &Machine, peer: Peer) {
        let handle = machine
            .domain(peer.domid)
            .and_then(|area| area.port(peer.port))
            .map_or(0, |slot| slot.handle());
        if self.is_dead(handle) {
            self.release(machine, handle);
        }
    }

    /// Whether nobody has the handle any more, noticed or not: its pipe says so.
    pub fn is_dead(&self, handle: u32) -> bool {
        let Some(pipe) = self.pipe(handle) else {
            return false;
        };
        let mut polls = [PollFd::new(&pipe, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut polls, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn wake(&self, handle: u32, port: u32) {
        if let Some(pipe) = self.pipe(handle) {
            // EPIPE: the handle dies; EAGAIN cannot be, for a port is in the pipe once, or twice after a kill.
            let _ = rustix::io::write(pipe, &port.to_ne_bytes());
        }
    }
}
