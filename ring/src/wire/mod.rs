//! Slots of the three rings as they lie in the page (xen/include/public/io/netif.h, ring.h).
//!
//! The protocol is little-endian by its only platforms (x86, Arm); a slot is read as words of the host, so the host must be
//! little-endian too.
mod control;
mod extra;
mod rx;
mod tx;

pub use control::*;
pub use extra::*;
pub use rx::*;
pub use tx::*;

#[cfg(not(target_endian = "little"))]
compile_error!("netif slots are little-endian words");

/// A slot's words; those past the struct's size are zero and ignored. Four are enough for the largest slot (Ctrl).
pub type Words = [u32; 4];

/// One of the three ring layouts: [`Tx`], [`Rx`], [`Ctrl`].
pub trait Protocol {
    /// What the frontend writes.
    type Request: Copy;
    /// What the backend writes over it.
    type Response: Copy;
    /// Slots in the ring: the largest power of two for which they fit behind the header (`__CONST_RING_SIZE`, ring.h).
    const ENTRIES: u32;
    /// Words a slot takes in the page: max(request, response).
    const ENTRY_WORDS: usize;
    /// Words of a request.
    const REQUEST_WORDS: usize;
    /// Words of a response.
    const RESPONSE_WORDS: usize;
    /// Decode a request.
    fn request(words: Words) -> Self::Request;
    /// Encode a request.
    fn put_request(request: Self::Request) -> Words;
    /// Decode a response.
    fn response(words: Words) -> Self::Response;
    /// Encode a response.
    fn put_response(response: Self::Response) -> Words;
}

/// Two 16-bit fields of one word, the one at the lower offset first.
const fn halves(word: u32) -> (u16, u16) {
    (word as u16, (word >> 16) as u16)
}

/// The reverse of [`halves`].
const fn word(low: u16, high: u16) -> u32 {
    low as u32 | (high as u32) << 16
}

/// `__CONST_RING_SIZE` of ring.h: a page less its 64-byte header, in slots, rounded down to a power of two.
const fn ring_entries(entry_words: usize) -> u32 {
    1 << ((4096u32 - 64) / (entry_words as u32 * 4)).ilog2()
}

const _: () = {
    assert!(Tx::ENTRIES == ring_entries(Tx::ENTRY_WORDS) && Tx::ENTRIES == 256);
    assert!(Rx::ENTRIES == ring_entries(Rx::ENTRY_WORDS) && Rx::ENTRIES == 256);
    assert!(Ctrl::ENTRIES == ring_entries(Ctrl::ENTRY_WORDS) && Ctrl::ENTRIES == 128);
};
