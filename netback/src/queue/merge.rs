//! The packets towards a guest that TCP segments are merged into, one of a stream, within one turn.
use crate::copy::staging::{Piece, Staging};
use crate::queue::rx::{MAX_DATA_SLOTS, slots};
use crate::vif::features::Features;
use arrayvec::ArrayVec;
use xen::grant::PAGE_SIZE;
use xsk_bridge::offload::coalesce::{Coalescer, Room, Segment};
use xsk_bridge::offload::flows::{Flows, OPEN_FLOWS};
use xsk_bridge::packet::{Checksum, Gso, Offload};

/// What a merged packet is like. How its segments are counted makes no difference to the room it takes.
const MERGED: Offload = Offload {
    checksum: Checksum::Blank,
    gso: Some(Gso {
        segment: 1,
        ipv6: false,
    }),
};

/// The open packets of a queue.
pub(crate) struct Merge {
    flows: Flows,
    /// By place. Empty where nothing is merged for the guest.
    open: Box<[Open]>,
    /// Bytes of all open packets, and Rx requests that they take.
    held: Held,
    /// The place of the packet that grew last, while the packet is open.
    recent: Option<usize>,
    /// Room was found for more than first segments in this turn.
    grown: bool,
    /// The turn that all this belongs to.
    turn: u64,
    ipv4: bool,
    ipv6: bool,
}

/// One packet that is open. It lies in pages of staging memory as it will lie in the guest's.
#[derive(Default)]
pub(crate) struct Open {
    pub coalescer: Coalescer,
    /// The job of the first segment, which stays as it came until a second one follows.
    pub first: u16,
    pages: ArrayVec<Piece, MAX_DATA_SLOTS>,
    held: Held,
}

/// What packets take of a guest's Rx ring or of its backlog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub bytes: u32,
    pub slots: u32,
}

/// What a packet that is open takes with a segment more, and all that are open with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grown {
    held: Held,
    pub all: Held,
}

impl Held {
    /// What a packet of `len` bytes takes, placed in full pages.
    #[inline]
    pub fn of(len: u32, offload: &Offload) -> Self {
        Self {
            bytes: len,
            slots: slots(len, offload),
        }
    }

    /// What a packet of `len` bytes takes that lies in one page and is not to be segmented.
    #[inline]
    pub fn one_page(len: u32) -> Self {
        Self {
            bytes: len,
            slots: 1,
        }
    }

    /// What a merged packet of `len` bytes takes.
    #[inline]
    fn merged(len: usize) -> Self {
        Self::of(len as u32, &MERGED)
    }
}

impl Merge {
    /// Begins without a packet. Nothing is merged for a guest that does not segment itself.
    pub fn new(features: &Features) -> Self {
        let (ipv4, ipv6) = (features.takes_gso(false), features.takes_gso(true));
        let places = if ipv4 || ipv6 { OPEN_FLOWS } else { 0 };
        Self {
            flows: Flows::default(),
            open: (0..places).map(|_| Open::default()).collect(),
            held: Held::default(),
            recent: None,
            grown: false,
            turn: 0,
            ipv4,
            ipv6,
        }
    }

    /// Whether any packets are merged for the guest.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.ipv4 || self.ipv6
    }

    /// Whether the guest takes such segments merged.
    #[inline]
    pub fn takes(&self, segment: &Segment) -> bool {
        match segment.is_ipv6() {
            false => self.ipv4,
            true => self.ipv6,
        }
    }

    /// Whether no packet is open.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Begins the turn with this number, of whose staging memory nothing is held yet. Returns false where the turn has begun already.
    #[inline]
    pub fn begin(&mut self, turn: u64) -> bool {
        let begins = self.turn != turn;
        if begins {
            (self.turn, self.flows, self.held) = (turn, Flows::default(), Held::default());
            (self.recent, self.grown) = (None, false);
        }
        begins
    }

    /// Whether the packet that grew last is open.
    #[inline]
    pub fn has_recent(&self) -> bool {
        self.recent.is_some()
    }

    /// Whether a packet continues the one that grew last: the place of that, and the segment with the length that it makes.
    #[inline]
    pub fn continued(&self, packet: &[u8]) -> Option<(usize, Segment, usize)> {
        let place = self.recent?;
        let coalescer = &self.open[place].coalescer;
        let segment = coalescer.next(packet)?;
        Some((place, segment, coalescer.follows(&segment)?))
    }

    /// The place of the stream's open packet.
    #[inline]
    pub fn find(&self, flow: u32) -> Option<usize> {
        self.flows.find(flow)
    }

    /// The place of an open packet, if there is one.
    pub fn any(&self) -> Option<usize> {
        self.flows.any()
    }

    /// A place for another packet. `Err`: the packet at this place is to be closed first.
    #[inline]
    pub fn vacant(&mut self) -> Result<usize, usize> {
        self.flows.vacant()
    }

    /// Opens a packet at a vacant place with its first segment, job `first` of `len` bytes.
    #[inline]
    pub fn open(&mut self, place: usize, segment: &Segment, first: u16, len: u32) {
        self.flows.open(place, segment.flow());
        let open = &mut self.open[place];
        open.coalescer.begin(segment);
        open.first = first;
        open.pages.clear();
        open.held = Held::one_page(len);
        self.held = self.held_beside(Held::one_page(len));
    }

    /// Gives a place up: what was at it.
    #[inline]
    pub fn close(&mut self, place: usize) -> &mut Open {
        self.flows.close(place);
        self.recent = self.recent.filter(|&recent| recent != place);
        let open = &mut self.open[place];
        self.held.bytes -= open.held.bytes;
        self.held.slots -= open.held.slots;
        open
    }

    /// What the packet at `place` takes where it grows to `len` bytes, and what all open packets take then.
    #[inline]
    pub fn grown(&self, place: usize, len: usize) -> Grown {
        let (before, held) = (self.open[place].held, Held::merged(len));
        let all = Held {
            bytes: self.held.bytes - before.bytes + held.bytes,
            slots: self.held.slots - before.slots + held.slots,
        };
        Grown { held, all }
    }

    /// What all open packets and one more that takes `more` take.
    #[inline]
    pub fn held_beside(&self, more: Held) -> Held {
        Held {
            bytes: self.held.bytes + more.bytes,
            slots: self.held.slots + more.slots,
        }
    }

    /// Whether room was found for more than first segments in this turn, of which each takes a page, as does one that comes later.
    #[inline]
    pub fn has_grown(&self) -> bool {
        self.grown
    }

    /// Notes that the packet at `place` has grown.
    #[inline]
    pub fn grow(&mut self, place: usize, grown: Grown) {
        (self.recent, self.grown) = (Some(place), true);
        self.held = grown.all;
        self.open[place].held = grown.held;
    }

    /// The packet at `place`.
    #[inline]
    pub fn at(&mut self, place: usize) -> &mut Open {
        &mut self.open[place]
    }
}

impl Open {
    /// The coalescer, and where it puts the packet together.
    pub fn parts<'a>(&'a mut self, staging: &'a mut Staging) -> (&'a mut Coalescer, Pages<'a>) {
        let pages = Pages {
            staging,
            pages: &mut self.pages,
        };
        (&mut self.coalescer, pages)
    }

    /// Gives up the pages that hold the packet, and appends them to `pieces`.
    pub fn take_pages(&mut self, pieces: &mut Vec<Piece>) {
        pieces.extend(self.pages.drain(..));
    }
}

/// Whole pages of staging memory, one for each page that the guest is to get.
pub(crate) struct Pages<'a> {
    staging: &'a mut Staging,
    pages: &'a mut ArrayVec<Piece, MAX_DATA_SLOTS>,
}

impl Room for Pages<'_> {
    #[inline]
    fn reserve(&mut self, len: usize) -> bool {
        len <= self.pages.len() * PAGE_SIZE || self.take_more(len)
    }

    #[inline]
    fn at(&mut self, position: usize) -> &mut [u8] {
        let place = position / PAGE_SIZE;
        let last = self.pages.get(place + 1).copied();
        &mut self.staging.joined_mut(self.pages[place], last)[position % PAGE_SIZE..]
    }
}

impl Pages<'_> {
    /// Takes pages until there are enough for the first `len` bytes of the packet; false where there are none.
    #[inline(never)]
    fn take_more(&mut self, len: usize) -> bool {
        while self.pages.len() * PAGE_SIZE < len {
            let room = !self.pages.is_full();
            match self.staging.take_spare(PAGE_SIZE).filter(|_| room) {
                Some(page) => self.pages.push(page),
                None => return false,
            }
        }
        true
    }
}
