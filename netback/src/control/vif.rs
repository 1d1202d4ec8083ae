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
use crate::vif::handshake::{self, Paths};
use crate::vif::id::VifId;
use crate::vif::multicast::Multicast;
use crate::vif::policy::{Keys, Policy};
use crate::vif::state::{self, Action, Frontend, Observation, State, World, Xenbus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use xen::store::{StoreError, XenStore};
use xsk_bridge::switch::{Bridge, PortId};

/// How long the state InitWait is held: libxl waits to see exactly this state, and looks when its watch fires.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a node in the state Closed is kept: libxl reads the state after its watch has fired, and complains where the node is gone by
/// then. libxl waits 10 s for the state (tools/libs/light/libxl_device.c).
pub(super) const LINGER: Duration = Duration::from_secs(3);
/// Looks at one vif that may follow each other at once, and the pause between further ones: what a guest that writes all the time costs.
const LOOKS: (u32, Duration) = (20, Duration::from_millis(100));
/// Log lines about one vif that may follow each other at once, and the pause between further ones; lines that say why it is not served are
/// as many beside these.
const LINES: (u32, Duration) = (20, Duration::from_secs(5));
/// Pauses between attempts where an obstacle lasts for a moment.
const BRIEF: Pauses = Pauses {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(100),
};
/// Pauses between attempts to write what xenstore refused.
const STORE: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
};

/// A vif.
pub struct Vif {
    /// Where the vif is in xenstore.
    pub paths: Paths,
    /// Where the vif is in its life.
    pub state: State,
    /// What xenstore said of the vif when it was last looked at.
    pub world: World,
    /// The toolstack's keys as last read.
    pub keys: Keys,
    /// One of the toolstack's keys may have changed.
    pub keys_changed: bool,
    /// How the vif is served, once its guest has connected.
    pub policy: Option<Policy>,
    /// Why the vif is refused or disabled.
    pub reason: Option<String>,
    /// The vif's queues and port, from when the queues are handed to workers until the last one is back.
    pub service: Option<Service>,
    /// Something in xenstore may have changed.
    pub dirty: bool,
    /// The vif is not looked at before this time.
    pub not_before: Option<Instant>,
    /// When the state InitWait was held long enough.
    pub settles: Option<Instant>,
    /// When the node, whose state is Closed, was kept long enough.
    pub(super) lingers: Option<Instant>,
    /// When to try again what failed.
    pub(super) retry: Retry,
    /// How often the vif may be looked at.
    pub(super) looks: Rate,
    /// How often the log may tell what the vif does.
    lines: Rate,
    /// How often the log may tell why the vif is not served.
    reasons: Rate,
}

/// A vif in service.
pub struct Service {
    /// The vif's port.
    pub port_id: PortId,
    /// The bridge that the port is on.
    pub bridge: Arc<Bridge>,
    /// What the port may do.
    pub(super) access: Access,
    /// What was negotiated with the frontend.
    pub features: Features,
    /// The multicast addresses that the guest subscribed to.
    pub multicast: Arc<Multicast>,
    /// What the guest may send and receive.
    pub limits: Arc<Limits>,
    /// The vif's queues, by number.
    pub queues: Vec<Queue>,
}

/// A queue of a vif that is in service.
pub struct Queue {
    /// The worker that serves the queue.
    pub worker: u8,
    /// What that worker counts.
    pub stats: Arc<QueueStats>,
    /// The worker has the queue: it was handed to it, and is not back.
    pub with_worker: bool,
}

impl Vif {
    /// A vif that was just found.
    pub(super) fn new(paths: Paths, world: World, now: Instant) -> Self {
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

    /// What has become due by now, each once. The vif is looked at afterwards.
    pub(super) fn take_due(&mut self, now: Instant) -> [Option<Observation>; 3] {
        let is_due = |at: &mut Instant| *at <= now;
        let settled = self.settles.take_if(is_due).map(|_| Observation::Settled);
        let lingered = self.lingers.take_if(is_due).map(|_| Observation::Lingered);
        let retried = self.retry.begin(now).then_some(Observation::Retry);
        let due = [settled, lingered, retried];
        self.dirty |= due.iter().any(Option::is_some);
        due
    }

    /// When the vif has to be looked at again, whether anything is new or not. `None`: never.
    pub fn wakes(&self, now: Instant) -> Option<Instant> {
        let dirty = self.dirty.then(|| self.not_before.unwrap_or(now));
        [dirty, self.settles, self.lingers, self.retry.due()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Takes one step of a vif's life. Returns whether it led to actions.
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

    /// Carries actions out in order. Returns whether one of them may have changed what xenstore says.
    pub(super) fn act_all(&mut self, id: VifId, actions: Vec<Action>) -> Result<bool, Error> {
        let mut acted = false;
        for action in actions {
            acted |= match action {
                Action::Advertise => self.advertise(id)?,
                action => self.act(id, action).map(|()| true)?,
            };
        }
        Ok(acted)
    }

    /// Advertises what we offer. Returns false where xenstore refuses that: it is tried again later.
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

    /// Connects the vif, or takes it over, and steps on by what came of that.
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

    /// Keeps the reason why a vif is not served, for `status`, for the log and, where `tell` says so, for xenstore.
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

    /// Forgets why the vif is not served, in xenstore too.
    pub(super) fn clear_reason(&mut self, id: VifId) -> Result<(), Error> {
        match self.vif(id).reason.take() {
            Some(_) => self.tell(id, None),
            None => Ok(()),
        }
    }

    /// Writes why the vif is not served into xenstore, or that it is served.
    fn tell(&mut self, id: VifId, reason: Option<&str>) -> Result<(), Error> {
        let paths = self.vif(id).paths.clone();
        let written = handshake::write_reason(&mut self.store, &paths, reason);
        self.written(id, "write the reason", written)
    }

    /// Logs that xenstore refused to have something written. That is the one vif's matter, whose state shows at the next look; a broken
    /// stream to xenstore is an error for all.
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

    /// Forgets a vif whose node is gone.
    fn forget(&mut self, id: VifId) -> Result<(), Error> {
        if self.vifs.remove(&id).is_none() {
            return Ok(());
        }
        info!(vif = %id, "gone");
        // There is a file where a predecessor served the vif, which went while no daemon ran.
        self.remove_file(id);
        // Another vif of the same name may be there already.
        self.news.insert(id);
        Ok(())
    }
}

/// Tells a broken stream, which is an error, from what xenstore refuses, which is returned.
pub(super) fn broken(result: Result<(), StoreError>) -> Result<Option<StoreError>, Error> {
    match result {
        Ok(()) => Ok(None),
        Err(StoreError::Io(error)) => Err(StoreError::Io(error).into()),
        Err(error) => Ok(Some(error)),
    }
}

/// The frontend's state as a word.
pub fn name(frontend: Frontend) -> String {
    match frontend {
        Frontend::Gone => "Gone".into(),
        Frontend::Is(state) => state.to_string(),
    }
}
