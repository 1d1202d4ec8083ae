//! A packet: a chain of frames, its length, and what its sender left undone.
use crate::frame::{DATA_CAPACITY, Frame, Umem};

/// Most bytes of a packet: what the netif protocol can say of one.
pub(crate) const MAX_PACKET: usize = 65_535;

/// Most frames of a packet: 65 535 bytes by DATA_CAPACITY each.
pub const MAX_FRAMES: usize = MAX_PACKET.div_ceil(DATA_CAPACITY);

/// State of the L4 checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Complete as far as anybody knows; nobody vouches for it.
    #[default]
    Unverified,
    /// The field holds the sum of the pseudo-header only; to be completed before the wire.
    Blank,
    /// Verified, or vouched for by the guest that computed it.
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
}

/// A packet in frames of the UMEM, at least one, each full ([`DATA_CAPACITY`]) but for the last. 20 bytes, so that it is cheap to move:
/// the frames behind the first are a chain through the UMEM's table of links.
#[derive(Debug)]
pub struct Packet {
    first: Frame,
    last: u32,
    frames: u16,
    /// What is left to do.
    pub offload: Offload,
    /// Bytes in all, Ethernet header included.
    pub len: u32,
}

impl Packet {
    /// A packet whose first `len` bytes (at most [`DATA_CAPACITY`] until more frames are appended) are in `frame`.
    #[inline]
    pub fn new(frame: Frame, len: u32, offload: Offload) -> Self {
        Self {
            last: frame.index(),
            first: frame,
            frames: 1,
            offload,
            len,
        }
    }

    /// Appends a frame, which holds the bytes behind those of the frames before it.
    #[inline]
    pub fn append(&mut self, frame: Frame, umem: &Umem) {
        let index = frame.index();
        umem.link(self.last, frame);
        self.last = index;
        self.frames += 1;
    }

    /// Appends the first `len` bytes of a frame, in the room that the last frame has, and in the frame itself where that is not enough.
    /// Returns the frame where it was not needed.
    pub(crate) fn extend(&mut self, mut frame: Frame, len: usize, umem: &Umem) -> Option<Frame> {
        let before = self.len as usize;
        self.len += len as u32;
        let room = usize::from(self.frames) * DATA_CAPACITY - before;
        if len == 0 {
            return Some(frame);
        }
        if room == 0 {
            self.append(frame, umem);
            return None;
        }
        // The packet owns its last frame, and is ours alone for as long as this takes.
        let mut last = Frame(self.last);
        let moved = room.min(len);
        let into = &mut umem.data_mut(&mut last)[DATA_CAPACITY - room..][..moved];
        into.copy_from_slice(&umem.data(&frame)[..moved]);
        if moved == len {
            return Some(frame);
        }
        umem.data_mut(&mut frame).copy_within(moved..len, 0);
        self.append(frame, umem);
        None
    }

    /// Number of frames.
    #[inline]
    pub fn frame_count(&self) -> usize {
        self.frames.into()
    }

    /// The first frame.
    #[inline]
    pub fn first(&self) -> &Frame {
        &self.first
    }

    /// The bytes in the first frame: all headers are there.
    #[inline]
    pub fn head<'a>(&'a self, umem: &'a Umem) -> &'a [u8] {
        &umem.data(&self.first)[..DATA_CAPACITY.min(self.len as usize)]
    }

    /// The bytes in the first frame, writable.
    #[inline]
    pub fn head_mut<'a>(&'a mut self, umem: &'a Umem) -> &'a mut [u8] {
        &mut umem.data_mut(&mut self.first)[..DATA_CAPACITY.min(self.len as usize)]
    }

    /// The bytes in the first frame, writable, and those in the frames behind it.
    pub fn head_and_rest<'a>(
        &'a mut self,
        umem: &'a Umem,
    ) -> (&'a mut [u8], impl Iterator<Item = &'a [u8]> + Clone) {
        let behind = umem.chain(self.first.index(), self.frames).skip(1);
        let left = (self.len as usize).saturating_sub(DATA_CAPACITY);
        (self.head_mut(umem), cut(behind, left))
    }

    /// The packet's bytes in order, a slice for each frame.
    pub fn slices<'a>(&'a self, umem: &'a Umem) -> impl Iterator<Item = &'a [u8]> + Clone {
        cut(
            umem.chain(self.first.index(), self.frames),
            self.len as usize,
        )
    }

    /// Takes the packet apart into its frames, in order.
    #[inline]
    pub fn into_frames(self, umem: &Umem) -> impl Iterator<Item = Frame> + '_ {
        umem.unchain(self.first, self.frames)
    }

    /// The frame of a packet that has one only; the packet itself where it has more.
    #[inline]
    pub fn into_linear(self) -> Result<Frame, Self> {
        match self.frames {
            1 => Ok(self.first),
            _ => Err(self),
        }
    }
}

/// The first `len` bytes of the data areas of consecutive frames.
fn cut<'a>(
    frames: impl Iterator<Item = &'a [u8]> + Clone,
    len: usize,
) -> impl Iterator<Item = &'a [u8]> + Clone {
    frames.scan(len, |left, data| {
        let len = data.len().min(*left);
        *left -= len;
        Some(&data[..len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_keeps_the_order_of_its_frames_and_gives_them_all_back() {
        let (umem, frames) = Umem::new(20).unwrap();
        let mut frames = frames.into_iter().rev();
        let len = 3 * DATA_CAPACITY + 5;
        let mut packet = Packet::new(frames.next().unwrap(), len as u32, Offload::default());
        for frame in frames.by_ref().take(3) {
            packet.append(frame, &umem);
        }
        packet.head_mut(&umem)[0] = 7;
        assert_eq!(packet.head(&umem).len(), DATA_CAPACITY);
        let lens: Vec<_> = packet.slices(&umem).map(<[u8]>::len).collect();
        assert_eq!(lens, [DATA_CAPACITY, DATA_CAPACITY, DATA_CAPACITY, 5]);
        assert_eq!(packet.slices(&umem).next().unwrap()[0], 7);
        let packet = packet.into_linear().unwrap_err();
        let back: Vec<_> = packet.into_frames(&umem).map(|f| f.index()).collect();
        assert_eq!(back, [19, 18, 17, 16]);
        let single = Packet::new(frames.next().unwrap(), 60, Offload::default());
        assert_eq!(single.into_linear().unwrap().index(), 15);
    }

    #[test]
    fn a_packet_is_cheap_to_move() {
        assert!(size_of::<Packet>() <= 24, "{}", size_of::<Packet>());
    }
}
