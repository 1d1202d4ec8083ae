//! Grant references: mapping a ring page, and batched copies between guests' pages and our memory.
// An unsafe trait is declared here: only its implementer can vouch for memory that the kernel writes to.
#![allow(unsafe_code)]
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// A domain's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomId(pub u16);
/// A grant reference of some domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantRef(pub u32);

/// Memory of ours that copies go to and come from, pinned for its lifetime and at one address.
///
/// # Safety
/// `base()..base()+len()` stays mapped and writable as long as `self` lives, and no `&`/`&mut` to a byte that a
/// running copy names exists elsewhere.
pub unsafe trait LocalMemory {
    /// First byte (page aligned).
    fn base(&self) -> NonNull<u8>;
    /// Bytes.
    fn len(&self) -> usize;
}

/// One end of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Byte offset into the [`LocalMemory`]; must not cross a page (it would cost a second operation).
    Local(u64),
    /// `offset` into the page behind `gref` of `domid`; `offset + len` must not exceed 4096.
    Foreign { domid: DomId, gref: GrantRef, offset: u16 },
}

/// One segment of a batch. `status` is meaningful after a call that returned `Ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySegment { pub source: Side, pub dest: Side, pub len: u16, pub status: CopyStatus }

/// GNTST_*: 0 is OKAY, negative an error (xen/include/public/grant_table.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyStatus(pub i16);
impl CopyStatus { pub const OKAY: Self = Self(0); pub const GENERAL_ERROR: Self = Self(-1); }

/// The door to guests' memory. One for each worker (its kernel-side batch sits behind a lock).
pub trait GrantTable: Send + Sync + 'static {
    /// A mapped ring page; unmapped when dropped.
    type Page: AsRef<[AtomicU32; 1024]> + Send + 'static;
    /// Map one page of `domid` read-write.
    fn map(&self, domid: DomId, gref: GrantRef) -> io::Result<Self::Page>;
    /// Copy every segment in one call, statuses filled in. All segments of one call go the same way as to our memory: all
    /// into it, or none into it (local -> foreign and foreign -> foreign may be mixed). Segments that violate the bounds above are
    /// refused with `InvalidInput` before anything is copied. When the call as a whole fails, **every** status is set to
    /// GENERAL_ERROR (gntdev leaves some saying OKAY that were never issued).
    fn copy(&self, memory: &impl LocalMemory, segments: &mut [CopySegment]) -> io::Result<()>;
}
