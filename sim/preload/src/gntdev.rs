//! `/dev/xen/gntdev` (include/uapi/xen/gntdev.h): mapping; copying is in [`crate::copy`].
use crate::copy;
use crate::device::{Simulation, simulation};
use crate::memory::{self, Table, error};
use libc::{c_int, c_ulong, c_void};
use rustix::mm::munmap;
use sim_machine::PAGE_SIZE;
use sim_machine::control::Operation;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `_IOC_TYPE` bits of its requests.
pub const IOCTL_TYPE: c_ulong = (b'G' as c_ulong) << 8;

const MAP_GRANT_REF: c_ulong = 24 << 16 | IOCTL_TYPE;
const UNMAP_GRANT_REF: c_ulong = 16 << 16 | IOCTL_TYPE | 1;
const GRANT_COPY: c_ulong = 16 << 16 | IOCTL_TYPE | 8;
/// Grants one request may name; the driver's default limit is 1024 * 1024 for all of a descriptor, far more than any backend wants.
const REFS_MAX: u32 = 1024;

/// What was asked to be mapped, by mmap's offset, and what is mapped, by address.
#[derive(Default)]
struct Maps {
    next: u64,
    asked: BTreeMap<u64, Vec<GrantRef>>,
    mapped: BTreeMap<usize, Vec<GrantRef>>,
}

/// `struct ioctl_gntdev_grant_ref`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct GrantRef {
    domid: u32,
    gref: u32,
}

static MAPS: Table<Maps> = Table::new(None);
/// How many are in `mapped`, so that other munmaps take no lock.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// # Safety
/// `argument` is what the request says.
pub unsafe fn ioctl(request: c_ulong, argument: *mut c_void) -> io::Result<c_int> {
    if argument.is_null() {
        return error(libc::EFAULT);
    }
    // SAFETY: the caller vouches for the argument's type, and for the segments behind it.
    unsafe {
        match request {
            GRANT_COPY => copy::run(simulation()?, argument.cast()),
            MAP_GRANT_REF => ask(argument.cast()),
            UNMAP_GRANT_REF => give_up(argument.cast()),
            _ => error(libc::ENOTTY),
        }
    }
}

/// # Safety
/// `argument` is a `struct ioctl_gntdev_map_grant_ref`: count, pad, index u64, then `count` references.
unsafe fn ask(argument: *mut u32) -> io::Result<c_int> {
    // SAFETY: by the caller; the references lie at byte 16.
    let refs = unsafe {
        let count = argument.read();
        if count == 0 || count > REFS_MAX {
            return error(libc::EINVAL);
        }
        (0..count as usize)
            .map(|i| argument.add(4).cast::<GrantRef>().add(i).read())
            .collect::<Vec<_>>()
    };
    let index = memory::with(&MAPS, |maps| {
        let index = maps.next;
        maps.next += (refs.len() * PAGE_SIZE) as u64;
        maps.asked.insert(index, refs);
        index
    });
    // SAFETY: by the caller; index lies at byte 8.
    unsafe { argument.add(2).cast::<u64>().write(index) };
    Ok(0)
}

/// # Safety
/// `argument` is a `struct ioctl_gntdev_unmap_grant_ref`.
unsafe fn give_up(argument: *mut u64) -> io::Result<c_int> {
    // SAFETY: by the caller.
    let index = unsafe { argument.read() };
    if memory::with(&MAPS, |maps| maps.asked.remove(&index)).is_some() {
        Ok(0)
    } else {
        error(libc::ENOENT)
    }
}

/// mmap(2): here the hypervisor is asked, and here it refuses (EINVAL for every reason, as the driver has it).
pub fn map(len: usize, protection: c_int, flags: c_int, index: u64) -> io::Result<*mut c_void> {
    let simulation = simulation()?;
    let refs = memory::with(&MAPS, |maps| maps.asked.get(&index).cloned())
        .filter(|refs| refs.len() * PAGE_SIZE == len);
    let Some(refs) = refs else {
        return error(libc::EINVAL);
    };
    let write = protection & libc::PROT_WRITE != 0;
    if write && flags & libc::MAP_SHARED == 0 {
        return error(libc::EINVAL);
    }
    let at = memory::reserve(len)?;
    for (i, grant) in refs.iter().enumerate() {
        // SAFETY: inside the reservation, of `refs.len()` pages.
        let result = unsafe { map_page(simulation, *grant, write, at.add(i * PAGE_SIZE)) };
        if let Err(e) = result {
            // SAFETY: our own reservation, which nobody knows of.
            let _ = unsafe { munmap(at, len) };
            refs.iter()
                .take(i)
                .for_each(|grant| release(simulation, *grant));
            return Err(e);
        }
    }
    MAPPED.fetch_add(1, Ordering::AcqRel);
    memory::with(&MAPS, |maps| maps.mapped.insert(at as usize, refs));
    Ok(at)
}

/// # Safety
/// The page at `at` is a reservation of the caller's.
unsafe fn map_page(
    simulation: &Simulation,
    grant: GrantRef,
    write: bool,
    at: *mut c_void,
) -> io::Result<()> {
    let call = |operation, words| simulation.control.call(operation, words, "");
    let reply = call(Operation::Map, [grant.domid, grant.gref, u32::from(!write)])?;
    let [frame, status, _] = reply.words;
    if status != 0 {
        return error(libc::EINVAL);
    }
    let result = memory::of_domain(simulation, grant.domid)
        // SAFETY: the caller's reservation.
        .and_then(|memory| unsafe { memory::place(&memory, frame, write, at) });
    if result.is_err() {
        release(simulation, grant);
    }
    result
}

fn release(simulation: &Simulation, grant: GrantRef) {
    // The hypervisor forgets it at the latest with this process.
    let _ = simulation
        .control
        .call(Operation::Unmap, [grant.domid, grant.gref, 0], "");
}

/// munmap(2) has taken away what was at `at`.
pub fn unmapped(at: usize) {
    if MAPPED.load(Ordering::Acquire) == 0 {
        return;
    }
    let (Some(refs), Ok(simulation)) = (
        memory::with(&MAPS, |maps| maps.mapped.remove(&at)),
        simulation(),
    ) else {
        return;
    };
    MAPPED.fetch_sub(1, Ordering::AcqRel);
    refs.into_iter()
        .for_each(|grant| release(simulation, grant));
}
