//! Requests of the control socket, carried out.
use super::Control;
use super::socket::{self, Request};
use crate::hypervisor::Hypervisor;
use crate::vif::id::{QueueId, VifId};
use crate::vif::state::Observation;
use crate::worker::messages::ToWorker;
use serde_json::json;
use std::time::Instant;
use xen::store::XenStore;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Serves the clients of the control socket as far as that needs no waiting.
    pub(super) fn serve_clients(&mut self) {
        let now = Instant::now();
        self.clients.accept(now);
        while let Some((client, request)) = self.clients.next_request() {
            let answer = request.map_or_else(socket::refused, |request| self.answer(request));
            self.clients.answer(client, &answer);
        }
        self.clients.write(now);
    }

    /// Carries out a request of the control socket.
    pub(super) fn answer(&mut self, request: Request) -> serde_json::Value {
        match request {
            Request::Status => serde_json::to_value(self.status())
                .unwrap_or_else(|error| socket::refused(error.to_string())),
            Request::Vif { vif } => match self.named(&vif) {
                Ok(id) => {
                    let mut vifs = self.status().vifs.into_iter();
                    let vif = vifs.find(|vif| vif.vif == id.to_string());
                    json!(vif)
                }
                Err(reason) => socket::refused(reason),
            },
            Request::Kick { vif } => match self.named(&vif).and_then(|id| self.kick(id)) {
                Ok(queues) => json!({ "kicked": vif, "queues": queues }),
                Err(reason) => socket::refused(reason),
            },
            Request::Fdb { bridge, change } => match self.change_fdb(bridge.as_deref(), &change) {
                Ok(entries) => json!({ "fdb": entries }),
                Err(reason) => socket::refused(reason),
            },
            Request::Disconnect { vif } => {
                let ids: Vec<VifId> = match vif {
                    None => self.vifs.keys().copied().collect(),
                    Some(name) => match self.named(&name) {
                        Ok(id) => vec![id],
                        Err(reason) => return socket::refused(reason),
                    },
                };
                for &id in &ids {
                    if let Err(error) = self.observe(id, Observation::Disconnect) {
                        return socket::refused(error.to_string());
                    }
                    self.vifs.entry(id).and_modify(|vif| vif.dirty = true);
                }
                json!({ "disconnected": ids.iter().map(VifId::to_string).collect::<Vec<_>>() })
            }
        }
    }

    /// The vif of this name; the error is one line.
    pub(super) fn named(&self, name: &str) -> Result<VifId, String> {
        match name.parse() {
            Ok(id) if self.vifs.contains_key(&id) => Ok(id),
            Ok(id) => Err(format!("there is no vif {id}: `netback status` lists them")),
            Err(reason) => Err(reason),
        }
    }

    /// Has the workers of a vif look at its rings and notify its guest. Returns the number of queues.
    fn kick(&mut self, id: VifId) -> Result<usize, String> {
        let service = self.vifs[&id].service.as_ref();
        let service = service.ok_or_else(|| {
            format!("vif {id} has no queues: it is not connected, `netback vif show {id}` says why")
        })?;
        for (number, queue) in service.queues.iter().enumerate() {
            let queue_id = QueueId {
                vif: id,
                queue: number as u16,
            };
            self.pool.send(queue.worker, ToWorker::Kick(queue_id));
        }
        Ok(service.queues.len())
    }
}
