//! A domain as its own process sees it: memory, grant table, event channels, xenstore home.
use ring::page::PageWords;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use thiserror::Error;
use xen::event::Port;
use xen::grant::{DomId, GrantRef};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// What a domain is made of.
#[derive(Debug, Clone)]
pub struct DomainConfig {
    /// Its name, written to `/local/domain/<id>/name`.
    pub name: String,
    /// Pages of memory; 0 for a driver domain that is only a name for daemons to run in.
    pub pages: u32,
}

/// [`Domain::end_access`] was refused: the backend still has the page mapped. The grant stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("grant is still in use by the other domain")]
pub struct InUse;

/// A domain whose life is this value's: when it is dropped, or its process dies however, the hypervisor frees
/// grants, ports, xenstore home and watches. Clones share the domain; `Send` and `Sync`.
#[derive(Clone)]
pub struct Domain {}

/// A page of the domain's memory as ring words; keeps the memory mapped.
#[derive(Clone)]
pub struct RingPage {}

impl ring::page::SharedPage for RingPage {
    fn words(&self) -> &PageWords {
        todo!()
    }
}

impl Domain {
    /// Register with the hypervisor that serves `sim_dir`.
    pub fn create(sim_dir: &Path, config: DomainConfig) -> io::Result<Self> {
        todo!()
    }
    /// Its number.
    pub fn id(&self) -> DomId {
        todo!()
    }
    /// Pages of memory; pages are named 0..pages.
    pub fn pages(&self) -> u32 {
        todo!()
    }
    /// Page `page` as a ring page. Panics when there is no such page.
    pub fn ring_page(&self, page: u32) -> RingPage {
        todo!()
    }
    /// Copy bytes out of memory. Panics when the range is not inside memory; may run on over following pages.
    pub fn read(&self, page: u32, offset: usize, into: &mut [u8]) {
        todo!()
    }
    /// Copy bytes into memory, bounds as [`Self::read`].
    pub fn write(&self, page: u32, offset: usize, from: &[u8]) {
        todo!()
    }
    /// Grant `to` access to a page. Fails when the grant table (32768 entries) is full.
    pub fn grant(&self, page: u32, to: DomId, readonly: bool) -> io::Result<GrantRef> {
        todo!()
    }
    /// Point an existing grant (not in use) at another page or domain without freeing it: one store, for recycled grants.
    pub fn regrant(&self, gref: GrantRef, page: u32, to: DomId, readonly: bool) -> Result<(), InUse> {
        todo!()
    }
    /// Revoke a grant and free its reference.
    pub fn end_access(&self, gref: GrantRef) -> Result<(), InUse> {
        todo!()
    }
    /// Take a new port that `remote` may bind to.
    pub fn alloc_unbound(&self, remote: DomId) -> io::Result<Port> {
        todo!()
    }
    /// Close a port.
    pub fn close_port(&self, port: Port) -> io::Result<()> {
        todo!()
    }
    /// Send an event to the other end; dropped where nobody is bound, as Xen does. No round trip but for the first.
    pub fn notify(&self, port: Port) -> io::Result<()> {
        todo!()
    }
    /// Read pending ports without blocking; how many were filled in. They stay masked until [`Self::unmask`].
    pub fn pending(&self, ports: &mut [Port]) -> io::Result<usize> {
        todo!()
    }
    /// Unmask ports; one that became pending meanwhile is delivered again.
    pub fn unmask(&self, ports: &[Port]) -> io::Result<()> {
        todo!()
    }
    /// A new xenstore connection as this domain; relative paths start at its home.
    pub fn store(&self) -> io::Result<xen::store::Client<UnixStream>> {
        todo!()
    }
}

/// Readable when [`Domain::pending`] has a port.
impl AsFd for Domain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}
