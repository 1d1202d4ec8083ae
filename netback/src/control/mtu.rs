//! The MTU that guests are told, and whether what is behind their bridge can be reached.
use super::uplinks::LinkState;
use super::vif::{Vif, broken};
use super::{Control, Error};
use crate::hypervisor::Hypervisor;
use crate::vif::handshake;
use crate::vif::id::VifId;
use std::sync::Arc;
use tracing::debug;
use xen::store::XenStore;
use xsk_bridge::switch::Bridge;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Writes what a guest may read of its network: the MTU into the guest's directory, where a hotplug script would write it, and whether the
    /// uplink has a link into our own.
    pub(super) fn tell_network(&mut self, id: VifId) -> Result<(), Error> {
        let Some(vif) = self.vifs.get(&id) else {
            return Ok(());
        };
        let Some(policy) = &vif.policy else {
            return Ok(());
        };
        let bridge = self.bridge_of(policy);
        let uplink = bridge.and_then(|bridge| self.uplink_of(&bridge.switch));
        let mtu = policy
            .mtu
            .or(uplink.map(super::uplinks::Uplink::usable_mtu));
        let carrier = uplink.is_none_or(|uplink| uplink.link == LinkState::Up);
        let paths = vif.paths.clone();
        let told = handshake::write_network(&mut self.store, &paths, mtu, carrier);
        if let Some(error) = broken(told)? {
            // Toolstacks other than libxl have no key that we may write the MTU to.
            debug!(vif = %id, "the guest is not told of its network: {error}");
        }
        Ok(())
    }

    /// Tells every guest of a switch what its MTU is now, and whether its uplink has a link.
    pub(super) fn tell_networks(&mut self, switch: &Arc<Bridge>) -> Result<(), Error> {
        let on_it = |vif: &Vif| {
            let bridge = vif
                .policy
                .as_ref()
                .and_then(|policy| self.bridge_of(policy));
            bridge.is_some_and(|bridge| Arc::ptr_eq(&bridge.switch, switch))
        };
        let ids = self.vifs.iter().filter(|(_, vif)| on_it(vif));
        let ids: Vec<VifId> = ids.map(|(id, _)| *id).collect();
        ids.into_iter().try_for_each(|id| self.tell_network(id))
    }
}
