//! The process that all domains stand on: one thread, one epoll, control and xenstore connections.
mod domains;
mod events;
mod pages;
mod store;

use domains::{Domain, Domains};
use events::Events;
use pages::{Pages, Place};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
    socketpair,
};
use sim_machine::control::{Operation, Reply, Request, receive_request, send_reply};
use sim_machine::{CONTROL_SOCKET, DomainArea, Machine, STORE_SOCKET};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use store::{Interest, Store};

/// Domains in one reply to Counts: their lines, of less than 500 bytes with a name of 60, fit.
const COUNTS_AT_ONCE: usize = 64;
const NAME_MAX: usize = 60;

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    ControlListener,
    StoreListener,
    Control(u32),
    Store(u32),
    Handle(u32),
}

impl Source {
    fn data(self) -> EventData {
        let (class, id) = match self {
            Self::ControlListener => (0, 0),
            Self::StoreListener => (1, 0),
            Self::Control(id) => (2, id),
            Self::Store(id) => (3, id),
            Self::Handle(id) => (4, id),
        };
        EventData::new_u64(class << 32 | u64::from(id))
    }

    fn from_data(data: EventData) -> Self {
        let (class, id) = (data.u64() >> 32, data.u64() as u32);
        match class {
            0 => Self::ControlListener,
            1 => Self::StoreListener,
            2 => Self::Control(id),
            3 => Self::Store(id),
            _ => Self::Handle(id),
        }
    }
}

/// Who speaks over a control connection.
struct Control {
    socket: OwnedFd,
    role: Role,
    /// Grants this connection has mapped, once for each time.
    maps: Vec<(u16, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A toolstack or test that asks.
    Visitor,
    /// The domain's own process: the domain ends with the connection.
    Owner(u16),
    /// A process inside the domain.
    Inside(u16),
}

/// The hypervisor.
pub struct Hypervisor {
    machine: Machine,
    machine_fd: OwnedFd,
    epoll: OwnedFd,
    control_listener: OwnedFd,
    store_listener: OwnedFd,
    controls: HashMap<u32, Control>,
    last: u32,
    domains: Domains,
    events: Events,
    pages: Pages,
    store: Store,
    interests: HashMap<u32, Interest>,
    /// Dead domains of which a backend directory is left.
    unswept: Vec<u16>,
}

impl Hypervisor {
    /// Listen in `sim_dir`, which must be there and hold no other hypervisor's sockets.
    pub fn listen(sim_dir: &Path) -> io::Result<Self> {
        let (machine, machine_fd) = Machine::create()?;
        let hypervisor = Self {
            machine,
            machine_fd,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            store_listener: listener(&sim_dir.join(STORE_SOCKET), SocketType::STREAM)?,
            // Last: who waits for it finds the other too.
            control_listener: listener(&sim_dir.join(CONTROL_SOCKET), SocketType::SEQPACKET)?,
            controls: HashMap::new(),
            last: 0,
            domains: Domains::default(),
            events: Events::default(),
            pages: Pages::default(),
            store: Store::new(),
            interests: HashMap::new(),
            unswept: Vec::new(),
        };
        hypervisor.wait_for(
            &hypervisor.control_listener,
            Source::ControlListener,
            EventFlags::IN,
        )?;
        hypervisor.wait_for(
            &hypervisor.store_listener,
            Source::StoreListener,
            EventFlags::IN,
        )?;
        Ok(hypervisor)
    }

    /// Serve until something is wrong with the machine itself.
    pub fn run(mut self) -> io::Result<()> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(64);
        loop {
            ready.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                None,
            ) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            for event in &ready {
                self.serve(Source::from_data(event.data));
            }
            self.settle();
        }
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::ControlListener => self.accept_control(),
            Source::StoreListener => self.accept_store(),
            Source::Control(id) => self.serve_control(id),
            Source::Store(id) => {
                if self.store.serve(id).is_err() {
                    self.close_store(id);
                }
            }
            Source::Handle(handle) => self.release_handle(handle),
        }
    }

    /// After a round: send what watches fired, wait for what connections now want, sweep.
    fn settle(&mut self) {
        let store = &mut self.store;
        self.unswept.retain(|domid| !store.sweep(*domid));
        for broken in self.store.flush() {
            self.close_store(broken);
        }
        let changed: Vec<_> = self
            .store
            .interests()
            .filter(|(id, interest)| self.interests.get(id) != Some(interest))
            .collect();
        for (id, interest) in changed {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, interest.read);
            flags.set(EventFlags::OUT, interest.write);
            if let Some(fd) = self.store.fd(id) {
                // It is registered as long as it is in the store.
                let _ = epoll::modify(&self.epoll, fd, Source::Store(id).data(), flags);
            }
            self.interests.insert(id, interest);
        }
    }

    fn wait_for(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, source.data(), flags)?)
    }

    fn next_id(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    fn accept_control(&mut self) {
        let Ok(socket) = accept_with(
            &self.control_listener,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        ) else {
            return;
        };
        let id = self.next_id();
        if self
            .wait_for(&socket, Source::Control(id), EventFlags::IN)
            .is_ok()
        {
            self.controls.insert(
                id,
                Control {
                    socket,
                    role: Role::Visitor,
                    maps: Vec::new(),
                },
            );
        }
    }

    fn accept_store(&mut self) {
        if let Ok(socket) = accept_with(
            &self.store_listener,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        ) {
            // A client that cannot be waited for is hung up on.
            let _ = self.add_store(socket, 0);
        }
    }

    fn add_store(&mut self, socket: OwnedFd, domid: u16) -> io::Result<()> {
        let id = self.next_id();
        self.wait_for(&socket, Source::Store(id), EventFlags::IN)?;
        self.store.connect(id, UnixStream::from(socket), domid);
        self.interests.insert(
            id,
            Interest {
                read: true,
                write: false,
            },
        );
        Ok(())
    }

    fn close_store(&mut self, id: u32) {
        self.store.disconnect(id);
        self.interests.remove(&id);
    }

    fn serve_control(&mut self, id: u32) {
        let Some(control) = self.controls.get(&id) else {
            return;
        };
        let Ok(request) = receive_request(control.socket.as_fd()) else {
            return self.close_control(id);
        };
        let reply = self.perform(id, request);
        let Some(control) = self.controls.get(&id) else {
            return;
        };
        if send_reply(control.socket.as_fd(), reply).is_err() {
            self.close_control(id);
        }
    }

    fn close_control(&mut self, id: u32) {
        let Some(control) = self.controls.remove(&id) else {
            return;
        };
        for (domid, gref) in control.maps {
            self.domains.unmap(&self.machine, domid, gref);
        }
        if let Role::Owner(domid) = control.role {
            self.destroy(domid);
        }
    }

    /// The domain ends: its memory, grants, ports, store connections and home go, and whoever acts for it is hung up on.
    fn destroy(&mut self, domid: u16) {
        if !self.domains.destroy(&self.machine, domid) {
            return;
        }
        self.pages.forget(domid);
        for handle in self.events.handles_of(domid) {
            self.events.release(&self.machine, handle);
        }
        for connection in self.store.connections_of(domid) {
            self.close_store(connection);
        }
        let of_domain = |control: &Control| matches!(control.role, Role::Owner(id) | Role::Inside(id) if id == domid);
        let controls: Vec<u32> = self
            .controls
            .iter()
            .filter(|(_, control)| of_domain(control))
            .map(|(id, _)| *id)
            .collect();
        for control in controls {
            self.close_control(control);
        }
        self.store.release(domid);
        self.unswept.push(domid);
    }

    fn perform(&mut self, id: u32, request: Request) -> Result<Reply, Errno> {
        let Request {
            operation,
            words: [a, b, c],
            text,
        } = request;
        match operation {
            Operation::Create => self.create(id, a, text).map_err(errno),
            Operation::Attach => self.attach(id, a),
            Operation::Counts => Ok(self.counts(a)),
            Operation::Quota => {
                self.store.set_quota(a as usize, b as usize);
                Ok(Reply::default())
            }
            Operation::Destroy => {
                let domid = number(a)?;
                self.domains.get(domid).ok_or(Errno::SRCH)?;
                self.destroy(domid);
                Ok(Reply::default())
            }
            Operation::Memory => {
                let domain = self.domains.get(number(a)?).ok_or(Errno::SRCH)?;
                with_fds([domain.pages(), 0, 0], [domain.memory.try_clone()]).map_err(errno)
            }
            Operation::Waker => {
                let pipe = self.events.pipe(a).ok_or(Errno::SRCH)?;
                with_fds([0; 3], [pipe.try_clone_to_owned()]).map_err(errno)
            }
            _ => self.perform_inside(id, operation, [a, b, c], &text),
        }
    }

    /// Requests of a domain.
    fn perform_inside(
        &mut self,
        id: u32,
        operation: Operation,
        [a, b, c]: [u32; 3],
        text: &str,
    ) -> Result<Reply, Errno> {
        let domid = match self.controls.get(&id).map(|control| control.role) {
            Some(Role::Owner(domid) | Role::Inside(domid)) => domid,
            _ => return Err(Errno::PERM),
        };
        let word = |word: u32| Reply {
            words: [word, 0, 0],
            ..Reply::default()
        };
        match operation {
            Operation::Open => {
                let (handle, pipe) = self.open_handle(domid).map_err(errno)?;
                with_fds([handle, 0, 0], [Ok(pipe)]).map_err(errno)
            }
            Operation::Bind => self
                .events
                .bind(&self.machine, a, domid, number(b)?, c)
                .map(word),
            Operation::AllocUnbound => self
                .events
                .alloc(&self.machine, a, domid, number(b)?)
                .map(word),
            Operation::Close => self
                .events
                .close(&self.machine, a, domid, b)
                .map(|()| Reply::default()),
            Operation::Map => self.map(id, domid, a, b, c != 0),
            Operation::Unmap => self.unmap(id, number(a)?, b),
            Operation::Grant => self.grant(domid, a, number(b)?, c),
            Operation::EndGrants => self.end_grants(domid, a, text),
            Operation::OpenStore => self.open_store(domid).map_err(errno),
            _ => Err(Errno::INVAL),
        }
    }

    fn create(&mut self, id: u32, pages: u32, name: String) -> io::Result<Reply> {
        let control = self
            .controls
            .get(&id)
            .filter(|control| control.role == Role::Visitor);
        control.ok_or(io::ErrorKind::PermissionDenied)?;
        if name.len() > NAME_MAX || name.contains(char::is_whitespace) {
            return Err(Errno::INVAL.into());
        }
        let domid = self.domains.create(&self.machine, name.clone(), pages)?;
        if let Some(control) = self.controls.get_mut(&id) {
            control.role = Role::Owner(domid);
        }
        self.store.introduce(domid, &name);
        let (handle, pipe) = self.open_handle(domid)?;
        let memory = self
            .domains
            .get(domid)
            .ok_or(io::ErrorKind::NotFound)?
            .memory
            .try_clone();
        with_fds(
            [domid.into(), handle, 0],
            [self.machine_fd.try_clone(), memory, Ok(pipe)],
        )
    }

    fn attach(&mut self, id: u32, domid: u32) -> Result<Reply, Errno> {
        let domid = number(domid)?;
        self.domains.get(domid).ok_or(Errno::SRCH)?;
        let control = self
            .controls
            .get_mut(&id)
            .filter(|control| control.role == Role::Visitor)
            .ok_or(Errno::PERM)?;
        control.role = Role::Inside(domid);
        with_fds([0; 3], [self.machine_fd.try_clone()]).map_err(errno)
    }

    fn open_handle(&mut self, domid: u16) -> io::Result<(u32, OwnedFd)> {
        let (handle, pipe) = self.events.open(domid)?;
        if let Some(write) = self.events.pipe(handle) {
            // No flag: only the error that says the last reader is gone.
            // Once: guests hold copies of the write end, so the pipe outlives our closing it, in error for good.
            self.wait_for(write, Source::Handle(handle), EventFlags::ONESHOT)?;
        }
        Ok((handle, pipe))
    }

    fn open_store(&mut self, domid: u16) -> io::Result<Reply> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.add_store(ours, domid)?;
        with_fds([0; 3], [Ok(theirs)])
    }

    fn map(
        &mut self,
        id: u32,
        by: u16,
        domid: u32,
        gref: u32,
        readonly: bool,
    ) -> Result<Reply, Errno> {
        // Beyond u16 is no domain.
        let domid = u16::try_from(domid).unwrap_or(u16::MAX);
        match self.domains.map(&self.machine, by, domid, gref, readonly)? {
            Ok(frame) => {
                if let Some(control) = self.controls.get_mut(&id) {
                    control.maps.push((domid, gref));
                }
                Ok(Reply {
                    words: [frame, 0, 0],
                    ..Reply::default()
                })
            }
            Err(status) => Ok(Reply {
                words: [0, status as u32, 0],
                ..Reply::default()
            }),
        }
    }

    fn unmap(&mut self, id: u32, domid: u16, gref: u32) -> Result<Reply, Errno> {
        let control = self.controls.get_mut(&id).ok_or(Errno::INVAL)?;
        let index = control
            .maps
            .iter()
            .position(|map| *map == (domid, gref))
            .ok_or(Errno::NOENT)?;
        control.maps.swap_remove(index);
        self.domains.unmap(&self.machine, domid, gref);
        Ok(Reply::default())
    }

    /// Pages of a domain's own, granted. Where there are none left, first those of processes whose death was not noticed yet.
    fn grant(&mut self, domid: u16, handle: u32, to: u16, count: u32) -> Result<Reply, Errno> {
        self.events.check(handle, domid)?;
        let mut granted = self.grant_now(domid, handle, to, count);
        if granted == Err(Errno::NOSPC) {
            for handle in self.events.handles_of(domid) {
                if self.events.is_dead(handle) {
                    self.release_handle(handle);
                }
            }
            granted = self.grant_now(domid, handle, to, count);
        }
        let lines = granted?
            .into_iter()
            .map(|(frame, gref)| format!("{frame} {gref}"));
        Ok(Reply {
            text: lines.collect::<Vec<_>>().join("\n"),
            ..Reply::default()
        })
    }

    fn grant_now(
        &mut self,
        domid: u16,
        handle: u32,
        to: u16,
        count: u32,
    ) -> Result<Vec<(u32, u32)>, Errno> {
        let place = Place::find(&self.domains, &self.machine, domid).ok_or(Errno::SRCH)?;
        self.pages.grant(&place, handle, to, count)
    }

    fn end_grants(&mut self, domid: u16, handle: u32, frames: &str) -> Result<Reply, Errno> {
        self.events.check(handle, domid)?;
        let place = Place::find(&self.domains, &self.machine, domid).ok_or(Errno::SRCH)?;
        let frames = frames.split(' ').filter_map(|frame| frame.parse().ok());
        self.pages.end(&place, handle, frames);
        Ok(Reply::default())
    }

    /// Nobody has the handle any more: its pages and ports go.
    fn release_handle(&mut self, handle: u32) {
        let domid = self.events.domain_of(handle);
        let place = domid.and_then(|domid| Place::find(&self.domains, &self.machine, domid));
        if let Some(place) = place {
            self.pages.release(&place, handle);
        }
        self.events.release(&self.machine, handle);
    }

    /// A line a domain from number `from` on, one for the store: `key=value` fields, the name last.
    fn counts(&self, from: u32) -> Reply {
        let mut text = String::new();
        let mut domains = self
            .domains
            .iter()
            .filter(|(domid, _)| u32::from(*domid) >= from);
        for (domid, domain) in domains.by_ref().take(COUNTS_AT_ONCE) {
            if let Some(area) = self.machine.domain(domid) {
                self.count_domain(domid, domain, area, &mut text);
            }
        }
        let next = domains.next().map_or(0, |(domid, _)| u32::from(domid));
        let (nodes, watches, connections) = self.store.counts();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "nodes={nodes} watches={watches} connections={connections}"
        );
        Reply {
            words: [next, 0, 0],
            text,
            ..Reply::default()
        }
    }

    fn count_domain(&self, domid: u16, domain: &Domain, area: &DomainArea, text: &mut String) {
        let (ports, bound) = self.events.counts(&self.machine, domid);
        let granted = if domain.alive() { area.granted() } else { 0 };
        let (alive, mapped, name) = (u8::from(domain.alive()), domain.mapped(), &domain.name);
        let _ = write!(
            text,
            "domain={domid} alive={alive} granted={granted} mapped={mapped} ports={ports} bound={bound}"
        );
        for (counter, value) in area.counters.named() {
            let _ = write!(text, " {counter}={}", value.load(Ordering::Relaxed));
        }
        let _ = writeln!(text, " name={name}");
    }
}

fn listener(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let say = |e: Errno| {
        io::Error::new(
            io::Error::from(e).kind(),
            format!("cannot listen on {}: {e}", path.display()),
        )
    };
    bind(&socket, &SocketAddrUnix::new(path)?).map_err(say)?;
    listen(&socket, 128).map_err(say)?;
    Ok(socket)
}

fn with_fds<const N: usize>(words: [u32; 3], fds: [io::Result<OwnedFd>; N]) -> io::Result<Reply> {
    Ok(Reply {
        words,
        text: String::new(),
        fds: fds.into_iter().collect::<io::Result<_>>()?,
    })
}

fn number(domid: u32) -> Result<u16, Errno> {
    u16::try_from(domid).map_err(|_| Errno::SRCH)
}

fn errno(e: io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::INVAL)
}
