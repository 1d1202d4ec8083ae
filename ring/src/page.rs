//! The shared page: 1024 little-endian words that two domains write at once (ring.h, `DEFINE_RING_TYPES`).
use crate::sync::{AtomicU32, Ordering};
use crate::wire::{Protocol, Words};

pub use crate::shadow::Shadow;

/// One 4096-byte ring page as the words both ends access atomically; guest memory is never a `&[u8]` or `&mut T`.
pub type PageWords = [AtomicU32; 1024];

/// Somebody's hold on a mapped ring page: a gntdev mapping, a simulator's, a test's `Arc<PageWords>`. Anything that
/// lends the same 4096 bytes for as long as it lives is one.
pub trait SharedPage {
    /// The page's words.
    fn words(&self) -> &PageWords;
}

impl<T: AsRef<PageWords>> SharedPage for T {
    #[inline]
    fn words(&self) -> &PageWords {
        self.as_ref()
    }
}

/// Word of `req_prod`: index past the last request, written by the frontend.
pub const REQ_PROD: usize = 0;
/// Word of `req_event`: the `req_prod` at which the backend wants an event, written by the backend.
pub const REQ_EVENT: usize = 1;
/// Word of `rsp_prod`: index past the last response, written by the backend.
pub const RSP_PROD: usize = 2;
/// Word of `rsp_event`: the `rsp_prod` at which the frontend wants an event, written by the frontend.
pub const RSP_EVENT: usize = 3;
/// Word of the first slot: the header is padded to 64 bytes.
pub const FIRST_SLOT: usize = 16;

/// Word where the slot of free-running `index` starts.
#[inline]
pub fn slot_word<D: Protocol>(index: u32) -> usize {
    const {
        assert!(D::ENTRIES.is_power_of_two());
        assert!(FIRST_SLOT + D::ENTRIES as usize * D::ENTRY_WORDS <= 1024);
        assert!(
            D::REQUEST_WORDS <= D::ENTRY_WORDS
                && D::RESPONSE_WORDS <= D::ENTRY_WORDS
                && D::ENTRY_WORDS <= 4
        );
    }
    FIRST_SLOT + (index & (D::ENTRIES - 1)) as usize * D::ENTRY_WORDS
}

/// Read `count` words of a slot, each once. Relaxed: the caller's Acquire of an index ordered them.
#[inline]
pub(crate) fn read_slot<D: Protocol>(page: &PageWords, index: u32, count: usize) -> Words {
    let at = slot_word::<D>(index);
    let mut words = [0; 4];
    for (n, word) in words.iter_mut().enumerate().take(count) {
        *word = page[at + n].load(Ordering::Relaxed);
    }
    words
}

/// Write `count` words of a slot. Relaxed: the caller's Release of an index orders them.
#[inline]
pub(crate) fn write_slot<D: Protocol>(page: &PageWords, index: u32, words: &[u32], count: usize) {
    let at = slot_word::<D>(index);
    for (n, word) in words.iter().enumerate().take(count) {
        page[at + n].store(*word, Ordering::Relaxed);
    }
}

/// ring.h's rule (`RING_PUSH_*_AND_CHECK_NOTIFY`): an event is due when `event` lies in `(old, new]`. Never for `old == new`.
#[inline]
pub(crate) fn event_due(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}
