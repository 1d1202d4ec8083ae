//! What a vif may send and receive: rates, and the longest packet. Changed by the control thread while workers look at them.
use super::bucket::TokenBucket;
use crate::vif::bandwidth::Bandwidth;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;
use xsk_bridge::packet::Gso;

/// An Ethernet header with one VLAN tag.
const HEADER: u32 = 14 + 4;
/// The least that the headers of a TCP segment take of an MTU: IPv4 and TCP without options.
const LEAST_HEADERS: u32 = 20 + 20;

/// The limits of a vif, shared by its queues.
#[derive(Debug)]
pub struct Limits {
    /// The rate of what the guest sends: the `rate` key.
    pub tx: TokenBucket,
    /// The rate of what the guest receives: `rate_in`.
    pub rx: TokenBucket,
    /// Queues that share both rates.
    pub queues: usize,
    /// The longest packet both ways, Ethernet header with a tag included: the `mtu` key and that header. `u32::MAX` where there is none.
    longest: AtomicU32,
    /// Packets for the guest up to this length are held to no limit.
    free: AtomicU32,
}

impl Limits {
    /// The limits of a vif with so many queues, from now on.
    pub fn new(
        queues: usize,
        [tx, rx]: [Option<Bandwidth>; 2],
        mtu: Option<u32>,
        now: Instant,
    ) -> Self {
        let limits = Self {
            tx: TokenBucket::new(tx, now),
            rx: TokenBucket::new(rx, now),
            queues,
            longest: AtomicU32::new(u32::MAX),
            free: AtomicU32::new(0),
        };
        limits.set_mtu(mtu);
        limits
    }

    /// Changes what the guest may send.
    pub fn set_tx(&self, rate: Option<Bandwidth>, now: Instant) {
        self.tx.set(rate, now);
    }

    /// Changes what the guest may receive.
    pub fn set_rx(&self, rate: Option<Bandwidth>, now: Instant) {
        self.rx.set(rate, now);
        self.find_free();
    }

    /// Changes the longest packet.
    pub fn set_mtu(&self, mtu: Option<u32>) {
        let longest = mtu.map_or(u32::MAX, |mtu| mtu.saturating_add(HEADER));
        self.longest.store(longest, Relaxed);
        self.find_free();
    }

    fn find_free(&self) {
        let free = match self.rx.is_limited() {
            true => 0,
            false => self.longest(),
        };
        self.free.store(free, Relaxed);
    }

    /// Packets for the guest up to this length are held to no limit, which costs most packets one comparison.
    #[inline]
    pub fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// The longest packet, Ethernet header included.
    #[inline]
    pub fn longest(&self) -> u32 {
        self.longest.load(Relaxed)
    }

    /// Whether a packet of `len` bytes, Ethernet header included, is longer than the vif's MTU, or has segments that are.
    pub fn is_too_long(&self, len: u32, gso: Option<Gso>) -> bool {
        let longest = self.longest();
        let segment = |gso: Gso| u32::from(gso.segment) + LEAST_HEADERS + HEADER;
        len > longest && gso.is_none_or(|gso| segment(gso) > longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_counts_for_packets_and_for_segments() {
        let limits = Limits::new(1, [None; 2], Some(1400), Instant::now());
        let gso = |segment| {
            let ipv6 = false;
            Some(Gso { segment, ipv6 })
        };
        assert!(!limits.is_too_long(1418, None) && limits.is_too_long(1419, None));
        assert!(!limits.is_too_long(60_000, gso(1360)) && limits.is_too_long(60_000, gso(1361)));
        limits.set_mtu(None);
        assert!(!limits.is_too_long(65_535, None));
    }

    #[test]
    fn what_has_no_limit_is_known_by_its_length() {
        let now = Instant::now();
        let limits = Limits::new(1, [None; 2], None, now);
        assert_eq!(limits.free(), u32::MAX);
        limits.set_mtu(Some(1500));
        assert_eq!(limits.free(), 1518);
        let rate = Bandwidth::from_text("10Mb/s");
        limits.set_rx(rate, now);
        assert_eq!(limits.free(), 0);
        limits.set_mtu(None);
        assert_eq!(limits.free(), 0);
        limits.set_rx(None, now);
        assert_eq!(limits.free(), u32::MAX);
        assert_eq!(Limits::new(1, [None, rate], None, now).free(), 0);
    }
}
