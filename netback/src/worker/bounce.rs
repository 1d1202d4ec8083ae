//! Bounce buffers: pages of our own that copies name by grant reference.
//!
//! Where a copy names our side by address, the kernel looks that page up and pins it, for every segment (drivers/xen/gntdev.c,
//! `gntdev_get_page`). That takes longer than moving a small packet once more.
use super::batch::TURN_CHAINS;
use crate::queue::copy::Runs;
use xen::grant::{DomId, GrantRef, GrantedMemory, PAGE_SIZE, Side};

/// Longest piece: two fit a page, and a full Ethernet frame is one.
pub(crate) const BOUNCED: usize = PAGE_SIZE / 2;
/// Pages a worker wants: every head of a turn finds room, and as many packets for guests, of any size.
pub const BOUNCE_PAGES: usize = 2 * TURN_CHAINS * BOUNCED / PAGE_SIZE;
/// Pieces begin at a cache line.
const ALIGN: usize = 64;

/// A worker's bounce buffers, used from the beginning each turn.
pub(crate) struct Bounce {
    memory: Box<dyn GrantedMemory>,
    /// The memory's, asked for once.
    domid: DomId,
    grefs: Box<[GrantRef]>,
    /// First byte not given out this turn.
    free: usize,
}

/// A run of bytes in one page of them, good for this turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    domid: DomId,
    gref: GrantRef,
    /// First byte, counted over all pages.
    start: u32,
}

impl Bounce {
    /// Over all of `memory`.
    pub fn new(memory: Box<dyn GrantedMemory>) -> Self {
        Self {
            domid: memory.domid(),
            grefs: memory.grefs().into(),
            memory,
            free: 0,
        }
    }

    /// A turn begins: nobody uses what was given out.
    pub fn clear(&mut self) {
        self.free = 0;
    }

    /// Room for `len` bytes; `None` where that is more than [`BOUNCED`], or the turn has used up all.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<Piece> {
        if len > BOUNCED {
            return None;
        }
        let left = PAGE_SIZE - self.free % PAGE_SIZE;
        let start = if len <= left {
            self.free
        } else {
            self.free + left
        };
        let gref = *self.grefs.get(start / PAGE_SIZE)?;
        self.free = (start + len).next_multiple_of(ALIGN);
        Some(Piece {
            domid: self.domid,
            gref,
            start: start as u32,
        })
    }

    /// The same, with a copy of `bytes` in it.
    #[inline]
    pub fn hold(&mut self, bytes: &[u8]) -> Option<Piece> {
        let piece = self.take(bytes.len())?;
        self.memory.write(piece.start as usize, bytes);
        Some(piece)
    }

    /// Copy the first bytes of `piece` out.
    #[inline]
    pub fn read(&self, piece: Piece, into: &mut [u8]) {
        self.memory.read(piece.start as usize, into);
    }
}

impl Runs for Piece {
    #[inline]
    fn at(&mut self, position: usize) -> (Side, usize) {
        let offset = self.start as usize % PAGE_SIZE + position;
        let side = Side::Foreign {
            domid: self.domid,
            gref: self.gref,
            offset: offset as u16,
        };
        (side, PAGE_SIZE - offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xen::fake::{Grants, OwnPages};

    fn bounce(pages: usize) -> Bounce {
        Bounce::new(Box::new(OwnPages::new(&Grants::default(), 0, pages)))
    }

    #[test]
    fn every_head_of_a_turn_finds_room_and_as_many_more() {
        let mut bounce = bounce(BOUNCE_PAGES);
        for _ in 0..2 {
            let taken = (0..).take_while(|_| bounce.take(BOUNCED).is_some()).count();
            assert_eq!(taken, 2 * TURN_CHAINS);
            bounce.clear();
        }
        assert!(bounce.take(BOUNCED + 1).is_none());
    }

    proptest! {
        #[test]
        fn pieces_lie_in_a_page_each_and_apart(lens in prop::collection::vec(1usize..=BOUNCED, 1..100)) {
            let mut bounce = bounce(16);
            let mut end = 0;
            for len in lens {
                let Some(mut piece) = bounce.take(len) else {
                    prop_assert!(end > (16 - 1) * PAGE_SIZE, "there was room");
                    break;
                };
                let start = piece.start as usize;
                prop_assert!(start >= end);
                end = start + len;
                let (side, run) = piece.at(0);
                prop_assert!(run >= len);
                let Side::Foreign { gref, offset, .. } = side else { panic!("by address") };
                prop_assert_eq!(gref.0 as usize * PAGE_SIZE + usize::from(offset), start);
            }
        }
    }
}
