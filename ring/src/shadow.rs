//! The backend's private copies of requests: what a response destroys in the ring stays here, so that a process that
//! takes the ring over never reads a half-written slot.
use crate::sync::{AtomicU32, Ordering};
use crate::wire::{Protocol, Words};
use std::marker::PhantomData;

/// Private request copies and the index up to which they are valid.
pub trait Shadow<D: Protocol> {
    /// Index up to which requests were consumed (free-running). Stored with Release after their copies.
    fn consumed(&self) -> &AtomicU32;
    /// `D::ENTRIES * D::REQUEST_WORDS` words; request `i` at `(i & (ENTRIES-1)) * REQUEST_WORDS`.
    fn requests(&self) -> &[AtomicU32];
}

/// Words a [`RegionShadow`] takes before its requests: `consumed`, then room so that requests start a cache line.
const HEADER_WORDS: usize = 16;

/// Words of memory a [`RegionShadow`] of ring `D` needs: Tx 784, Rx 528, Ctrl 528.
pub const fn shadow_words<D: Protocol>() -> usize {
    HEADER_WORDS + request_words::<D>()
}

const fn request_words<D: Protocol>() -> usize {
    D::ENTRIES as usize * D::REQUEST_WORDS
}

/// A [`Shadow`] in any region of words: the heap's, or a mapped file's that outlives the process. Word 0 is
/// `consumed`, requests start at word 16.
#[derive(Debug)]
pub struct RegionShadow<D, R> {
    region: R,
    ring: PhantomData<fn() -> D>,
}

/// A [`Shadow`] that dies with the process.
pub type HeapShadow<D> = RegionShadow<D, Box<[AtomicU32]>>;

impl<D: Protocol, R: AsRef<[AtomicU32]>> RegionShadow<D, R> {
    /// Take `region`; `None` where it is shorter than [`shadow_words`]. It always lends the same words.
    pub fn new(region: R) -> Option<Self> {
        (region.as_ref().len() >= shadow_words::<D>()).then_some(Self {
            region,
            ring: PhantomData,
        })
    }
}

impl<D: Protocol> Default for HeapShadow<D> {
    fn default() -> Self {
        let region = (0..shadow_words::<D>())
            .map(|_| AtomicU32::new(0))
            .collect();
        Self {
            region,
            ring: PhantomData,
        }
    }
}

impl<D: Protocol, R: AsRef<[AtomicU32]>> Shadow<D> for RegionShadow<D, R> {
    #[inline]
    fn consumed(&self) -> &AtomicU32 {
        &self.region.as_ref()[0]
    }

    #[inline]
    fn requests(&self) -> &[AtomicU32] {
        &self.region.as_ref()[HEADER_WORDS..shadow_words::<D>()]
    }
}

/// The words of request `index`. Relaxed: only this process writes them, and a successor starts after it ended.
#[inline]
pub(crate) fn read_request<D: Protocol>(shadow: &impl Shadow<D>, index: u32) -> Words {
    let requests = &shadow.requests()[..request_words::<D>()];
    let at = (index & (D::ENTRIES - 1)) as usize * D::REQUEST_WORDS;
    let mut words = [0; 4];
    for (n, word) in words.iter_mut().enumerate().take(D::REQUEST_WORDS) {
        *word = requests[at + n].load(Ordering::Relaxed);
    }
    words
}

/// Put the words of request `index`.
#[inline]
pub(crate) fn write_request<D: Protocol>(shadow: &impl Shadow<D>, index: u32, words: Words) {
    let requests = &shadow.requests()[..request_words::<D>()];
    let at = (index & (D::ENTRIES - 1)) as usize * D::REQUEST_WORDS;
    for (n, word) in words.into_iter().enumerate().take(D::REQUEST_WORDS) {
        requests[at + n].store(word, Ordering::Relaxed);
    }
}
