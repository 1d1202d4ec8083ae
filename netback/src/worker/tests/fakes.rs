//! A hypervisor in the heap: guests' pages by grant, copies that enforce what Xen enforces, event channels on an eventfd.
#![allow(unsafe_code)] // Copies go through the raw memory that `LocalMemory` stands for.
use crate::hypervisor::Hypervisor;
use crate::worker::wake::Bell;
use ring::page::PageWords;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard};
use xen::event::{EventChannels, Port};
use xen::grant::{
    CopyList, CopyStatus, DomId, GrantRef, GrantTable, GrantedMemory, LocalMemory, PAGE_SIZE, Side,
};

/// The test's hypervisor.
pub enum Fake {}

impl Hypervisor for Fake {
    type Grants = FakeGrants;
    type Events = FakeEvents;
}

/// A ring page of the heap.
pub type Page = Arc<PageWords>;

pub fn page() -> Page {
    Arc::new(std::array::from_fn(|_| AtomicU32::new(0)))
}

/// A granted page.
struct Grant {
    bytes: Box<[u8; 4096]>,
    read_only: bool,
}

#[derive(Default)]
struct Table {
    grants: HashMap<(u16, u32), Grant>,
    calls: Vec<Call>,
    /// The next call fails as a whole.
    fail_call: bool,
}

/// What one copy call was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    pub segments: usize,
    pub foreign_to_foreign: usize,
    /// Segments of which a side is given by address.
    pub by_address: usize,
    /// Segments of which a side is a page of ours, by reference.
    pub by_reference: usize,
}

#[derive(Default)]
pub struct FakeGrants(Mutex<Table>);

impl FakeGrants {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Grant a fresh page filled with `bytes` from `offset`.
    pub fn grant(&self, domid: u16, gref: u32, offset: usize, bytes: &[u8], read_only: bool) {
        let mut page = Box::new([0xee; 4096]);
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.table().grants.insert(
            (domid, gref),
            Grant {
                bytes: page,
                read_only,
            },
        );
    }

    pub fn revoke(&self, domid: u16, gref: u32) {
        self.table().grants.remove(&(domid, gref));
    }

    pub fn read(&self, domid: u16, gref: u32, len: usize) -> Vec<u8> {
        self.table().grants[&(domid, gref)].bytes[..len].to_vec()
    }

    pub fn fail_next_call(&self) {
        self.table().fail_call = true;
    }

    /// The calls since the last time this was asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.table().calls)
    }

    /// Room for a while, so that counting does not allocate.
    pub fn reserve_calls(&self, calls: usize) {
        self.table().calls.reserve(calls);
    }
}

impl GrantTable for FakeGrants {
    type Page = Page;

    fn map(&self, _: DomId, _: GrantRef) -> io::Result<Page> {
        Err(io::Error::other("tests hand pages over"))
    }

    fn copy<M: LocalMemory>(&self, list: &mut CopyList<M>) -> io::Result<()> {
        let mut table = self.table();
        let base = list.memory().base();
        let address = base.as_ptr().expose_provenance() as u64;
        list.issue(|_, segments| {
            let mut call = Call {
                segments: segments.len(),
                ..Call::default()
            };
            let fails = std::mem::take(&mut table.fail_call);
            for segment in segments {
                let sides = segment.sides(address);
                let is_own =
                    |side: &Side| matches!(side, Side::Foreign { domid, .. } if *domid == FakePages::DOMID);
                if sides.iter().any(|side| matches!(side, Side::Local(_))) {
                    call.by_address += 1;
                } else if sides.iter().any(is_own) {
                    call.by_reference += 1;
                } else {
                    call.foreign_to_foreign += 1;
                }
                // As gntdev: a segment says OKAY once it is queued, whatever becomes of the call.
                let status = match fails {
                    true => CopyStatus::OKAY,
                    false => table.copy_one(base, sides, segment.bytes()),
                };
                segment.set_status(status);
            }
            table.calls.push(call);
            match fails {
                true => Err(io::ErrorKind::InvalidInput.into()),
                false => Ok(()),
            }
        })
    }
}

impl Table {
    /// One copy of `len` bytes between pages, or the memory at `base` that [`CopyList::push`] found its local sides in.
    fn copy_one(&mut self, base: NonNull<u8>, [source, dest]: [Side; 2], len: usize) -> CopyStatus {
        let mut bytes = [0u8; 4096];
        match source {
            // SAFETY: in bounds, checked when it was added; the worker holds no reference to the frame meanwhile.
            Side::Local(at) => unsafe {
                std::ptr::copy_nonoverlapping(
                    base.as_ptr().add(at as usize),
                    bytes.as_mut_ptr(),
                    len,
                );
            },
            Side::Foreign {
                domid,
                gref,
                offset,
            } => match self.grants.get(&(domid.0, gref.0)) {
                Some(grant) => {
                    bytes[..len].copy_from_slice(&grant.bytes[usize::from(offset)..][..len])
                }
                None => return CopyStatus::BAD_GNTREF,
            },
        }
        match dest {
            // SAFETY: as above.
            Side::Local(at) => unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.as_ptr().add(at as usize), len);
            },
            Side::Foreign {
                domid,
                gref,
                offset,
            } => match self.grants.get_mut(&(domid.0, gref.0)) {
                Some(Grant {
                    read_only: true, ..
                }) => return CopyStatus::GENERAL_ERROR,
                Some(grant) => {
                    grant.bytes[usize::from(offset)..][..len].copy_from_slice(&bytes[..len])
                }
                None => return CopyStatus::BAD_GNTREF,
            },
        }
        CopyStatus::OKAY
    }
}

/// Pages of the driver domain's own, granted to itself.
pub struct FakePages {
    grants: Arc<FakeGrants>,
    grefs: Vec<GrantRef>,
}

impl FakePages {
    const DOMID: DomId = DomId(99);

    /// `pages` pages, by references from `first`.
    pub fn new(grants: &Arc<FakeGrants>, first: u32, pages: usize) -> Self {
        let grefs: Vec<_> = (first..).map(GrantRef).take(pages).collect();
        for gref in &grefs {
            grants.grant(Self::DOMID.0, gref.0, 0, &[], false);
        }
        let grants = grants.clone();
        Self { grants, grefs }
    }

    /// The bytes from `offset`, in a page.
    fn with<R>(&self, offset: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let key = (Self::DOMID.0, self.grefs[offset / PAGE_SIZE].0);
        let mut table = self.grants.table();
        let grant = table.grants.get_mut(&key).unwrap();
        f(&mut grant.bytes[offset % PAGE_SIZE..])
    }
}

impl GrantedMemory for FakePages {
    fn domid(&self) -> DomId {
        Self::DOMID
    }

    fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.with(offset, |bytes| into.copy_from_slice(&bytes[..into.len()]));
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.with(offset, |bytes| bytes[..from.len()].copy_from_slice(from));
    }
}

#[derive(Default)]
struct Ports {
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    notified: BTreeMap<u32, u64>,
}

pub struct FakeEvents {
    ports: Mutex<Ports>,
    bell: Bell,
}

impl Default for FakeEvents {
    fn default() -> Self {
        Self {
            ports: Mutex::default(),
            bell: Bell::new().unwrap(),
        }
    }
}

impl FakeEvents {
    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The guest sends an event.
    pub fn fire(&self, port: Port) {
        self.ports().pending.insert(port.0);
        self.wake();
    }

    fn wake(&self) {
        self.bell.before_sleep();
        self.bell.ring();
    }

    /// Events sent to the guest since the last time this was asked.
    pub fn take_notified(&self, port: Port) -> u64 {
        self.ports().notified.insert(port.0, 0).unwrap_or(0)
    }
}

impl AsFd for FakeEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl EventChannels for FakeEvents {
    fn bind(&self, _: DomId, remote_port: Port) -> io::Result<Port> {
        Ok(remote_port)
    }

    fn unbind(&self, _: Port) -> io::Result<()> {
        Ok(())
    }

    fn notify(&self, port: Port) -> io::Result<()> {
        *self.ports().notified.entry(port.0).or_insert(0) += 1;
        Ok(())
    }

    fn pending(&self, ports: &mut [Port]) -> io::Result<usize> {
        self.bell.awake();
        let mut state = self.ports();
        let mut count = 0;
        while count < ports.len() {
            let Some(port) = state
                .pending
                .iter()
                .copied()
                .find(|port| !state.masked.contains(port))
            else {
                break;
            };
            state.pending.remove(&port);
            state.masked.insert(port);
            ports[count] = Port(port);
            count += 1;
        }
        Ok(count)
    }

    fn unmask(&self, ports: &[Port]) -> io::Result<()> {
        let mut state = self.ports();
        for port in ports {
            state.masked.remove(&port.0);
        }
        if state
            .pending
            .iter()
            .any(|port| !state.masked.contains(port))
        {
            drop(state);
            self.wake();
        }
        Ok(())
    }
}
