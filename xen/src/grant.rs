//! Grant references: mapping a ring page, and batched copies between guests' pages and our memory.
// An unsafe trait is declared here: only its implementer can vouch for memory that the kernel writes to.
#![allow(unsafe_code)]
mod copy;

pub(crate) use copy::Segment;
pub use copy::{CopyList, Side};

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Bytes of a page, a guest's or ours.
pub const PAGE_SIZE: usize = 4096;

/// A domain's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomId(pub u16);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A grant reference of some domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantRef(pub u32);

/// Memory of ours that copies go to and come from, pinned for its lifetime and at one address.
///
/// # Safety
/// `base()..base()+len()` stays mapped and writable as long as `self` lives, and no `&`/`&mut` to a byte that a
/// running copy names exists elsewhere.
#[allow(clippy::len_without_is_empty)]
pub unsafe trait LocalMemory {
    /// First byte (page aligned).
    fn base(&self) -> NonNull<u8>;
    /// Bytes.
    fn len(&self) -> usize;
}

/// GNTST_*: 0 is OKAY, negative an error (xen/include/public/grant_table.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyStatus(pub i16);

impl CopyStatus {
    /// Copied.
    pub const OKAY: Self = Self(0);
    /// General undefined error: not granted to us, read-only, or the call failed as a whole.
    pub const GENERAL_ERROR: Self = Self(-1);
    /// No such domain.
    pub const BAD_DOMAIN: Self = Self(-2);
    /// The grant reference is beyond the guest's table.
    pub const BAD_GNTREF: Self = Self(-3);
    /// The grant names a page the guest does not have.
    pub const BAD_PAGE: Self = Self(-9);
    /// The copy's arguments cross a page boundary.
    pub const BAD_COPY_ARG: Self = Self(-10);
}

/// The door to guests' memory: [`crate::linux::Gntdev`], or a fake for tests. One for each worker (its kernel-side batch sits behind a
/// lock).
pub trait GrantTable: Send + Sync + 'static {
    /// A mapped ring page; unmapped when dropped.
    type Page: AsRef<[AtomicU32; 1024]> + Send + Sync + 'static;
    /// Map one page of `domid` read-write.
    fn map(&self, domid: DomId, gref: GrantRef) -> io::Result<Self::Page>;
    /// Issues the copies of `list`, and sets what became of each. Foreign may be our own domain: a page of [`GrantedMemory`] goes
    /// with either direction.
    ///
    /// # Errors
    /// The call as a whole: of **every** segment the list then says GENERAL_ERROR.
    fn copy<M: LocalMemory>(&self, list: &mut CopyList<M>) -> io::Result<()>;
}

/// Pages of ours, granted to ourselves. A copy that names them by reference spares the kernel the looking up and pinning of an
/// address, which for small packets costs more than the copy.
///
/// Nobody but the holder's own calls of [`GrantTable::copy`] has Xen write to them: the grants are to our own domain.
pub trait GrantedMemory: Send + 'static {
    /// Our own domain's number, as [`Side::Foreign`] wants it.
    fn domid(&self) -> DomId;
    /// Grant references, one a page, in the order of the bytes.
    fn grefs(&self) -> &[GrantRef];
    /// All bytes. They are borrowed for no longer than until the next copy that names them.
    fn bytes(&self) -> &[u8];
    /// All bytes, writable, borrowed as in [`Self::bytes`].
    fn bytes_mut(&mut self) -> &mut [u8];
}
