//! Packets that a device segments itself (TSO), through a packet socket with a vnet header (packet(7), PACKET_VNET_HDR) that
//! bypasses the queueing discipline (PACKET_QDISC_BYPASS), so that they take the send queue that AF_XDP's frames take.
//!
//! The kernel copies a packet before the call returns. What it does not send it drops, and says ENOBUFS: the sender keeps the packet
//! until the kernel has taken it.
// bind(2) and setsockopt(2) take pointers.
#![allow(unsafe_code)]
use super::vnet::VnetHeader;
use crate::nic::Handle;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg,
};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

/// Memory that packets on their way may take in the kernel: about 14 of the longest, which is 8 ms at 1 Gbit/s. The kernel doubles what
/// it is given (socket(7), SO_SNDBUF).
const IN_FLIGHT: usize = 512 * 1024;
/// Slices of the longest packet, its vnet header included; pages of a guest, cut where its head ends.
pub const MAX_SLICES: usize = 24;

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The device or the socket has no room for it now.
    Full,
    /// The device's link is down.
    LinkDown,
    /// The kernel does not take this packet at all.
    Unfit,
}

/// What sends packets that are still to be segmented: a packet socket, or a test's stand-in.
pub trait LargeSender: Send {
    /// Sends the packet that lies in `slices`, fewer than [`MAX_SLICES`].
    fn send(&mut self, header: VnetHeader, slices: &[IoSlice<'_>]) -> Result<(), Refused>;
}

/// A packet socket that only sends.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    nic: Handle,
}

impl PacketSocket {
    /// Opens a socket that sends by the device `ifname` with this index.
    pub fn open(ifname: &str, index: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol: it receives nothing.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        bind(&socket, index)?;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_QDISC_BYPASS] {
            switch_on(&socket, option)?;
        }
        set_socket_send_buffer_size_force(&socket, IN_FLIGHT)?;
        let nic = Handle::open(ifname)?;
        Ok(Self { socket, nic })
    }
}

impl LargeSender for PacketSocket {
    fn send(&mut self, header: VnetHeader, slices: &[IoSlice<'_>]) -> Result<(), Refused> {
        let header = header.to_bytes();
        let mut all = arrayvec::ArrayVec::<IoSlice<'_>, MAX_SLICES>::new();
        all.push(IoSlice::new(&header));
        if all.try_extend_from_slice(slices).is_err() {
            return Err(Refused::Unfit);
        }
        let mut nothing = SendAncillaryBuffer::default();
        match sendmsg(&self.socket, &all, &mut nothing, SendFlags::DONTWAIT) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::NOMEM | Errno::INTR) => Err(Refused::Full),
            Err(Errno::NOBUFS) if self.nic.link_is_up() => Err(Refused::Full),
            Err(Errno::NOBUFS | Errno::NETDOWN | Errno::NXIO | Errno::NODEV) => {
                Err(Refused::LinkDown)
            }
            Err(_) => Err(Refused::Unfit),
        }
    }
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    // SAFETY: an address of the family and length that is said.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn switch_on(socket: &OwnedFd, option: i32) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: an option of four bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            4,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
