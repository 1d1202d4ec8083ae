//! A vif as the control thread keeps it, and the driver of its state machine.
use super::bridges::Access;
use super::policy::Guest;
use super::queues::{Lasts, Obstacle};
use super::rate::Rate;
use super::retry::{Pauses, Retry};
use super::{Control, Error};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::QueueStats;
use crate::queue::limits::Limits;
use crate::vif::features::Features;
use crate::vif::handshake::{self, Paths, Refusal};
use crate::vif::id::VifId;
use crate::vif::multicast::Multicast;
use crate::vif::policy::{Keys, Policy};
use crate::vif::state::{self, Action, Frontend, Observation, State, World, Xenbus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};
use xen::store::{StoreError, Transaction, XenStore};
use xsk_bridge::switch::{Bridge, PortId};

/// How long InitWait is held: libxl waits to see exactly this state, and looks when its watch fires.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a Closed node is kept: libxl reads the state after its watch has fired, and complains where the node is gone by then;
/// it waits 10 s for that (tools/libs/light/libxl_device.c).
pub(super) const LINGER: Duration = Duration::from_secs(3);
/// Looks at one vif at once, and the pause between further ones: what a guest that writes all the time costs.
const LOOKS: (u32, Duration) = (20, Duration::from_millis(100));
/// Log lines about one vif at once, and the pause between further ones; reasons why it is not served have as many of their own.
const LINES: (u32, Duration) = (20, Duration::from_secs(5));
/// Vifs that are looked at before the control socket is served again: a look waits for xenstore.
const VIFS_A_TURN: usize = 8;
/// Between attempts at what is in the way for a moment.
const BRIEF: Pauses = Pauses {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(100),
};
/// Between attempts to write what xenstore refused.
const STORE: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
};
/// Steps after one look: a whole life is shorter, so more is a defect of ours.
const STEPS: usize = 10;

/// A vif.
pub struct Vif {
    /// Where it is in xenstore.
    pub paths: Paths,
    /// Where it is in its life.
    pub state: State,
    /// xenstore as last seen.
    pub world: World,
    /// The toolstack's keys as last read.
    pub keys: Keys,
    /// One of the toolstack's keys may have changed.
    pub keys_changed: bool,
    /// How the vif is served, once its guest has connected.
    pub policy: Option<Policy>,
    /// Why it is refused or disabled.
    pub reason: Option<String>,
    /// Its queues and port, from the hand-out to the last queue's return.
    pub service: Option<Service>,
    /// Something in xenstore may have changed.
    pub dirty: bool,
    /// Not looked at before this time.
    pub not_before: Option<Instant>,
    /// When InitWait was held long enough.
    pub settles: Option<Instant>,
    /// When a Closed node was kept long enough.
    lingers: Option<Instant>,
    /// What failed and may succeed later.
    retry: Retry,
    looks: Rate,
    lines: Rate,
    reasons: Rate,
}

/// A vif in service.
pub struct Service {
    /// Its port.
    pub port_id: PortId,
    /// Its bridge.
    pub bridge: Arc<Bridge>,
    /// What its port may do.
    pub(super) access: Access,
    /// What was negotiated.
    pub features: Features,
    /// The addresses it subscribed to.
    pub multicast: Arc<Multicast>,
    /// What it may send and receive.
    pub limits: Arc<Limits>,
    /// By number.
    pub queues: Vec<Queue>,
}

/// One queue in service.
pub struct Queue {
    /// Who serves it.
    pub worker: u8,
    /// What that worker counts.
    pub stats: Arc<QueueStats>,
    /// Handed out and not back.
    pub with_worker: bool,
}

impl Vif {
    fn new(paths: Paths, world: World, now: Instant) -> Self {
        Self {
            paths,
            state: State::Fresh,
            world,
            keys: Keys::default(),
            keys_changed: false,
            policy: None,
            reason: None,
            service: None,
            dirty: true,
            not_before: None,
            settles: None,
            lingers: None,
            retry: Retry::default(),
            looks: Rate::new(LOOKS.0, LOOKS.1, now),
            lines: Rate::new(LINES.0, LINES.1, now),
            reasons: Rate::new(LINES.0, LINES.1, now),
        }
    }

    /// Whether a line about what the vif does may be logged now.
    pub fn may_log(&mut self) -> bool {
        self.lines.take(Instant::now()).is_ok()
    }

    /// Whether a line about why the vif is not served may be logged now: lines about what it does have not used that up.
    fn may_log_reason(&mut self) -> bool {
        self.reasons.take(Instant::now()).is_ok()
    }

    /// When it has to be looked at without anything new: `None` for never.
    pub fn wakes(&self, now: Instant) -> Option<Instant> {
        let dirty = self.dirty.then(|| self.not_before.unwrap_or(now));
        [dirty, self.settles, self.lingers, self.retry.due()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Find every vif below our backend directory.
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
        // Those that are no longer there are noticed by a look.
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

    /// A node for `id` is or was there: take it on if it is new, look at it in any case.
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
                // The toolstack writes a vif in one transaction, so this is not one half made.
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

    /// What xenstore says of a vif; `None` where our own keys cannot be read, which the toolstack alone can bring about.
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
        // From the one after the last one on, so that each has its turn.
        let (after, before): (Vec<VifId>, Vec<VifId>) = self
            .vifs
            .iter()
            .filter_map(due)
            .partition(|id| Some(*id) > self.last_looked);
        for id in after.into_iter().chain(before).take(VIFS_A_TURN) {
            self.last_looked = Some(id);
            let Some(vif) = self.vifs.get_mut(&id) else {
                continue;
            };
            if vif.settles.is_some_and(|at| at <= now) {
                vif.settles = None;
                vif.dirty = true;
                self.observe(id, Observation::Settled)?;
            }
            let Some(vif) = self.vifs.get_mut(&id) else {
                continue;
            };
            if vif.lingers.is_some_and(|at| at <= now) {
                vif.lingers = None;
                vif.dirty = true;
                self.observe(id, Observation::Lingered)?;
            }
            let Some(vif) = self.vifs.get_mut(&id) else {
                continue;
            };
            if vif.retry.begin(now) {
                vif.dirty = true;
                self.observe(id, Observation::Retry)?;
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

    /// Look at xenstore and step until nothing more follows.
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

    /// Multicast control is dynamic: its frontend may ask for it, or no longer, at any time (netif.h).
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

    /// One step of a vif's life; true where it led to actions.
    pub(super) fn observe(&mut self, id: VifId, observation: Observation) -> Result<bool, Error> {
        let Some(vif) = self.vifs.get_mut(&id) else {
            return Ok(false);
        };
        let step = state::step(vif.state, observation);
        if step.state != vif.state {
            if vif.may_log() {
                info!(vif = %id, from = ?vif.state, to = ?step.state, frontend = %name(vif.world.frontend));
            }
            vif.state = step.state;
        }
        self.act_all(id, step.actions)
    }

    /// Carries actions out in order; true where one of them may have changed what xenstore says.
    fn act_all(&mut self, id: VifId, actions: Vec<Action>) -> Result<bool, Error> {
        let mut acted = false;
        for action in actions {
            acted |= match action {
                Action::Advertise => self.advertise(id)?,
                action => self.act(id, action).map(|()| true)?,
            };
        }
        Ok(acted)
    }

    /// Advertises what we offer; false where xenstore refuses that, until its turn comes again.
    fn advertise(&mut self, id: VifId) -> Result<bool, Error> {
        let (now, vif) = (Instant::now(), self.vif(id));
        if vif.retry.due().is_some() {
            return Ok(false);
        }
        let paths = vif.paths.clone();
        let obstacle = self.read_policy(id, Guest::Connects)?.err();
        // Before the guest is invited to connect, when it reads what is said here.
        self.tell_network(id)?;
        let max_queues = self.max_queues;
        let advertised =
            handshake::advertise(&mut self.store, &paths, max_queues, obstacle.as_ref());
        match broken(advertised)? {
            None => {
                let vif = self.vif(id);
                vif.settles = Some(now + SETTLE);
                (vif.retry, vif.reason) = (Retry::default(), None);
                if let Some(obstacle) = obstacle {
                    self.refuse(id, obstacle.to_string(), false)?;
                }
                self.observe(id, Observation::Advertised)?;
                Ok(true)
            }
            // The next look shows that the node is gone.
            Some(StoreError::Missing(_)) => Ok(true),
            Some(error) => {
                let reason = format!("cannot advertise: {error}{}", handshake::cure(&error));
                self.refuse(id, reason, false)?;
                self.vif(id).retry.failed(STORE, now);
                Ok(false)
            }
        }
    }

    fn act(&mut self, id: VifId, action: Action) -> Result<(), Error> {
        let paths = self.vif(id).paths.clone();
        match action {
            Action::Advertise => self.advertise(id).map(drop),
            Action::Write(state) => {
                let written = handshake::write_state(&mut self.store, &paths, state);
                self.written(id, "write its state", written)
            }
            Action::Connect => self.bring_up(id, false),
            Action::TakeOver => self.bring_up(id, true),
            Action::Leave => {
                if self.take_back(id) {
                    self.end_service(id);
                    self.observe(id, Observation::Left)?;
                }
                Ok(())
            }
            Action::Linger => {
                self.vif(id).lingers = Some(Instant::now() + LINGER);
                Ok(())
            }
            Action::RemoveNode => {
                let removed = handshake::remove_node(&mut self.store, &paths);
                self.written(id, "remove its node", removed)
            }
            Action::Forget => self.forget(id),
        }
    }

    /// Connect or take over, and go on with how it went.
    fn bring_up(&mut self, id: VifId, take_over: bool) -> Result<(), Error> {
        match self.connect(id, take_over)? {
            Ok(()) => {
                self.vif(id).retry = Retry::default();
                self.clear_reason(id)?;
                self.observe(id, Observation::Connected)?;
            }
            Err(obstacle) if obstacle.lasts == Lasts::Briefly => {
                self.vif(id).retry.failed(BRIEF, Instant::now());
            }
            Err(Obstacle { reason, lasts }) => {
                let frontend = match self.vif(id).world.frontend {
                    Frontend::Is(state) => state,
                    Frontend::Gone => Xenbus::Unknown,
                };
                let tell = !take_over || lasts == Lasts::UntilReconnected;
                self.refuse(id, reason, tell)?;
                self.observe(id, Observation::Refused(frontend))?;
                if lasts == Lasts::WhileStoreRefuses {
                    self.vif(id).retry.failed(STORE, Instant::now());
                }
            }
        }
        Ok(())
    }

    /// Keep the reason why a vif is not served, for `status`, the log and (`tell`) xenstore.
    pub(super) fn refuse(&mut self, id: VifId, reason: String, tell: bool) -> Result<(), Error> {
        let vif = self.vif(id);
        let news = vif.reason.as_deref() != Some(&reason);
        if news && vif.may_log_reason() {
            warn!(vif = %id, "not served: {reason}");
        }
        vif.reason = Some(reason.clone());
        if news && tell {
            self.tell(id, Some(&reason))?;
        }
        Ok(())
    }

    /// Keeps what an operator should know of a vif that is served, for `status` and the log.
    pub(super) fn remark(&mut self, id: VifId, reason: String) {
        let vif = self.vif(id);
        if vif.reason.as_deref() != Some(&reason) && vif.may_log_reason() {
            warn!(vif = %id, "{reason}");
        }
        vif.reason = Some(reason);
    }

    /// Forgets why the vif is not served, and says so in xenstore.
    pub(super) fn clear_reason(&mut self, id: VifId) -> Result<(), Error> {
        match self.vif(id).reason.take() {
            Some(_) => self.tell(id, None),
            None => Ok(()),
        }
    }

    fn tell(&mut self, id: VifId, reason: Option<&str>) -> Result<(), Error> {
        let paths = self.vif(id).paths.clone();
        let written = handshake::write_reason(&mut self.store, &paths, reason);
        self.written(id, "write the reason", written)
    }

    /// What xenstore refused a vif is that vif's matter: what its state is shows at the next look. A broken stream is everybody's.
    fn written(
        &mut self,
        id: VifId,
        what: &str,
        result: Result<(), StoreError>,
    ) -> Result<(), Error> {
        match broken(result)? {
            Some(StoreError::Missing(_)) | None => {}
            Some(error) => {
                if self.vif(id).may_log() {
                    warn!(vif = %id, "cannot {what}: {error}");
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, id: VifId) -> Result<(), Error> {
        if self.vifs.remove(&id).is_none() {
            return Ok(());
        }
        info!(vif = %id, "gone");
        // There is one where a predecessor served it and it went while nobody did.
        self.remove_file(id);
        // Another of the same name may be there already.
        self.news.insert(id);
        Ok(())
    }
}

/// A broken stream apart from what xenstore refuses.
pub(super) fn broken(result: Result<(), StoreError>) -> Result<Option<StoreError>, Error> {
    match result {
        Ok(()) => Ok(None),
        Err(StoreError::Io(error)) => Err(StoreError::Io(error).into()),
        Err(error) => Ok(Some(error)),
    }
}

/// The frontend's state in a word.
pub fn name(frontend: Frontend) -> String {
    match frontend {
        Frontend::Gone => "Gone".into(),
        Frontend::Is(state) => state.to_string(),
    }
}
