//! The learnt part of a forwarding database: a fixed table of atomic words, learnt and aged by all workers without a lock.
pub(super) mod entries;

use super::PortId;
use super::port::Ports;
use entries::STATIC;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Buckets of the table; as many as there are VLANs, see [`Fdb`].
const BUCKETS: usize = 4096;
/// Entries of a bucket: one cache line of words, and the bound of every probe.
const WAYS: usize = 8;
/// An entry that was not heard of for so long (seconds) is forgotten: the ageing time of IEEE 802.1Q, table 8-6.
pub const AGEING: u32 = 300;

/// For so long (seconds) after an address was heard on the wire no guest takes it over: a guest that sends from it would hear what is
/// meant for its holder. A host that talks is heard more often; what moves from the wire to behind a guest may have to wait for so long.
pub const WIRE_FRESH: u32 = 30;

/// One way of a bucket: MAC in the upper 48 bits, port in the lower 16; 0 is free.
type Word = u64;

/// A bucket is chosen by a secret hash of the MAC (12 bits) XOR the VLAN (12 bits), so MAC and bucket together say the VLAN, and one word
/// holds an entry whole: it cannot be seen half written. The secret keeps a guest from choosing addresses that fill one bucket.
///
/// All accesses are Relaxed: a word is complete in itself, and an entry that is seen late costs one flooded frame.
#[derive(Debug)]
pub struct Fdb {
    words: Box<[[AtomicU64; WAYS]; BUCKETS]>,
    /// Second in which the entry was last heard of.
    heard: Box<[[AtomicU32; WAYS]; BUCKETS]>,
    secret: u64,
    /// Addresses that were not learnt because their bucket was full or their port had learnt enough.
    not_learnt: AtomicU64,
}

/// What became of a source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt {
    /// It was known on this port.
    Known,
    /// It is new on this port; the port of the entry that it replaced, if any.
    New(Option<PortId>),
    /// The table has no room: frames to the address are unknown unicast.
    Full,
    /// It lives on the wire, and is not a guest's to have.
    OnTheWire,
    /// An operator has said that it lives at another port.
    Elsewhere,
    /// The port that it came in by is not on the bridge.
    NoPort,
}

impl Fdb {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            words: table(),
            heard: table(),
            // Odd, so that the multiplication is a permutation.
            secret: RandomState::new().hash_one("fdb") | 1,
            not_learnt: AtomicU64::new(0),
        }
    }

    fn bucket(&self, mac: u64, vlan: u16) -> usize {
        let hash = (mac.wrapping_mul(self.secret) >> 52) as usize;
        (hash ^ usize::from(vlan)) % BUCKETS
    }

    /// The port that `mac` was heard on in `vlan`, unless it is too long ago.
    #[inline]
    pub fn lookup(&self, mac: u64, vlan: u16, now: u32) -> Option<PortId> {
        let bucket = self.bucket(mac, vlan);
        for (word, heard) in self.words[bucket].iter().zip(&self.heard[bucket]) {
            let word = word.load(Relaxed);
            if word != 0 && word >> 16 == mac && is_fresh(heard.load(Relaxed), now) {
                return Some(port(word));
            }
        }
        None
    }

    /// Notes that `mac` was heard on `ingress` in `vlan`. Whether a new entry may be made, and in whose place, is up to the ports.
    #[inline]
    pub fn learn(&self, mac: u64, vlan: u16, ingress: PortId, now: u32, ports: &Ports) -> Learnt {
        let bucket = self.bucket(mac, vlan);
        for (word, heard) in self.words[bucket].iter().zip(&self.heard[bucket]) {
            let word = word.load(Relaxed);
            if word == 0 || word >> 16 != mac {
                continue;
            }
            // Two workers that learn one address at once may make two entries: the first one counts, the other ages.
            if port(word) != ingress {
                break;
            }
            // Written once a second at most, so that workers do not pull the line from each other.
            let last = heard.load(Relaxed);
            if last != now && last != STATIC {
                // Not over what makes the entry static meanwhile.
                let _ = heard.compare_exchange(last, now, Relaxed, Relaxed);
            }
            return Learnt::Known;
        }
        self.insert(bucket, mac, ingress, now, ports)
    }

    /// The rare half of `learn`: the address moved here from another port, or is new.
    #[cold]
    fn insert(&self, bucket: usize, mac: u64, ingress: PortId, now: u32, ports: &Ports) -> Learnt {
        if ports.port(ingress).is_none() {
            return Learnt::NoPort;
        }
        let ways = || {
            let ways = self.words[bucket].iter().zip(&self.heard[bucket]);
            ways.map(|(word, heard)| (word, heard, word.load(Relaxed)))
        };
        let moved = ways().find(|&(_, _, old)| old != 0 && old >> 16 == mac);
        if moved.is_some_and(|(_, heard, _)| heard.load(Relaxed) == STATIC) {
            return Learnt::Elsewhere;
        }
        if let Some((_, heard, old)) = moved
            && is_within(WIRE_FRESH, heard.load(Relaxed), now)
            && ports.protects(port(old), ingress)
        {
            return Learnt::OnTheWire;
        }
        if !ports.may_learn(ingress) {
            self.not_learnt.fetch_add(1, Relaxed);
            return Learnt::Full;
        }
        let free =
            || ways().find(|(_, heard, old)| *old == 0 || !is_fresh(heard.load(Relaxed), now));
        let of_the_wire = || match ports.displaces_the_wire(ingress) {
            true => ways()
                .find(|&(_, heard, old)| ports.is_wire(port(old)) && heard.load(Relaxed) != STATIC),
            false => None,
        };
        let Some((word, heard, old)) = moved.or_else(free).or_else(of_the_wire) else {
            self.not_learnt.fetch_add(1, Relaxed);
            return Learnt::Full;
        };
        // Where another worker took the way meanwhile, this address is learnt from its next frame.
        if word
            .compare_exchange(old, entry(mac, ingress), Relaxed, Relaxed)
            .is_err()
        {
            return Learnt::Full;
        }
        heard.store(now, Relaxed);
        Learnt::New((old != 0).then(|| port(old)))
    }

    /// Forgets what was learnt on `gone`.
    pub fn forget(&self, gone: PortId) {
        self.retain(|word, _| port(word) != gone, |_| ());
    }

    /// Forgets what is too old; `forgotten` hears the port of each entry.
    pub fn sweep(&self, now: u32, forgotten: impl FnMut(PortId)) {
        self.retain(|_, heard| is_fresh(heard, now), forgotten);
    }

    fn retain(&self, keep: impl Fn(Word, u32) -> bool, mut forgotten: impl FnMut(PortId)) {
        for (word, heard) in self.words.iter().flatten().zip(self.heard.iter().flatten()) {
            let old = word.load(Relaxed);
            if old != 0
                && !keep(old, heard.load(Relaxed))
                && word.compare_exchange(old, 0, Relaxed, Relaxed).is_ok()
            {
                forgotten(port(old));
            }
        }
    }

    /// Entries in the table, aged ones included until the next sweep.
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .flatten()
            .filter(|word| word.load(Relaxed) != 0)
            .count()
    }

    /// How often an address was not learnt for lack of room.
    pub fn not_learnt(&self) -> u64 {
        self.not_learnt.load(Relaxed)
    }
}

fn table<T: Default>() -> Box<[[T; WAYS]; BUCKETS]> {
    let buckets: Box<[_]> = (0..BUCKETS).map(|_| Default::default()).collect();
    buckets.try_into().ok().expect("as many as were made")
}

pub(super) fn entry(mac: u64, port: PortId) -> Word {
    mac << 16 | u64::from(port.0)
}

pub(super) fn port(word: Word) -> PortId {
    PortId(word as u16)
}

/// Whether an entry counts still.
fn is_fresh(heard: u32, now: u32) -> bool {
    heard == STATIC || is_within(AGEING, heard, now)
}

/// Whether an entry was heard of within the last `seconds`. Workers read the clock apart from each other, so `heard` may be a little
/// ahead of `now`.
fn is_within(seconds: u32, heard: u32, now: u32) -> bool {
    (now.wrapping_sub(heard) as i32) < seconds as i32
}

#[cfg(test)]
mod tests {
    use super::super::port::{Port, PortKind};
    use super::super::rules::Rules;
    use super::*;
    use std::sync::Arc;

    const P: PortId = PortId(1);
    const Q: PortId = PortId(2);
    fn port(id: PortId, kind: PortKind) -> Arc<Port> {
        Arc::new(Port::new(id, kind, Rules::default(), None))
    }
    fn snapshot(list: Vec<Arc<Port>>) -> Ports {
        Ports::new(list, false)
    }
    fn uplinks(count: u16) -> Ports {
        let uplink = |n| port(PortId(n), PortKind::Uplink);
        snapshot((1..=count).map(uplink).collect())
    }
    fn mac(n: u32) -> u64 {
        2 << 40 | u64::from(n)
    }

    #[test]
    fn learns_moves_ages_and_sweeps() {
        let (fdb, ports) = (Fdb::new(), uplinks(2));
        let now = u32::MAX - 10; // the clock may wrap
        assert_eq!(fdb.learn(mac(1), 0, P, now, &ports), Learnt::New(None));
        assert_eq!(
            fdb.learn(mac(1), 0, P, now, &snapshot(Vec::new())),
            Learnt::Known
        );
        assert_eq!(fdb.lookup(mac(1), 0, now.wrapping_add(AGEING - 1)), Some(P));
        assert_eq!(fdb.lookup(mac(1), 0, now.wrapping_sub(3)), Some(P));
        assert_eq!(fdb.lookup(mac(1), 0, now.wrapping_add(AGEING)), None);
        assert_eq!(fdb.lookup(mac(1), 5, now), None);
        assert_eq!(fdb.learn(mac(1), 0, Q, now, &ports), Learnt::New(Some(P)));
        assert_eq!(fdb.lookup(mac(1), 0, now), Some(Q));
        assert_eq!(fdb.len(), 1);
        let mut swept = Vec::new();
        fdb.sweep(now.wrapping_add(AGEING - 1), |port| swept.push(port));
        assert!(swept.is_empty());
        fdb.sweep(now.wrapping_add(AGEING), |port| swept.push(port));
        assert_eq!((swept, fdb.len()), (vec![Q], 0));
    }

    #[test]
    fn every_vlan_is_apart_for_one_address() {
        let (fdb, ports) = (Fdb::new(), uplinks(4096));
        for vlan in 0..4096u16 {
            fdb.learn(mac(9), vlan, PortId(vlan + 1), 7, &ports);
        }
        assert_eq!(fdb.len(), 4096);
        for vlan in 0..4096u16 {
            assert_eq!(fdb.lookup(mac(9), vlan, 7), Some(PortId(vlan + 1)));
        }
    }

    #[test]
    fn a_full_bucket_learns_no_more_counts_it_and_takes_aged_places() {
        let (fdb, ports) = (Fdb::new(), uplinks(2));
        // More addresses than the table has places: some bucket overflows, none is ever lost or mixed up.
        let count = (BUCKETS * WAYS) as u32 + 1;
        let learnt = (0..count)
            .filter(|&n| fdb.learn(mac(n), 0, P, 0, &ports) != Learnt::Full)
            .count();
        assert_eq!(fdb.len(), learnt);
        assert_eq!(fdb.not_learnt(), u64::from(count) - learnt as u64);
        assert!(
            fdb.not_learnt() > 0 && learnt > BUCKETS * WAYS / 2,
            "{learnt}"
        );
        let full = (0..count)
            .find(|&n| fdb.lookup(mac(n), 0, 0).is_none())
            .unwrap();
        assert_eq!(fdb.learn(mac(full), 0, Q, AGEING - 1, &ports), Learnt::Full);
        assert_eq!(
            fdb.learn(mac(full), 0, Q, AGEING, &ports),
            Learnt::New(Some(P))
        );
        fdb.forget(P);
        assert_eq!((fdb.len(), fdb.lookup(mac(full), 0, AGEING)), (1, Some(Q)));
    }

    #[test]
    fn a_guest_takes_over_no_address_that_was_just_heard_on_the_wire() {
        let (wire, guest) = (PortKind::Uplink, PortKind::Guest([2; 6]));
        let ports = snapshot(vec![port(P, wire), port(Q, guest)]);
        let fdb = Fdb::new();
        assert_eq!(fdb.learn(mac(1), 0, P, 100, &ports), Learnt::New(None));
        let late = 100 + WIRE_FRESH;
        for now in [100, late - 1] {
            assert_eq!(fdb.learn(mac(1), 0, Q, now, &ports), Learnt::OnTheWire);
        }
        assert_eq!(fdb.lookup(mac(1), 0, late), Some(P));
        // In another VLAN the address is another's.
        assert_eq!(fdb.learn(mac(1), 7, Q, 100, &ports), Learnt::New(None));
        assert_eq!(fdb.learn(mac(1), 0, Q, late, &ports), Learnt::New(Some(P)));
        // The wire takes it back at once.
        assert_eq!(fdb.learn(mac(1), 0, P, late, &ports), Learnt::New(Some(Q)));
        // A wire that is gone protects nothing.
        let ports = snapshot(vec![port(Q, guest)]);
        assert_eq!(fdb.learn(mac(1), 0, Q, late, &ports), Learnt::New(Some(P)));
    }

    /// A guest learns in a bucket full of the wire's addresses; the wire does not in one full of guests'.
    #[test]
    fn guests_displace_the_wire_and_the_wire_displaces_nobody() {
        let guest = PortKind::Guest([2; 6]);
        let ports = snapshot(vec![port(P, PortKind::Uplink), port(Q, guest)]);
        let fdb = Fdb::new();
        // Addresses of one bucket.
        let bucket = fdb.bucket(mac(0), 0);
        let mut macs = (0..).map(mac).filter(|&n| fdb.bucket(n, 0) == bucket);
        let of_the_wire: Vec<_> = macs.by_ref().take(WAYS).collect();
        let of_guests: Vec<_> = macs.by_ref().take(WAYS).collect();
        for &mac in &of_the_wire {
            assert_eq!(fdb.learn(mac, 0, P, 0, &ports), Learnt::New(None));
        }
        for &mac in &of_guests {
            assert_eq!(fdb.learn(mac, 0, Q, 0, &ports), Learnt::New(Some(P)));
        }
        let another = macs.next().unwrap();
        for port in [P, Q] {
            assert_eq!(fdb.learn(another, 0, port, 0, &ports), Learnt::Full);
        }
        for mac in of_guests {
            assert_eq!(fdb.lookup(mac, 0, 0), Some(Q));
        }
        assert_eq!((fdb.len(), fdb.not_learnt()), (WAYS, 2));
    }
}
