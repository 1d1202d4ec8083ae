//! Events of xenstore and answers of the workers, and what follows for vifs.
use super::policy::is_key;
use super::{Control, DOMAINS, Error};
use crate::hypervisor::Hypervisor;
use crate::vif::handshake;
use crate::vif::id::VifId;
use crate::vif::state::Observation;
use crate::worker::messages::FromWorker;
use xen::grant::DomId;
use xen::store::{WatchEvent, XenStore};

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Our watch has fired: for a node in our backend directory, for one of a frontend's, or for all that there is.
    pub(super) fn fired(&mut self, event: &WatchEvent) -> Result<(), Error> {
        let path = &*event.path;
        if let Some(below) = below(path, &self.root) {
            let mut parts = below.split('/').skip(1);
            return match (parts.next(), parts.next()) {
                (Some(domid), Some(devid)) => match handshake::parse_id(domid, devid) {
                    Some(id) => {
                        if is_key(parts.next())
                            && let Some(vif) = self.vifs.get_mut(&id)
                        {
                            vif.keys_changed = true;
                        }
                        self.found(id)
                    }
                    None => Ok(()),
                },
                _ => self.scan(),
            };
        }
        if below(&self.root, path).is_some() {
            return self.scan();
        }
        let domid = below(path, DOMAINS)
            .and_then(|below| below.split('/').nth(1))
            .and_then(|domid| domid.parse().ok());
        let Some(domid) = domid.map(DomId) else {
            return Ok(());
        };
        let id = |devid| VifId { domid, devid };
        for vif in self.vifs.range_mut(id(0)..=id(u32::MAX)) {
            let (_, vif) = vif;
            let frontend = &vif.paths.frontend;
            vif.dirty |= below(path, frontend).or(below(frontend, path)).is_some();
        }
        Ok(())
    }

    /// A worker has answered, or found a rogue guest.
    pub(super) fn heard(&mut self, worker: u8, message: FromWorker<H>) -> Result<(), Error> {
        let last = match message {
            // A queue that was rogue before is back already.
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
                // Where no other queue was with a worker, `Rogue` has seen to the rest.
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

/// The rest of `path` behind the path of a node above it; empty for that node itself.
fn below<'a>(path: &'a str, node: &str) -> Option<&'a str> {
    path.strip_prefix(node)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
