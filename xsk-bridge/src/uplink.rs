//! The seam to the wire: one queue of a device, owned by one worker. AF_XDP is the real one; the cable and the fault
//! injector are for tests.
mod cable;
mod fault;

pub use cable::Cable;
pub use fault::{FaultInjector, Faults};

use crate::frame::FramePool;
use crate::packet::Packet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Frames that are with the kernel, by ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Given for packets to come: in the fill ring, the driver or the receive ring.
    pub fill: u32,
    /// On their way out: in the send ring, the driver or the completion ring; or dropped and not yet given back.
    pub send: u32,
}

/// What one queue counts. One writer, the worker; any thread reads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets received.
    pub recv_packets: Counter,
    /// Bytes received.
    pub recv_bytes: Counter,
    /// Received descriptors that cannot be a frame of ours, dropped.
    pub recv_bad: Counter,
    /// Packets put into the send ring.
    pub send_packets: Counter,
    /// Bytes put into the send ring.
    pub send_bytes: Counter,
    /// Packets dropped because the link is down.
    pub send_link_down: Counter,
    /// Packets dropped because they are not one frame of at most `max_frame` bytes, or `room` was not asked.
    pub send_refused: Counter,
    /// sendto calls.
    pub kicks: Counter,
    /// Times the link was found down.
    pub link_down: Counter,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Add, from the one thread that writes.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Read, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One queue of the uplink.
pub trait Uplink: Send {
    /// Refill the fill ring from `pool`, then receive at most `max` packets (one frame each) into `out` (whose capacity suffices; never grows).
    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize;
    /// How many packets `send` takes now; reclaims completed frames into `pool` first.
    fn room(&mut self, pool: &mut FramePool) -> usize;
    /// Queue a linear packet (one frame, checksum complete). The caller asked `room`.
    fn send(&mut self, packet: Packet);
    /// Kick the kernel until it has all that was sent. `Ok(false)`: it takes no more now, and what is left waits in the ring: call
    /// again soon, for nothing else sends it. While the link is down packets are dropped and counted, and this is `Ok(true)`.
    fn flush(&mut self, pool: &mut FramePool) -> io::Result<bool>;
    /// Readable when frames came in. Completions raise no event: who waits for frames or room sleeps with a timeout.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Before a sleep: true when frames came in or completions wait, so do not sleep (also does a need_wakeup kick of the fill ring).
    fn pending(&mut self) -> bool;
    /// Frames in the kernel's hands.
    fn held(&self) -> Held;
    /// Longest frame this queue carries, Ethernet header included.
    fn max_frame(&self) -> usize;
}
