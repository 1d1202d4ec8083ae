//! Staging memory: pages of our own that packets pass through between guests' pages and frames.
//!
//! Where a copy names our side by address, the kernel looks that page up and pins it, for every operation (drivers/xen/gntdev.c,
//! `gntdev_get_page`), which takes longer than moving a small packet once more. So every copy names our side by reference: by pages
//! that the kernel granted to ourselves. Where there is no gntalloc, frames of the UMEM serve, by address.
use crate::bounds::{STAGING_KEPT, STAGING_PAGES};
use xen::grant::{DomId, GrantRef, GrantedMemory, PAGE_SIZE, Side};
use xsk_bridge::frame::{FRAME_SIZE, Frame, FramePool, Umem};

const _: () = assert!(FRAME_SIZE == PAGE_SIZE);
/// Pieces begin at a cache line.
const ALIGN: usize = 64;

/// A worker's staging memory, given out from the beginning in each turn.
pub(crate) struct Staging {
    memory: Memory,
    /// First byte not given out in this turn, counted over all pages.
    free: usize,
    /// Bytes that are promised to what lies behind heads.
    reserved: usize,
    size: usize,
    /// Bytes given out and promised up to which heads are taken in.
    heads: usize,
}

enum Memory {
    Granted {
        pages: Box<dyn GrantedMemory>,
        domid: DomId,
        grefs: Box<[GrantRef]>,
    },
    Frames {
        frames: Box<[Frame]>,
        umem: Umem,
    },
}

/// Some bytes of one page of staging memory, good until the turn ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Piece {
    start: u32,
    len: u16,
}

impl Piece {
    /// Number of bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.len.into()
    }

    /// The first `len` bytes of the piece, which has as many.
    pub fn first(self, len: usize) -> Self {
        debug_assert!(len <= self.len());
        Self {
            len: len as u16,
            ..self
        }
    }
}

impl Staging {
    /// Staging memory in pages granted to ourselves, or, without those, in [`STAGING_PAGES`] frames out of `pool`, but no
    /// more than a quarter of it.
    pub fn new(granted: Option<Box<dyn GrantedMemory>>, pool: &mut FramePool) -> Self {
        let memory = match granted {
            Some(pages) => Memory::Granted {
                domid: pages.domid(),
                grefs: pages.grefs().into(),
                pages,
            },
            None => Memory::Frames {
                frames: (0..STAGING_PAGES.min(pool.len() / 4))
                    .map_while(|_| pool.take())
                    .collect(),
                umem: pool.umem().clone(),
            },
        };
        let pages = match &memory {
            Memory::Granted { grefs, .. } => grefs.len(),
            Memory::Frames { frames, .. } => frames.len(),
        };
        let size = pages * PAGE_SIZE;
        Self {
            memory,
            free: 0,
            reserved: 0,
            size,
            heads: size - STAGING_KEPT.min(size / 2),
        }
    }

    /// Whether the heads of more chains may be fetched in this turn: the rest is kept for what lies behind them, and for packets towards
    /// guests.
    #[inline]
    pub fn takes_heads(&self) -> bool {
        self.free + self.reserved < self.heads
    }

    /// Frames of the UMEM that are staging memory.
    pub fn frames(&self) -> usize {
        match &self.memory {
            Memory::Granted { .. } => 0,
            Memory::Frames { frames, .. } => frames.len(),
        }
    }

    /// Begins a turn: nobody uses what was given out before.
    pub fn clear(&mut self) {
        self.free = 0;
        self.reserved = 0;
    }

    /// Bytes left in this turn that are not reserved, of which the end of a page may be lost to each piece.
    #[inline]
    pub fn left(&self) -> usize {
        (self.size - self.free).saturating_sub(self.reserved)
    }

    /// Reserves a page each for `pieces` pieces that [`Self::take`] may ask for later.
    #[inline]
    pub fn reserve(&mut self, pieces: usize) {
        self.reserved += pieces * PAGE_SIZE;
    }

    /// Gives up what was reserved.
    pub fn end_reserve(&mut self) {
        self.reserved = 0;
    }

    /// Room for `len` bytes as [`Self::take`] gives it, of what is not reserved.
    #[inline]
    pub fn take_spare(&mut self, len: usize) -> Option<Piece> {
        match self.left() >= 2 * PAGE_SIZE {
            true => self.take(len),
            false => None,
        }
    }

    /// Room for `len` bytes (at most a page) in one page; `None` where the turn has used up all.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<Piece> {
        debug_assert!(len <= PAGE_SIZE);
        let left = PAGE_SIZE - self.free % PAGE_SIZE;
        let start = match len <= left {
            true => self.free,
            false => self.free + left,
        };
        if start + len > self.size {
            return None;
        }
        self.free = (start + len).next_multiple_of(ALIGN);
        Some(Piece {
            start: start as u32,
            len: len as u16,
        })
    }

    /// A copy of `bytes` (at most a page), in what is not reserved.
    #[inline]
    pub fn hold(&mut self, bytes: &[u8]) -> Option<Piece> {
        let piece = self.take_spare(bytes.len())?;
        self.bytes_mut(piece).copy_from_slice(bytes);
        Some(piece)
    }

    /// The bytes of a piece.
    #[inline]
    pub fn bytes(&self, piece: Piece) -> &[u8] {
        let (start, len) = (piece.start as usize, piece.len());
        match &self.memory {
            Memory::Granted { pages, .. } => &pages.bytes()[start..start + len],
            Memory::Frames { frames, umem } => {
                let offset = start % PAGE_SIZE;
                &umem.page(&frames[start / PAGE_SIZE])[offset..offset + len]
            }
        }
    }

    /// The bytes of a piece, writable.
    #[inline]
    pub fn bytes_mut(&mut self, piece: Piece) -> &mut [u8] {
        let (start, len) = (piece.start as usize, piece.len());
        match &mut self.memory {
            Memory::Granted { pages, .. } => &mut pages.bytes_mut()[start..start + len],
            Memory::Frames { frames, umem } => {
                let offset = start % PAGE_SIZE;
                &mut umem.page_mut(&mut frames[start / PAGE_SIZE])[offset..offset + len]
            }
        }
    }

    /// The bytes of a piece, and with them those of the piece behind it where they lie together, writable.
    #[inline]
    pub fn joined_mut(&mut self, piece: Piece, behind: Option<Piece>) -> &mut [u8] {
        let behind = behind.filter(|behind| {
            let granted = matches!(self.memory, Memory::Granted { .. });
            granted && behind.start == piece.start + u32::from(piece.len)
        });
        let len = piece.len + behind.map_or(0, |behind| behind.len);
        self.bytes_mut(Piece { len, ..piece })
    }

    /// Copies what is behind the first `skip` bytes of a piece to another one, from its byte `at` on, as far as that has room.
    pub fn copy(&mut self, from: Piece, skip: usize, to: Piece, at: usize) {
        let len = (from.len() - skip).min(to.len() - at);
        let (source, dest) = (from.start as usize + skip, to.start as usize + at);
        match &mut self.memory {
            Memory::Granted { pages, .. } => {
                pages.bytes_mut().copy_within(source..source + len, dest);
            }
            Memory::Frames { frames, umem } => {
                let mut bytes = [0; PAGE_SIZE];
                let (source_at, dest_at) = (source % PAGE_SIZE, dest % PAGE_SIZE);
                let page = umem.page(&frames[source / PAGE_SIZE]);
                bytes[..len].copy_from_slice(&page[source_at..source_at + len]);
                let page = umem.page_mut(&mut frames[dest / PAGE_SIZE]);
                page[dest_at..dest_at + len].copy_from_slice(&bytes[..len]);
            }
        }
    }

    /// How a copy names the byte at `position` of a piece.
    #[inline(always)] // Called, its result would go by memory.
    pub fn side(&self, piece: Piece, position: usize) -> Side {
        let at = piece.start as usize + position;
        match &self.memory {
            Memory::Granted { domid, grefs, .. } => Side::Foreign {
                domid: *domid,
                gref: grefs[at / PAGE_SIZE],
                offset: (at % PAGE_SIZE) as u16,
            },
            Memory::Frames { frames, .. } => {
                let page = u64::from(frames[at / PAGE_SIZE].index()) * PAGE_SIZE as u64;
                Side::Local(page + (at % PAGE_SIZE) as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_frames(pages: usize) -> Staging {
        // A quarter of the pool is staging memory.
        let (umem, frames) = Umem::new(4 * pages as u32).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        Staging::new(None, &mut pool)
    }

    #[test]
    fn a_turn_uses_it_up_and_the_next_has_all_of_it_again() {
        let mut staging = in_frames(4);
        for _ in 0..2 {
            let taken = (0..).take_while(|_| staging.take(2048).is_some()).count();
            assert_eq!(taken, 8);
            staging.clear();
        }
    }

    proptest! {
        #[test]
        fn pieces_lie_in_a_page_each_and_apart(lens in prop::collection::vec(1usize..=PAGE_SIZE, 1..40)) {
            let mut staging = in_frames(16);
            let mut held = Vec::new();
            for (n, len) in lens.into_iter().enumerate() {
                let bytes = vec![n as u8; len];
                let Some(piece) = staging.hold(&bytes) else {
                    prop_assert!(staging.left() < 2 * PAGE_SIZE, "there was room");
                    break;
                };
                let Side::Local(at) = staging.side(piece, 0) else { panic!("by reference") };
                prop_assert!(at as usize % PAGE_SIZE + len <= PAGE_SIZE);
                held.push((piece, bytes));
            }
            for (piece, bytes) in held {
                prop_assert_eq!(staging.bytes(piece), &bytes[..]);
            }
        }
    }
}
