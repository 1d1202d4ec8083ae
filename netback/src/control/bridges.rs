//! Bridges by name, and what a guest's port may do on one.
use super::vif::Service;
use super::{Control, Error};
use crate::config;
use crate::hypervisor::Hypervisor;
use crate::vif::id::VifId;
use crate::vif::policy::{self, Policy};
use crate::worker::messages::ToWorker;
use std::sync::Arc;
use tracing::info;
use xen::store::{StoreError, XenStore};
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::vlan::Vlans;
use xsk_bridge::switch::{Bridge, PortKind, Rules};

/// A `[[bridge]]` of the configuration: a name for a switch, or for one VLAN of the switch behind a network card.
pub(super) struct Named {
    pub name: String,
    pub uplink: Option<String>,
    /// The VLAN that the name stands for; `None`: frames without a tag, and those of guests that say their VLANs themselves.
    pub vlan: Option<u16>,
    /// The switch, which all bridges with the same uplink share.
    pub switch: Arc<Bridge>,
}

/// What a guest's port may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub rules: Rules,
    pub filter: Option<Arc<Filter>>,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// The switch behind an uplink that another bridge has.
    pub(super) fn switch_behind(&self, uplink: &str) -> Option<Arc<Bridge>> {
        let mut bridges = self.bridges.iter();
        let bridge = bridges.find(|bridge| bridge.uplink.as_deref() == Some(uplink))?;
        Some(bridge.switch.clone())
    }

    /// Keeps a bridge that is ready.
    pub(super) fn keep_bridge(&mut self, wanted: &config::Bridge, switch: Arc<Bridge>) {
        if wanted.vlan.is_some() {
            // From now on, so that no guest without a VLAN is in this one before the first guest that belongs to it.
            switch.tell_vlans_apart();
        }
        self.bridges.push(Named {
            name: wanted.name.clone(),
            uplink: wanted.uplink.clone(),
            vlan: wanted.vlan,
            switch,
        });
    }

    /// Has the switch of a vif with a key `vlan` tell VLANs apart from now on. This is called for every vif that is there before the first one
    /// is served, and does not end with the vif: its neighbours are never in its VLAN, not even while the vif is away.
    pub(super) fn expect_vlans(&mut self, backend: &str) -> Result<(), Error> {
        let name = match policy::bridge_with_vlan(&mut self.store, backend) {
            Err(StoreError::Io(error)) => return Err(StoreError::Io(error).into()),
            name => name.unwrap_or_default(),
        };
        if let Some(bridge) = name.and_then(|name| self.named_bridge(&name)) {
            bridge.switch.tell_vlans_apart();
        }
        Ok(())
    }

    /// The bridge that a vif asks for; `None`: there is none of that name.
    pub(super) fn bridge_of(&self, policy: &Policy) -> Option<&Named> {
        self.named_bridge(&policy.bridge)
    }

    fn named_bridge(&self, name: &str) -> Option<&Named> {
        match (name, &*self.bridges) {
            ("", [only]) => Some(only),
            (name, bridges) => bridges.iter().find(|bridge| bridge.name == name),
        }
    }

    /// The bridge that a vif asks for, and what the vif may do there; the error is one line.
    pub(super) fn choose_bridge(&self, policy: &Policy) -> Result<(Arc<Bridge>, Access), String> {
        let Some(bridge) = self.bridge_of(policy) else {
            let names: Vec<&str> = self.bridges.iter().map(|bridge| &*bridge.name).collect();
            let configured = match &names[..] {
                [] => "no bridge is configured".into(),
                names => format!("configured: {}", names.join(", ")),
            };
            return Err(format!(
                "there is no bridge {:?} ({configured}); add a [[bridge]] of this name and reload netback",
                policy.bridge
            ));
        };
        let vlans = vlans(bridge, policy.vlan.as_ref())?;
        if vlans.is_some() {
            bridge.switch.tell_vlans_apart();
        }
        let access = self.access(policy, vlans);
        Ok((bridge.switch.clone(), access))
    }

    fn access(&self, policy: &Policy, vlans: Option<Vlans>) -> Access {
        let vif = &self.config.vif;
        let addresses = policy.ip.as_ref().or(vif.ip.as_ref());
        let filter = Filter::new(policy.mac, vif.mac_lock, addresses.cloned());
        Access {
            rules: Rules {
                vlans,
                isolated: vif.isolated,
            },
            filter: filter.map(Arc::new),
        }
    }

    /// Holds every guest that is served to what it may do now that the configuration has changed.
    pub(super) fn renew_access(&mut self) {
        let ids: Vec<VifId> = self.vifs.keys().copied().collect();
        for id in ids {
            let vif = &self.vifs[&id];
            let (Some(policy), Some(service)) = (&vif.policy, &vif.service) else {
                continue;
            };
            // The guest stays in the VLANs that it was connected to.
            let access = self.access(policy, service.access.rules.vlans.clone());
            if access == service.access {
                continue;
            }
            info!(vif = %id, "what the guest may send has changed");
            let mac = policy.mac;
            let Service {
                port_id, bridge, ..
            } = service;
            bridge.add_port_with(*port_id, PortKind::Guest(mac), &access.rules);
            let (port_id, filter) = (*port_id, access.filter.clone());
            self.pool
                .send_all(|| ToWorker::SetFilter(port_id, filter.clone()));
            if let Some(service) = &mut self.vif(id).service {
                service.access = access;
            }
        }
    }
}

/// The VLANs of a guest on `bridge`, by its key `vlan` if it has one.
fn vlans(bridge: &Named, key: Option<&Vlans>) -> Result<Option<Vlans>, String> {
    let own = bridge.vlan.map(Vlans::access);
    match (own, key) {
        (None, key) => Ok(key.cloned()),
        (Some(own), key) if key.is_none_or(|key| *key == own) => Ok(Some(own)),
        (Some(own), key) => Err(format!(
            "vlan is {:?}, and bridge {:?} is VLAN {own}: take vlan= out, or name a bridge without a vlan of its own",
            key.map(Vlans::to_string).unwrap_or_default(),
            bridge.name
        )),
    }
}
