//! Grant copies of one call: segments in the very layout that gntdev reads, checked once, when they are added
//! (include/uapi/xen/gntdev.h, `struct gntdev_grant_copy_segment`).
use super::{CopyStatus, DomId, GrantRef, LocalMemory, PAGE_SIZE};
use std::io;

/// One end of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Byte offset into the [`LocalMemory`]; must not cross a page (it would cost a second operation).
    Local(u64),
    /// A page named by a grant: a guest's, or one of ours that we granted to ourselves ([`super::GrantedMemory`]).
    Foreign {
        /// Whose grant it is.
        domid: DomId,
        /// The grant.
        gref: GrantRef,
        /// First byte in the page behind it; `offset + len` must not exceed 4096.
        offset: u16,
    },
}

/// `struct gntdev_grant_copy_segment`. A side is an address of this process, or `ref | offset << 32 | domid << 48`, which is the
/// header's `struct { grant_ref_t ref; __u16 offset; domid_t domid; }` where bytes are little-endian.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Segment {
    source: u64,
    dest: u64,
    len: u16,
    /// `GNTCOPY_*`: which sides are grants.
    flags: u16,
    /// `GNTST_*`, written by the kernel.
    status: i16,
}

const _: () = assert!(size_of::<Segment>() == 24 && align_of::<Segment>() == 8);
const _: () = assert!(
    cfg!(target_endian = "little"),
    "Xen runs on little-endian machines only"
);

/// `GNTCOPY_source_gref` (xen/include/public/grant_table.h).
const SOURCE_GREF: u16 = 1;
/// `GNTCOPY_dest_gref`.
const DEST_GREF: u16 = 2;

impl Segment {
    /// Both sides, source first; `base` is the address of the list's memory.
    pub fn sides(&self, base: u64) -> [Side; 2] {
        let side = |raw: u64, flag: u16| match self.flags & flag {
            0 => Side::Local(raw - base),
            _ => Side::Foreign {
                domid: DomId((raw >> 48) as u16),
                gref: GrantRef(raw as u32),
                offset: (raw >> 32) as u16,
            },
        };
        [side(self.source, SOURCE_GREF), side(self.dest, DEST_GREF)]
    }

    /// Number of bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.len.into()
    }

    /// Says what became of the copy.
    #[cfg(any(test, feature = "fake"))]
    pub fn set_status(&mut self, status: CopyStatus) {
        self.status = status.0;
    }
}

/// The copies of one call to [`super::GrantTable::copy`], between pages named by grants and the memory `M`. Filled by
/// [`Self::push`], issued, asked what became of each segment, cleared.
#[derive(Debug)]
pub struct CopyList<M> {
    segments: Vec<Segment>,
    /// The memory's first address and its length, asked for once.
    base: u64,
    local_len: u64,
    /// [`INTO_LOCAL`] and [`OUT_OF_LOCAL`] of all segments.
    directions: u8,
    all_okay: bool,
    memory: M,
}

/// A segment's destination is in the memory.
const INTO_LOCAL: u8 = 1;
/// A segment's destination is a grant's page.
const OUT_OF_LOCAL: u8 = 2;

impl<M: LocalMemory> CopyList<M> {
    /// An empty list that takes `segments` segments without growing. The memory must be whole pages.
    pub fn with_capacity(memory: M, segments: usize) -> Self {
        let base = memory.base().as_ptr().expose_provenance();
        assert!(
            base.is_multiple_of(PAGE_SIZE) && memory.len().is_multiple_of(PAGE_SIZE),
            "local memory that is not whole pages"
        );
        Self {
            segments: Vec::with_capacity(segments),
            base: base as u64,
            local_len: memory.len() as u64,
            directions: 0,
            all_okay: false,
            memory,
        }
    }

    /// The memory that local sides lie in.
    #[inline]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Number of segments.
    #[inline]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there is no segment.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Number of segments that can be added without growing.
    #[inline]
    pub fn room(&self) -> usize {
        self.segments.capacity() - self.segments.len()
    }

    /// Removes all segments.
    #[inline]
    pub fn clear(&mut self) {
        self.segments.clear();
        self.directions = 0;
        self.all_okay = false;
    }

    /// Adds a copy of `len` bytes.
    ///
    /// # Panics
    /// A side crosses a page or lies outside of the memory, or both are local. With these bounds no value of a guest's makes the
    /// ioctl itself fail, so they are checked here although who took the value off a ring has checked it too.
    #[inline(always)] // Called, it would take its sides apart: inlined, what kind they are is known.
    pub fn push(&mut self, source: Side, dest: Side, len: u16) {
        let (source, from) = self.encode(source, len, SOURCE_GREF);
        let (dest, to) = self.encode(dest, len, DEST_GREF);
        assert!(from | to != 0, "a copy from local memory to local memory");
        self.directions |= if to == 0 { INTO_LOCAL } else { OUT_OF_LOCAL };
        self.segments.push(Segment {
            source,
            dest,
            len,
            flags: from | to,
            // Not OKAY until the kernel says so.
            status: CopyStatus::GENERAL_ERROR.0,
        });
    }

    /// A side as gntdev has it, checked, and its flag.
    #[inline(always)]
    fn encode(&self, side: Side, len: u16, flag: u16) -> (u64, u16) {
        const PAGE: u64 = PAGE_SIZE as u64;
        match side {
            Side::Local(offset) => {
                let crosses = offset % PAGE + u64::from(len) > PAGE;
                assert!(!crosses, "a copy that crosses a page of local memory");
                assert!(offset < self.local_len, "a copy outside of local memory");
                (self.base + offset, 0)
            }
            Side::Foreign {
                domid,
                gref,
                offset,
            } => {
                assert!(
                    u32::from(offset) + u32::from(len) <= PAGE_SIZE as u32,
                    "a copy that crosses a granted page"
                );
                let raw = u64::from(gref.0) | u64::from(offset) << 32 | u64::from(domid.0) << 48;
                (raw, flag)
            }
        }
    }

    /// Whether the list was issued and every segment copied.
    #[inline]
    pub fn all_okay(&self) -> bool {
        self.all_okay
    }

    /// What became of segment `n`; GENERAL_ERROR before the list is issued.
    #[inline]
    pub fn status(&self, n: usize) -> CopyStatus {
        CopyStatus(self.segments[n].status)
    }

    /// Number of bytes of segment `n`.
    #[inline]
    pub fn segment_len(&self, n: usize) -> usize {
        self.segments[n].bytes()
    }

    /// Sides of segment `n`, source first.
    pub fn sides(&self, n: usize) -> [Side; 2] {
        self.segments[n].sides(self.base)
    }

    /// Hands all segments to `call`, which copies them and sets their statuses, and says of every one GENERAL_ERROR where `call`
    /// failed: gntdev writes OKAY when it queues a segment, so that after a failed call some say so that were never issued.
    ///
    /// # Panics
    /// Segments into the memory are together with others: gntdev pins a batch's pages for one direction (drivers/xen/gntdev.c,
    /// `struct gntdev_copy_batch`).
    pub(crate) fn issue(
        &mut self,
        call: impl FnOnce(&M, &mut [Segment]) -> io::Result<()>,
    ) -> io::Result<()> {
        assert!(
            self.directions != INTO_LOCAL | OUT_OF_LOCAL,
            "copies into local memory and others in one call"
        );
        let result = call(&self.memory, &mut self.segments);
        if result.is_err() {
            for segment in &mut self.segments {
                segment.status = CopyStatus::GENERAL_ERROR.0;
            }
        }
        let failed = self
            .segments
            .iter()
            .fold(0, |all, segment| all | segment.status);
        self.all_okay = failed == CopyStatus::OKAY.0 && result.is_ok();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::alloc::{Layout, alloc_zeroed};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::ptr::NonNull;

    /// Two pages, kept for the life of the test program.
    #[derive(Debug)]
    struct Memory(NonNull<u8>);

    impl Memory {
        fn new() -> Self {
            let layout = Layout::from_size_align(2 * PAGE_SIZE, PAGE_SIZE).unwrap();
            // SAFETY: the layout has a size.
            Self(NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap())
        }
    }

    // SAFETY: never freed, and no reference to its bytes is made.
    unsafe impl LocalMemory for Memory {
        fn base(&self) -> NonNull<u8> {
            self.0
        }

        fn len(&self) -> usize {
            2 * PAGE_SIZE
        }
    }

    fn list() -> CopyList<Memory> {
        CopyList::with_capacity(Memory::new(), 4)
    }

    fn foreign(offset: u16) -> Side {
        Side::Foreign {
            domid: DomId(0xfedc),
            gref: GrantRef(0x8765_4321),
            offset,
        }
    }

    const LOCAL: Side = Side::Local(0);

    #[test]
    fn a_segment_is_the_header_s_bytes() {
        let mut list = list();
        list.push(foreign(0xabc), Side::Local(4097), 0x123);
        let segment = &list.segments[0];
        // gntdev.h: the union's foreign side is ref, offset, domid in this order.
        assert_eq!(
            segment.source.to_ne_bytes(),
            [0x21, 0x43, 0x65, 0x87, 0xbc, 0x0a, 0xdc, 0xfe]
        );
        assert_eq!(segment.dest, list.base + 4097);
        assert_eq!((segment.len, segment.flags, segment.status), (0x123, 1, -1));
        list.clear();
        list.push(LOCAL, foreign(0), 1);
        list.push(foreign(0), foreign(0), 1);
        assert_eq!(list.segments[0].flags, 2);
        assert_eq!(list.segments[1].flags, 3);
    }

    proptest! {
        #[test]
        fn sides_read_back(domid: u16, gref: u32, offset in 0u16..4096, at in 0u64..8192) {
            let mut list = list();
            let foreign = Side::Foreign { domid: DomId(domid), gref: GrantRef(gref), offset };
            list.push(foreign, Side::Local(at), 1);
            prop_assert_eq!(list.sides(0), [foreign, Side::Local(at)]);
        }

        #[test]
        fn no_value_of_a_guest_s_passes_that_gntdev_refuses(offset: u16, len: u16, at in 0u64..3 * 4096) {
            let mut list = list();
            let good = u32::from(offset) + u32::from(len) <= 4096 && at % 4096 + u64::from(len) <= 4096 && at < 8192;
            let pushed = catch_unwind(AssertUnwindSafe(|| list.push(foreign(offset), Side::Local(at), len)));
            prop_assert_eq!(pushed.is_ok(), good);
        }
    }

    #[test]
    fn bounds() {
        let good = [
            (foreign(0), LOCAL, 4096),
            (foreign(4095), Side::Local(8191), 1),
            (foreign(4096), LOCAL, 0),
        ];
        for (source, dest, len) in good {
            list().push(source, dest, len);
        }
        let bad = [
            (foreign(0), Side::Local(4096), 4097),
            (foreign(1), LOCAL, 4096),
            (foreign(u16::MAX), LOCAL, u16::MAX),
            (foreign(0), Side::Local(1), 4096),
            (foreign(0), Side::Local(8192), 1),
            (foreign(0), Side::Local(u64::MAX), 1),
            (LOCAL, Side::Local(4096), 1),
        ];
        for (source, dest, len) in bad {
            let pushed = catch_unwind(|| list().push(source, dest, len));
            assert!(pushed.is_err(), "{source:?} {dest:?} {len}");
        }
    }

    #[test]
    fn directions_do_not_mix_into_local() {
        let issue = |sides: [(Side, Side); 2]| {
            catch_unwind(|| {
                let mut list = list();
                for (source, dest) in sides {
                    list.push(source, dest, 1);
                }
                list.issue(|_, _| Ok(())).unwrap();
            })
        };
        assert!(issue([(foreign(0), LOCAL), (LOCAL, foreign(0))]).is_err());
        assert!(issue([(foreign(0), foreign(0)), (foreign(0), LOCAL)]).is_err());
        assert!(issue([(foreign(0), foreign(0)), (LOCAL, foreign(0))]).is_ok());
    }

    #[test]
    fn nothing_is_okay_before_the_call_nor_after_one_that_failed() {
        let mut list = list();
        list.push(foreign(0), LOCAL, 1);
        list.push(foreign(0), LOCAL, 1);
        assert!(!list.all_okay());
        assert_eq!(list.status(0), CopyStatus::GENERAL_ERROR);
        let okay = |segments: &mut [Segment]| {
            for segment in segments {
                segment.set_status(CopyStatus::OKAY);
            }
        };
        list.issue(|_, segments| {
            okay(segments);
            Ok(())
        })
        .unwrap();
        assert!(list.all_okay());
        // As gntdev leaves it: queued, said to be OKAY, and never issued.
        let failed = list.issue(|_, segments| {
            okay(segments);
            Err(io::ErrorKind::InvalidInput.into())
        });
        assert!(failed.is_err() && !list.all_okay());
        assert_eq!(list.status(0), CopyStatus::GENERAL_ERROR);
        assert_eq!(list.status(1), CopyStatus::GENERAL_ERROR);
        list.issue(|_, segments| {
            okay(&mut segments[..1]);
            segments[1].set_status(CopyStatus::BAD_GNTREF);
            Ok(())
        })
        .unwrap();
        assert!(!list.all_okay());
        assert_eq!(list.status(0), CopyStatus::OKAY);
        assert_eq!(list.status(1), CopyStatus::BAD_GNTREF);
        list.clear();
        assert!(!list.all_okay() && list.is_empty());
    }
}
