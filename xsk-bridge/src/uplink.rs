//! The seam to the wire: one queue of a device, owned by one worker. AF_XDP is the real one; null, loopback and a fault injector for tests.
use crate::frame::FramePool;
use crate::packet::Packet;
use std::io;
use std::os::fd::BorrowedFd;

/// Frames that are with the kernel, by ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held { pub fill: u32, pub send: u32 }

/// One queue of the uplink.
pub trait Uplink: Send {
    /// Refill the fill ring from `pool`, then receive at most `max` packets (one frame each) into `out` (whose capacity suffices; never grows).
    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize;
    /// How many packets `send` takes now; reclaims completed frames into `pool` first.
    fn room(&mut self, pool: &mut FramePool) -> usize;
    /// Queue a linear packet (one frame, checksum complete). The caller asked `room`.
    fn send(&mut self, packet: Packet);
    /// Kick the kernel until the ring is drained or it wants to be polled; `Ok(false)`: it is full and the link takes no more now.
    fn flush(&mut self, pool: &mut FramePool) -> io::Result<bool>;
    /// Readable when frames came in.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Before a sleep: true when frames came in or completions wait, so do not sleep (also does a need_wakeup kick of the fill ring).
    fn pending(&mut self) -> bool;
    /// Frames in the kernel's hands.
    fn held(&self) -> Held;
    /// Longest frame this queue carries, Ethernet header included.
    fn max_frame(&self) -> usize;
}
