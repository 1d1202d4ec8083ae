//! What the guest's one thread waits for.
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Something that became readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The domain's event channels.
    Events,
    /// xenstore, of this vif.
    Store(usize),
    /// A TAP queue, of this vif.
    Tap(usize, usize),
    /// The control socket.
    Listener,
    /// A control connection.
    Connection(u64),
    /// The hypervisor destroyed the domain, or is gone.
    Gone,
}

/// An epoll set whose members carry their [`Source`].
pub struct Poll {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
    events: Vec<Event>,
}

/// A member of the set, to switch it on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member(u64);

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sources: HashMap::new(),
            next: 0,
            events: Vec::with_capacity(64),
        })
    }

    /// Wait for `fd` to be readable too; closing it takes it out.
    pub fn add(&mut self, fd: BorrowedFd<'_>, source: Source) -> io::Result<Member> {
        let member = self.next;
        self.next += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(member), EventFlags::IN)?;
        self.sources.insert(member, source);
        Ok(Member(member))
    }

    /// Listen to `member`, which is `fd`, or leave it alone.
    pub fn listen(&self, fd: BorrowedFd<'_>, member: Member, on: bool) -> io::Result<()> {
        let flags = if on {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        Ok(epoll::modify(
            &self.epoll,
            fd,
            EventData::new_u64(member.0),
            flags,
        )?)
    }

    /// Forget a member whose descriptor is closed.
    pub fn forget(&mut self, member: Member) {
        self.sources.remove(&member.0);
    }

    /// Wait, at most `patience`; what is readable.
    pub fn wait(&mut self, patience: Option<Duration>) -> io::Result<Vec<Source>> {
        let timeout = patience.map(|d| Timespec {
            tv_sec: d.as_secs() as _,
            tv_nsec: d.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = Vec::with_capacity(self.events.len());
        for event in &self.events {
            let (flags, data) = (event.flags, event.data);
            let Some(source) = self.sources.get(&data.u64()) else {
                continue;
            };
            let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            ready.push(if hung_up && *source == Source::Events {
                Source::Gone
            } else {
                *source
            });
        }
        Ok(ready)
    }
}
