//! Forwarding databases, shown and changed by hand.
use super::Control;
use super::bridges::Named;
use super::socket::FdbRequest;
use crate::hypervisor::Hypervisor;
use crate::observe::status::FdbEntry;
use std::sync::Arc;
use xen::store::XenStore;
use xsk_bridge::switch::vlan::{LAST, NATIVE};
use xsk_bridge::switch::{Entry, PortId};

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Carries out a request about forwarding databases. Returns the entries that it is about; the error is one line.
    pub(super) fn change_fdb(
        &self,
        bridge: Option<&str>,
        request: &FdbRequest,
    ) -> Result<Vec<FdbEntry>, String> {
        let bridges = self.bridges_named(bridge)?;
        let only = || match &*bridges {
            [only] => Ok(*only),
            _ => Err("there are several bridges: say which with --bridge".to_owned()),
        };
        match request {
            FdbRequest::Show => {
                let shown = bridges.iter().flat_map(|bridge| self.entries(bridge));
                Ok(shown.collect())
            }
            FdbRequest::Flush => {
                bridges.iter().for_each(|bridge| bridge.switch.flush());
                Ok(Vec::new())
            }
            FdbRequest::Add { mac, vlan, port } => self.add_entry(only()?, mac, *vlan, port),
            FdbRequest::Del { mac, vlan } => {
                let (bridge, address) = (only()?, parse_mac(mac)?);
                match bridge.switch.take(address, bridge.vlan_of(*vlan)) {
                    true => Ok(Vec::new()),
                    false => Err(self.no_entry(bridge, address)),
                }
            }
        }
    }

    fn bridges_named(&self, name: Option<&str>) -> Result<Vec<&Named>, String> {
        let Some(name) = name else {
            return Ok(self.bridges.iter().collect());
        };
        let bridge = self.bridges.iter().find(|bridge| bridge.name == name);
        let names: Vec<&str> = self.bridges.iter().map(|bridge| &*bridge.name).collect();
        let missing = || {
            format!(
                "there is no bridge {name:?}; there are: {}",
                names.join(", ")
            )
        };
        Ok(vec![bridge.ok_or_else(missing)?])
    }

    fn add_entry(
        &self,
        bridge: &Named,
        mac: &str,
        vlan: u16,
        port: &str,
    ) -> Result<Vec<FdbEntry>, String> {
        let address = parse_mac(mac)?;
        if vlan > LAST {
            return Err(format!(
                "{vlan} is not a VLAN: they go up to {LAST}, and 0 is none"
            ));
        }
        let switch = &bridge.switch;
        if let Some(owner) = switch.owner(address) {
            let owner = self.port_name(owner);
            return Err(format!(
                "{mac} is the address of vif {owner}, and needs no entry"
            ));
        }
        let port_id = self.port_named(bridge, port)?;
        let vlan = bridge.vlan_of(vlan);
        let fixed = switch.fix(address, vlan, port_id, self.seconds());
        let vlan = bridge.vlan_shown(vlan);
        fixed.map_err(|error| format!("no room for {mac}: {error}"))?;
        let entries = self.known(bridge).into_iter();
        let is_it = |entry: &FdbEntry| entry.mac == shown(address) && entry.vlan == vlan;
        Ok(entries.filter(is_it).collect())
    }

    fn no_entry(&self, bridge: &Named, address: [u8; 6]) -> String {
        let (mac, name) = (shown(address), &bridge.name);
        match bridge.switch.owner(address) {
            Some(owner) => format!("{mac} is the own address of vif {}", self.port_name(owner)),
            None => format!("bridge {name} has no entry for {mac}: `netback fdb show` lists them"),
        }
    }

    /// Returns every address that is known on a bridge, those of guests first.
    fn entries(&self, bridge: &Named) -> Vec<FdbEntry> {
        let own = self.vifs.iter().filter_map(|(id, vif)| {
            let (service, policy) = (vif.service.as_ref()?, vif.policy.as_ref()?);
            let here = self.bridge_of(policy)?.name == bridge.name;
            let here = here && Arc::ptr_eq(&service.bridge, &bridge.switch);
            here.then(|| FdbEntry {
                bridge: bridge.name.clone(),
                mac: shown(policy.mac),
                vlan: bridge.vlan.unwrap_or(0),
                port: id.to_string(),
                kind: "guest".into(),
                age_seconds: None,
            })
        });
        let mut entries: Vec<FdbEntry> = own.collect();
        let others = self
            .bridges
            .iter()
            .filter(|other| other.name != bridge.name);
        let theirs: Vec<u16> = others
            .filter(|other| Arc::ptr_eq(&other.switch, &bridge.switch))
            .filter_map(|other| other.vlan)
            .collect();
        let is_here = |entry: &FdbEntry| match bridge.vlan {
            Some(vlan) => entry.vlan == vlan,
            // Addresses that no bridge on a VLAN of the same uplink has.
            None => !theirs.contains(&entry.vlan),
        };
        entries.extend(self.known(bridge).into_iter().filter(is_here));
        entries
    }

    /// Returns the entries of the forwarding database of a bridge's switch.
    fn known(&self, bridge: &Named) -> Vec<FdbEntry> {
        let entries = bridge.switch.entries(self.seconds()).into_iter();
        let entry = |entry: Entry| FdbEntry {
            bridge: bridge.name.clone(),
            mac: shown(bytes(entry.mac)),
            vlan: bridge.vlan_shown(entry.vlan),
            port: self.port_name(entry.port),
            kind: match entry.age {
                Some(_) => "learnt".into(),
                None => "static".into(),
            },
            age_seconds: entry.age,
        };
        entries.map(entry).collect()
    }

    /// The switch's clock.
    pub(super) fn seconds(&self) -> u32 {
        self.started.elapsed().as_secs() as u32
    }

    /// A port as `status` names it: a vif, or an uplink's interface.
    fn port_name(&self, port: PortId) -> String {
        let is_it = |service: &super::vif::Service| service.port_id == port;
        let mut vifs = self.vifs.iter();
        let vif = vifs.find(|(_, vif)| vif.service.as_ref().is_some_and(is_it));
        let mut uplinks = self.uplinks.iter();
        let uplink = uplinks.find(|uplink| uplink.port_id == port && !uplink.standby);
        vif.map(|(id, _)| id.to_string())
            .or(uplink.map(|uplink| uplink.ifname.clone()))
            .unwrap_or_else(|| format!("port {}", port.0))
    }

    /// The port of this name on `bridge`.
    fn port_named(&self, bridge: &Named, name: &str) -> Result<PortId, String> {
        let ports = bridge.switch.ports();
        let mut ports = ports.iter().copied();
        ports
            .find(|&port| self.port_name(port) == name)
            .ok_or_else(|| {
                format!(
                    "bridge {} has no port {name:?}: name a connected vif as 3/0, or its uplink",
                    bridge.name
                )
            })
    }
}

impl Named {
    /// The VLAN that an operator means by `typed`, as the forwarding database keeps it; 0 is frames without a tag.
    fn vlan_of(&self, typed: u16) -> u16 {
        match (typed, self.vlan) {
            (0, Some(vlan)) => vlan,
            (0, None) => NATIVE,
            (typed, _) => typed,
        }
    }

    /// A VLAN of the forwarding database as an operator reads it: where VLANs are not told apart, frames without a tag are in none.
    fn vlan_shown(&self, vlan: u16) -> u16 {
        match vlan {
            NATIVE if !self.switch.tells_vlans_apart() => 0,
            vlan => vlan,
        }
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let address = crate::vif::policy::parse_mac(text);
    address.ok_or_else(|| format!("{text:?} is not a unicast address as 00:16:3e:00:00:01"))
}

fn bytes(mac: u64) -> [u8; 6] {
    let [_, _, bytes @ ..] = mac.to_be_bytes();
    bytes
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
