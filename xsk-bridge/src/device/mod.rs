//! The seam to what is outside: one queue of a network device, owned by one worker, and what that queue can do. AF_XDP leads to the
//! wire, a TAP to this machine's own stack; the cable and the fault injector are for tests.
mod cable;
mod fault;
pub mod packet_socket;
pub mod tap;
pub mod vnet;
#[cfg(feature = "af-xdp")]
pub mod xsk;

pub use cable::Cable;
pub use fault::{FaultInjector, Faults};

use crate::frame::{DATA_CAPACITY, FramePool};
use crate::packet::{MAX_PACKET, Packet};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// Bytes of a frame that an MTU does not count: Ethernet header and one VLAN tag.
pub(crate) const FRAME_OVERHEAD: usize = 14 + 4;

/// Longest packet that `frames` frames of the UMEM hold.
pub(crate) fn capacity(frames: usize) -> usize {
    (frames * DATA_CAPACITY).min(MAX_PACKET)
}

/// Longest frame of a device of `mtu` bytes whose packets take at most `frames` frames of the UMEM.
fn longest_frame(mtu: u32, frames: usize) -> usize {
    (mtu as usize + FRAME_OVERHEAD).min(capacity(frames))
}

/// What a device takes from its sender. Whatever it does not take, the sender finishes before it hands the packet over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Longest frame that the device carries, in bytes, Ethernet header included. Where it is longer than a frame of the UMEM holds, the
    /// device takes and brings packets in several.
    pub max_frame: usize,
    /// Takes packets whose checksum is [`Blank`](crate::packet::Checksum::Blank).
    pub blank_checksum: bool,
    /// Takes packets that are still to be segmented, in more than one frame and longer than `max_frame`.
    pub gso: bool,
}

/// Frames that are with the kernel, by ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Given for packets to come: in the fill ring, the driver or the receive ring.
    pub fill: u32,
    /// On their way out: in the send ring, the driver or the completion ring; or dropped and not yet given back.
    pub send: u32,
}

/// What one call of [`Device::recv`] brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets received.
    pub packets: usize,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Those of the packets that are to be segmented.
    pub gso: u64,
    /// Descriptors from the kernel that cannot be a frame of ours, dropped.
    pub bad: u64,
    /// Packets that ask for what nobody here does, dropped.
    pub unfit: u64,
}

/// What one call of [`Device::send`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets handed to the kernel.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Those of the packets that are to be segmented.
    pub gso: u64,
    /// Packets dropped because their blank checksum is not where the device would look for it.
    pub unfit: u64,
    /// Packets dropped because the link is down.
    pub link_down: u64,
    /// Packets that the driver dropped although its link is up.
    pub refused: u64,
    /// System calls made to have packets sent.
    pub kicks: u64,
    /// Those of the system calls that failed, other than for want of room or of a link.
    pub kick_errors: u64,
    /// Whether the kernel wants to be asked again.
    pub rest: Rest,
}

/// What of the packets that the kernel was handed is left to be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rest {
    /// The kernel took all of them.
    #[default]
    Nothing,
    /// The kernel takes no more now, and what is left waits in the ring: only another call of [`Device::send`] sends it.
    InRing,
}

/// One queue of a network device.
pub trait Device: Send {
    /// What the queue takes; the same until the MTU is set.
    fn capabilities(&self) -> Capabilities;
    /// The network device's MTU has changed to `mtu` bytes, Ethernet header not included: the longest frame follows it, as far as the
    /// device takes packets in several frames of the UMEM.
    fn set_mtu(&mut self, mtu: u32);
    /// Takes the frames that it receives into from `pool`, then receives packets of at most `max` frames in all into `out`, whose capacity
    /// bounds them too (it never grows); one packet may exceed `max`. What the sender of a packet left undone is in its
    /// [`Offload`](crate::packet::Offload), and a packet that is to be segmented has been judged
    /// ([`GsoHead`](crate::offload::segment::GsoHead)).
    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received;
    /// Takes completed frames back into `pool`, and says for how many frames of packets [`send`](Self::send) has room now. A packet that
    /// the device segments counts as one.
    fn room(&mut self, pool: &mut FramePool) -> usize;
    /// Takes packets from the front of `packets` for as long as there is room, and kicks the kernel until it has all that was
    /// ever handed to it. While the link is down every packet is dropped and counted. The packets are such as
    /// [`capabilities`](Self::capabilities) allow; frames that are free afterwards go to `pool`.
    fn send(&mut self, packets: &mut VecDeque<Packet>, pool: &mut FramePool) -> Sent;
    /// Readable when frames came in. Completions raise no event: who waits for frames or room sleeps with a timeout.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Before a sleep: true when frames came in or completions wait, so do not sleep (also does a need_wakeup kick of the fill ring).
    fn pending(&mut self) -> bool;
    /// Frames in the kernel's hands.
    fn held(&self) -> Held;
}
