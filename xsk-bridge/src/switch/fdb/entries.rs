//! The entries of a forwarding database one by one, for whoever shows or changes them by hand.
use super::{BUCKETS, Fdb, WAYS, entry, is_fresh, port};
use crate::switch::PortId;
use std::sync::atomic::Ordering::Relaxed;

/// When a static entry was last heard of: it does not age, and no frame moves it.
pub(super) const STATIC: u32 = u32::MAX;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The address, as a number.
    pub mac: u64,
    /// The VLAN; [`NATIVE`](crate::switch::vlan::NATIVE) where frames have no tag.
    pub vlan: u16,
    /// The port that the address is behind.
    pub port: PortId,
    /// For how many seconds the address has not been heard of; `None`: the entry was made by hand.
    pub age: Option<u32>,
}

/// Every place that an address can have is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many addresses of the same hash are known as there is room for")]
pub struct NoRoom;

impl Fdb {
    /// Every entry that counts, by address.
    pub fn entries(&self, now: u32) -> Vec<Entry> {
        let mut entries = Vec::new();
        for bucket in 0..BUCKETS {
            for way in 0..WAYS {
                let word = self.words[bucket][way].load(Relaxed);
                let heard = self.heard[bucket][way].load(Relaxed);
                if word != 0 && is_fresh(heard, now) {
                    let mac = word >> 16;
                    entries.push(Entry {
                        mac,
                        // The bucket is the hash of the address XOR the VLAN.
                        vlan: (self.bucket(mac, 0) ^ bucket) as u16,
                        port: port(word),
                        age: (heard != STATIC).then(|| now.saturating_sub(heard)),
                    });
                }
            }
        }
        entries.sort_unstable();
        entries
    }

    /// Makes a static entry, in place of what was learnt of the address. Returns the port that was learnt, if any.
    pub fn fix(
        &self,
        mac: u64,
        vlan: u16,
        port: PortId,
        now: u32,
    ) -> Result<Option<PortId>, NoRoom> {
        let bucket = self.bucket(mac, vlan);
        let learnt = self.take(mac, vlan).flatten();
        for (word, heard) in self.words[bucket].iter().zip(&self.heard[bucket]) {
            let old = word.load(Relaxed);
            let free = old == 0 || !is_fresh(heard.load(Relaxed), now);
            if free
                && word
                    .compare_exchange(old, entry(mac, port), Relaxed, Relaxed)
                    .is_ok()
            {
                heard.store(STATIC, Relaxed);
                return Ok(learnt);
            }
        }
        Err(NoRoom)
    }

    /// Takes an entry out. `None`: there was none; the port where it was learnt, and none for a static one.
    pub fn take(&self, mac: u64, vlan: u16) -> Option<Option<PortId>> {
        let bucket = self.bucket(mac, vlan);
        let mut taken = None;
        for (word, heard) in self.words[bucket].iter().zip(&self.heard[bucket]) {
            let old = word.load(Relaxed);
            if old != 0
                && old >> 16 == mac
                && word.compare_exchange(old, 0, Relaxed, Relaxed).is_ok()
            {
                taken = Some((heard.load(Relaxed) != STATIC).then(|| port(old)));
            }
        }
        taken
    }

    /// Forgets everything that was learnt; `forgotten` hears the port of each entry.
    pub fn flush(&self, forgotten: impl FnMut(PortId)) {
        self.retain(|_, heard| heard == STATIC, forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::vlan::NATIVE;
    use crate::switch::{Bridge, DropReason, PortKind, Verdict};

    const WIRE: PortId = PortId(1);
    const GUEST: PortId = PortId(2);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[8, 0], &[0; 46]].concat()
    }

    #[test]
    fn a_static_entry_neither_ages_nor_moves_until_it_is_taken_out() {
        let bridge = Bridge::new("b");
        bridge.add_port(WIRE, PortKind::Uplink);
        bridge.add_port(GUEST, PortKind::Guest([2; 6]));
        let to = |now| bridge.decide(GUEST, &frame(MAC, [2; 6]), now);
        assert!(matches!(to(0), Verdict::Flood(_)));
        bridge.fix(MAC, NATIVE, WIRE, 0).unwrap();
        for now in [0, 299, 300, 1_000_000] {
            assert_eq!(to(now), Verdict::Unicast(WIRE));
            // Heard where it is, and from who pretends to be it.
            let there = bridge.decide(WIRE, &frame([2; 6], MAC), now);
            assert_eq!(there, Verdict::Unicast(GUEST));
            let elsewhere = bridge.decide(GUEST, &frame([0xff; 6], MAC), now);
            assert_eq!(elsewhere, Verdict::Drop(DropReason::SpoofedSource));
            bridge.sweep(now);
        }
        let entry = Entry {
            mac: 0x0200_0000_0009,
            vlan: NATIVE,
            port: WIRE,
            age: None,
        };
        assert_eq!(bridge.entries(1_000_000), [entry]);
        bridge.flush();
        assert_eq!(bridge.entries(0).len(), 1);
        assert!(bridge.take(MAC, NATIVE) && !bridge.take(MAC, NATIVE));
        assert!(bridge.entries(0).is_empty());
    }

    #[test]
    fn entries_tell_address_vlan_port_and_age_and_a_flush_forgets_what_was_learnt() {
        let bridge = Bridge::new("b");
        bridge.add_port(WIRE, PortKind::Uplink);
        bridge.add_port(GUEST, PortKind::Guest([2; 6]));
        bridge.decide(WIRE, &frame([0xff; 6], MAC), 10);
        let mut tagged = frame([0xff; 6], MAC);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        bridge.decide(WIRE, &tagged, 12);
        let found = bridge.entries(20);
        let seen: Vec<_> = found.iter().map(|entry| (entry.vlan, entry.age)).collect();
        assert_eq!(seen, [(NATIVE, Some(10)), (7, Some(8))]);
        bridge.fix(MAC, 7, GUEST, 20).unwrap();
        bridge.flush();
        let left = bridge.entries(20);
        assert_eq!((left.len(), left[0].vlan, left[0].port), (1, 7, GUEST));
    }
}
