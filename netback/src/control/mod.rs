//! The control thread: xenstore, workers, uplinks, the control socket and signals. It may block; packets do not pass here.
mod pool;
mod queues;
mod rate;
mod reload;
mod report;
mod retry;
pub mod signals;
pub mod socket;
mod vif;

use crate::config::{self, Config};
use crate::hypervisor::{Doors, Hypervisor};
use crate::observe::counters::UplinkStats;
use crate::vif::id::VifId;
use crate::vif::state::Observation;
use crate::worker::messages::{FromWorker, PortPlace, ToWorker};
use crate::worker::wake::Bell;
use pool::{Member, Pool};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signals::{Signal, Signals};
use socket::{Listener, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use vif::Vif;
use xen::grant::DomId;
use xen::store::{StoreError, WatchEvent, XenStore};
use xsk_bridge::frame::{Frame, Umem};
use xsk_bridge::link::Link;
use xsk_bridge::switch::{Bridge, PortId, PortKind};

/// Token of the watch on our backend directory.
const BACKEND: &str = "backend";
/// How often devices are looked at for having been removed and put back.
const DEVICES: Duration = Duration::from_secs(2);
/// How often bridges forget what is too old.
const SWEEP: Duration = Duration::from_secs(10);
/// Rounds of listening before vifs are looked at all the same, and the control socket served.
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

/// A device that is ready: prepared, our program on it, a socket on each queue.
pub struct OpenUplink {
    /// The interface.
    pub ifname: String,
    /// Name of its bridge.
    pub bridge: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The driver reads and writes frames itself.
    pub zero_copy: bool,
    /// Bytes without the Ethernet header.
    pub mtu: u32,
    /// Queue n of the device, and a second descriptor of its socket for the kernel's counters.
    pub queues: Vec<(Box<dyn xsk_bridge::device::Device>, Option<OwnedFd>)>,
}

/// Why the control thread ended without an error.
pub enum Ended {
    /// A signal said so.
    Stopped,
    /// To be started again with this configuration, which is in force, and these signals: a device has come back.
    BeginAnew(Config, Signals),
}

/// What is kept of a device once workers have its queues.
struct Device {
    ifname: String,
    /// Which device of this name it is; `None` where the kernel knows none (a cable in memory).
    index: Option<u32>,
    bridge: String,
    xdp_mode: String,
    zero_copy: bool,
    mtu: u32,
    /// Its port; its queues' sockets are with the workers.
    queues: Vec<DeviceQueue>,
}
struct DeviceQueue {
    worker: u8,
    stats: Arc<UplinkStats>,
    socket: Option<OwnedFd>,
}

/// Opens the uplink of a bridge: AF_XDP in the daemon, memory in tests.
pub type OpenDevice = Box<dyn FnMut(&config::Bridge) -> Result<OpenUplink, String>>;

/// What the control thread is made of.
pub struct Setup<H: Hypervisor, S> {
    /// What the operator asked for.
    pub config: Config,
    /// Reads the configuration anew, on SIGHUP.
    pub reload: Box<dyn FnMut() -> Result<Config, config::ConfigError>>,
    /// xenstore.
    pub store: S,
    /// Our own domain.
    pub domid: DomId,
    /// One for each worker.
    pub doors: Vec<Doors<H>>,
    /// The process's UMEM.
    pub umem: Umem,
    /// All its frames.
    pub frames: Vec<Frame>,
    /// Opens uplinks.
    pub open_device: OpenDevice,
    /// The control socket.
    pub listener: Listener,
    /// Signals to act on.
    pub signals: Signals,
}

/// Numbers of ports: 16 bits for the process's life, so they are used again.
#[derive(Debug)]
struct Ports {
    next: u16,
    used: BTreeSet<u16>,
}
impl Ports {
    /// A number that no port has, if there is one. It is not the one given back last: a worker may still hold frames for that.
    fn take(&mut self) -> Option<PortId> {
        for _ in 0..u16::MAX {
            self.next = self.next.checked_add(1).unwrap_or(1);
            if self.used.insert(self.next) {
                return Some(PortId(self.next));
            }
        }
        None
    }
    fn give(&mut self, port: PortId) {
        self.used.remove(&port.0);
    }
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
    bridges: Vec<Arc<Bridge>>,
    devices: Vec<Device>,
    open_device: OpenDevice,
    ports: Ports,
    vifs: BTreeMap<VifId, Vif>,
    /// The vif that was looked at last: the next one's turn comes first.
    last_looked: Option<VifId>,
    /// Vifs that have to be looked for.
    news: BTreeSet<VifId>,
    bell: Arc<Bell>,
    listener: Listener,
    signals: Signals,
    started: Instant,
    swept: Instant,
    /// When devices were last looked at.
    looked: Instant,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Start workers, open uplinks, take over or take on every vif there is.
    pub fn start(setup: Setup<H, S>) -> Result<Self, Failed> {
        let bell = Arc::new(Bell::new().map_err(|error| Error::Os("eventfd", error))?);
        let max_queues = setup.config.max_queues();
        let pool = Pool::start(&setup.config, setup.doors, &setup.umem, setup.frames, &bell)?;
        let mut control = Self {
            root: format!("/local/domain/{}/backend/vif", setup.domid.0),
            reload: setup.reload,
            store: setup.store,
            domid: setup.domid,
            max_queues,
            pool,
            umem: setup.umem,
            bridges: Vec::new(),
            devices: Vec::new(),
            open_device: setup.open_device,
            ports: Ports {
                next: 0,
                used: BTreeSet::new(),
            },
            vifs: BTreeMap::new(),
            last_looked: None,
            news: BTreeSet::new(),
            bell,
            listener: setup.listener,
            signals: setup.signals,
            started: Instant::now(),
            swept: Instant::now(),
            looked: Instant::now(),
            config: setup.config,
        };
        for bridge in control.config.bridges.clone() {
            control.add_bridge(&bridge).map_err(Failed::Uplink)?;
        }
        let root = control.root.clone();
        control.store.watch(&root, BACKEND).map_err(Error::from)?;
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

    /// Make a bridge and open its uplink; the error is one line.
    fn add_bridge(&mut self, wanted: &config::Bridge) -> Result<(), String> {
        let bridge = Arc::new(Bridge::new(&wanted.name));
        if wanted.uplink.is_some() {
            let opened = (self.open_device)(wanted)?;
            self.add_device(&bridge, opened)?;
        }
        self.bridges.push(bridge);
        Ok(())
    }

    /// Hand a device's queues to the workers, spread evenly.
    fn add_device(&mut self, bridge: &Arc<Bridge>, opened: OpenUplink) -> Result<(), String> {
        let port_id = self.ports.take().ok_or("every port number is in use")?;
        let workers = self.pool.0.len();
        let first = self.devices.len();
        let mut queues = Vec::with_capacity(opened.queues.len());
        for (number, (device, socket)) in opened.queues.into_iter().enumerate() {
            let worker = ((first + number) % workers) as u8;
            let stats = Arc::<UplinkStats>::default();
            queues.push(DeviceQueue {
                worker,
                stats: stats.clone(),
                socket,
            });
            self.pool.send(
                worker,
                ToWorker::AddUplink {
                    port_id,
                    bridge: bridge.clone(),
                    device,
                    stats,
                },
            );
        }
        let place: BTreeSet<u8> = queues.iter().map(|queue| queue.worker).collect();
        let place: Vec<u8> = place.into_iter().collect();
        self.pool
            .send_all(|| ToWorker::SetPort(port_id, PortPlace::Uplink(place.clone())));
        bridge.add_port(port_id, PortKind::Uplink);
        info!(
            uplink = opened.ifname,
            bridge = opened.bridge,
            mode = opened.xdp_mode,
            zero_copy = opened.zero_copy,
            queues = queues.len(),
            "uplink in service"
        );
        let link = Link::by_name(&opened.ifname).ok().flatten();
        self.devices.push(Device {
            index: link.map(|link| link.index),
            ifname: opened.ifname,
            bridge: opened.bridge,
            xdp_mode: opened.xdp_mode,
            zero_copy: opened.zero_copy,
            mtu: opened.mtu,
            queues,
        });
        Ok(())
    }

    /// Serve until a signal says stop, or until a device that was removed is back. Guests' rings and xenstore stay as they are,
    /// for a successor.
    pub fn run(mut self) -> Result<Ended, Error> {
        loop {
            self.wait()?;
            for signal in self.signals.take() {
                match signal {
                    Signal::Stop => return self.stop().map(|()| Ended::Stopped),
                    Signal::Reload => self.reload()?,
                }
            }
            self.turn()?;
            if let Some(ifname) = self.device_back() {
                return self.begin_anew(&ifname);
            }
            if let Some(mut connection) = self.listener.accept() {
                let request = connection.request();
                let answer = request.map_or_else(socket::refused, |request| self.answer(request));
                connection.answer(&answer);
            }
        }
    }

    /// A device of ours that was removed and is there again. Its sockets died with the old one, and so may have the one that all
    /// others share the packet memory by: only a new start gets everything back (xsk_bridge::device::xsk::OpenError::FirstGone).
    fn device_back(&mut self) -> Option<String> {
        if self.looked.elapsed() < DEVICES {
            return None;
        }
        self.looked = Instant::now();
        let is_back = |device: &&Device| {
            // What the kernel does not say now it says the next time.
            let now = Link::by_name(&device.ifname).ok().flatten();
            match (device.index, now) {
                (Some(index), Some(link)) => link.index != index,
                _ => false,
            }
        };
        let device = self.devices.iter().find(is_back)?;
        Some(device.ifname.clone())
    }

    /// Everything that has happened since the last turn.
    fn turn(&mut self) -> Result<(), Error> {
        self.listen()?;
        self.look_at_news()?;
        self.pool.flush();
        if self.pool.0.iter().any(Member::has_ended) {
            return Err(Error::Worker(
                "go on without a worker",
                io::Error::other("its thread ended, see the log above"),
            ));
        }
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            // The workers' clocks began when this one did, to within a second.
            let now = self.started.elapsed().as_secs() as u32;
            self.bridges.iter().for_each(|bridge| bridge.sweep(now));
        }
        Ok(())
    }

    /// Take in what workers and xenstore say; false: there may be more.
    fn listen(&mut self) -> Result<bool, Error> {
        for _ in 0..LISTENS {
            let mut quiet = true;
            while let Some((worker, message)) = self.pool.receive() {
                self.heard(worker, message)?;
                quiet = false;
            }
            // Requests to xenstore receive events too, so this is asked until nothing more comes of the answers.
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

    /// Sleep until something happens or is due.
    fn wait(&mut self) -> Result<(), Error> {
        self.bell.before_sleep();
        let quiet = self.listen()?;
        let now = Instant::now();
        let due = self.vifs.values().filter_map(|vif| vif.wakes(now)).min();
        let idle = if self.devices.is_empty() {
            SWEEP
        } else {
            DEVICES
        };
        let due = due.map_or(idle, |due| due.saturating_duration_since(now));
        let mailboxes = if self.pool.flush() { SWEEP } else { MAILBOX };
        let timeout = if quiet {
            due.min(mailboxes).min(idle)
        } else {
            Duration::ZERO
        };
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let (store, bell) = (self.store.fd(), self.bell.as_fd());
        let (listener, signals) = (self.listener.as_fd(), self.signals.as_fd());
        let mut fds =
            [store, bell, listener, signals].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let result = poll(&mut fds, Some(&timeout));
        self.bell.awake();
        match result {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::Os("poll", error.into())),
        }
    }

    fn fired(&mut self, event: &WatchEvent) -> Result<(), Error> {
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
            (Some(domid), Some(devid)) => match crate::vif::handshake::parse_id(domid, devid) {
                Some(id) => self.found(id),
                None => Ok(()),
            },
            _ => self.scan(),
        }
    }

    fn heard(&mut self, worker: u8, message: FromWorker<H>) -> Result<(), Error> {
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
            FromWorker::UplinkRemoved { port_id, device } => {
                drop(device);
                self.ports.give(port_id);
                None
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

    /// Let go of everything but the guests, to begin anew in this process.
    fn begin_anew(self, ifname: &str) -> Result<Ended, Error> {
        info!(
            uplink = ifname,
            vifs = self.vifs.len(),
            "it is back as another device: beginning anew, guests stay connected"
        );
        if !self.pool.stop() {
            let late = io::Error::other("it did not stop in time");
            return Err(Error::Worker("begin anew: a worker is in the way", late));
        }
        Ok(Ended::BeginAnew(self.config, self.signals))
    }

    /// Carry out a request of the control socket.
    fn answer(&mut self, request: Request) -> serde_json::Value {
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

/// What the kernel counts of an AF_XDP socket, by its names; nothing where it does not say.
#[cfg(feature = "af-xdp")]
fn kernel_counters(socket: &OwnedFd) -> BTreeMap<String, u64> {
    let counters = xsk_bridge::device::xsk::KernelCounters::read(socket.as_fd()).ok();
    let value = counters.and_then(|counters| serde_json::to_value(counters).ok());
    value
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_default()
}

#[cfg(not(feature = "af-xdp"))]
fn kernel_counters(_socket: &OwnedFd) -> BTreeMap<String, u64> {
    BTreeMap::new()
}

#[cfg(test)]
mod tests;
