//! A packet towards the guest that TCP segments are merged into, within one turn.
use crate::copy::staging::{Piece, Staging};
use crate::queue::rx::MAX_DATA_SLOTS;
use crate::vif::features::Features;
use arrayvec::ArrayVec;
use xen::grant::PAGE_SIZE;
use xsk_bridge::offload::coalesce::{Coalescer, Room, Segment};

/// The packet that segments are being merged into, if there is one. The packet lies in pages of staging memory as it will lie in the
/// guest's.
pub(crate) struct Merge {
    pub coalescer: Coalescer,
    /// The job of the first segment, which stays as it came until a second one follows.
    pub first: Option<u16>,
    pages: ArrayVec<Piece, MAX_DATA_SLOTS>,
    /// The turn that `first` and `pages` belong to.
    turn: u64,
    ipv4: bool,
    ipv6: bool,
}

impl Merge {
    /// Begins without a packet. Nothing is merged for a guest that does not segment itself.
    pub fn new(features: &Features) -> Self {
        Self {
            coalescer: Coalescer::default(),
            first: None,
            pages: ArrayVec::new(),
            turn: 0,
            ipv4: features.takes_gso(false),
            ipv6: features.takes_gso(true),
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

    /// Begins the turn with this number, of whose staging memory nothing is held yet. Returns false where the turn has begun already.
    #[inline]
    pub fn begin(&mut self, turn: u64) -> bool {
        let begins = self.turn != turn;
        if begins {
            (self.turn, self.first) = (turn, None);
            self.pages.clear();
        }
        begins
    }

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
    fn reserve(&mut self, len: usize) -> bool {
        while self.pages.len() * PAGE_SIZE < len {
            let room = !self.pages.is_full();
            match self.staging.take_spare(PAGE_SIZE).filter(|_| room) {
                Some(page) => self.pages.push(page),
                None => return false,
            }
        }
        true
    }

    fn at(&mut self, position: usize) -> &mut [u8] {
        let page = self.pages[position / PAGE_SIZE];
        &mut self.staging.bytes_mut(page)[position % PAGE_SIZE..]
    }
}
