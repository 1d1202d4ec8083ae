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
    let mut packet = [0; VNET_HEADER];
    while !stop.load(Ordering::Relaxed) {
        // The length is the packet's, however little of it fits.
        match recv(socket, &mut packet, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
            Ok((_, len)) => {
                let segment = usize::from(u16::from_ne_bytes([packet[4], packet[5]]));
                let header = usize::from(u16::from_ne_bytes([packet[2], packet[3]]));
                let longest = match packet[1] {
                    0 => len - VNET_HEADER,
                    _ => header + segment,
                };
                over += u64::from(longest > LONGEST);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    over
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
