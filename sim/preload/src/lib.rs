//! `/dev/xen` for an unmodified program: `LD_PRELOAD=libsim_preload.so SIM_DIR=<dir> SIM_DOMID=<id>`.
//!
//! The functions here stand before libc's. What is not about `/dev/xen` goes to the kernel as it came, by a raw system call.
//! Descriptors are real: evtchn's is the read end of a pipe of port numbers, xenbus's a socket to the simulated xenstored, so
//! that poll, read, io_uring and close are the kernel's own; gntdev's is a socket that nobody ever uses, gntalloc's a pipe by
//! whose end the hypervisor sees that its pages are nobody's any more. A grant copy is a memcpy in the calling thread between
//! memfds, after a look at the shared grant tables: no lock, no system call.
// Functions that C calls with raw pointers, and raw system calls.
#![allow(unsafe_code)]
mod copy;
mod device;
mod evtchn;
mod gntalloc;
mod gntdev;
mod memory;

use device::Kind;
use libc::{c_char, c_int, c_ulong, c_void, mode_t, off_t, size_t, ssize_t};
use std::ffi::CStr;
use std::io;

/// The kernel's answer in libc's way: -1 and errno.
fn answer(result: io::Result<c_int>) -> c_int {
    result.unwrap_or_else(|e| {
        set_errno(e.raw_os_error().unwrap_or(libc::EIO));
        -1
    })
}

fn set_errno(errno: c_int) {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() = errno };
}

fn errno() -> c_int {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() }
}

/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: handed on.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: handed on.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As openat(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: handed on.
    unsafe { openat(dir, path, flags, mode) }
}

/// # Safety
/// As openat(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller's string, as openat(2) demands it.
    match unsafe { kind_of(path) }.and_then(|kind| device::open(kind, flags)) {
        Some(opened) => answer(opened),
        // SAFETY: the caller's arguments.
        None => unsafe { libc::syscall(libc::SYS_openat, dir, path, flags, mode) as c_int },
    }
}

/// # Safety
/// `path` is null or a C string.
unsafe fn kind_of(path: *const c_char) -> Option<Kind> {
    if path.is_null() {
        return None;
    }
    // SAFETY: by the caller.
    Kind::of_path(unsafe { CStr::from_ptr(path) })
}

/// A path that stands for `path` where only its being there is asked.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn stand_in(path: *const c_char) -> *const c_char {
    // SAFETY: by the caller.
    match unsafe { kind_of(path) } {
        Some(kind) if device::configured() && kind.is_present() => c"/dev/null".as_ptr(),
        _ => path,
    }
}

/// # Safety
/// As statx(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: u32,
    into: *mut c_void,
) -> c_int {
    // SAFETY: the caller's arguments but for the path, which is a C string either way.
    unsafe { libc::syscall(libc::SYS_statx, dir, stand_in(path), flags, mask, into) as c_int }
}

/// # Safety
/// As access(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: as in `statx`.
    unsafe { libc::syscall(libc::SYS_access, stand_in(path), mode) as c_int }
}

/// # Safety
/// As close(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    device::forget(fd);
    // SAFETY: the caller's descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

/// # Safety
/// As dup2(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    if old != new {
        device::forget(new);
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_dup2, old, new) as c_int }
}

/// # Safety
/// As dup3(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    device::forget(new);
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_dup3, old, new, flags) as c_int }
}

/// # Safety
/// As ioctl(2). Not variadic here, which on x86-64 is the same to a caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let ours = match request & 0xff00 {
        gntdev::IOCTL_TYPE | evtchn::IOCTL_TYPE => device::find(fd),
        _ => None,
    };
    match ours {
        // SAFETY: the caller's argument, of the type that the request says.
        Some(device) => answer(unsafe {
            match device.kind() {
                Kind::Gntdev => gntdev::ioctl(request, argument),
                Kind::Gntalloc => gntalloc::ioctl(device.handle(), request, argument),
                Kind::Evtchn => evtchn::ioctl(device.handle(), request, argument),
                Kind::Xenbus => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
            }
        }),
        // SAFETY: the caller's arguments.
        None => unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int },
    }
}

/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    let before = errno();
    // SAFETY: the caller's arguments.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, bytes, len) };
    // The kernel refuses a write to the read end of a pipe, so nothing that is not evtchn's is ever taken for it.
    if written != -1 || errno() != libc::EBADF {
        return written as ssize_t;
    }
    match device::find(fd) {
        Some(device) if device.kind() == Kind::Evtchn => {
            set_errno(before);
            // SAFETY: the caller's bytes.
            let ports = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
            answer(evtchn::unmask(device.handle(), ports)) as ssize_t
        }
        _ => {
            set_errno(libc::EBADF);
            -1
        }
    }
}

/// # Safety
/// As mmap(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let ours = device::find_fast(fd).and_then(|device| match device.kind() {
        Kind::Gntdev => Some(gntdev::map(len, protection, flags, offset as u64)),
        Kind::Gntalloc => {
            let pages = (device.handle(), offset as u64);
            Some(gntalloc::map(fd, pages, len, protection, flags))
        }
        Kind::Evtchn | Kind::Xenbus => None,
    });
    if let Some(mapped) = ours {
        return mapped.unwrap_or_else(|e| {
            set_errno(e.raw_os_error().unwrap_or(libc::EIO));
            libc::MAP_FAILED
        });
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_mmap, at, len, protection, flags, fd, offset) as *mut c_void }
}

/// # Safety
/// As mmap(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: handed on.
    unsafe { mmap(at, len, protection, flags, fd, offset) }
}

/// # Safety
/// As munmap(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(at: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the caller's arguments.
    let result = unsafe { libc::syscall(libc::SYS_munmap, at, len) as c_int };
    if result == 0 {
        gntdev::unmapped(at as usize);
        gntalloc::unmapped(at as usize);
    }
    result
}
