//! What the toolstack's keys say of a vif: read when the vif is made, when its guest connects, and when a key changes.
use super::{Control, Error};
use crate::hypervisor::Hypervisor;
use crate::vif::bandwidth::Bandwidth;
use crate::vif::id::VifId;
use crate::vif::policy::{KEYS, Keys, Policy, Unhonoured};
use crate::vif::state::{Observation, State};
use std::time::Instant;
use tracing::{info, warn};
use xen::store::{StoreError, XenStore};

/// The guest for which keys are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// A guest that connects. Where a key cannot be honoured, it does not.
    Connects,
    /// A guest that is connected already.
    IsConnected,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Reads a vif's keys; the inner error is why the vif cannot be served as they ask.
    pub(super) fn read_policy(
        &mut self,
        id: VifId,
        guest: Guest,
    ) -> Result<Result<Policy, Unhonoured>, Error> {
        let keys = match self.read_keys(id)? {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error.into())),
        };
        let policy = match guest {
            Guest::Connects => Policy::of(&keys).map(|policy| (policy, None)),
            Guest::IsConnected => Policy::of_connected(&keys),
        };
        self.vif(id).keys = keys;
        let policy = policy.map(|(policy, left_out)| {
            if let Some(error) = left_out {
                warn!(vif = %id, "the guest is connected, and served without this: {error}");
            }
            policy
        });
        self.vif(id).policy = policy.clone().ok();
        Ok(policy)
    }

    fn read_keys(&mut self, id: VifId) -> Result<Result<Keys, StoreError>, Error> {
        let vif = self.vif(id);
        vif.keys_changed = false;
        let backend = vif.paths.backend.clone();
        match Keys::read(&mut self.store, &backend) {
            Err(StoreError::Io(error)) => Err(StoreError::Io(error).into()),
            keys => Ok(keys),
        }
    }

    /// Looks at a vif's keys again where one of them may have changed.
    pub(super) fn sample_policy(&mut self, id: VifId) -> Result<(), Error> {
        let Some(vif) = self.vifs.get(&id).filter(|vif| vif.keys_changed) else {
            return Ok(());
        };
        let (state, before) = (vif.state, vif.keys.clone());
        let Ok(keys) = self.read_keys(id)? else {
            return Ok(());
        };
        if keys == before {
            return Ok(());
        }
        let policy = Policy::of(&keys);
        self.vif(id).keys = keys;
        match (state, policy) {
            (State::InitWait { .. } | State::Refused(_), Err(error)) => {
                self.refuse(id, error.to_string(), true)
            }
            (State::InitWait { .. }, Ok(policy)) => {
                self.vif(id).policy = Some(policy);
                self.tell_network(id)?;
                self.clear_reason(id)
            }
            (State::Refused(_), Ok(_)) => {
                self.vif(id).dirty = true;
                self.observe(id, Observation::Retry).map(drop)
            }
            (State::Connected, Err(error)) => {
                self.remark(id, format!("served as before: {error}"));
                Ok(())
            }
            (State::Connected, Ok(policy)) => self.change_policy(id, policy),
            _ => Ok(()),
        }
    }

    /// Takes on the changed keys of a connected vif. Keys that count from the guest's next connection on only do not hold up the others.
    fn change_policy(&mut self, id: VifId, wanted: Policy) -> Result<(), Error> {
        let Some(before) = self.vif(id).policy.clone() else {
            return Ok(());
        };
        let late = [
            ("mac", before.mac != wanted.mac),
            ("bridge", before.bridge != wanted.bridge),
            ("vlan", before.vlan != wanted.vlan),
        ];
        let late: Vec<&str> = late
            .iter()
            .filter(|(_, late)| *late)
            .map(|(key, _)| *key)
            .collect();
        let policy = Policy {
            mac: before.mac,
            bridge: before.bridge.clone(),
            vlan: before.vlan.clone(),
            ..wanted
        };
        if policy != before {
            self.adopt(id, policy, before.rate)?;
        }
        if late.is_empty() {
            return self.clear_reason(id);
        }
        let late = late.join(" and ");
        self.remark(
            id,
            format!(
                "served as before: its new {late} counts from its next connection on (`netback disconnect {id}`)"
            ),
        );
        Ok(())
    }

    /// Holds a connected vif to a policy that differs from the one before in keys that count at once.
    fn adopt(&mut self, id: VifId, policy: Policy, rate: Option<Bandwidth>) -> Result<(), Error> {
        let vif = self.vif(id);
        if let Some(service) = &vif.service {
            if rate != policy.rate {
                service.limits.set_tx(policy.rate, Instant::now());
            }
            service.limits.set_mtu(policy.mtu);
        }
        if vif.may_log() {
            info!(vif = %id, rate = %shown(policy.rate), "the toolstack's keys have changed");
        }
        vif.policy = Some(policy);
        self.tell_network(id)?;
        self.renew_access();
        Ok(())
    }
}

/// A rate as the log has it.
fn shown(rate: Option<Bandwidth>) -> String {
    rate.map_or("unlimited".into(), |rate| rate.to_string())
}

/// Whether a node of a vif's directory is one of the keys that say how the vif is served; the directory itself stands for all.
pub(super) fn is_key(name: Option<&str>) -> bool {
    name.is_none_or(|name| KEYS.contains(&name))
}
