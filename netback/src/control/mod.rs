//! The control thread: xenstore, workers, uplinks, the control socket and signals. It may block; packets do not pass here.
mod bridges;
mod bulk;
mod clients;
mod events;
mod failover;
mod fdb;
mod hosts;
mod look;
mod mtu;
mod policy;
mod pool;
mod ports;
mod queues;
mod rate;
mod reload;
mod report;
mod requests;
mod retry;
pub mod signals;
pub mod socket;
mod suspects;
mod uplinks;
mod vif;
mod watch;

pub use hosts::{OpenHost, OpenHostPort};
pub use uplinks::{OpenDevice, OpenQueue, OpenUplink};

use crate::config::{self, Config};
use crate::hypervisor::{Doors, Hypervisor};
use crate::life::{Life, Marks};
use crate::vif::id::VifId;
use crate::worker::wake::Waker;
use bridges::Named;
use clients::Clients;
use hosts::Host;
use pool::{Member, Pool};
use ports::PortNumbers;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signals::{Signal, Signals};
use socket::Listener;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use suspects::Trial;
use tracing::{info, warn};
use uplinks::{Returned, Uplink};
use vif::Vif;
use watch::Watch;
use xen::grant::DomId;
use xen::store::{StoreError, XenStore};
use xsk_bridge::frame::{Frame, Umem};
use xsk_bridge::link::LinkWatcher;
use xsk_bridge::switch::Bridge;

/// The node that is watched: the homes of all domains, our own with the backend directory and those of the frontends. The watch tells of the
/// nodes that we may read. One watch does for any number of vifs, where xenstore allows a domain about a hundred watches.
const DOMAINS: &str = "/local/domain";
/// How often bridges forget what is too old, and counters are looked at.
const SWEEP: Duration = Duration::from_secs(10);
/// How often counters are looked at while a guest is stalled.
const STALLED_SWEEP: Duration = Duration::from_secs(1);
/// Rounds in which events are taken in before vifs are looked at and the control socket is served, though more events may be there.
const LISTENS: usize = 4;
/// How soon a full mailbox is tried again.
const MAILBOX: Duration = Duration::from_millis(1);

/// Why the control thread cannot go on. The process ends, guests do not notice, and a successor takes over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to xenstore is broken.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A worker cannot be made or has ended.
    #[error("cannot {0}: {1}")]
    Worker(&'static str, io::Error),
    /// Something of our own process failed.
    #[error("{0}: {1}")]
    Os(&'static str, io::Error),
}

/// Why the control thread ended without an error.
pub enum Ended {
    /// A signal said so.
    Stopped,
    /// Everything but the guests' connections is to be made anew: a device has come back, or a reload asks for what a running daemon
    /// does not change.
    BeginAnew {
        /// The configuration that was in force.
        running: Box<Config>,
        /// The configuration to start with.
        next: Box<Config>,
    },
}

/// What the control thread is made of.
pub struct Setup<H: Hypervisor, S> {
    /// What the operator asked for.
    pub config: Config,
    /// Reads the configuration anew, on SIGHUP.
    pub reload: Box<dyn FnMut() -> Result<Config, config::ConfigError>>,
    /// xenstore.
    pub store: S,
    /// The driver domain's own number.
    pub domid: DomId,
    /// Each worker's doors to the hypervisor.
    pub doors: Vec<Doors<H>>,
    /// The process's UMEM.
    pub umem: Umem,
    /// All frames of the UMEM.
    pub frames: Vec<Frame>,
    /// Opens uplinks.
    pub open_device: OpenDevice,
    /// Opens host ports.
    pub open_host: OpenHostPort,
    /// The control socket.
    pub listener: Listener,
    /// Signals to act on.
    pub signals: Arc<Signals>,
}

/// The control thread's state.
pub struct Control<H: Hypervisor, S> {
    config: Config,
    reload: Box<dyn FnMut() -> Result<Config, config::ConfigError>>,
    store: S,
    domid: DomId,
    /// Our backend directory in xenstore.
    root: String,
    max_queues: u16,
    pool: Pool<H>,
    umem: Umem,
    bridges: Vec<Named>,
    uplinks: Vec<Uplink>,
    hosts: Vec<Host>,
    /// An uplink's device that was removed and is there again, or a host port that was removed: why everything begins anew.
    returned: Option<Returned>,
    links: LinkWatcher,
    open_device: OpenDevice,
    open_host: OpenHostPort,
    ports: PortNumbers,
    vifs: BTreeMap<VifId, Vif>,
    /// This life of the daemon, and how the one before it ended.
    life: Life,
    /// The vif that is served before others which the daemon may have crashed on.
    trial: Option<Trial>,
    /// The vif that was looked at last: the one behind it comes next.
    last_looked: Option<VifId>,
    /// Vifs whose nodes may have come or gone.
    news: BTreeSet<VifId>,
    waker: Arc<Waker>,
    clients: Clients,
    signals: Arc<Signals>,
    watch: Watch,
    started: Instant,
    swept: Instant,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Starts workers, opens uplinks, and takes over or takes on every vif there is.
    pub fn start(setup: Setup<H, S>) -> Result<Self, Failed> {
        let waker = Arc::new(Waker::new().map_err(|error| Error::Os("eventfd", error))?);
        let marks = Marks::open(&setup.config.daemon.run_dir);
        let life = marks.map_err(|error| Error::Os("run_dir/lives", error))?;
        let life = life.begin();
        let max_queues = setup.config.max_queues();
        let pool = Pool::start(
            &setup.config,
            setup.doors,
            &setup.umem,
            setup.frames,
            &waker,
        )?;
        let mut control = Self {
            root: format!("{DOMAINS}/{}/backend/vif", setup.domid.0),
            reload: setup.reload,
            store: setup.store,
            domid: setup.domid,
            max_queues,
            pool,
            umem: setup.umem,
            bridges: Vec::new(),
            uplinks: Vec::new(),
            hosts: Vec::new(),
            returned: None,
            // Before any uplink is opened, so that every later change is heard of.
            links: LinkWatcher::open().map_err(|error| Error::Os("netlink", error))?,
            open_device: setup.open_device,
            open_host: setup.open_host,
            ports: PortNumbers::default(),
            vifs: BTreeMap::new(),
            life,
            trial: None,
            last_looked: None,
            news: BTreeSet::new(),
            waker,
            clients: Clients::new(setup.listener),
            signals: setup.signals,
            watch: Watch::default(),
            started: Instant::now(),
            swept: Instant::now(),
            config: setup.config,
        };
        for bridge in control.config.bridges.clone() {
            control.add_bridge(&bridge).map_err(Failed::Uplink)?;
        }
        let watched = control.store.watch(DOMAINS, "domains");
        watched.map_err(Error::from)?;
        control.scan()?;
        control.look_at_news()?;
        info!(
            domid = control.domid.0,
            workers = control.pool.0.len(),
            vifs = control.vifs.len(),
            "ready"
        );
        Ok(control)
    }

    /// Makes a bridge and opens its uplink and its host port; the error is one line.
    fn add_bridge(&mut self, wanted: &config::Bridge) -> Result<(), String> {
        let shared = wanted.uplink.as_deref();
        let shared = shared.and_then(|uplink| self.switch_behind(uplink));
        // Before anything is in service, so that a refusal leaves nothing behind.
        let host = match wanted.host {
            true => Some(self.open_host(wanted)?),
            false => None,
        };
        let switch = match shared {
            Some(switch) => switch,
            None => {
                let switch = Arc::new(Bridge::new(&wanted.name));
                self.open_uplinks(&switch, wanted)?;
                switch
            }
        };
        self.keep_bridge(wanted, switch.clone());
        if let Some(host) = host {
            self.add_host(wanted, &switch, host)?;
        }
        Ok(())
    }

    /// Serves until a signal says stop, or until everything begins anew. Guests' rings and xenstore stay as they are, for a successor.
    pub fn run(mut self) -> Result<Ended, Error> {
        loop {
            self.wait()?;
            for signal in self.signals.take() {
                match signal {
                    Signal::Stop => return self.stop().map(|()| Ended::Stopped),
                    Signal::Reload => {
                        if let Some(config) = self.reload()? {
                            return self.begin_anew(config);
                        }
                    }
                }
            }
            self.turn()?;
            if let Some(ifname) = self.uplink_back() {
                info!(
                    interface = ifname,
                    "it was removed, and is opened again: beginning anew, guests stay connected"
                );
                let config = self.config.clone();
                return self.begin_anew(config);
            }
        }
    }

    /// Takes in everything that has happened since the last turn.
    fn turn(&mut self) -> Result<(), Error> {
        self.listen()?;
        self.look_at_news()?;
        self.read_links()?;
        self.serve_clients();
        self.pool.flush();
        if self.swept.elapsed() >= self.sweep_pause() {
            self.swept = Instant::now();
            // The workers' clocks began when this one did, to within a second.
            let now = self.started.elapsed().as_secs() as u32;
            let bridges = self.bridges.iter();
            bridges.for_each(|bridge| bridge.switch.sweep(now));
            self.watch_counters(self.swept);
            // No event tells of a change of steering (xps_cpus).
            self.look_at_bulk();
        }
        Ok(())
    }

    /// How long until counters are looked at again.
    fn sweep_pause(&self) -> Duration {
        match self.watch.knows_a_stall() {
            true => STALLED_SWEEP,
            false => SWEEP,
        }
    }

    /// Takes in what workers and xenstore say. Returns false where there may be more. It is also the look that stands between announcing a
    /// sleep and sleeping, so that a worker's end is found here as well.
    fn listen(&mut self) -> Result<bool, Error> {
        if self.pool.0.iter().any(Member::has_ended) {
            return Err(Error::Worker(
                "go on without a worker",
                io::Error::other("its thread ended, see the log above"),
            ));
        }
        for _ in 0..LISTENS {
            let mut quiet = true;
            while let Some((worker, message)) = self.pool.receive() {
                self.heard(worker, message)?;
                quiet = false;
            }
            // Answers of xenstore bring events with them, so this goes on until there are none.
            for event in self.store.events()? {
                self.fired(&event)?;
                quiet = false;
            }
            while let Some(id) = self.news.pop_first() {
                self.found(id)?;
                quiet = false;
            }
            if quiet {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sleeps until something happens or is due.
    fn wait(&mut self) -> Result<(), Error> {
        self.waker.before_sleep();
        let quiet = self.listen()?;
        let now = Instant::now();
        let due = self.vifs.values().filter_map(|vif| vif.wakes(now)).min();
        let returned = self.returned.as_ref().map(|returned| returned.settled);
        let due = [due, returned, self.clients.deadline()];
        let due = due.into_iter().flatten().min();
        let pause = self.sweep_pause();
        let due = due.map_or(pause, |due| due.saturating_duration_since(now));
        let mailboxes = if self.pool.flush() { pause } else { MAILBOX };
        let timeout = if quiet {
            due.min(mailboxes)
        } else {
            Duration::ZERO
        };
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let (store, waker) = (self.store.fd(), self.waker.as_fd());
        let (links, signals) = (self.links.as_fd(), self.signals.as_fd());
        let mut fds = Vec::from(
            [store, waker, links, signals].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        fds.extend(self.clients.poll_fds());
        let result = poll(&mut fds, Some(&timeout));
        self.waker.awake();
        match result {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::Os("poll", error.into())),
        }
    }

    fn stop(self) -> Result<(), Error> {
        info!(
            vifs = self.vifs.len(),
            "stopping; guests stay connected for the next netback"
        );
        if !self.pool.stop() {
            warn!("a worker did not stop in time");
        }
        Ok(())
    }

    /// Lets go of everything but the guests, to begin anew in this process with `next`.
    fn begin_anew(self, next: Config) -> Result<Ended, Error> {
        if !self.pool.stop() {
            let late = io::Error::other("it did not stop in time");
            return Err(Error::Worker("begin anew: a worker is in the way", late));
        }
        Ok(Ended::BeginAnew {
            running: Box::new(self.config),
            next: Box::new(next),
        })
    }
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// An uplink cannot be served: the operator's matter.
    #[error("{0}")]
    Uplink(String),
    /// Something broke.
    #[error(transparent)]
    Broken(#[from] Error),
}

#[cfg(test)]
mod tests;
