//! Ports with rules: VLANs, and guests that are kept apart from each other. A bridge where no port has any is decided without a look here.
use super::port::{Port, PortKind, Ports};
use super::tag::{self, InVlan, Retag};
use super::vlan::{Form, NATIVE, Vlans};
use super::{Bridge, BridgeView, DropReason, Flood, PortId, Recent, Verdict, is_group};
use crate::header::Ethernet;

/// What a port may do beside what it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The VLANs that the port is in; `None`: the native one, where VLANs are told apart.
    pub vlans: Option<Vlans>,
    /// A guest that reaches the wire and the host only, and that no other guest reaches.
    pub isolated: bool,
}

/// What the switch says of one frame where ports have rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// Where the frame goes.
    pub verdict: Verdict,
    /// The VLAN it is in.
    pub vlan: InVlan,
    /// What becomes of its tag where it goes to one port.
    pub retag: Retag,
}

impl From<Ruling> for Verdict {
    fn from(ruling: Ruling) -> Self {
        ruling.verdict
    }
}

impl Recent<Ruling> {
    /// Rules on a frame as [`BridgeView::decide_by_rules`] does.
    #[inline]
    pub fn decide(
        &mut self,
        bridge: &mut BridgeView,
        ingress: PortId,
        header: &[u8],
        now: u32,
    ) -> Ruling {
        self.recall_or(ingress, header, || {
            bridge.decide_by_rules(ingress, header, now)
        })
    }
}

/// A port that a frame is flooded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// The port.
    pub port: PortId,
    /// How the frame goes out by it.
    pub form: Form,
}

impl Bridge {
    /// As [`Bridge::decide`], by the rules of the ports.
    #[inline(never)]
    pub(super) fn decide_by_rules(
        &self,
        ports: &Ports,
        ingress: PortId,
        header: &[u8],
        now: u32,
    ) -> Ruling {
        let drop = |vlan, reason| Ruling {
            verdict: Verdict::Drop(reason),
            vlan,
            retag: Retag::Keep,
        };
        let (from, ethernet, vlan) = match ports.classify(ingress, header) {
            Ok(classified) => classified,
            Err(reason) => return drop(InVlan::default(), reason),
        };
        let vid = vlan.vid;
        let owner = ports.owner_in(ethernet.source, vid);
        if let Err(reason) = self.admit(ports, ingress, owner, ethernet.source, vid, now) {
            return drop(vlan, reason);
        }
        let flood = |flood| Ruling {
            verdict: Verdict::Flood(flood),
            vlan,
            retag: Retag::Keep,
        };
        if is_group(ethernet.destination) {
            return match super::is_link_local(ethernet.destination) {
                true => drop(vlan, DropReason::LinkLocal),
                false => flood(Flood::Group),
            };
        }
        let known = || self.fdb.lookup(ethernet.destination, vid, now);
        let to = ports.owner_in(ethernet.destination, vid).or_else(known);
        let to = to.and_then(|to| ports.port(to));
        // A port that has left the VLAN has left entries behind.
        let to = to.and_then(|to| Some((to, ports.form(to, vid)?)));
        match to {
            Some((to, _)) if to.id == ingress => drop(vlan, DropReason::SamePort),
            Some((to, _)) if !from.may_reach(to) => drop(vlan, DropReason::Isolated),
            Some((to, form)) => Ruling {
                verdict: Verdict::Unicast(to.id),
                vlan,
                retag: vlan.retag(form),
            },
            None => flood(Flood::Unknown),
        }
    }
}

impl BridgeView {
    /// Whether ports have rules, so that frames are decided by [`Self::decide_by_rules`].
    #[inline]
    pub fn has_rules(&mut self) -> bool {
        self.ports.load().ruled
    }

    /// Learns the source and decides, by the rules of the ports.
    pub fn decide_by_rules(&mut self, ingress: PortId, header: &[u8], now: u32) -> Ruling {
        self.bridge
            .decide_by_rules(self.ports.load(), ingress, header, now)
    }

    /// Appends the ports that a frame of `vlan` from `ingress` is flooded to, which is not among them.
    pub fn receivers(
        &mut self,
        flood: Flood,
        ingress: PortId,
        vlan: InVlan,
        into: &mut Vec<Receiver>,
    ) {
        let ports = self.ports.load();
        if !ports.ruled {
            let all = match flood {
                Flood::Group => &ports.all,
                Flood::Unknown => &ports.unknown,
            };
            let others = all.iter().filter(|&&port| port != ingress);
            into.extend(others.map(|&port| Receiver {
                port,
                form: Form::Any,
            }));
            return;
        }
        let Some(from) = ports.port(ingress) else {
            return;
        };
        let receives = |port: &&Port| {
            let takes = !port.is_deaf() && (flood == Flood::Group || port.takes_unknown());
            port.id != ingress && takes && from.may_reach(port)
        };
        let receiver = |port: &Port| {
            Some(Receiver {
                port: port.id,
                form: ports.form(port, vlan.vid)?,
            })
        };
        let list = ports.list.iter().map(AsRef::as_ref);
        into.extend(list.filter(receives).filter_map(receiver));
    }
}

impl Port {
    /// False between a guest that is isolated and any other guest.
    fn may_reach(&self, other: &Port) -> bool {
        let apart = self.rules.isolated || other.rules.isolated;
        !(apart && self.is_guest() && other.is_guest())
    }
}

impl Ports {
    /// How a frame of a VLAN goes out by `port`, if it may.
    fn form(&self, port: &Port, vid: u16) -> Option<Form> {
        match self.vlans {
            true => port.form(vid),
            false => Some(Form::Any),
        }
    }

    /// The port, in this VLAN, that a MAC belongs to.
    fn owner_in(&self, mac: u64, vid: u16) -> Option<PortId> {
        let is_in = |id: &PortId| {
            let port = self.port(*id);
            port.is_some_and(|port| self.form(port, vid).is_some())
        };
        self.owners(mac).find(is_in)
    }

    /// The port that a frame came in by, its addresses, and the VLAN it is in there.
    fn classify(
        &self,
        ingress: PortId,
        header: &[u8],
    ) -> Result<(&Port, Ethernet, InVlan), DropReason> {
        let ethernet = Ethernet::parse(header).map_err(|_| DropReason::Runt)?;
        let port = self.port(ingress).ok_or(DropReason::PortGone)?;
        if !self.vlans {
            return Ok((port, ethernet, InVlan::new(ethernet.vlan, None)));
        }
        let vlans = port.rules.vlans.as_ref();
        let untagged = vlans.map_or(NATIVE, Vlans::pvid);
        let vlan = match tag::read(header).map_err(|()| DropReason::Runt)? {
            None => InVlan::new(untagged, None),
            // Where the outer tag of two comes out, the inner one would lead a guest's frame into a VLAN that is not its own.
            Some((_, true)) if port.kind != PortKind::Uplink => return Err(DropReason::Vlan),
            Some((0, _)) => InVlan::new(untagged, Some(0)),
            Some((vid, _)) => match port.form(vid) {
                Some(Form::Tagged) => InVlan::new(vid, Some(vid)),
                // Some switches tag the native VLAN too.
                Some(_) if port.kind == PortKind::Uplink => InVlan::new(vid, Some(vid)),
                _ => return Err(DropReason::Vlan),
            },
        };
        Ok((port, ethernet, vlan))
    }
}

#[cfg(test)]
mod tests;
