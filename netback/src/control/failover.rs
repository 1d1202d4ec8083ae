//! A bridge with two uplinks: one carries its frames, and the other takes over once the first has no link.
use super::Control;
use super::uplinks::{LinkState, workers_of};
use crate::hypervisor::Hypervisor;
use crate::path::ports::ServedBy;
use crate::worker::messages::ToWorker;
use std::sync::Arc;
use tracing::warn;
use xen::store::XenStore;
use xsk_bridge::announce::announcement;
use xsk_bridge::switch::vlan::{LAST, NATIVE, Vlans};
use xsk_bridge::switch::{Bridge, PortId};

/// Addresses announced at most: as many frames as an uplink has room for beyond its ring.
const ANNOUNCED: usize = crate::bounds::OUTBOX;
/// VLANs in which one guest is announced at most, so that a guest with all of them leaves room for the others.
const VLANS: usize = 16;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Has the backup uplink carry a switch's frames where the uplink that carries them has no link and the backup has. Once the link is
    /// back nothing changes: a link that comes and goes would cost frames each time.
    pub(super) fn fail_over(&mut self, switch: &Arc<Bridge>) {
        let on_it = |n: &usize| Arc::ptr_eq(&self.uplinks[*n].switch, switch);
        let mut there = (0..self.uplinks.len()).filter(on_it);
        let (Some(first), Some(second)) = (there.next(), there.next()) else {
            return;
        };
        let (active, other) = match self.uplinks[first].standby {
            true => (second, first),
            false => (first, second),
        };
        let is_up = |n: usize| self.uplinks[n].link == LinkState::Up;
        if is_up(active) || !is_up(other) {
            return;
        }
        self.uplinks[active].standby = true;
        self.uplinks[other].standby = false;
        let (down, up) = (&self.uplinks[active], &self.uplinks[other]);
        warn!(
            "uplink {} has no link: {} takes over",
            down.ifname, up.ifname
        );
        let (port_id, index, place) = (up.port_id, up.index, workers_of(&up.queues));
        self.pool
            .send_all(|| ToWorker::SwitchUplink(port_id, index));
        self.pool
            .send_all(|| ToWorker::SetPort(port_id, ServedBy::Uplink(place.clone())));
        self.announce_guests(switch, port_id, place[0]);
    }

    /// Tells the network behind the uplink where the switch's guests and host ports, and whoever is behind them, are now, in each of
    /// their VLANs.
    fn announce_guests(&mut self, switch: &Arc<Bridge>, port_id: PortId, worker: u8) {
        let mut addresses = Vec::new();
        let mut ports = Vec::new();
        for vif in self.vifs.values() {
            let (Some(service), Some(policy)) = (&vif.service, &vif.policy) else {
                continue;
            };
            if Arc::ptr_eq(&service.bridge, switch) {
                let vlans = vlans(service.access.rules.vlans.as_ref());
                addresses.extend(vlans.map(|vlan| (policy.mac, vlan)));
                ports.push(service.port_id);
            }
        }
        let bridges = self.bridges.iter();
        for bridge in bridges.filter(|bridge| Arc::ptr_eq(&bridge.switch, switch)) {
            let mut hosts = self.hosts.iter();
            if let Some(host) = hosts.find(|host| host.ifname == bridge.name) {
                addresses.push((host.mac, bridge.vlan.unwrap_or(NATIVE)));
                ports.push(host.port_id);
            }
        }
        for entry in switch.entries(self.seconds()) {
            let [_, _, mac @ ..] = entry.mac.to_be_bytes();
            if ports.contains(&entry.port) {
                addresses.push((mac, entry.vlan));
            }
        }
        let untagged = |vlan| if vlan == NATIVE { 0 } else { vlan };
        let frame = |(mac, vlan)| announcement(mac, untagged(vlan));
        let frames = addresses.into_iter().take(ANNOUNCED).map(frame).collect();
        self.pool.send(worker, ToWorker::Announce(port_id, frames));
    }
}

/// The VLANs in which a guest is announced: those that it is in, up to [`VLANS`].
fn vlans(vlans: Option<&Vlans>) -> impl Iterator<Item = u16> {
    let is_in =
        move |vlan: &u16| vlans.map_or(*vlan == NATIVE, |vlans| vlans.form(*vlan).is_some());
    (NATIVE..=LAST).filter(is_in).take(VLANS)
}
