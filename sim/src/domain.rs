//! A domain as its own process sees it: memory, grant table, event channels, xenstore home.
// Guest memory is shared with other processes: it is reached by atomics and raw copies.
#![allow(unsafe_code)]
use ring::page::PageWords;
use sim_machine::control::{Connection, Operation};
use sim_machine::grant::{self, Entry};
use sim_machine::{Machine, Mapping, Wakers};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;
use xen::event::Port;
use xen::grant::{DomId, GrantRef};
use xen::store::Client;

/// Bytes of a page.
pub const PAGE_SIZE: usize = sim_machine::PAGE_SIZE;

/// What a domain is made of.
#[derive(Debug, Clone)]
pub struct DomainConfig {
    /// Its name, written to `/local/domain/<id>/name`.
    pub name: String,
    /// Pages of memory. A driver domain needs them for what its processes take through `/dev/xen/gntalloc`, and the last
    /// [`GNTALLOC_LIMIT`](sim_machine::GNTALLOC_LIMIT) are theirs.
    pub pages: u32,
}

/// [`Domain::end_access`] was refused: the backend still has the page mapped. The grant stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("grant is still in use by the other domain")]
pub struct InUse;

/// A domain whose life is this value's: when it is dropped, or its process dies however, the hypervisor frees
/// grants, ports, xenstore home and watches. Clones share the domain; `Send` and `Sync`.
#[derive(Debug, Clone)]
pub struct Domain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: DomId,
    handle: u32,
    pages: u32,
    machine: Machine,
    memory: Mapping,
    pipe: OwnedFd,
    control: Connection,
    wakers: Wakers,
    /// Grant references nobody uses.
    free: Mutex<Vec<u32>>,
}

/// A page of the domain's memory as ring words; keeps the memory mapped.
#[derive(Debug, Clone)]
pub struct RingPage {
    domain: Arc<Inner>,
    page: u32,
}

impl ring::page::SharedPage for RingPage {
    fn words(&self) -> &PageWords {
        // SAFETY: `Domain::ring_page` checked the page; page aligned, mapped as long as the domain, only reached by atomics here.
        unsafe {
            self.domain
                .memory
                .base()
                .cast::<PageWords>()
                .add(self.page as usize)
                .as_ref()
        }
    }
}

impl Domain {
    /// Register with the hypervisor that serves `sim_dir`.
    pub fn create(sim_dir: &Path, config: DomainConfig) -> io::Result<Self> {
        let control = Connection::open(sim_dir)?;
        let mut reply = control.call(Operation::Create, [config.pages, 0, 0], &config.name)?;
        let machine = Machine::map(reply.take_fd()?)?;
        let memory = Mapping::new(reply.take_fd()?, config.pages as usize * PAGE_SIZE)?;
        let inner = Inner {
            id: DomId(reply.words[0] as u16),
            handle: reply.words[1],
            pages: config.pages,
            machine,
            memory,
            pipe: reply.take_fd()?,
            control,
            wakers: Wakers::default(),
            free: Mutex::new((grant::FIRST..grant::ENTRIES as u32).rev().collect()),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Its number.
    pub fn id(&self) -> DomId {
        self.inner.id
    }

    /// Pages of memory; pages are named 0..pages.
    pub fn pages(&self) -> u32 {
        self.inner.pages
    }

    /// Page `page` as a ring page. Panics when there is no such page.
    pub fn ring_page(&self, page: u32) -> RingPage {
        assert!(
            page < self.inner.pages,
            "page {page} of {}",
            self.inner.pages
        );
        RingPage {
            domain: Arc::clone(&self.inner),
            page,
        }
    }

    /// Copy bytes out of memory. Panics when the range is not inside memory; may run on over following pages.
    pub fn read(&self, page: u32, offset: usize, into: &mut [u8]) {
        let from = self.at(page, offset, into.len());
        // SAFETY: `at` checked the range; another process may write meanwhile, and then some of each is read, as on a machine.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copy bytes into memory, bounds as [`Self::read`].
    pub fn write(&self, page: u32, offset: usize, from: &[u8]) {
        let into = self.at(page, offset, from.len());
        // SAFETY: as in `read`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) }
    }

    fn at(&self, page: u32, offset: usize, len: usize) -> *mut u8 {
        let memory = &self.inner.memory;
        let start = page as usize * PAGE_SIZE + offset;
        assert!(
            start
                .checked_add(len)
                .is_some_and(|end| end <= memory.len()),
            "{len} bytes at {start} of {}",
            memory.len()
        );
        // SAFETY: inside the mapping, just asserted.
        unsafe { memory.base().as_ptr().add(start) }
    }

    fn slot(&self, gref: GrantRef) -> Option<&grant::Slot> {
        self.inner.machine.domain(self.inner.id.0)?.grant(gref.0)
    }

    /// Grant `to` access to a page. Fails when the grant table (32768 entries) is full.
    pub fn grant(&self, page: u32, to: DomId, readonly: bool) -> io::Result<GrantRef> {
        let gref = self
            .inner
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let gref = GrantRef(gref.ok_or_else(|| {
            io::Error::new(io::ErrorKind::StorageFull, "the grant table is full")
        })?);
        if let Some(slot) = self.slot(gref) {
            // A free entry is not mapped.
            let _ = slot.replace(Entry::permit(page, to.0, readonly));
        }
        Ok(gref)
    }

    /// Point an existing grant (not in use) at another page or domain without freeing it: one store, for recycled grants.
    pub fn regrant(
        &self,
        gref: GrantRef,
        page: u32,
        to: DomId,
        readonly: bool,
    ) -> Result<(), InUse> {
        self.slot(gref)
            .and_then(|slot| slot.replace(Entry::permit(page, to.0, readonly)))
            .ok_or(InUse)
    }

    /// Revoke a grant and free its reference.
    pub fn end_access(&self, gref: GrantRef) -> Result<(), InUse> {
        self.slot(gref)
            .and_then(|slot| slot.replace(Entry::NONE))
            .ok_or(InUse)?;
        self.inner
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(gref.0);
        Ok(())
    }

    /// Take a new port that `remote` may bind to.
    pub fn alloc_unbound(&self, remote: DomId) -> io::Result<Port> {
        let reply = self.inner.control.call(
            Operation::AllocUnbound,
            [self.inner.handle, remote.0.into(), 0],
            "",
        )?;
        Ok(Port(reply.words[0]))
    }

    /// Close a port.
    pub fn close_port(&self, port: Port) -> io::Result<()> {
        self.inner
            .control
            .call(Operation::Close, [self.inner.handle, port.0, 0], "")
            .map(drop)
    }

    /// Send an event to the other end; dropped where nobody is bound, as Xen does. No round trip but for the first.
    pub fn notify(&self, port: Port) -> io::Result<()> {
        let Inner {
            wakers,
            machine,
            control,
            id,
            ..
        } = &*self.inner;
        wakers.notify(machine, control, id.0, port.0)
    }

    /// Read pending ports without blocking; how many were filled in. They stay masked until [`Self::unmask`].
    pub fn pending(&self, ports: &mut [Port]) -> io::Result<usize> {
        let mut bytes = [0; 256];
        let len = bytes.len().min(size_of_val(ports));
        let read =
            match rustix::io::read(&self.inner.pipe, bytes.get_mut(..len).unwrap_or_default()) {
                Ok(read) => read,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
                Err(e) => return Err(e.into()),
            };
        let chunks = bytes.get(..read).unwrap_or_default().chunks_exact(4);
        for (port, chunk) in ports.iter_mut().zip(chunks) {
            *port = Port(chunk.try_into().map_or(0, u32::from_ne_bytes));
        }
        Ok(read / 4)
    }

    /// Unmask ports; one that became pending meanwhile is delivered again.
    pub fn unmask(&self, ports: &[Port]) -> io::Result<()> {
        let Inner {
            wakers,
            machine,
            control,
            id,
            handle,
            ..
        } = &*self.inner;
        for port in ports {
            let slot = machine.domain(id.0).and_then(|area| area.port(port.0));
            if slot.is_some_and(|slot| slot.unmask(*handle)) {
                wakers.wake(control, *handle, port.0)?;
            }
        }
        Ok(())
    }

    /// A new xenstore connection as this domain; relative paths start at its home.
    pub fn store(&self) -> io::Result<Client<UnixStream>> {
        let fd = self
            .inner
            .control
            .call(Operation::OpenStore, [0; 3], "")?
            .take_fd()?;
        Ok(Client::new(UnixStream::from(fd)))
    }

    /// Hangs up when the hypervisor has gone or has destroyed this domain.
    pub fn lifeline(&self) -> BorrowedFd<'_> {
        self.inner.control.as_fd()
    }
}

/// Readable when [`Domain::pending`] has a port.
impl AsFd for Domain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.pipe.as_fd()
    }
}

impl AsRawFd for Domain {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.inner.pipe.as_raw_fd()
    }
}
