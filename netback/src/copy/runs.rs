//! Where the bytes of a packet are, as runs: in the fragments of a Tx chain, in posted pages, in staging memory.
use super::staging::{Piece, Staging};
use ring::packet::Fragment;
use xen::grant::{DomId, GrantRef, PAGE_SIZE, Side};

/// One end of a packet's copy: where the byte at a position is, and how many bytes follow it in the same place.
pub(crate) trait Runs {
    /// The side and the length of the run at `position`. Positions are asked for in rising order, all below the packet's length.
    fn at(&mut self, position: usize) -> (Side, usize);
}

/// A packet in the pages of posted Rx requests, each full but for the last.
pub(crate) struct InPages<'a> {
    /// The receiving guest.
    pub domid: DomId,
    /// Grant references, one a page.
    pub grefs: &'a [u32],
}

impl Runs for InPages<'_> {
    #[inline]
    fn at(&mut self, position: usize) -> (Side, usize) {
        let within = position % PAGE_SIZE;
        let side = Side::Foreign {
            domid: self.domid,
            gref: GrantRef(self.grefs[position / PAGE_SIZE]),
            offset: within as u16,
        };
        (side, PAGE_SIZE - within)
    }
}

/// A packet in the fragments of a Tx chain.
pub(crate) struct InFragments<'a> {
    domid: DomId,
    fragments: &'a [Fragment],
    /// Position of the first byte of the first fragment.
    start: usize,
}

impl<'a> InFragments<'a> {
    /// The fragments of a whole chain.
    #[inline]
    pub fn new(domid: DomId, fragments: &'a [Fragment]) -> Self {
        Self {
            domid,
            fragments,
            start: 0,
        }
    }
}

impl Runs for InFragments<'_> {
    #[inline]
    fn at(&mut self, position: usize) -> (Side, usize) {
        while position >= self.start + usize::from(self.fragments[0].size) {
            self.start += usize::from(self.fragments[0].size);
            self.fragments = &self.fragments[1..];
        }
        let within = (position - self.start) as u16;
        let fragment = self.fragments[0];
        let side = Side::Foreign {
            domid: self.domid,
            gref: GrantRef(fragment.gref),
            offset: fragment.offset + within,
        };
        (side, usize::from(fragment.size - within))
    }
}

/// A packet, or its first bytes, in pieces of staging memory.
pub(crate) struct InPieces<'a> {
    staging: &'a Staging,
    piece: Piece,
    behind: &'a [Piece],
    /// Position of the first byte of `piece`.
    start: usize,
}

impl<'a> InPieces<'a> {
    /// The bytes of `first`, then those of the pieces in `behind`.
    #[inline]
    pub fn new(staging: &'a Staging, first: Piece, behind: &'a [Piece]) -> Self {
        Self {
            staging,
            piece: first,
            behind,
            start: 0,
        }
    }

    /// The bytes of `pieces`, the first of which is at `start` in the packet.
    #[inline]
    pub fn from(staging: &'a Staging, pieces: &'a [Piece], start: usize) -> Self {
        Self {
            staging,
            piece: pieces[0],
            behind: &pieces[1..],
            start,
        }
    }
}

impl Runs for InPieces<'_> {
    #[inline]
    fn at(&mut self, position: usize) -> (Side, usize) {
        while position >= self.start + self.piece.len() {
            self.start += self.piece.len();
            self.piece = self.behind[0];
            self.behind = &self.behind[1..];
        }
        let within = position - self.start;
        let side = self.staging.side(self.piece, within);
        (side, self.piece.len() - within)
    }
}
