//! A packet in several frames on its way out of a receive ring, of which a look at the ring may bring a part.
use crate::frame::{Frame, Umem};
use crate::packet::{MAX_PACKET, Offload, Packet};

/// The packet whose last frame has not come yet.
#[derive(Debug, Default)]
pub(super) enum Chain {
    /// The next frame begins a packet.
    #[default]
    Closed,
    /// More frames of this packet are to come.
    Open(Packet),
    /// More frames of a packet that is dropped are to come.
    Broken,
}

/// What became of a frame.
#[derive(Debug)]
pub(super) enum Pushed {
    /// The frame is part of a packet that is not complete.
    Open,
    /// The frame completed this packet.
    Packet(Packet),
    /// The frame was the last one of a packet that cannot be passed on, and was dropped.
    Dropped,
}

impl Chain {
    /// Whether no packet is open: the next frame begins one.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Frames of the packet that have come.
    pub fn frames(&self) -> u32 {
        match self {
            Self::Open(packet) => packet.frame_count() as u32,
            Self::Closed | Self::Broken => 0,
        }
    }

    /// Takes the next frame, of which the first `len` bytes are the packet's, and whether `more` follow; `None`: the kernel's descriptor
    /// is no frame, and its packet is dropped. Frames that hold nothing go to `free`.
    pub fn push(
        &mut self,
        piece: Option<(Frame, usize)>,
        more: bool,
        umem: &Umem,
        free: &mut Vec<Frame>,
    ) -> Pushed {
        let before = std::mem::take(self);
        let now = match (before, piece) {
            (Self::Closed, Some((frame, len))) => {
                Some(Packet::new(frame, len as u32, Offload::default()))
            }
            (Self::Open(packet), Some((frame, len))) => lengthen(packet, frame, len, umem, free),
            (Self::Open(packet), None) => {
                free.extend(packet.into_frames(umem));
                None
            }
            (Self::Broken, piece) => {
                free.extend(piece.map(|(frame, _)| frame));
                None
            }
            (Self::Closed, None) => None,
        };
        match (now, more) {
            (Some(packet), false) => Pushed::Packet(packet),
            (Some(packet), true) => {
                *self = Self::Open(packet);
                Pushed::Open
            }
            (None, false) => Pushed::Dropped,
            (None, true) => {
                *self = Self::Broken;
                Pushed::Open
            }
        }
    }
}

/// The packet with one more frame; `None`: it would be longer than any packet may be.
fn lengthen(
    mut packet: Packet,
    frame: Frame,
    len: usize,
    umem: &Umem,
    free: &mut Vec<Frame>,
) -> Option<Packet> {
    if packet.len as usize + len > MAX_PACKET {
        free.push(frame);
        free.extend(packet.into_frames(umem));
        return None;
    }
    free.extend(packet.extend(frame, len, umem));
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::DATA_CAPACITY;
    use proptest::prelude::*;

    const FRAMES: u32 = 64;

    /// A descriptor: bytes in its frame, whether it is one of ours, and whether more follow.
    fn descriptors() -> impl Strategy<Value = Vec<(usize, bool, bool)>> {
        let len = prop_oneof![Just(DATA_CAPACITY), 1..=DATA_CAPACITY, 1usize..200, Just(0)];
        let one = (len, prop::bool::weighted(0.97), prop::bool::weighted(0.8));
        prop::collection::vec(one, 1..200)
    }

    proptest! {
        /// Whatever the kernel brings, packets have the bytes of their frames in order, in full frames, and no frame is lost.
        #[test]
        fn packets_are_what_their_frames_hold(descriptors in descriptors()) {
            let (umem, mut pool) = Umem::new(FRAMES).unwrap();
            let (mut chain, mut expected, mut broken) = (Chain::default(), Vec::new(), false);
            for (n, (len, ours, more)) in descriptors.into_iter().enumerate() {
                let piece = ours.then(|| {
                    let mut frame = pool.pop().expect("a packet has 18 frames at most");
                    for (at, byte) in umem.data_mut(&mut frame)[..len].iter_mut().enumerate() {
                        *byte = (n * 31 + at) as u8;
                        expected.push(*byte);
                    }
                    (frame, len)
                });
                broken |= !ours || expected.len() > MAX_PACKET;
                match chain.push(piece, more, &umem, &mut pool) {
                    Pushed::Open => prop_assert!(more),
                    Pushed::Dropped => prop_assert!(!more && broken),
                    Pushed::Packet(packet) => {
                        prop_assert!(!more && !broken);
                        prop_assert_eq!(packet.len as usize, expected.len());
                        let frames = expected.len().div_ceil(DATA_CAPACITY).max(1);
                        prop_assert_eq!(packet.frame_count(), frames);
                        let bytes: Vec<u8> = packet.slices(&umem).flatten().copied().collect();
                        prop_assert!(bytes == expected);
                        pool.extend(packet.into_frames(&umem));
                    }
                }
                if !more {
                    prop_assert!(chain.is_closed());
                    (expected, broken) = (Vec::new(), false);
                }
                prop_assert_eq!(pool.len() as u32 + chain.frames(), FRAMES);
            }
        }
    }
}
