//! What goes over the wire, as the host outside sees it: frames longer than the MTU that nobody is to segment any more.
// setsockopt(2) takes a pointer.
#![allow(unsafe_code)]
use crate::Host;
use anyhow::{Context, Result};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of `struct virtio_net_hdr` (linux/virtio_net.h) before each packet.
const VNET_HEADER: usize = 10;
/// Ethernet header and MTU.
const LONGEST: usize = 14 + 1500;
/// Bytes that are read of each packet: all headers of TCP.
const HEADERS: usize = 14 + 40 + 60;

/// A look at every frame that a host receives.
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Wire {
    /// Starts to look.
    pub fn watch(host: &Host) -> Result<Self> {
        let socket = host
            .namespace
            .run(open)?
            .context("cannot open a packet socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || count(&socket, &stopped));
        Ok(Self { stop, thread })
    }

    /// Frames so far that were too long.
    pub fn over_mtu(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn count(socket: &OwnedFd, stop: &AtomicBool) -> u64 {
    let mut over = 0;
    let mut packet = [0; VNET_HEADER + HEADERS];
    while !stop.load(Ordering::Relaxed) {
        // The length is the packet's, however little of it fits.
        match recv(socket, &mut packet, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
            Ok((_, len)) => over += u64::from(longest(&packet, len) > LONGEST),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    over
}

/// Bytes of the longest frame that a packet of `len` bytes, its virtio header included, is to be on the wire.
fn longest(packet: &[u8; VNET_HEADER + HEADERS], len: usize) -> usize {
    if packet[1] == 0 {
        return len - VNET_HEADER;
    }
    let segment = usize::from(u16::from_ne_bytes([packet[4], packet[5]]));
    // The virtio header says how much of the packet lies together, which is more than headers where the kernel likes.
    let frame = &packet[VNET_HEADER..];
    let l4 = match frame[12..14] {
        [0x08, 0x00] => 14 + usize::from(frame[14] & 0x0f) * 4,
        _ => 14 + 40,
    };
    let tcp = frame.get(l4 + 12).map_or(0, |offset| offset >> 4);
    l4 + usize::from(tcp) * 4 + segment
}

fn open() -> std::io::Result<OwnedFd> {
    let every = Protocol::from_raw(
        NonZeroU32::new((libc::ETH_P_ALL as u16).to_be().into()).expect("it is not zero"),
    );
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(every))?;
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
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
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with a virtio header that says `gso` and segments of 1448 bytes, over IPv4 with a timestamp.
    fn packet(gso: u8) -> [u8; VNET_HEADER + HEADERS] {
        let mut packet = [0; VNET_HEADER + HEADERS];
        packet[1] = gso;
        packet[2..4].copy_from_slice(&256u16.to_ne_bytes());
        packet[4..6].copy_from_slice(&1448u16.to_ne_bytes());
        let frame = &mut packet[VNET_HEADER..];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[14 + 20 + 12] = 8 << 4;
        packet
    }

    #[test]
    fn what_is_still_to_be_segmented_is_as_long_as_its_segments() {
        assert_eq!(longest(&packet(1), 65_000), LONGEST);
        assert_eq!(longest(&packet(0), VNET_HEADER + 1600), 1600);
    }
}
