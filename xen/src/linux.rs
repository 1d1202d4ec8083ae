//! The real doors, on Linux's device nodes: `/dev/xen/gntdev`, `/dev/xen/gntalloc`, `/dev/xen/evtchn`, `/dev/xen/xenbus`.
// ioctl and mmap have no safe form.
#![allow(unsafe_code)]
mod evtchn;
mod gntalloc;
mod gntdev;

pub use evtchn::Evtchn;
pub use gntalloc::{Gntalloc, GrantedPages};
pub use gntdev::{Gntdev, MappedPage};

use crate::store::Client;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;

/// Open xenstore's device. It stays in blocking mode: the client polls before it reads.
pub fn open_store() -> io::Result<Client<File>> {
    Ok(Client::new(open("/dev/xen/xenbus", 0)?))
}

fn open(path: &'static str, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot open {path}: {e}; is this a Xen domain with the module loaded, and are you root?")))
}

/// `_IOC(_IOC_NONE, kind, number, size_of::<T>())` (include/uapi/asm-generic/ioctl.h).
const fn ioc<T>(kind: u8, number: u8) -> libc::Ioctl {
    ((size_of::<T>() as libc::Ioctl) << 16) | ((kind as libc::Ioctl) << 8) | number as libc::Ioctl
}

/// # Safety
/// `request` is `ioc::<T>` of a command whose argument is a `T`, and what `argument` points to is valid for it.
unsafe fn ioctl<T>(fd: &OwnedFd, request: libc::Ioctl, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the caller vouches for the pair; the descriptor is open as long as the borrow.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Map `len` bytes of a device read-write, where the kernel likes, at what its driver calls `index`. The caller unmaps.
fn map_shared(fd: &OwnedFd, index: u64, len: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping; nothing refers to it yet.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            index as libc::off_t,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
