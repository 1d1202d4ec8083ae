//! The copies of one call, planned as runs of bytes.
use super::runs::Runs;
use std::ops::Range;
use xen::grant::{CopyList, CopyStatus, DomId, GrantRef, GrantTable, LocalMemory, Side};

/// Part of a plan: the copies of one packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    first: u32,
    count: u32,
    /// Position in the packet of its first byte.
    start: u32,
}

/// The copies of one call.
#[derive(Debug)]
pub struct CopyPlan<M> {
    list: CopyList<M>,
}

impl<M: LocalMemory> CopyPlan<M> {
    /// An empty plan of copies to and from `memory` that takes `segments` segments without growing.
    pub fn with_capacity(memory: M, segments: usize) -> Self {
        Self {
            list: CopyList::with_capacity(memory, segments),
        }
    }

    /// Segments that can still be planned without growing.
    #[inline]
    pub fn room(&self) -> usize {
        self.list.room()
    }

    /// Segments planned.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // Nobody asks.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Forget all.
    #[inline]
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Plan the copy of the bytes at `range` of a packet.
    #[inline(always)] // Called, it would take both ends apart: inlined, what kind they are is known.
    pub fn copy(
        &mut self,
        mut source: impl Runs,
        mut dest: impl Runs,
        range: Range<usize>,
    ) -> Span {
        let first = self.list.len() as u32;
        let mut rest = range.clone();
        if !rest.is_empty() {
            rest.start += self.push(&mut source, &mut dest, &rest);
        }
        // Most packets are one run of bytes: what others need stays out of their way.
        if !rest.is_empty() {
            self.copy_rest(source, dest, rest);
        }
        let count = self.list.len() as u32 - first;
        Span {
            first,
            count,
            start: range.start as u32,
        }
    }

    /// Plan the copy of a whole packet of `len` bytes to the beginning of a guest's page.
    #[inline]
    pub fn copy_page(&mut self, source: Side, domid: DomId, gref: GrantRef, len: usize) -> Span {
        let first = self.list.len() as u32;
        let dest = Side::Foreign {
            domid,
            gref,
            offset: 0,
        };
        self.list.push(source, dest, len as u16);
        Span {
            first,
            count: 1,
            start: 0,
        }
    }

    #[inline(never)]
    fn copy_rest(&mut self, mut source: impl Runs, mut dest: impl Runs, mut rest: Range<usize>) {
        while !rest.is_empty() {
            rest.start += self.push(&mut source, &mut dest, &rest);
        }
    }

    /// Plan the longest run from the beginning of `range` that neither side interrupts: its length.
    #[inline(always)] // As `copy`.
    fn push(
        &mut self,
        source: &mut impl Runs,
        dest: &mut impl Runs,
        range: &Range<usize>,
    ) -> usize {
        let (from, from_run) = source.at(range.start);
        let (to, to_run) = dest.at(range.start);
        let len = from_run.min(to_run).min(range.len());
        self.list.push(from, to, len as u16);
        len
    }

    /// Issues the plan. Where the call itself failed, no copy of it counts as done.
    pub fn run(&mut self, grants: &impl GrantTable) {
        if !self.list.is_empty() {
            // Whether it failed is in every segment's status.
            let _ = grants.copy(&mut self.list);
        }
    }

    /// Whether everything was copied.
    #[inline]
    pub fn all_succeeded(&self) -> bool {
        self.list.all_okay()
    }

    /// Whether all of `span` was copied.
    #[inline]
    pub fn succeeded(&self, span: Span) -> bool {
        self.list.all_okay() || self.failures(span).next().is_none()
    }

    /// The positions in the packet of the segments that failed, and their status.
    pub fn failures(&self, span: Span) -> impl Iterator<Item = (usize, CopyStatus)> + '_ {
        let mut position = span.start as usize;
        (span.first..span.first + span.count).filter_map(move |n| {
            let (start, status) = (position, self.list.status(n as usize));
            position += self.list.segment_len(n as usize);
            (status != CopyStatus::OKAY).then_some((start, status))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::memory::UmemMemory;
    use crate::copy::runs::{InFragments, InPages, InPieces};
    use crate::copy::staging::Staging;
    use proptest::prelude::*;
    use ring::packet::Fragment;
    use xen::fake::{Access, Grants};
    use xen::grant::PAGE_SIZE;
    use xsk_bridge::frame::{FramePool, Umem};

    /// Staging memory by address, and the memory of its plan.
    fn memory() -> (Staging, UmemMemory) {
        let (umem, frames) = Umem::new(72).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        (Staging::new(None, &mut pool), UmemMemory(umem))
    }

    fn fragments(sizes: &[u16]) -> Vec<Fragment> {
        let fragment = |(n, &size): (usize, &u16)| Fragment {
            gref: n as u32,
            offset: 4096 - size,
            size,
            slot: n as u8,
        };
        sizes.iter().enumerate().map(fragment).collect()
    }

    fn foreign(side: Side) -> (u16, u32, u16) {
        match side {
            Side::Foreign {
                domid,
                gref,
                offset,
            } => (domid.0, gref.0, offset),
            Side::Local(_) => panic!("local"),
        }
    }

    proptest! {
        /// Every byte is copied once, in order, and no segment crosses a page on either side.
        #[test]
        fn runs_meet(sizes in prop::collection::vec(prop_oneof![Just(0u16), 1u16..=64, 1u16..=4096], 1..16), cut in 0usize..400) {
            let total: usize = sizes.iter().map(|&size| usize::from(size)).sum();
            prop_assume!(total > 0);
            let fragments = fragments(&sizes);
            let (mut staging, memory) = memory();
            let grefs: Vec<u32> = (100..117).collect();
            let mut plan = CopyPlan::with_capacity(memory, 200);
            let cut = cut.min(total);
            let pieces = [staging.take(cut / 2).unwrap(), staging.take(cut - cut / 2).unwrap()];
            let start = match staging.side(pieces[0], 0) { Side::Local(at) => at, side => panic!("{side:?}") };
            let head = plan.copy(InFragments::new(DomId(1), &fragments), InPieces::new(&staging, pieces[0], &pieces[1..]), 0..cut);
            let tail = plan.copy(InFragments::new(DomId(1), &fragments), InPages { domid: DomId(2), grefs: &grefs }, cut..total);
            prop_assert_eq!(head.count as usize + tail.count as usize, plan.len());
            let mut position = 0;
            for n in 0..plan.len() {
                let ([source, dest], len) = (plan.list.sides(n), plan.list.segment_len(n));
                let (_, gref, offset) = foreign(source);
                prop_assert!(len > 0 && offset as usize + len <= PAGE_SIZE);
                let before: usize = sizes[..gref as usize].iter().map(|&size| usize::from(size)).sum();
                prop_assert_eq!(before + usize::from(offset - fragments[gref as usize].offset), position);
                match dest {
                    Side::Local(at) => {
                        prop_assert!(position < cut);
                        let within = if position < cut / 2 { position } else { (cut / 2).next_multiple_of(64) + position - cut / 2 };
                        prop_assert_eq!(at - start, within as u64);
                    }
                    dest => {
                        let (domid, gref, offset) = foreign(dest);
                        prop_assert_eq!((domid, gref as usize - 100, offset as usize), (2, position / 4096, position % 4096));
                        prop_assert!(offset as usize + len <= PAGE_SIZE);
                    }
                }
                position += len;
            }
            prop_assert_eq!(position, total);
        }
    }

    #[test]
    fn failures_say_where() {
        let fragments = fragments(&[10, 20, 30]);
        let (mut staging, memory) = memory();
        let piece = staging.take(60).unwrap();
        let mut plan = CopyPlan::with_capacity(memory, 8);
        let grants = Grants::default();
        for gref in 0..3 {
            grants.grant(1, gref, 0, &[], Access::ReadOnly);
        }
        let mut copy = |range| {
            plan.copy(
                InFragments::new(DomId(1), &fragments),
                InPieces::new(&staging, piece, &[]),
                range,
            )
        };
        let (whole, last) = (copy(0..60), copy(30..60));
        assert!(!plan.succeeded(last), "not issued");
        grants.fail_segment(1, CopyStatus::BAD_GNTREF);
        plan.run(&grants);
        assert!(!plan.succeeded(whole) && plan.succeeded(last));
        assert_eq!(
            plan.failures(whole).collect::<Vec<_>>(),
            [(10, CopyStatus::BAD_GNTREF)]
        );
    }
}
