//! What xenstore and the workers say, and what follows for vifs.
use super::{BACKEND, Control, Error};
use crate::hypervisor::Hypervisor;
use crate::vif::handshake;
use crate::vif::state::Observation;
use crate::worker::messages::FromWorker;
use xen::store::{WatchEvent, XenStore};

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// A watch of ours has fired.
    pub(super) fn fired(&mut self, event: &WatchEvent) -> Result<(), Error> {
        if event.token != BACKEND {
            // A frontend's directory: its token names the vif.
            if let Some(id) = event.token.strip_prefix('f').and_then(|id| id.parse().ok())
                && let Some(vif) = self.vifs.get_mut(&id)
            {
                vif.dirty = true;
            }
            return Ok(());
        }
        let below = event.path.strip_prefix(&*self.root).unwrap_or("");
        let mut parts = below.split('/').skip(1);
        match (parts.next(), parts.next()) {
            (Some(domid), Some(devid)) => match handshake::parse_id(domid, devid) {
                Some(id) => self.found(id),
                None => Ok(()),
            },
            _ => self.scan(),
        }
    }

    /// A worker has answered, or found a rogue guest.
    pub(super) fn heard(&mut self, worker: u8, message: FromWorker<H>) -> Result<(), Error> {
        let last = match message {
            // One that was rogue before is back already.
            FromWorker::Removed { remains: None, .. } => None,
            FromWorker::Removed {
                id,
                remains: Some(remains),
            } => self.came_back(worker, id, remains).then_some(id.vif),
            FromWorker::Rogue {
                id,
                reason,
                remains,
            } => {
                let last = self.came_back(worker, id, remains);
                let vif = id.vif;
                if self.vifs.contains_key(&vif) {
                    self.refuse(
                        vif,
                        format!(
                            "the guest broke the protocol on queue {}: {reason}",
                            id.queue
                        ),
                        false,
                    )?;
                    self.observe(vif, Observation::Rogue)?;
                }
                // Where no other queue was out, `Rogue` has seen to the rest.
                let there = self.vifs.get(&vif);
                let leaving = there.is_some_and(|vif| vif.state.is_leaving());
                (last && leaving).then_some(vif)
            }
            FromWorker::Stopped => None,
        };
        if let Some(id) = last {
            self.end_service(id);
            self.observe(id, Observation::Left)?;
            self.vifs.entry(id).and_modify(|vif| vif.dirty = true);
        }
        Ok(())
    }
}
