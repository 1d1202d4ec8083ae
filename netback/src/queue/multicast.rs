//! The multicast addresses a vif subscribed to (`MCAST_ADD`, `MCAST_DEL`): fixed words in the vif's file, so that a successor
//! filters as before; shared by the vif's queues, which may live on several workers.
use crate::vif_file::Words;
use std::sync::atomic::{AtomicU32, Ordering};

/// Most addresses (Linux: XEN_NETBK_MCAST_MAX).
const ADDRESSES: usize = 64;
/// Words in the file: a pair an address.
pub const WORDS: usize = ADDRESSES * 2;

/// Set in an entry's second word while the entry is in use; the address's last two bytes are below it.
const USED: u32 = 1 << 31;
/// Set while an entry is being written.
const CLAIMED: u32 = 1 << 30;

/// A vif's list.
#[derive(Debug)]
pub struct Multicast(Words);

impl Multicast {
    /// The list in its words of the file.
    pub fn new(words: Words) -> Self {
        Self(words)
    }

    fn entries(&self) -> impl Iterator<Item = (&AtomicU32, &AtomicU32)> {
        self.0
            .as_ref()
            .chunks_exact(2)
            .map(|pair| (&pair[0], &pair[1]))
    }

    /// Whether `address` is on the list.
    pub fn contains(&self, address: [u8; 6]) -> bool {
        let (low, high) = split(address);
        // Acquire: pairs with the Release in `add`.
        self.entries()
            .any(|(a, b)| b.load(Ordering::Acquire) == high && a.load(Ordering::Relaxed) == low)
    }

    /// Add `address`; false where the list is full. One that is there already is fine.
    pub fn add(&self, address: [u8; 6]) -> bool {
        if self.contains(address) {
            return true;
        }
        let (low, high) = split(address);
        let free = self.entries().find(|(_, b)| {
            b.compare_exchange(0, CLAIMED, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        });
        let Some((a, b)) = free else { return false };
        a.store(low, Ordering::Relaxed);
        // Release: who sees the entry in use sees its first word.
        b.store(high, Ordering::Release);
        true
    }

    /// Remove `address`; one that is not there is fine.
    pub fn remove(&self, address: [u8; 6]) {
        let (low, high) = split(address);
        for (a, b) in self.entries() {
            if b.load(Ordering::Acquire) == high && a.load(Ordering::Relaxed) == low {
                b.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Entries a process left half-written when it was killed are free again; before the vif is served.
    pub fn recover(&self) {
        for (_, b) in self.entries() {
            let _ = b.compare_exchange(CLAIMED, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// The two words of an entry in use.
fn split([a, b, c, d, e, f]: [u8; 6]) -> (u32, u32) {
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from(u16::from_le_bytes([e, f])) | USED,
    )
}
