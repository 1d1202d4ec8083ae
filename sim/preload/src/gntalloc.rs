//! `/dev/xen/gntalloc` (include/uapi/xen/gntalloc.h), with the driver's bookkeeping (drivers/xen/gntalloc.c): a page has its
//! listing with the descriptor and its mappings for users, and is given back with the last of them.
use crate::device::simulation;
use crate::gntdev::IOCTL_TYPE;
use crate::memory::{self, Table, error};
use libc::{c_int, c_ulong, c_void};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::mm::munmap;
use sim_machine::PAGE_SIZE;
use sim_machine::control::Operation;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

const ALLOC_GREF: c_ulong = 24 << 16 | IOCTL_TYPE | 5;
const DEALLOC_GREF: c_ulong = 16 << 16 | IOCTL_TYPE | 6;
const FLAG_WRITABLE: u32 = 1;

/// The pages of this process.
#[derive(Default)]
struct Pages {
    /// mmap's offset for the next request.
    next: u64,
    /// Frames that were asked for and not given back, by the descriptor's handle and mmap's offset.
    listed: BTreeMap<(u32, u64), u32>,
    /// How many users a frame has.
    users: HashMap<u32, u32>,
    /// By address.
    mapped: HashMap<usize, Mapped>,
}

/// A mapping. As a kernel's does, it keeps the open file from ending with its descriptor.
struct Mapped {
    handle: u32,
    frames: Vec<u32>,
    _file: OwnedFd,
}

impl Pages {
    /// The frames from offset `first` on, if all of them are listed.
    fn run(&self, handle: u32, first: u64, count: usize) -> Option<Vec<u32>> {
        indices(first, count)
            .map(|index| self.listed.get(&(handle, index)).copied())
            .collect()
    }

    /// One user less for each; those that have none any more.
    fn leave(&mut self, frames: Vec<u32>) -> Vec<u32> {
        let mut left = frames;
        left.retain(|frame| {
            let users = self.users.entry(*frame).or_insert(1);
            *users -= 1;
            *users == 0
        });
        left.iter().for_each(|frame| {
            self.users.remove(frame);
        });
        left
    }
}

static PAGES: Table<Pages> = Table::new(None);
/// How many are in `mapped`, so that other munmaps take no lock.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// mmap's offsets of `count` pages.
fn indices(first: u64, count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(move |i| first.saturating_add(i * PAGE_SIZE as u64))
}

/// # Safety
/// `argument` is what the request says.
pub unsafe fn ioctl(handle: u32, request: c_ulong, argument: *mut c_void) -> io::Result<c_int> {
    if argument.is_null() {
        return error(libc::EFAULT);
    }
    // SAFETY: the caller vouches for the argument's type.
    unsafe {
        match request {
            ALLOC_GREF => allocate(handle, argument.cast()),
            DEALLOC_GREF => deallocate(handle, argument.cast()),
            _ => error(libc::ENOTTY),
        }
    }
}

/// # Safety
/// `argument` is a `struct ioctl_gntalloc_alloc_gref`: domid u16, flags u16, count u32, index u64, then room for `count`
/// references.
unsafe fn allocate(handle: u32, argument: *mut u32) -> io::Result<c_int> {
    // SAFETY: by the caller.
    let (domid, flags, count) = unsafe {
        let first = argument.read();
        (first & 0xffff, first >> 16, argument.add(1).read())
    };
    // Pages that the other side may only read are nobody's wish here.
    if flags != FLAG_WRITABLE {
        return error(libc::EINVAL);
    }
    let words = [handle, domid, count];
    let reply = simulation()?.control.call(Operation::Grant, words, "")?;
    let granted: Vec<(u32, u32)> = reply.text.lines().filter_map(numbers).collect();
    let index = memory::with(&PAGES, |pages| {
        let index = pages.next;
        pages.next += granted.len() as u64 * PAGE_SIZE as u64;
        for (index, (frame, _)) in indices(index, granted.len()).zip(&granted) {
            pages.listed.insert((handle, index), *frame);
            pages.users.insert(*frame, 1);
        }
        index
    });
    // SAFETY: by the caller; index lies at byte 8, the references at byte 16, of which there are not more than asked for.
    unsafe {
        argument.add(2).cast::<u64>().write(index);
        for (i, (_, gref)) in granted.iter().take(count as usize).enumerate() {
            argument.add(4 + i).write(*gref);
        }
    }
    Ok(0)
}

/// A line of the hypervisor's: frame and grant.
fn numbers(line: &str) -> Option<(u32, u32)> {
    let (frame, gref) = line.split_once(' ')?;
    Some((frame.parse().ok()?, gref.parse().ok()?))
}

/// # Safety
/// `argument` is a `struct ioctl_gntalloc_dealloc_gref`: index u64, count u32.
unsafe fn deallocate(handle: u32, argument: *mut u64) -> io::Result<c_int> {
    // SAFETY: by the caller.
    let (first, count) = unsafe {
        (
            argument.read(),
            argument.add(1).cast::<u32>().read() as usize,
        )
    };
    let left = memory::with(&PAGES, |pages| {
        let frames = pages.run(handle, first, count)?;
        indices(first, count).for_each(|index| {
            pages.listed.remove(&(handle, index));
        });
        Some(pages.leave(frames))
    });
    match left {
        Some(frames) => give_back(handle, &frames).map(|()| 0),
        None => error(libc::EINVAL),
    }
}

fn give_back(handle: u32, frames: &[u32]) -> io::Result<()> {
    if frames.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = frames.iter().map(u32::to_string).collect();
    let control = &simulation()?.control;
    control
        .call(Operation::EndGrants, [handle, 0, 0], &list.join(" "))
        .map(drop)
}

/// mmap(2), of pages by the descriptor's handle and mmap's offset.
pub fn map(
    fd: c_int,
    (handle, first): (u32, u64),
    len: usize,
    protection: c_int,
    flags: c_int,
) -> io::Result<*mut c_void> {
    if flags & libc::MAP_SHARED == 0 {
        return error(libc::EINVAL);
    }
    let simulation = simulation()?;
    // SAFETY: the caller's descriptor, which is open or EBADF.
    let file = fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(fd) }, 0)?;
    let memory = memory::of_domain(simulation, simulation.domid.into())?;
    memory::with(&PAGES, |pages| {
        let Some(frames) = pages.run(handle, first, len.div_ceil(PAGE_SIZE)) else {
            return error(libc::ENOENT);
        };
        let at = memory::reserve(len)?;
        for (i, frame) in frames.iter().enumerate() {
            let write = protection & libc::PROT_WRITE != 0;
            // SAFETY: inside the reservation of as many pages.
            let placed = unsafe { memory::place(&memory, *frame, write, at.add(i * PAGE_SIZE)) };
            if let Err(e) = placed {
                // SAFETY: our own reservation, which nobody knows of.
                let _ = unsafe { munmap(at, len) };
                return Err(e);
            }
        }
        for frame in &frames {
            *pages.users.entry(*frame).or_default() += 1;
        }
        let mapped = Mapped {
            handle,
            frames,
            _file: file,
        };
        pages.mapped.insert(at as usize, mapped);
        MAPPED.fetch_add(1, Ordering::AcqRel);
        Ok(at)
    })
}

/// munmap(2) has taken away what was at `at`.
pub fn unmapped(at: usize) {
    if MAPPED.load(Ordering::Acquire) == 0 {
        return;
    }
    let gone = memory::with(&PAGES, |pages| {
        let Mapped {
            handle,
            frames,
            _file: file,
        } = pages.mapped.remove(&at)?;
        Some((handle, pages.leave(frames), file))
    });
    if let Some((handle, frames, _file)) = gone {
        MAPPED.fetch_sub(1, Ordering::AcqRel);
        // The hypervisor takes them back at the latest with this process.
        let _ = give_back(handle, &frames);
    }
}
