//! One packet of a turn: where its bytes are, where it goes, and what became of it.
use super::ports::Destination;
use crate::copy::plan::Span;
use crate::copy::staging::{Piece, Staging};
use crate::observe::counters::DropReason;
use ring::packet::{Fragment, Slots};
use xen::grant::DomId;
use xsk_bridge::frame::Umem;
use xsk_bridge::offload::segment::GsoHead;
use xsk_bridge::packet::{Gso, Offload, Packet};
use xsk_bridge::switch::PortId;

/// What has become of a packet so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing yet.
    Pending,
    /// The packet went to at least one receiver, which counts it from there on.
    Sent,
    /// The packet went nowhere; the sender counts it.
    Dropped(DropReason),
    /// A copy out of the sender's pages failed; the sender is told of each slot.
    CopyFailed,
    /// The job is no packet, but a chain to be answered with this status.
    Answered(i16),
}

/// A packet of this turn, or a chain that is only to be answered.
pub(crate) struct Job {
    /// Bytes of the packet.
    pub len: u32,
    /// Bytes of the packet that staging memory holds, from the first on.
    pub staged: u32,
    /// What the sender left to do.
    pub offload: Offload,
    pub destination: Destination,
    pub outcome: Outcome,
    /// Payload may go from the sender's pages to the receiver's.
    pub direct: bool,
    /// The checksum field is not even blank: it is made so before anybody gets the packet.
    pub fixup: bool,
    /// The sender's domain, where the packet is from a guest of this worker.
    pub domid: DomId,
    /// First bytes in staging memory.
    pub head: Piece,
    /// The operations that fetched the head, and what is behind it.
    pub fetches: [Span; 2],
    /// Pieces behind the head, by place in the batch.
    pub behind: Places,
    /// Fragments in the sender's pages, by place in the batch.
    pub fragments: Places,
    /// The slots to answer.
    pub slots: Slots,
    /// Bit n: data slot n (0 is the chain's first, extras not counted) is answered ERROR.
    pub errors: u32,
    /// Hash of the flow, where it was needed.
    pub hash: u32,
    /// The port that the packet goes to, where another worker serves it.
    pub port: PortId,
    /// The frames, where the packet came in frames.
    pub packet: Option<Packet>,
}

/// Consecutive places in one of the batch's lists.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Places {
    pub first: u32,
    pub count: u16,
}

impl Places {
    /// The items at these places of `list`.
    #[inline]
    pub fn of<T>(self, list: &[T]) -> &[T] {
        let first = self.first as usize;
        &list[first..first + usize::from(self.count)]
    }
}

impl Job {
    /// A job of which only length and offload are known.
    #[inline]
    pub fn new(len: u32, offload: Offload) -> Self {
        Self {
            len,
            staged: 0,
            offload,
            destination: Destination::Undecided,
            outcome: Outcome::Pending,
            direct: false,
            fixup: false,
            domid: DomId(0),
            head: Piece::default(),
            fetches: [Span::default(); 2],
            behind: Places::default(),
            fragments: Places::default(),
            slots: Slots::default(),
            errors: 0,
            hash: 0,
            port: PortId(0),
            packet: None,
        }
    }

    /// A packet that came in frames.
    #[inline]
    pub fn in_frames(packet: Packet) -> Self {
        let mut job = Self::new(packet.len, packet.offload);
        job.packet = Some(packet);
        job
    }

    /// A chain that is no packet.
    pub fn answer_only(slots: Slots, status: i16) -> Self {
        Self {
            slots,
            destination: Destination::Nowhere,
            outcome: Outcome::Answered(status),
            ..Self::new(0, Offload::default())
        }
    }

    /// Judges a packet that is to be segmented, once, by the private copy of its head; false where it cannot be. A checksum field that
    /// its sender left with anything else in it is made blank, bytes behind the IP packet are left out, and a packet of one segment is an
    /// ordinary one.
    #[cold]
    pub fn judge(&mut self, gso: Gso, head: &mut [u8]) -> bool {
        let checksum = self.offload.checksum;
        let Ok(shape) = GsoHead::parse(head, self.len as usize, gso, checksum) else {
            return false;
        };
        if self.fixup {
            shape.blank_checksum(head);
        }
        self.len = shape.len() as u32;
        if self.staged > self.len {
            self.staged = self.len;
            self.head = self.head.first(shape.len());
        }
        if shape.segments() == 1 {
            self.offload.gso = None;
        }
        true
    }

    /// Whether every byte is within our reach, in staging memory or in frames.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.staged == self.len || self.packet.is_some()
    }

    /// The packet as one piece of staging memory, where it is one, and not to be segmented.
    #[inline]
    pub fn one_page(&self) -> Option<Piece> {
        let whole = self.head.len() == self.len as usize && self.staged == self.len;
        (whole && self.offload.gso.is_none()).then_some(self.head)
    }

    /// The packet's first bytes, all headers among them.
    #[inline]
    pub fn head_bytes<'a>(&'a self, staging: &'a Staging, umem: &'a Umem) -> &'a [u8] {
        match &self.packet {
            Some(packet) => packet.head(umem),
            None => staging.bytes(self.head),
        }
    }

    /// Drops the packet, unless something else became of it before.
    #[inline]
    pub fn drop_for(&mut self, reason: DropReason) {
        if self.outcome == Outcome::Pending {
            self.outcome = Outcome::Dropped(reason);
        }
    }

    /// Answers ERROR for the slot that the byte at `position` came from.
    pub fn fail_at(&mut self, position: usize, fragments: &[Fragment]) {
        let mut end = 0;
        let holds = self.fragments.of(fragments).iter().find(|fragment| {
            end += usize::from(fragment.size);
            position < end
        });
        let slot = holds.map_or(0, |fragment| fragment.slot);
        self.errors |= 1 << self.data_slot(slot);
    }

    /// Number of a slot among the data slots. There are at most 19 of those to a packet, whatever the number of extras behind the first.
    #[inline]
    pub fn data_slot(&self, slot: u8) -> u32 {
        u32::from(slot.saturating_sub(self.slots.extras)) & 31
    }
}
