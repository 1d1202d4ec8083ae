//! The system calls on an AF_XDP socket whose errno xsk-rs hides, and the one socket option that rustix does not know (linux/if_xdp.h).
// The socket option takes a pointer.
#![allow(unsafe_code)]
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Since Linux 6.17; at least the 32 that is its default.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// In copy mode a packet on its way is charged to the send buffer, and one call takes 32 packets: allow a whole ring of
/// `descriptors`, and a whole ring a call where the kernel knows how.
pub(super) fn allow_whole_ring(fd: BorrowedFd<'_>, descriptors: u32) -> io::Result<()> {
    let bytes = descriptors as usize * crate::frame::FRAME_SIZE;
    sockopt::set_socket_send_buffer_size_force(fd, bytes)?;
    if descriptors <= 32 {
        return Ok(());
    }
    budget(fd, descriptors)
}

/// Has one call take so many packets in copy mode, where the kernel knows how.
pub(super) fn budget(fd: BorrowedFd<'_>, packets: u32) -> io::Result<()> {
    // SAFETY: the value is as many bytes of ours as is said.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const packets).cast(),
            size_of::<u32>() as u32,
        )
    };
    match io::Error::last_os_error() {
        error if result != 0 && error.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(error),
        _ => Ok(()),
    }
}

/// Tells the kernel that the send ring has entries; in copy mode it sends them before it returns.
pub(super) fn kick_send(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::send(fd, &[], SendFlags::DONTWAIT).map(drop)
}

/// Tells the driver that the fill ring has entries. That the link is down is no error here: nothing is received, and the send side
/// will find out.
pub(super) fn kick_recv(fd: BorrowedFd<'_>) {
    let _ = rustix::net::recv(fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
}
