//! A packet: a chain of frames, its length, and what its sender left undone.
use crate::frame::{Frame, DATA_CAPACITY};
use arrayvec::ArrayVec;

/// Most frames of a packet: 65 535 bytes by DATA_CAPACITY each.
pub const MAX_FRAMES: usize = 65535usize.div_ceil(DATA_CAPACITY);

/// State of the L4 checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Complete as far as anybody knows; nobody vouches for it.
    #[default] Unverified,
    /// Pseudo-header sum only; to be completed before the wire.
    Blank,
    /// Somebody who could know says it is right.
    Valid,
}
/// TCP segmentation still to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso { pub segment: u16, pub ipv6: bool }
/// What travels beside the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload { pub checksum: Checksum, pub gso: Option<Gso>, pub hash: Option<u32> }

/// Frames are full (DATA_CAPACITY) but for the last; `len` bytes in all.
#[derive(Debug)]
pub struct Packet { pub frames: ArrayVec<Frame, MAX_FRAMES>, pub len: u32, pub offload: Offload }
