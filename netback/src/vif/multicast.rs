//! Multicast control (netif.h, `feature-multicast-control`): the addresses a vif subscribed to (`MCAST_ADD`, `MCAST_DEL`) are
//! fixed words in its file, so that a successor filters as before. Shared by the vif's queues, which may live on several
//! workers, and the control thread, which says whether the list counts. The list is kept whether it counts or not.
use crate::vif::mapping::Words;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
pub struct Multicast {
    words: Words,
    /// `request-multicast-control`, as the frontend has it now.
    filters: AtomicBool,
}

impl Multicast {
    /// The list in the file's `words`, before the vif is served.
    pub fn new(words: Words, filters: bool) -> Self {
        let list = Self {
            words,
            filters: AtomicBool::new(filters),
        };
        list.recover();
        list
    }

    /// Says whether multicast that is not on the list is kept from the guest from now on. Called by the control thread.
    pub fn set_filters(&self, filters: bool) {
        self.filters.store(filters, Ordering::Relaxed);
    }

    /// Whether the list counts.
    #[inline]
    pub fn filters(&self) -> bool {
        self.filters.load(Ordering::Relaxed)
    }

    /// Whether a packet for this address may reach the guest: only multicast is filtered, which broadcast is not (netif.h).
    #[inline]
    pub fn admits(&self, destination: [u8; 6]) -> bool {
        destination[0] & 1 == 0
            || !self.filters()
            || destination == [0xff; 6]
            || self.contains(destination)
    }

    fn entries(&self) -> impl Iterator<Item = (&AtomicU32, &AtomicU32)> {
        self.words
            .as_ref()
            .chunks_exact(2)
            .map(|pair| (&pair[0], &pair[1]))
    }

    /// Whether `address` is on the list.
    fn contains(&self, address: [u8; 6]) -> bool {
        let (low, high) = split(address);
        // Acquire: pairs with the Release in `add`.
        self.entries()
            .any(|(a, b)| b.load(Ordering::Acquire) == high && a.load(Ordering::Relaxed) == low)
    }

    /// Adds `address`. Returns false where the list is full and `address` is not on it.
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

    /// Removes `address`, if it is on the list.
    pub fn remove(&self, address: [u8; 6]) {
        let (low, high) = split(address);
        for (a, b) in self.entries() {
            if b.load(Ordering::Acquire) == high && a.load(Ordering::Relaxed) == low {
                b.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Frees the entries that a process left half-written when it was killed.
    fn recover(&self) {
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
