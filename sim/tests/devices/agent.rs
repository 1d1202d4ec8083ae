//! A backend as a process of its own, with the real device code of `xen` under the preload library, that does what it is told
//! line by line over a socket. It is this test program, run again.
// Memory for copies, and one raw ioctl that the checked code would never make.
#![allow(unsafe_code)]
use crate::gntalloc::Granted;
use std::alloc::{Layout, alloc_zeroed};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use xen::event::{EventChannels, Port};
use xen::grant::{CopyList, DomId, GrantRef, GrantTable, LocalMemory, PAGE_SIZE, Side};
use xen::linux::{Evtchn, Gntdev, MappedPage};
use xen::store::{Transaction, XenStore};

const PAGES: usize = 16;

struct Memory(NonNull<u8>);

// SAFETY: allocated page aligned for the agent's life; nothing refers into it but raw copies.
unsafe impl LocalMemory for Memory {
    fn base(&self) -> NonNull<u8> {
        self.0
    }
    fn len(&self) -> usize {
        PAGES * PAGE_SIZE
    }
}

struct Agent {
    gntdev: Gntdev,
    evtchn: Evtchn,
    copies: CopyList<Memory>,
    pages: HashMap<u32, MappedPage>,
    granted: Granted,
}

/// Serve until the socket closes.
pub fn run(socket: UnixStream) {
    // SAFETY: not a zero size.
    let memory =
        unsafe { alloc_zeroed(Layout::from_size_align(PAGES * PAGE_SIZE, PAGE_SIZE).unwrap()) };
    let mut agent = Agent {
        gntdev: Gntdev::open().unwrap(),
        evtchn: Evtchn::open().unwrap(),
        copies: CopyList::with_capacity(Memory(NonNull::new(memory).unwrap()), 256),
        pages: HashMap::new(),
        granted: Granted::default(),
    };
    let mut out = socket.try_clone().unwrap();
    for line in BufReader::new(socket).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let reply = agent
            .perform(words[0], &words[1..])
            .unwrap_or_else(|e| format!("err {}", e.raw_os_error().unwrap_or(0)));
        if writeln!(out, "{reply}").is_err() {
            return;
        }
    }
}

fn number(word: &str) -> u32 {
    word.parse().unwrap()
}

/// `l<offset>` or `f<domain>.<grant>.<offset>`.
fn side(word: &str) -> Side {
    let (kind, rest) = word.split_at(1);
    if kind == "l" {
        return Side::Local(rest.parse().unwrap());
    }
    let mut parts = rest.split('.');
    let mut next = || parts.next().unwrap();
    Side::Foreign {
        domid: DomId(next().parse().unwrap()),
        gref: GrantRef(next().parse().unwrap()),
        offset: next().parse().unwrap(),
    }
}

/// `<source>><dest>:<len>`.
fn segment(word: &str) -> (Side, Side, u16) {
    let (sides, len) = word.split_once(':').unwrap();
    let (source, dest) = sides.split_once('>').unwrap();
    (side(source), side(dest), len.parse().unwrap())
}

impl Agent {
    fn perform(&mut self, command: &str, words: &[&str]) -> std::io::Result<String> {
        let n = |i: usize| number(words[i]);
        Ok(match command {
            "map" => {
                let page = self.gntdev.map(DomId(n(0) as u16), GrantRef(n(1)))?;
                self.pages.insert(n(1), page);
                "ok".into()
            }
            "unmap" => {
                self.pages.remove(&n(0)).unwrap();
                "ok".into()
            }
            "peek" => self.pages[&n(0)].as_ref()[n(1) as usize]
                .load(Ordering::SeqCst)
                .to_string(),
            "poke" => {
                self.pages[&n(0)].as_ref()[n(1) as usize].store(n(2), Ordering::SeqCst);
                "ok".into()
            }
            "copy" => self.copy(words),
            "raw" => self.raw(words),
            "fill" => {
                // SAFETY: inside the memory; nobody else touches it now.
                unsafe {
                    self.copies
                        .memory()
                        .0
                        .as_ptr()
                        .write_bytes(n(0) as u8, PAGES * PAGE_SIZE)
                };
                "ok".into()
            }
            "byte" => {
                assert!((n(0) as usize) < PAGES * PAGE_SIZE);
                // SAFETY: inside the memory.
                unsafe { self.copies.memory().0.as_ptr().add(n(0) as usize).read() }.to_string()
            }
            "bind" => self
                .evtchn
                .bind(DomId(n(0) as u16), Port(n(1)))?
                .0
                .to_string(),
            "unbind" => self.evtchn.unbind(Port(n(0))).map(|()| "ok".into())?,
            "notify" => self.evtchn.notify(Port(n(0))).map(|()| "ok".into())?,
            "unmask" => self.evtchn.unmask(&[Port(n(0))]).map(|()| "ok".into())?,
            "pending" => self.pending(n(0)),
            "serve" => self.serve(n(0), n(1)),
            "read" => {
                let mut store = xen::linux::open_store()?;
                store
                    .read(Transaction::NONE, words[0])
                    .unwrap_or_else(|e| e.to_string())
            }
            "watch" => self.watch(words[0]),
            "dup" => self.dup(n(0), n(1))?,
            "bench" => self.bench(n(0), n(1), n(2), n(3)),
            "exists" => std::path::Path::new(words[0]).exists().to_string(),
            _ => self.granted.perform(command, words)?,
        })
    }

    /// `ok` or `err` with all statuses, or `refused` where the list panicked, as it does of our own bugs.
    fn copy(&mut self, words: &[&str]) -> String {
        self.copies.clear();
        let issue = AssertUnwindSafe(|| {
            for word in words {
                let (source, dest, len) = segment(word);
                self.copies.push(source, dest, len);
            }
            self.gntdev.copy(&mut self.copies).is_ok()
        });
        let word = match catch_unwind(issue) {
            Ok(true) => "ok",
            Ok(false) => "err",
            Err(_) => return "refused".into(),
        };
        let statuses = (0..self.copies.len()).map(|n| self.copies.status(n).0.to_string());
        let statuses: Vec<_> = statuses.collect();
        format!("{word} {}", statuses.join(" "))
    }

    /// The ioctl without the checks: what gntdev itself says.
    fn raw(&self, words: &[&str]) -> String {
        #[repr(C)]
        struct Raw(u64, u64, u16, u16, i16);
        let fd = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/xen/gntdev")
            .unwrap();
        let raw_side = |side: Side| match side {
            Side::Local(offset) => (self.copies.memory().0.as_ptr() as u64 + offset, 0),
            Side::Foreign {
                domid,
                gref,
                offset,
            } => (
                u64::from(gref.0) | u64::from(offset) << 32 | u64::from(domid.0) << 48,
                1,
            ),
        };
        let raw = |word: &&str| {
            let (source, dest, len) = segment(word);
            let ((source, from), (dest, to)) = (raw_side(source), raw_side(dest));
            Raw(source, dest, len, from | to << 1, 77)
        };
        let mut segments: Vec<Raw> = words.iter().map(raw).collect();
        let mut argument = (segments.len() as u64, segments.as_mut_ptr());
        // SAFETY: the argument's layout is count u32, padding, pointer; the segments are there.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), 0x10_4708, &raw mut argument) };
        let mut text = if result == 0 {
            "ok".to_owned()
        } else {
            format!(
                "err {}",
                std::io::Error::last_os_error().raw_os_error().unwrap()
            )
        };
        for segment in &segments {
            write!(text, " {}", segment.4).unwrap();
        }
        text
    }

    /// Ports read within `limit` milliseconds; waits for the first only.
    fn pending(&self, limit: u32) -> String {
        let mut ports = [Port(0); 64];
        self.wait(limit);
        let n = self.evtchn.pending(&mut ports).unwrap();
        ports[..n]
            .iter()
            .map(|port| port.0.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn wait(&self, limit: u32) -> bool {
        use std::os::fd::AsFd;
        let mut poll = libc::pollfd {
            fd: self.evtchn.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd on our stack.
        unsafe { libc::poll(&mut poll, 1, limit as i32) > 0 }
    }

    /// Answer on `port`: word 0 of the page mapped as `gref` is copied to word 1 after each event, and the guest is notified,
    /// until it reads u32::MAX. How often it slept too long.
    fn serve(&self, port: u32, gref: u32) -> String {
        let page = self.pages[&gref].as_ref();
        let (mut lost, mut ports) = (0, [Port(0); 8]);
        loop {
            if !self.wait(2000) && page[0].load(Ordering::SeqCst) != page[1].load(Ordering::SeqCst)
            {
                lost += 1;
            }
            let n = self.evtchn.pending(&mut ports).unwrap();
            self.evtchn.unmask(&ports[..n]).unwrap();
            let value = page[0].load(Ordering::SeqCst);
            page[1].store(value, Ordering::SeqCst);
            self.evtchn.notify(Port(port)).unwrap();
            if value == u32::MAX {
                return lost.to_string();
            }
        }
    }

    /// Events of a watch on `path` until one second passes without any.
    fn watch(&self, path: &str) -> String {
        let mut store = xen::linux::open_store().unwrap();
        store.watch(path, "token").unwrap();
        let (mut all, mut last) = (Vec::new(), Instant::now());
        while last.elapsed() < Duration::from_secs(1) {
            for event in store.events().unwrap() {
                all.push(event.path);
                last = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        all.join(" ")
    }

    /// Bind through a duplicate of the descriptor, and close it: the original still works.
    fn dup(&self, domid: u32, port: u32) -> std::io::Result<String> {
        use std::os::fd::AsFd;
        let copy = self.evtchn.as_fd().try_clone_to_owned()?;
        let mut bind = [domid, port];
        // SAFETY: IOCTL_EVTCHN_BIND_INTERDOMAIN takes two words.
        let bound = unsafe { libc::ioctl(copy.as_raw_fd(), 0x8_4501, &raw mut bind) };
        drop(copy);
        Ok(bound.to_string())
    }

    /// Nanoseconds a segment: `rounds` calls of `batch` segments of `len` bytes out of grant `gref` of the domain 'domid'.
    fn bench(&mut self, domid: u32, gref: u32, batch: u32, len: u32) -> String {
        let source = Side::Foreign {
            domid: DomId(domid as u16),
            gref: GrantRef(gref),
            offset: 0,
        };
        self.copies.clear();
        for n in 0..batch {
            let dest = Side::Local(u64::from(n % 16) * 4096);
            self.copies.push(source, dest, len as u16);
        }
        let (rounds, start) = (2000, Instant::now());
        for _ in 0..rounds {
            self.gntdev.copy(&mut self.copies).unwrap();
        }
        (start.elapsed().as_nanos() / (rounds * u128::from(batch))).to_string()
    }
}
