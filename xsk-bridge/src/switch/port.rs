//! A bridge's ports: which there are, whose addresses they are, and which of them unknown unicast goes to.
use super::fdb;
use crate::header::{Mac, number};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

/// A port of a bridge, unique in the process; 0 is never a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// What a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A guest's vif: its MAC is static and cannot be taken over. Other sources behind it are learnt, up to [`MAX_LEARNT`].
    Guest(Mac),
    /// The wire: learns and ages.
    Uplink,
}

/// Most addresses besides its own that are learnt behind one guest, so that no guest can fill the table.
pub const MAX_LEARNT: u32 = 64;

/// One port; shared by successive snapshots.
#[derive(Debug)]
pub(super) struct Port {
    pub id: PortId,
    pub kind: PortKind,
    learning: Arc<Learning>,
}

/// What was learnt behind a port. It stays where the port changes its kind, as the entries of the FDB do.
#[derive(Debug, Default)]
struct Learning {
    /// Entries of the FDB that name the port.
    entries: AtomicU32,
    /// Unknown unicast goes to the port: an entry was made since a sweep last found none. Changes seldom, whatever guests send.
    listed: AtomicBool,
}

impl Port {
    /// A port that takes over what was learnt behind `before`.
    pub fn new(id: PortId, kind: PortKind, before: Option<&Port>) -> Self {
        let learning = before.map_or_else(Arc::default, |port| port.learning.clone());
        Self { id, kind, learning }
    }

    fn may_learn(&self) -> bool {
        match self.kind {
            PortKind::Uplink => true,
            PortKind::Guest(_) => self.learning.entries.load(Relaxed) < MAX_LEARNT,
        }
    }

    /// A guest is known by its own address; only what is bridged behind it can have an address that the FDB has forgotten.
    fn takes_unknown(&self) -> bool {
        match self.kind {
            PortKind::Uplink => true,
            PortKind::Guest(_) => self.learning.listed.load(SeqCst),
        }
    }

    /// Counts an entry made for the port. True: the port was not listed for unknown unicast, and is from the next snapshot on.
    fn learn(&self) -> bool {
        self.learning.entries.fetch_add(1, SeqCst);
        !self.learning.listed.swap(true, SeqCst)
    }

    /// Counts an entry that is gone or names another port now.
    pub fn unlearn(&self) {
        // Never below zero: a worker with an old snapshot may count for a port that was removed and added anew.
        let less = |entries: u32| entries.checked_sub(1);
        let _ = self.learning.entries.fetch_update(Relaxed, Relaxed, less);
    }

    /// Takes the port off the list for unknown unicast where no entry names it any more. True: it was on the list.
    pub fn delist(&self) -> bool {
        let learning = &self.learning;
        if learning.entries.load(SeqCst) > 0 || !learning.listed.swap(false, SeqCst) {
            return false;
        }
        // Pairs with `learn`: a worker that found the port listed just now counted its entry before, so it is seen here.
        if learning.entries.load(SeqCst) > 0 {
            learning.listed.store(true, SeqCst);
            return false;
        }
        true
    }
}

/// A snapshot of a bridge's ports; never changed, only replaced.
#[derive(Debug)]
pub(super) struct Ports {
    /// In the order they were attached.
    pub list: Vec<Arc<Port>>,
    /// Every port.
    pub all: Arc<[PortId]>,
    /// Those that unknown unicast goes to.
    pub unknown: Arc<[PortId]>,
    /// Guests' MACs and their ports: words as in the FDB, open addressing, at most half full, a power of two in length. 0 is free.
    owners: Box<[u64]>,
}

impl Ports {
    pub fn new(list: Vec<Arc<Port>>) -> Self {
        let all = list.iter().map(|port| port.id).collect();
        let takes_unknown = list.iter().filter(|port| port.takes_unknown());
        let unknown = takes_unknown.map(|port| port.id).collect();
        let mut owners = vec![0; (list.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        for port in &list {
            if let PortKind::Guest(mac) = port.kind {
                let mac = number(mac);
                let (at, _) = find(&owners, mac);
                owners[at] = fdb::entry(mac, port.id);
            }
        }
        Self {
            list,
            all,
            unknown,
            owners,
        }
    }

    /// The guest port that `mac` belongs to.
    #[inline]
    pub fn owner(&self, mac: u64) -> Option<PortId> {
        let (_, word) = find(&self.owners, mac);
        (word != 0).then(|| fdb::port(word))
    }

    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.list.iter().find(|port| port.id == id).map(Arc::as_ref)
    }

    /// True while an address may be learnt behind port `id`.
    pub fn may_learn(&self, id: PortId) -> bool {
        self.port(id).is_some_and(Port::may_learn)
    }

    /// True where an entry of port `id` may take the place of one of the wire's. The wire has any number of addresses, and a frame to
    /// one that is not in the FDB goes to the wire all the same; a guest has few, and nobody else hears them.
    pub fn displaces_the_wire(&self, id: PortId) -> bool {
        self.port(id)
            .is_some_and(|port| port.kind != PortKind::Uplink)
    }

    /// True where an address of port `of`, as long as it is fresh, is not for port `from` to take over: the wire's for a guest.
    pub fn protects(&self, of: PortId, from: PortId) -> bool {
        let kind = |id| self.port(id).map(|port| port.kind);
        kind(of) == Some(PortKind::Uplink) && matches!(kind(from), Some(PortKind::Guest(_)))
    }

    /// True where the entries of port `id` may be displaced: those of the wire, and of ports that are gone.
    pub fn is_wire(&self, id: PortId) -> bool {
        self.port(id)
            .is_none_or(|port| port.kind == PortKind::Uplink)
    }

    /// Keeps the ports' counts of entries. True: the list for unknown unicast is to be made anew.
    #[cold]
    pub fn moved(&self, from: Option<PortId>, to: PortId) -> bool {
        if let Some(port) = from.and_then(|from| self.port(from)) {
            port.unlearn();
        }
        self.port(to).is_some_and(Port::learn)
    }
}

/// The place and the word of `mac` in `owners`, or the free place where it would be. Ends, for at least half of the places are free.
#[inline]
fn find(owners: &[u64], mac: u64) -> (usize, u64) {
    let mask = owners.len() - 1;
    // Fibonacci hashing: MACs of one vendor differ in their last bytes only.
    let mut at = (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & mask;
    loop {
        let word = owners[at];
        if word == 0 || word >> 16 == mac {
            return (at, word);
        }
        at = (at + 1) & mask;
    }
}
