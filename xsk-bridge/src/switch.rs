//! Where a frame goes: one learning bridge, its ports, and named reasons for a drop.
mod fdb;

use crate::header::{self, ETHERNET_LEN, Ethernet, Mac, number};
use arc_swap::{ArcSwap, Cache};
use fdb::{Fdb, Learnt};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub use fdb::AGEING;

/// A port of a bridge, unique in the process; 0 is never a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// What the bridge says of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To this port alone.
    Unicast(PortId),
    /// To every port of the bridge but the ingress.
    Flood,
    /// Nowhere.
    Drop(DropReason),
}

/// Why the switch dropped a frame; the name is what `status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Shorter than an Ethernet header, or than the tag it announces.
    Runt,
    /// Source MAC belongs to a guest on another port.
    SpoofedSource,
    /// Multicast or zero source.
    BadSource,
    /// To the port it came from.
    SamePort,
    /// 01:80:c2:00:00:0x, which IEEE 802.1Q table 8-1 keeps to one link.
    LinkLocal,
}

/// What a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A guest's vif: its MAC is static and cannot be taken over. Other sources behind it are learnt, up to [`MAX_LEARNT`].
    Guest(Mac),
    /// The wire: learns and ages.
    Uplink,
}

/// Most addresses besides its own that are learnt behind one guest, so that none can fill the table and have others' frames flooded.
pub const MAX_LEARNT: u32 = 64;

/// Numbers of one bridge for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeStats {
    /// Addresses that were learnt.
    pub learnt: usize,
    /// Times an address was not learnt for lack of room.
    pub not_learnt: u64,
}

/// One named bridge: fixed FDB of atomic words, lock-free for workers (shared by Arc). Its ports and addresses are its own: nothing of
/// one bridge is reachable from another.
#[derive(Debug)]
pub struct Bridge {
    name: String,
    /// Written by the control thread, looked at by workers for each frame.
    ports: Arc<ArcSwap<Ports>>,
    fdb: Fdb,
}

impl Bridge {
    /// A bridge without ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ports: Arc::new(ArcSwap::from_pointee(Ports::new(Vec::new()))),
            fdb: Fdb::new(),
        }
    }

    /// The name that vifs choose it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Control thread: attach a port, or change what it is. Where two guests have one MAC the later port has it, as the toolstack set it up
    /// last, and the earlier one again when the later goes.
    pub fn add_port(&self, port: PortId, kind: PortKind) {
        self.change(|ports| {
            ports.retain(|other| other.id != port);
            ports.push(Arc::new(Port {
                id: port,
                kind,
                learnt: AtomicU32::new(0),
            }));
        });
    }

    /// Control thread: detach it and forget its FDB entries.
    pub fn remove_port(&self, port: PortId) {
        self.change(|ports| ports.retain(|other| other.id != port));
        self.fdb.forget(port);
    }

    fn change(&self, change: impl Fn(&mut Vec<Arc<Port>>)) {
        self.ports.rcu(|ports| {
            let mut list = ports.list.clone();
            change(&mut list);
            Ports::new(list)
        });
    }

    /// Learn the source and decide, from the first bytes (at least 14, 18 with a VLAN tag) of a frame. `now` in seconds. A worker
    /// asks its [`BridgeView`].
    pub fn decide(&self, ingress: PortId, header: &[u8], now: u32) -> Verdict {
        self.decide_among(&self.ports.load(), ingress, header, now)
    }

    #[inline]
    fn decide_among(&self, ports: &Ports, ingress: PortId, header: &[u8], now: u32) -> Verdict {
        let Ok(ethernet) = Ethernet::parse(header) else {
            return Verdict::Drop(DropReason::Runt);
        };
        if let Err(reason) = self.admit(ports, ingress, &ethernet, now) {
            return Verdict::Drop(reason);
        }
        let Ethernet {
            destination, vlan, ..
        } = ethernet;
        if is_group(destination) {
            return match destination >> 4 {
                LINK_LOCAL => Verdict::Drop(DropReason::LinkLocal),
                _ => Verdict::Flood,
            };
        }
        match ports
            .owner(destination)
            .or_else(|| self.fdb.lookup(destination, vlan, now))
        {
            Some(port) if port == ingress => Verdict::Drop(DropReason::SamePort),
            Some(port) => Verdict::Unicast(port),
            None => Verdict::Flood,
        }
    }

    /// Is the source one that may come from `ingress`? Learn it where it is nobody's own.
    #[inline]
    fn admit(
        &self,
        ports: &Ports,
        ingress: PortId,
        ethernet: &Ethernet,
        now: u32,
    ) -> Result<(), DropReason> {
        let source = ethernet.source;
        if is_group(source) || source == 0 {
            return Err(DropReason::BadSource);
        }
        match ports.owner(source) {
            Some(owner) if owner == ingress => return Ok(()),
            Some(_) => return Err(DropReason::SpoofedSource),
            None => {}
        }
        let may_learn = || ports.port(ingress).is_some_and(Port::may_learn);
        if let Learnt::New(from) = self
            .fdb
            .learn(source, ethernet.vlan, ingress, now, may_learn)
        {
            ports.moved(from, ingress);
        }
        Ok(())
    }

    /// The ports to flood to (a snapshot, cheap to load; includes the ingress, which the caller skips).
    pub fn ports(&self) -> Arc<[PortId]> {
        self.ports.load().ids.clone()
    }

    /// Control thread, every few seconds: forget addresses not heard of for [`AGEING`] seconds.
    pub fn sweep(&self, now: u32) {
        let ports = self.ports.load();
        self.fdb.sweep(now, |port| {
            if let Some(port) = ports.port(port) {
                port.unlearn();
            }
        });
    }

    /// Numbers for `status`.
    pub fn stats(&self) -> BridgeStats {
        BridgeStats {
            learnt: self.fdb.len(),
            not_learnt: self.fdb.not_learnt(),
        }
    }
}

/// A worker's view of a bridge: it remembers the snapshot of the ports, so that a frame costs a comparison to see that it is the
/// latest, and no shared word is written.
#[derive(Debug, Clone)]
pub struct BridgeView {
    bridge: Arc<Bridge>,
    ports: Cache<Arc<ArcSwap<Ports>>, Arc<Ports>>,
}

impl BridgeView {
    /// A view of `bridge`, which it keeps.
    pub fn new(bridge: Arc<Bridge>) -> Self {
        let ports = Cache::new(bridge.ports.clone());
        Self { bridge, ports }
    }

    /// As [`Bridge::decide`].
    #[inline]
    pub fn decide(&mut self, ingress: PortId, header: &[u8], now: u32) -> Verdict {
        self.bridge
            .decide_among(self.ports.load(), ingress, header, now)
    }
}

impl Deref for BridgeView {
    type Target = Bridge;

    fn deref(&self) -> &Bridge {
        &self.bridge
    }
}

/// What the switch said of the last frame of a burst: most go where the one before them went, and are not decided anew. Good for
/// as long as nothing is to be noticed meanwhile, a worker's turn.
#[derive(Debug, Default)]
pub struct Recent(Option<(PortId, [u8; ETHERNET_LEN], PortId)>);

impl Recent {
    /// As [`BridgeView::decide`].
    #[inline]
    pub fn decide(
        &mut self,
        bridge: &mut BridgeView,
        ingress: PortId,
        header: &[u8],
        now: u32,
    ) -> Verdict {
        if let (Some((from, last, to)), Some(first)) = (&self.0, header.first_chunk())
            && *from == ingress
            && last == first
        {
            return Verdict::Unicast(*to);
        }
        self.decide_anew(bridge, ingress, header, now)
    }

    #[inline(never)]
    fn decide_anew(
        &mut self,
        bridge: &mut BridgeView,
        ingress: PortId,
        header: &[u8],
        now: u32,
    ) -> Verdict {
        let verdict = bridge.decide(ingress, header, now);
        self.0 = match (verdict, header.first_chunk()) {
            // Behind a tag more than these bytes decides.
            (Verdict::Unicast(to), Some(first)) if !header::is_tagged(first) => {
                Some((ingress, *first, to))
            }
            _ => None,
        };
        verdict
    }
}

/// One port; shared by successive snapshots.
#[derive(Debug)]
struct Port {
    id: PortId,
    kind: PortKind,
    /// Entries of the FDB that name it.
    learnt: AtomicU32,
}
impl Port {
    fn may_learn(&self) -> bool {
        match self.kind {
            PortKind::Uplink => true,
            PortKind::Guest(_) => self.learnt.load(Relaxed) < MAX_LEARNT,
        }
    }
    fn unlearn(&self) {
        // Never below zero: an entry learnt before the port was added anew is not in its count.
        let _ = self
            .learnt
            .fetch_update(Relaxed, Relaxed, |learnt| learnt.checked_sub(1));
    }
}

/// A snapshot of a bridge's ports; never changed, only replaced.
#[derive(Debug)]
struct Ports {
    /// In the order they were attached.
    list: Vec<Arc<Port>>,
    ids: Arc<[PortId]>,
    /// Guests' MACs and their ports: words as in the FDB, open addressing, at most half full, a power of two in length. 0 is free.
    owners: Box<[u64]>,
}
impl Ports {
    fn new(list: Vec<Arc<Port>>) -> Self {
        let ids = list.iter().map(|port| port.id).collect();
        let mut owners = vec![0; (list.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        for port in &list {
            if let PortKind::Guest(mac) = port.kind {
                let mac = number(mac);
                let (at, _) = find(&owners, mac);
                owners[at] = fdb::entry(mac, port.id);
            }
        }
        Self { list, ids, owners }
    }

    /// The guest port that `mac` belongs to.
    #[inline]
    fn owner(&self, mac: u64) -> Option<PortId> {
        let (_, word) = find(&self.owners, mac);
        (word != 0).then(|| fdb::port(word))
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.list.iter().find(|port| port.id == id).map(Arc::as_ref)
    }

    /// Keep the ports' counts of learnt addresses.
    #[cold]
    fn moved(&self, from: Option<PortId>, to: PortId) {
        if let Some(port) = self.port(to) {
            port.learnt.fetch_add(1, Relaxed);
        }
        if let Some(port) = from.and_then(|from| self.port(from)) {
            port.unlearn();
        }
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

/// The addresses of one link, 01:80:c2:00:00:00 to :0f, without their last four bits.
const LINK_LOCAL: u64 = 0x0180_c200_0000 >> 4;

/// Multicast or broadcast: the lowest bit of the first byte.
#[inline]
fn is_group(mac: u64) -> bool {
    mac >> 40 & 1 != 0
}

#[cfg(test)]
mod tests;
