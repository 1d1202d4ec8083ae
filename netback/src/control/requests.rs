//! Requests of the control socket, carried out.
use super::Control;
use super::socket::{self, Request};
use crate::hypervisor::Hypervisor;
use crate::vif::id::VifId;
use crate::vif::state::Observation;
use std::time::Instant;
use xen::store::XenStore;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Serves the control socket's clients, as far as none has to be waited for.
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
            Request::Disconnect { vif } => {
                let ids: Vec<VifId> = match vif {
                    None => self.vifs.keys().copied().collect(),
                    Some(name) => match name.parse() {
                        Ok(id) if self.vifs.contains_key(&id) => vec![id],
                        Ok(id) => {
                            return socket::refused(format!(
                                "there is no vif {id}: `netback status` lists them"
                            ));
                        }
                        Err(reason) => return socket::refused(reason),
                    },
                };
                for &id in &ids {
                    if let Err(error) = self.observe(id, Observation::Disconnect) {
                        return socket::refused(error.to_string());
                    }
                    self.vifs.entry(id).and_modify(|vif| vif.dirty = true);
                }
                serde_json::json!({ "disconnected": ids.iter().map(VifId::to_string).collect::<Vec<_>>() })
            }
        }
    }
}
