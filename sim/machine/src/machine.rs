//! The memory all processes of a simulation map: for each domain its grant table, its ports and its counters.
// The mapping is viewed as the structs that lie in it.
#![allow(unsafe_code)]
use crate::{Mapping, grant, port};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Domains at once; numbers are used again only when all were used.
pub const MAX_DOMAINS: usize = 256;

/// What copies cost and did wrong, counted by whoever makes them for the domain that it belongs to.
#[derive(Debug)]
#[repr(C)]
pub struct Counters {
    /// GRANT_COPY ioctls.
    pub copy_calls: AtomicU64,
    /// Hypercalls they made: one for each 16 operations begun.
    pub copy_hypercalls: AtomicU64,
    /// Operations: a segment, or two where its local side crosses a page.
    pub copy_operations: AtomicU64,
    /// Operations whose status was not OKAY.
    pub copy_refused: AtomicU64,
    /// Bytes copied.
    pub copy_bytes: AtomicU64,
    /// Notifications sent.
    pub notifications: AtomicU64,
    /// Copies whose grant the guest had changed when they ended. On Xen the guest could not have taken the page back; here it
    /// could, so a backend that answers a request before its copy is found out.
    pub accessed_after_revoke: AtomicU64,
}

/// One domain.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct DomainArea {
    /// 0: there is no such domain; else unlike that of any domain that had the number before.
    generation: AtomicU64,
    pages: AtomicU32,
    /// What happened.
    pub counters: Counters,
    ports: [port::Slot; port::PORTS],
    grants: [grant::Slot; grant::ENTRIES],
}

impl DomainArea {
    /// 0: no such domain; else this life's number. Acquire: pairs with [`Self::live`].
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Pages of memory.
    #[inline]
    pub fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The grant entry, where the table reaches so far.
    #[inline]
    pub fn grant(&self, gref: u32) -> Option<&grant::Slot> {
        self.grants.get(gref as usize)
    }

    /// The port, where there can be one.
    pub fn port(&self, port: u32) -> Option<&port::Slot> {
        self.ports.get(port as usize).filter(|_| port != 0)
    }

    /// Grant entries that offer something.
    pub fn granted(&self) -> u32 {
        self.grants
            .iter()
            .filter(|slot| slot.load().is_granted())
            .count() as u32
    }

    /// The hypervisor begins a domain's life here.
    pub fn live(&self, generation: u64, pages: u32) {
        self.grants
            .iter()
            .filter(|slot| slot.load().is_granted())
            .for_each(grant::Slot::clear);
        self.ports.iter().for_each(|slot| slot.open(0));
        for (_, counter) in self.counters.named() {
            counter.store(0, Ordering::Relaxed);
        }
        self.pages.store(pages, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
    }

    /// And ends it. Grants are cleared when the number is used again: a late reader finds no domain.
    pub fn die(&self) {
        self.generation.store(0, Ordering::Release);
    }
}

impl Counters {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, &AtomicU64); 7] {
        [
            ("copy_calls", &self.copy_calls),
            ("copy_hypercalls", &self.copy_hypercalls),
            ("copy_operations", &self.copy_operations),
            ("copy_refused", &self.copy_refused),
            ("copy_bytes", &self.copy_bytes),
            ("notifications", &self.notifications),
            ("accessed_after_revoke", &self.accessed_after_revoke),
        ]
    }
}

const BYTES: usize = size_of::<DomainArea>() * MAX_DOMAINS;

/// The mapping. Sparse: what no domain uses takes no memory.
#[derive(Debug)]
pub struct Machine {
    mapping: Mapping,
}

impl Machine {
    /// Make one, and the descriptor by which others map it.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create("machine", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, BYTES as u64)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// Map one that another process made.
    pub fn map(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            mapping: Mapping::new(fd, BYTES)?,
        })
    }

    /// The area of a domain, alive or not; None where the number is beyond the machine.
    #[inline]
    pub fn domain(&self, domid: u16) -> Option<&DomainArea> {
        if usize::from(domid) >= MAX_DOMAINS {
            return None;
        }
        // SAFETY: inside the mapping by the check and BYTES, page aligned, lives as long as self; every field is an atomic,
        // for which any bytes are a value.
        Some(unsafe {
            self.mapping
                .base()
                .cast::<DomainArea>()
                .add(usize::from(domid))
                .as_ref()
        })
    }

    /// The area of a domain that is alive.
    #[inline]
    pub fn alive(&self, domid: u16) -> Option<&DomainArea> {
        self.domain(domid).filter(|area| area.generation() != 0)
    }

    /// An event from `port` of `domid` to its other end: the handle to whose pipe the other end's number must be written, if
    /// it must, and the other end, which is then to be told ([`port::Slot::written`]).
    pub fn notify(&self, domid: u16, port: u32) -> Option<(u32, u32, &port::Slot)> {
        let peer = self.domain(domid)?.port(port)?.peer()?;
        let far = self.alive(peer.domid)?.port(peer.port)?;
        Some((far.raise()?, peer.port, far))
    }
}
