//! A bridge's ports: which there are, whose addresses they are, and which of them unknown unicast goes to.
use super::fdb;
use super::rules::Rules;
use super::vlan::{Form, NATIVE};
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
    /// The driver domain's own stack: its MAC is static as a guest's is, and as many others are learnt behind it; it hears unknown
    /// unicast as the wire does.
    Host(Mac),
}

impl PortKind {
    /// The address that nobody can take over from the port.
    fn own(self) -> Option<Mac> {
        match self {
            PortKind::Guest(mac) | PortKind::Host(mac) => Some(mac),
            PortKind::Uplink => None,
        }
    }
}

/// Most addresses besides its own that are learnt behind one guest, or behind the host, so that nobody but the wire fills the table.
pub const MAX_LEARNT: u32 = 64;

/// One port; shared by successive snapshots.
#[derive(Debug)]
pub(super) struct Port {
    pub id: PortId,
    pub kind: PortKind,
    pub rules: Rules,
    learning: Arc<Learning>,
}

/// What was learnt behind a port, and of it. It stays where the port changes its kind, as the entries of the FDB do.
#[derive(Debug, Default)]
struct Learning {
    /// Entries of the FDB that name the port.
    entries: AtomicU32,
    /// Unknown unicast goes to the port: an entry was made since a sweep last found none. Changes seldom, whatever guests send.
    listed: AtomicBool,
    /// Nobody takes packets behind the port: it is left out of floods.
    deaf: AtomicBool,
}

impl Port {
    /// A port that takes over what was learnt behind `before`.
    pub fn new(id: PortId, kind: PortKind, rules: Rules, before: Option<&Port>) -> Self {
        let learning = before.map_or_else(Arc::default, |port| port.learning.clone());
        Self {
            id,
            kind,
            rules,
            learning,
        }
    }

    /// True for a guest's port.
    pub fn is_guest(&self) -> bool {
        matches!(self.kind, PortKind::Guest(_))
    }

    /// How frames of a VLAN go out by the port; `None`: it is not in that VLAN. The wire and the host are in every one.
    #[inline]
    pub fn form(&self, vid: u16) -> Option<Form> {
        match (&self.rules.vlans, self.kind) {
            (Some(vlans), _) => vlans.form(vid),
            (None, PortKind::Uplink | PortKind::Host(_)) if vid != NATIVE => Some(Form::Tagged),
            (None, _) => (vid == NATIVE).then_some(Form::Untagged),
        }
    }

    fn may_learn(&self) -> bool {
        match self.kind {
            PortKind::Uplink => true,
            PortKind::Guest(_) | PortKind::Host(_) => {
                self.learning.entries.load(Relaxed) < MAX_LEARNT
            }
        }
    }

    /// True while the port is left out of floods.
    pub fn is_deaf(&self) -> bool {
        self.learning.deaf.load(Relaxed)
    }

    /// Leaves the port out of floods, or not. True: that is a change, for the next snapshot.
    pub fn set_deaf(&self, deaf: bool) -> bool {
        self.learning.deaf.swap(deaf, Relaxed) != deaf
    }

    /// True of a host port of a bridge without a VLAN.
    fn is_everywhere(&self) -> bool {
        matches!(self.kind, PortKind::Host(_)) && self.rules.vlans.is_none()
    }

    /// A guest is known by its own address; only what is bridged behind it can have an address that the FDB has forgotten.
    pub fn takes_unknown(&self) -> bool {
        match self.kind {
            PortKind::Uplink | PortKind::Host(_) => true,
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
    /// Those that broadcast and multicast go to.
    pub all: Arc<[PortId]>,
    /// Those that unknown unicast goes to.
    pub unknown: Arc<[PortId]>,
    /// MACs of guests and of the host, and their ports: words as in the FDB, open addressing, at most half full, a power of two in length.
    /// 0 is free. Of ports with one MAC the one that was attached last comes first, and where VLANs are told apart a
    /// host port that is in every one of them comes last.
    owners: Box<[u64]>,
    /// By number: the place in `list`, and one on top; 0: there is no such port.
    places: Box<[u16]>,
    /// The switch tells VLANs apart: a port is in some of them.
    pub vlans: bool,
    /// Ports have rules: frames are not decided by addresses alone.
    pub ruled: bool,
}

impl Ports {
    /// The snapshot of these ports; `vlans`: VLANs are told apart whatever ports are in.
    pub fn new(list: Vec<Arc<Port>>, vlans: bool) -> Self {
        let hearing = list.iter().filter(|port| !port.is_deaf());
        let all = hearing.clone().map(|port| port.id).collect();
        let takes_unknown = hearing.filter(|port| port.takes_unknown());
        let unknown = takes_unknown.map(|port| port.id).collect();
        let vlans = vlans || list.iter().any(|port| port.rules.vlans.is_some());
        let mut owners = vec![0; (list.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        // A host port that is in every VLAN leaves each VLAN to the host port of that VLAN alone, which has the same NIC's MAC.
        let (everywhere, somewhere): (Vec<_>, Vec<_>) = list
            .iter()
            .rev()
            .partition(|port| vlans && port.is_everywhere());
        for port in somewhere.into_iter().chain(everywhere) {
            if let Some(mac) = port.kind.own() {
                insert(&mut owners, number(mac), port.id);
            }
        }
        let ids = list.iter().map(|port| usize::from(port.id.0));
        let mut places = vec![0; ids.clone().max().map_or(0, |id| id + 1)].into_boxed_slice();
        // Fewer ports than numbers.
        ids.zip(1..).for_each(|(id, place)| places[id] = place);
        let ruled = vlans || list.iter().any(|port| port.rules.isolated);
        Self {
            list,
            all,
            unknown,
            owners,
            places,
            vlans,
            ruled,
        }
    }

    /// The port, of a guest or of the host, that `mac` belongs to.
    #[inline]
    pub fn owner(&self, mac: u64) -> Option<PortId> {
        self.owners(mac).next()
    }

    /// The ports with this MAC of their own, the one that was attached last first.
    #[inline]
    pub fn owners(&self, mac: u64) -> impl Iterator<Item = PortId> + '_ {
        let mask = self.owners.len() - 1;
        let mut at = place(mac);
        // Ends, for at least half of the places are free.
        std::iter::from_fn(move || {
            loop {
                let word = self.owners[at & mask];
                at += 1;
                if word == 0 {
                    return None;
                }
                if word >> 16 == mac {
                    return Some(fdb::port(word));
                }
            }
        })
    }

    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        let place = *self.places.get(usize::from(id.0))?;
        let place = usize::from(place).checked_sub(1)?;
        self.list.get(place).map(Arc::as_ref)
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

    /// True where an address of port `of`, as long as it is fresh, is not for port `from` to take over: the wire's and the host's for a
    /// guest.
    pub fn protects(&self, of: PortId, from: PortId) -> bool {
        let kind = |id| self.port(id).map(|port| port.kind);
        let is_guest = |kind| matches!(kind, PortKind::Guest(_));
        kind(of).is_some_and(|kind| !is_guest(kind)) && kind(from).is_some_and(is_guest)
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

/// Puts a port behind those that have its MAC already.
fn insert(owners: &mut [u64], mac: u64, port: PortId) {
    let mask = owners.len() - 1;
    let mut at = place(mac);
    while owners[at & mask] != 0 {
        at += 1;
    }
    owners[at & mask] = fdb::entry(mac, port);
}

/// Where a MAC is looked for first. Fibonacci hashing: MACs of one vendor differ in their last bytes only.
#[inline]
fn place(mac: u64) -> usize {
    (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}
