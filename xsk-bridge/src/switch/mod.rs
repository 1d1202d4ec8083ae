//! Where a frame goes: one learning switch, its ports, and named reasons for a drop.
mod fdb;
pub mod filter;
mod port;
mod rules;
pub mod tag;
pub mod vlan;

use crate::header::{self, ETHERNET_LEN, Ethernet, VLAN_TAG_LEN};
use arc_swap::{ArcSwap, Cache};
use fdb::{Fdb, Learnt};
use port::{Port, Ports};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vlan::NATIVE;

pub use fdb::entries::{Entry, NoRoom};
pub use fdb::{AGEING, WIRE_FRESH};
pub use port::{MAX_LEARNT, PortId, PortKind};
pub use rules::{Receiver, Rules, Ruling};

/// What the bridge says of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To this port alone.
    Unicast(PortId),
    /// To several ports, but never to the ingress: [`BridgeView::flood`] lists them.
    Flood(Flood),
    /// Nowhere.
    Drop(DropReason),
}

/// Why a frame goes to several ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Broadcast or multicast: to every port.
    Group,
    /// Unicast to an address that nobody is known to have: to the uplinks, the host, and the guests behind which others were heard.
    /// A guest that speaks for itself alone is known by its own address.
    Unknown,
}

/// Why the switch dropped a frame; the name is what `status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Shorter than an Ethernet header, or than the tag it announces.
    Runt,
    /// Source MAC belongs to a guest or to the host on another port, or to a port that an operator has said it lives at.
    SpoofedSource,
    /// From a guest, with a source MAC that was heard on the wire within the last [`WIRE_FRESH`] seconds.
    WireSource,
    /// Multicast or zero source.
    BadSource,
    /// From a port that is not on the bridge yet, or no longer.
    PortGone,
    /// To the port it came from.
    SamePort,
    /// With the tag of a VLAN that its port is not in with a tag, or from a guest with two tags.
    Vlan,
    /// Between two guests of which one is isolated.
    Isolated,
    /// 01:80:c2:00:00:0x, which IEEE 802.1Q table 8-1 keeps to one link.
    LinkLocal,
}

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
    /// VLANs are told apart whatever ports are in.
    vlans: AtomicBool,
    fdb: Fdb,
}

impl Bridge {
    /// A bridge without ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ports: Arc::new(ArcSwap::from_pointee(Ports::new(Vec::new(), false))),
            vlans: AtomicBool::new(false),
            fdb: Fdb::new(),
        }
    }

    /// Control thread: tells VLANs apart from now on, whatever ports are in one. Where nobody asks for that, and no port is in any VLAN, tags
    /// are payload.
    pub fn tell_vlans_apart(&self) {
        if !self.vlans.swap(true, Relaxed) {
            self.change(|_| ());
        }
    }

    /// The name that vifs choose it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Control thread: attaches a port, or changes what it is. Where two guests have one MAC the later port has it, as the toolstack set it up
    /// last, and the earlier one again when the later goes.
    pub fn add_port(&self, port: PortId, kind: PortKind) {
        self.add_port_with(port, kind, &Rules::default());
    }

    /// Control thread: as [`Self::add_port`], with rules.
    pub fn add_port_with(&self, port: PortId, kind: PortKind, rules: &Rules) {
        self.change(|ports| {
            let before = ports.iter().position(|other| other.id == port);
            let before = before.map(|at| ports.remove(at));
            let port = Port::new(port, kind, rules.clone(), before.as_deref());
            ports.push(Arc::new(port));
        });
    }

    /// Control thread: detaches a port and forgets its FDB entries.
    pub fn remove_port(&self, port: PortId) {
        self.change(|ports| ports.retain(|other| other.id != port));
        self.fdb.forget(port);
    }

    fn change(&self, change: impl Fn(&mut Vec<Arc<Port>>)) {
        self.ports.rcu(|ports| {
            let mut list = ports.list.clone();
            change(&mut list);
            Ports::new(list, self.vlans.load(Relaxed))
        });
    }

    /// Learn the source and decide, from the first bytes (at least 14, 18 with a VLAN tag) of a frame. `now` in seconds. A worker
    /// asks its [`BridgeView`].
    pub fn decide(&self, ingress: PortId, header: &[u8], now: u32) -> Verdict {
        self.decide_among(&self.ports.load(), ingress, header, now)
    }

    #[inline]
    fn decide_among(&self, ports: &Ports, ingress: PortId, header: &[u8], now: u32) -> Verdict {
        if ports.ruled {
            return self.decide_by_rules(ports, ingress, header, now).verdict;
        }
        let Ok(ethernet) = Ethernet::parse(header) else {
            return Verdict::Drop(DropReason::Runt);
        };
        let Ethernet {
            source,
            destination,
            vlan,
        } = ethernet;
        // As where VLANs are told apart, so that what was learnt stays when they are.
        let vlan = vlan.max(NATIVE);
        let owner = ports.owner(source);
        if let Err(reason) = self.admit(ports, ingress, owner, source, vlan, now) {
            return Verdict::Drop(reason);
        }
        if is_group(destination) {
            return match is_link_local(destination) {
                true => Verdict::Drop(DropReason::LinkLocal),
                false => Verdict::Flood(Flood::Group),
            };
        }
        match ports
            .owner(destination)
            .or_else(|| self.fdb.lookup(destination, vlan, now))
        {
            Some(port) if port == ingress => Verdict::Drop(DropReason::SamePort),
            Some(port) => Verdict::Unicast(port),
            None => Verdict::Flood(Flood::Unknown),
        }
    }

    /// Refuses a source, the address of `owner` if it is a port's own, that may not come from `ingress`, and learns it where it is no port's own.
    #[inline]
    fn admit(
        &self,
        ports: &Ports,
        ingress: PortId,
        owner: Option<PortId>,
        source: u64,
        vlan: u16,
        now: u32,
    ) -> Result<(), DropReason> {
        if is_group(source) || source == 0 {
            return Err(DropReason::BadSource);
        }
        match owner {
            Some(owner) if owner == ingress => return Ok(()),
            Some(_) => return Err(DropReason::SpoofedSource),
            None => {}
        }
        match self.fdb.learn(source, vlan, ingress, now, ports) {
            Learnt::New(from) => {
                if ports.moved(from, ingress) {
                    // At most once a port and sweep.
                    self.change(|_| ());
                }
                Ok(())
            }
            Learnt::OnTheWire => Err(DropReason::WireSource),
            Learnt::Elsewhere => Err(DropReason::SpoofedSource),
            Learnt::NoPort => Err(DropReason::PortGone),
            Learnt::Known | Learnt::Full => Ok(()),
        }
    }

    /// The ports of the bridge now.
    pub fn ports(&self) -> Arc<[PortId]> {
        self.ports.load().list.iter().map(|port| port.id).collect()
    }

    /// Control thread: leaves a port out of floods, or not. What is for its own address alone goes there all the same.
    pub fn set_deaf(&self, port: PortId, deaf: bool) {
        let ports = self.ports.load();
        if ports.port(port).is_some_and(|port| port.set_deaf(deaf)) {
            self.change(|_| ());
        }
    }

    /// Control thread, every few seconds: forgets addresses not heard of for [`AGEING`] seconds.
    pub fn sweep(&self, now: u32) {
        let ports = self.ports.load();
        self.fdb.sweep(now, |port| {
            if let Some(port) = ports.port(port) {
                port.unlearn();
            }
        });
        // Each is asked, so no `any`.
        let delisted = ports.list.iter().filter(|port| port.delist()).count();
        if delisted > 0 {
            self.change(|_| ());
        }
    }

    /// Control thread: every entry of the forwarding database that counts, by address; guests' own addresses are not among them.
    pub fn entries(&self, now: u32) -> Vec<Entry> {
        self.fdb.entries(now)
    }

    /// Whether VLANs are told apart: then frames without a tag are in the native one.
    pub fn tells_vlans_apart(&self) -> bool {
        self.ports.load().vlans
    }

    /// The port that has this address as its own.
    pub fn owner(&self, mac: [u8; 6]) -> Option<PortId> {
        self.ports.load().owner(header::number(mac))
    }

    /// Control thread: makes a static entry, which neither ages nor moves, in place of what was learnt.
    pub fn fix(&self, mac: [u8; 6], vlan: u16, port: PortId, now: u32) -> Result<(), NoRoom> {
        let learnt = self.fdb.fix(header::number(mac), vlan, port, now)?;
        self.unlearn(learnt);
        Ok(())
    }

    /// Control thread: takes an entry out, learnt or static; false: there is none.
    pub fn take(&self, mac: [u8; 6], vlan: u16) -> bool {
        let taken = self.fdb.take(header::number(mac), vlan);
        self.unlearn(taken.flatten());
        taken.is_some()
    }

    /// Control thread: forgets everything that was learnt, and no static entry.
    pub fn flush(&self) {
        self.fdb.flush(|port| self.unlearn(Some(port)));
    }

    fn unlearn(&self, port: Option<PortId>) {
        let ports = self.ports.load();
        if let Some(port) = port.and_then(|port| ports.port(port)) {
            port.unlearn();
        }
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

    /// The ports that such a flood goes to. The ingress may be among them, which the caller leaves out.
    #[inline]
    pub fn flood(&mut self, flood: Flood) -> &Arc<[PortId]> {
        let ports = self.ports.load();
        match flood {
            Flood::Group => &ports.all,
            Flood::Unknown => &ports.unknown,
        }
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
#[derive(Debug)]
pub struct Recent<T>(Option<Remembered<T>>);

/// All of a frame that a decision looks at, and the decision.
#[derive(Debug)]
struct Remembered<T> {
    ingress: PortId,
    start: [u8; ETHERNET_LEN],
    /// The four bytes behind a tag's type: the tag's VLAN, and the type that says whether another tag follows. `None`: the frame has no tag.
    tag: Option<[u8; VLAN_TAG_LEN]>,
    decision: T,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Copy + Into<Verdict>> Recent<T> {
    /// The decision on the last frame where this one differs in nothing that is looked at, else the one that `decide` makes.
    #[inline]
    fn recall_or(&mut self, ingress: PortId, header: &[u8], decide: impl FnOnce() -> T) -> T {
        if let Some(last) = &self.0
            && let Some((start, behind)) = header.split_first_chunk()
            && (last.ingress, &last.start) == (ingress, start)
            && last
                .tag
                .is_none_or(|tag| behind.first_chunk() == Some(&tag))
        {
            return last.decision;
        }
        self.decide_anew(ingress, header, decide)
    }

    #[inline(never)]
    fn decide_anew(&mut self, ingress: PortId, header: &[u8], decide: impl FnOnce() -> T) -> T {
        let decision = decide();
        self.0 = match (decision.into(), header.split_first_chunk()) {
            (Verdict::Unicast(_), Some((start, behind))) => {
                let remembered = |tag| Remembered {
                    ingress,
                    start: *start,
                    tag,
                    decision,
                };
                match header::is_tagged(start) {
                    true => behind.first_chunk().map(|tag| remembered(Some(*tag))),
                    false => Some(remembered(None)),
                }
            }
            _ => None,
        };
        decision
    }
}

impl Recent<Verdict> {
    /// Decides on a frame as [`BridgeView::decide`] does.
    #[inline]
    pub fn decide(
        &mut self,
        bridge: &mut BridgeView,
        ingress: PortId,
        header: &[u8],
        now: u32,
    ) -> Verdict {
        self.recall_or(ingress, header, || bridge.decide(ingress, header, now))
    }
}

/// The addresses of one link, 01:80:c2:00:00:00 to :0f, without their last four bits.
const LINK_LOCAL: u64 = 0x0180_c200_0000 >> 4;

fn is_link_local(mac: u64) -> bool {
    mac >> 4 == LINK_LOCAL
}

/// Multicast or broadcast: the lowest bit of the first byte.
#[inline]
fn is_group(mac: u64) -> bool {
    mac >> 40 & 1 != 0
}

#[cfg(test)]
mod tests;
