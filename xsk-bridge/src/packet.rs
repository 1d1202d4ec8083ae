//! A packet: a chain of frames, its length, and what its sender left undone.
use crate::frame::{DATA_CAPACITY, Frame};
use arrayvec::ArrayVec;

/// Most frames of a packet: 65 535 bytes by DATA_CAPACITY each.
pub const MAX_FRAMES: usize = 65535usize.div_ceil(DATA_CAPACITY);

/// State of the L4 checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Complete as far as anybody knows; nobody vouches for it.
    #[default]
    Unverified,
    /// Pseudo-header sum only; to be completed before the wire.
    Blank,
    /// Somebody who could know says it is right.
    Valid,
}

/// TCP segmentation still to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Payload bytes of each segment but the last.
    pub segment: u16,
    /// TCP over IPv6; else over IPv4.
    pub ipv6: bool,
}

/// What travels beside the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// State of the L4 checksum.
    pub checksum: Checksum,
    /// Segmentation to be done.
    pub gso: Option<Gso>,
    /// Toeplitz hash of the flow, where the sender computed one.
    pub hash: Option<u32>,
}

/// A packet in frames of the UMEM: full (DATA_CAPACITY) but for the last.
#[derive(Debug)]
pub struct Packet {
    /// The chain.
    pub frames: ArrayVec<Frame, MAX_FRAMES>,
    /// Bytes in all, Ethernet header included.
    pub len: u32,
    /// What is left to do.
    pub offload: Offload,
}
