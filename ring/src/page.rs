//! The shared page: 1024 little-endian words that two domains write at once.
use crate::wire::Protocol;
use std::sync::atomic::AtomicU32;

/// One 4096-byte ring page as the words both ends access atomically; guest memory is never a `&[u8]` or `&mut T`.
pub type PageWords = [AtomicU32; 1024];

/// Somebody's hold on a mapped ring page (a gntdev mapping, a simulator's, a test's boxed array).
pub trait SharedPage {
    /// The page's words; the same 4096 bytes for as long as `self` lives.
    fn words(&self) -> &PageWords;
}

/// The backend's private copies of consumed requests: what a response destroys in the ring stays here, so that
/// a process that takes the ring over never reads a half-written slot (design.md, "A restart that guests do not notice").
pub trait Shadow<D: Protocol> {
    /// Index up to which requests were copied in (free-running). Stored with Release after the copies.
    fn consumed(&self) -> &AtomicU32;
    /// `D::ENTRIES * D::REQUEST_WORDS` words; request `i` at `(i & (ENTRIES-1)) * REQUEST_WORDS`.
    fn requests(&self) -> &[AtomicU32];
}
