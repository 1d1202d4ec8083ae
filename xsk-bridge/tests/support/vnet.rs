//! Packet sockets with the header of virtio-net (packet(7), PACKET_VNET_HDR): packets go to the kernel as a guest's stack would hand them
//! over, and come from it as its stack would get them.
#![allow(unsafe_code)]
use crate::support::PacketSocket;
use std::io;
use std::os::fd::AsRawFd;
use xsk_bridge::device::vnet::VnetHeader;

const ETH_P_ALL: u16 = 3;

/// A packet socket for every frame of an interface but its own, with vnet headers.
pub struct VnetSocket(PacketSocket);

impl VnetSocket {
    pub fn bind(ifname: &str) -> Self {
        let socket = PacketSocket::bind(ifname, ETH_P_ALL);
        for option in [
            libc::PACKET_VNET_HDR,
            libc::PACKET_AUXDATA,
            libc::PACKET_IGNORE_OUTGOING,
        ] {
            let on: i32 = 1;
            // SAFETY: an option of four bytes.
            let result = unsafe {
                libc::setsockopt(
                    socket.0.as_raw_fd(),
                    libc::SOL_PACKET,
                    option,
                    (&raw const on).cast(),
                    4,
                )
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        }
        Self(socket)
    }

    pub fn send(&self, header: VnetHeader, packet: &[u8]) -> io::Result<()> {
        let bytes = [header.to_bytes().as_slice(), packet].concat();
        // SAFETY: a buffer of ours.
        let n = unsafe { libc::send(self.0.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if n == bytes.len() as isize {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The next packet, if there is one now; an outermost tag that the kernel took off is put back.
    pub fn recv(&self) -> Option<(VnetHeader, Vec<u8>)> {
        let mut bytes = vec![0u8; 70_000];
        let mut control = [0u64; 16];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: zero is a value of this plain data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: all buffers are live and as long as they say.
        let n = unsafe { libc::recvmsg(self.0.0.as_raw_fd(), &raw mut message, 0) };
        if n < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            return None;
        }
        bytes.truncate(n as usize);
        let header = VnetHeader::from_bytes(bytes.first_chunk().unwrap());
        let mut packet = bytes.split_off(VnetHeader::LEN);
        if let Some((ethertype, tci)) = tag(&message) {
            let tag = [ethertype.to_be_bytes(), tci.to_be_bytes()].concat();
            packet.splice(12..12, tag);
        }
        Some((header, packet))
    }
}

/// The outermost VLAN tag that the kernel says it took off (`struct tpacket_auxdata`).
fn tag(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the kernel wrote the control messages that these macros walk.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(message);
        if control.is_null() || (*control).cmsg_type != libc::PACKET_AUXDATA {
            return None;
        }
        let auxdata = libc::CMSG_DATA(control)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned();
        (auxdata.tp_status & libc::TP_STATUS_VLAN_VALID != 0)
            .then_some((auxdata.tp_vlan_tpid, auxdata.tp_vlan_tci))
    }
}
