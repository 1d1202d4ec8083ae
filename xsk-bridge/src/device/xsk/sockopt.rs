//! The system calls on an AF_XDP socket that xsk-rs does not offer, or whose errno it hides (linux/if_xdp.h).
// Socket options and requests take pointers.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

const XDP_OPTIONS: i32 = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
/// Since Linux 6.17; at least the 32 that is its default.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: u32) -> io::Result<()> {
    let len = size_of::<u32>() as u32;
    // SAFETY: the value is `len` bytes of ours.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// True when the kernel bound the socket in zero-copy mode.
pub(super) fn zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let (mut flags, mut len) = (0u32, size_of::<u32>() as u32);
    // SAFETY: struct xdp_options is one u32; both pointers are ours.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            XDP_OPTIONS,
            (&raw mut flags).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(flags & XDP_OPTIONS_ZEROCOPY != 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// XDP_STATISTICS, the six numbers of struct xdp_statistics.
pub(super) fn statistics(fd: BorrowedFd<'_>) -> io::Result<[u64; 6]> {
    let mut numbers = [0u64; 6];
    let mut len = size_of_val(&numbers) as u32;
    // SAFETY: both pointers are ours, and `len` says how much room there is.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(numbers),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In copy mode a packet on its way is charged to the send buffer, and one call takes 32 packets: allow a whole ring of
/// `descriptors`, and a whole ring a call where the kernel knows how.
pub(super) fn allow_whole_ring(fd: BorrowedFd<'_>, descriptors: u32) -> io::Result<()> {
    let bytes = descriptors.saturating_mul(crate::frame::FRAME_SIZE as u32);
    set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)?;
    if descriptors <= 32 {
        return Ok(());
    }
    budget(fd, descriptors)
}

/// Have one call take so many packets in copy mode, where the kernel knows how.
pub(super) fn budget(fd: BorrowedFd<'_>, packets: u32) -> io::Result<()> {
    match set(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, packets) {
        Err(e) if e.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(e),
        _ => Ok(()),
    }
}

/// Tell the kernel that the send ring has entries; in copy mode it sends them before it returns.
pub(super) fn kick_send(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a message of no bytes and no address.
    let n = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null(),
            0,
        )
    };
    match n {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tell the driver that the fill ring has entries. That the link is down is no error here: nothing
/// is received, and the send side will find out.
pub(super) fn kick_recv(fd: BorrowedFd<'_>) {
    // SAFETY: room for no bytes, no address wanted.
    unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
}
