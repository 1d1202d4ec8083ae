//! Pages of domains in the caller's address space.
use crate::device::Simulation;
use libc::{c_int, c_void};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use sim_machine::PAGE_SIZE;
use sim_machine::control::Operation;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// What a system call says.
pub fn error<T>(errno: c_int) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// What a device knows of this process, made at its first use.
pub type Table<T> = Mutex<Option<T>>;

/// Look into a table, alone.
pub fn with<T: Default, R>(table: &Table<T>, body: impl FnOnce(&mut T) -> R) -> R {
    body(
        table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_default(),
    )
}

/// The memory of a domain.
pub fn of_domain(simulation: &Simulation, domid: u32) -> io::Result<OwnedFd> {
    simulation
        .control
        .call(Operation::Memory, [domid, 0, 0], "")?
        .take_fd()
}

/// Addresses for pages that are then placed there.
pub fn reserve(len: usize) -> io::Result<*mut c_void> {
    // SAFETY: a new reservation where the kernel likes.
    let at = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            len,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    Ok(at)
}

/// Place a page of a domain's memory.
///
/// # Safety
/// The page at `at` is inside a reservation of the caller's.
pub unsafe fn place(memory: &OwnedFd, frame: u32, write: bool, at: *mut c_void) -> io::Result<()> {
    let protection = if write {
        ProtFlags::READ | ProtFlags::WRITE
    } else {
        ProtFlags::READ
    };
    // SAFETY: over the caller's reservation only.
    unsafe {
        mmap(
            at,
            PAGE_SIZE,
            protection,
            MapFlags::SHARED | MapFlags::FIXED,
            memory,
            u64::from(frame) * PAGE_SIZE as u64,
        )
    }?;
    Ok(())
}
