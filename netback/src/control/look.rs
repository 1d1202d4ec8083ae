//! Vifs found in xenstore, and looked at as often as their guests may make us look.
use super::vif::{Vif, name};
use super::{Control, Error};
use crate::hypervisor::Hypervisor;
use crate::vif::handshake::{self, Paths, Refusal};
use crate::vif::id::VifId;
use crate::vif::state::{self, Observation, State, World};
use std::time::Instant;
use tracing::{debug, info, warn};
use xen::store::{StoreError, Transaction, XenStore};

/// Vifs that are looked at before the control socket is served again: a look waits for xenstore.
const VIFS_A_TURN: usize = 8;
/// Steps after one look: a whole life is shorter, so more is a defect of ours.
const STEPS: usize = 10;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Finds every vif below our backend directory.
    pub(super) fn scan(&mut self) -> Result<(), Error> {
        let root = self.root.clone();
        let mut found = Vec::new();
        for domid in self.children(&root)? {
            for devid in self.children(&format!("{root}/{domid}"))? {
                found.extend(handshake::parse_id(&domid, &devid));
            }
        }
        for id in &found {
            self.expect_vlans(&format!("{root}/{id}"))?;
        }
        for id in found {
            self.found(id)?;
        }
        // A look notices which of them are no longer there.
        for vif in self.vifs.values_mut() {
            (vif.dirty, vif.keys_changed) = (true, true);
        }
        Ok(())
    }

    fn children(&mut self, path: &str) -> Result<Vec<String>, Error> {
        match self.store.directory(Transaction::NONE, path) {
            Ok(children) => Ok(children),
            Err(StoreError::Io(error)) => Err(StoreError::Io(error).into()),
            Err(StoreError::Missing(_)) => Ok(Vec::new()),
            Err(error) => {
                warn!("{error}");
                Ok(Vec::new())
            }
        }
    }

    /// Takes note that a node for `id` is or was there: a new vif is taken on, and every one is looked at.
    pub(super) fn found(&mut self, id: VifId) -> Result<(), Error> {
        if let Some(vif) = self.vifs.get_mut(&id) {
            vif.dirty = true;
            return Ok(());
        }
        let backend = format!("{}/{id}", self.root);
        let paths = match handshake::paths(&mut self.store, &backend, id) {
            Ok(Some(paths)) => paths,
            Ok(None) => return Ok(()),
            Err(Refusal::Store(StoreError::Io(error))) => return Err(StoreError::Io(error).into()),
            Err(refusal) => {
                // The toolstack writes a vif in one transaction, so this is no vif half made.
                debug!(vif = %id, "not taken on: {refusal}");
                return Ok(());
            }
        };
        let Some(world) = self.world(id, &paths)? else {
            return Ok(());
        };
        let first = state::begin(world);
        let mut vif = Vif::new(paths, world, Instant::now());
        vif.state = first.state;
        self.vifs.insert(id, vif);
        info!(vif = %id, frontend = %name(world.frontend), "found");
        self.act_all(id, first.actions).map(drop)
    }

    /// Reads what xenstore says of a vif. `None`: our own keys cannot be read, which the toolstack alone can bring about.
    fn world(&mut self, id: VifId, paths: &Paths) -> Result<Option<World>, Error> {
        let last = self.vifs.get(&id).map(|vif| vif.world.frontend);
        match handshake::look(&mut self.store, paths, last) {
            Ok(world) => Ok(Some(world)),
            Err(StoreError::Io(error)) => Err(StoreError::Io(error).into()),
            Err(error) => {
                if self.vifs.get_mut(&id).is_none_or(Vif::may_log) {
                    warn!(vif = %id, "{error}");
                }
                Ok(None)
            }
        }
    }

    /// Looks at vifs that have news, each as often as its guest may make us look, and a few at once.
    pub(super) fn look_at_news(&mut self) -> Result<(), Error> {
        self.end_trial();
        let now = Instant::now();
        let due = |(id, vif): (&VifId, &Vif)| vif.wakes(now).filter(|at| *at <= now).map(|_| *id);
        // From the vif behind the last one on, so that each has its turn.
        let (after, before): (Vec<VifId>, Vec<VifId>) = self
            .vifs
            .iter()
            .filter_map(due)
            .partition(|id| Some(*id) > self.last_looked);
        for id in after.into_iter().chain(before).take(VIFS_A_TURN) {
            self.last_looked = Some(id);
            let due = self.vifs.get_mut(&id).map(|vif| vif.take_due(now));
            for observation in due.into_iter().flatten().flatten() {
                self.observe(id, observation)?;
            }
            let Some(vif) = self.vifs.get_mut(&id) else {
                continue;
            };
            match vif.looks.take(now) {
                Err(later) => vif.not_before = Some(later),
                Ok(()) => {
                    (vif.dirty, vif.not_before) = (false, None);
                    self.look(id)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at what xenstore says of the vif and steps until nothing more follows.
    fn look(&mut self, id: VifId) -> Result<(), Error> {
        for _ in 0..STEPS {
            let Some(paths) = self.vifs.get(&id).map(|vif| vif.paths.clone()) else {
                return Ok(());
            };
            let Some(world) = self.world(id, &paths)? else {
                return Ok(());
            };
            let before = self.vif(id).state;
            self.vif(id).world = world;
            let acted = self.observe(id, Observation::World(world))?;
            if !acted && self.vifs.get(&id).is_none_or(|vif| vif.state == before) {
                self.sample_multicast(id)?;
                return self.sample_policy(id);
            }
        }
        warn!(vif = %id, "its state does not come to rest: looked at again later");
        Ok(())
    }

    /// Reads whether the guest wants its multicast filtered, which a frontend may change at any time (netif.h).
    fn sample_multicast(&mut self, id: VifId) -> Result<(), Error> {
        let Some(vif) = self.vifs.get_mut(&id) else {
            return Ok(());
        };
        let (State::Connected, Some(service)) = (vif.state, &mut vif.service) else {
            return Ok(());
        };
        match handshake::multicast_control(&mut self.store, &vif.paths) {
            Ok(wanted) if wanted != service.features.multicast_control => {
                service.features.multicast_control = wanted;
                service.multicast.set_filters(wanted);
                if vif.may_log() {
                    info!(vif = %id, filtered = wanted, "multicast");
                }
            }
            Ok(_) => {}
            Err(Refusal::Store(StoreError::Io(error))) => return Err(StoreError::Io(error).into()),
            Err(refusal) => {
                if vif.may_log() {
                    warn!(vif = %id, "multicast is filtered as before: {refusal}");
                }
            }
        }
        Ok(())
    }
}
