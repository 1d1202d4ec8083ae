//! The frontend of one vif: its xenbus states and keys, as Linux's xen-netfront goes through them.
use super::counters::{QueueCounters, Report};
use super::layout::Layout;
use super::queue::{self, Queue, QueueSettings};
use crate::domain::Domain;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use xen::grant::{DomId, GrantRef};
use xen::store::{Client, StoreError, Transaction, XenStore};

/// Xenbus states (io/xenbus.h).
pub mod state {
    /// The node is not there.
    pub const UNKNOWN: u32 = 0;
    /// Waiting for the other end's features.
    pub const INITIALISING: u32 = 1;
    /// The backend's features are there.
    pub const INIT_WAIT: u32 = 2;
    /// Rings and channels are written.
    pub const INITIALISED: u32 = 3;
    /// Traffic flows.
    pub const CONNECTED: u32 = 4;
    /// About to close.
    pub const CLOSING: u32 = 5;
    /// Closed.
    pub const CLOSED: u32 = 6;
}
use state::*;

const DEVICE: &str = "device";
const BACKEND: &str = "backend";
const MULTICAST: &str = "request-multicast-control";

/// What the guest wants of a vif.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which vif.
    pub devid: u32,
    /// Most queues (`xennet_max_queues`).
    pub max_queues: u16,
    /// Split event channels where the backend offers them.
    pub split: bool,
    /// Say feature-sg.
    pub scatter_gather: bool,
    /// Say feature-gso-tcpv4 and -tcpv6.
    pub gso: bool,
    /// Do not say feature-no-csum-offload.
    pub csum_ipv4: bool,
    /// Say feature-ipv6-csum-offload.
    pub csum_ipv6: bool,
    /// Ask for multicast control (`request-multicast-control`).
    pub multicast_control: bool,
    /// Shape of Tx packets.
    pub layout: Layout,
    /// Most Rx buffers a queue posts.
    pub rx_limit: u32,
    /// First page of the guest's memory that this vif may use.
    pub first_page: u32,
}

impl Settings {
    /// Pages of memory that a vif takes.
    pub fn pages(&self) -> u32 {
        u32::from(self.max_queues) * queue::PAGES
    }
}

/// What was agreed upon and concerns the guest's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Queues in use.
    pub queues: u16,
    /// MAC address from the toolstack.
    pub mac: [u8; 6],
    /// TSO over IPv4.
    pub tso4: bool,
    /// TSO over IPv6.
    pub tso6: bool,
    /// Blank IPv6 checksums may be sent.
    pub csum_ipv6: bool,
}

/// What became of a turn of the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Connected: the interface has carrier.
    Connected(Agreed),
    /// Rings are gone.
    Disconnected,
}

/// Where a close that the guest asked for is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    No,
    WaitClosing,
    WaitClosed,
}

/// A netfront.
pub struct Netfront {
    domain: Domain,
    store: Client<UnixStream>,
    settings: Settings,
    /// Where the backend's keys are; `None`: there is no such device (yet).
    backend: Option<(String, DomId)>,
    state: u32,
    removal: Removal,
    /// Connected queues.
    pub queues: Vec<Queue>,
    /// Counters of queues that are gone.
    past: Vec<QueueCounters>,
    connects: u64,
    /// Ring grants that the last backend had mapped when we let go.
    deferred: Vec<GrantRef>,
    disabled: Option<String>,
    last_protocol_error: Option<String>,
}

impl Netfront {
    /// Watch for the device and start with it as soon as the toolstack has made it.
    pub fn new(domain: &Domain, settings: Settings) -> Result<Self, StoreError> {
        let mut store = domain.store()?;
        store.watch(&format!("device/vif/{}", settings.devid), DEVICE)?;
        Ok(Self {
            domain: domain.clone(),
            store,
            settings,
            backend: None,
            state: UNKNOWN,
            removal: Removal::No,
            queues: Vec::new(),
            past: Vec::new(),
            connects: 0,
            deferred: Vec::new(),
            disabled: None,
            last_protocol_error: None,
        })
    }

    /// Readable when [`Self::on_store`] has something to do.
    pub fn store_fd(&self) -> BorrowedFd<'_> {
        self.store.fd()
    }

    /// Whether packets may move.
    pub fn is_running(&self) -> bool {
        !self.queues.is_empty() && self.disabled.is_none()
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn path(&self, key: &str) -> String {
        format!("device/vif/{}/{key}", self.settings.devid)
    }

    /// Look at what fired and take the steps that follow.
    pub fn on_store(&mut self) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        // Events that come in with the answers to what we ask below are kept by the client: the descriptor tells of them no more.
        loop {
            let events = self.store.events()?;
            if events.is_empty() {
                return Ok(changes);
            }
            for event in events {
                match event.token.as_str() {
                    DEVICE => self.device_changed(&mut changes)?,
                    _ => self.backend_changed(&mut changes)?,
                }
            }
        }
    }

    /// The device came or went.
    fn device_changed(&mut self, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let path = self.path("backend");
        let there = read(&mut self.store, &path)?;
        match (there, &self.backend) {
            (Some(backend), None) => self.probe(backend, changes),
            (None, Some((path, _))) => {
                let watched = format!("{path}/state");
                self.backend = None;
                self.state = UNKNOWN;
                self.removal = Removal::No;
                self.disconnect(changes);
                self.store.unwatch(&watched, BACKEND)
            }
            _ => Ok(()),
        }
    }

    /// A device is there: begin as Initialising and follow the backend's state.
    fn probe(&mut self, backend: String, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let path = self.path("backend-id");
        let Some(id) = read(&mut self.store, &path)?.and_then(|id| id.parse().ok()) else {
            return Ok(());
        };
        let watched = format!("{backend}/state");
        self.backend = Some((backend, DomId(id)));
        self.switch(INITIALISING)?;
        self.store.watch(&watched, BACKEND)?;
        self.backend_changed(changes)
    }

    /// netback_changed.
    fn backend_changed(&mut self, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let Some((path, _)) = &self.backend else {
            return Ok(());
        };
        let seen = number(&mut self.store, &format!("{path}/state"), UNKNOWN)?;
        if self.removal != Removal::No {
            return self.removing(seen, changes);
        }
        match seen {
            INIT_WAIT if self.state == INITIALISING => self.connect(changes),
            CLOSING | CLOSED if self.state != CLOSED && self.state != INITIALISING => {
                self.switch(CLOSED)?;
                self.disconnect(changes);
                Ok(())
            }
            // A device whose backend begins to close before it was ever connected.
            CLOSING if self.state == INITIALISING => self.switch(CLOSED),
            _ => Ok(()),
        }
    }

    /// xennet_bus_close, a step at a time: Closing until the backend answers, then Closed until it is.
    fn removing(&mut self, seen: u32, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        if self.removal == Removal::WaitClosing && [CLOSING, CLOSED, UNKNOWN].contains(&seen) {
            if seen != CLOSED {
                self.switch(CLOSED)?;
            }
            self.removal = Removal::WaitClosed;
        }
        if self.removal == Removal::WaitClosed && [CLOSED, UNKNOWN].contains(&seen) {
            self.removal = Removal::No;
            self.state = CLOSED;
            self.disconnect(changes);
        }
        Ok(())
    }

    /// The driver is unloaded: close, wait for the backend, free everything.
    pub fn close(&mut self) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        if self.backend.is_some() && self.removal == Removal::No {
            self.removal = Removal::WaitClosing;
            self.switch(CLOSING)?;
            self.backend_changed(&mut changes)?;
        }
        Ok(changes)
    }

    /// The driver is loaded again, or the guest resumes: rings are dropped without a word and it begins as Initialising.
    pub fn reconnect(&mut self) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        if self.backend.is_some() {
            self.removal = Removal::No;
            self.disconnect(&mut changes);
            self.switch(INITIALISING)?;
            self.backend_changed(&mut changes)?;
        }
        Ok(changes)
    }

    fn switch(&mut self, to: u32) -> Result<(), StoreError> {
        let path = self.path("state");
        self.store
            .write(Transaction::NONE, &path, &to.to_string())?;
        self.state = to;
        Ok(())
    }

    /// xennet_connect: read what the backend offers, make the queues, write our side, go Connected and start.
    fn connect(&mut self, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let Some((backend, remote)) = self.backend.clone() else {
            return Ok(());
        };
        if self.offer(&backend, "feature-rx-copy", 0)? == 0 {
            self.last_protocol_error = Some("backend does not support copying receive path".into());
            return Ok(());
        }
        let offered_queues = self.offer(&backend, "multi-queue-max-queues", 1)?;
        let count = offered_queues.min(self.settings.max_queues.into()).max(1) as u16;
        let agreed = self.agree(&backend, count)?;
        let split =
            self.settings.split && self.offer(&backend, "feature-split-event-channels", 0)? == 1;
        let scatter_gather = self.offer(&backend, "feature-sg", 0)? == 1;
        self.retry_deferred();
        self.make_queues(remote, count, split, scatter_gather)?;
        let multi_queue = read(
            &mut self.store,
            &format!("{backend}/multi-queue-max-queues"),
        )?
        .is_some();
        loop {
            let t = self.store.begin()?;
            self.write_keys(t, multi_queue)?;
            match self.store.end(t, true) {
                Err(StoreError::Conflict) => {}
                other => break other?,
            }
        }
        self.disabled = None;
        self.connects += 1;
        for queue in &mut self.queues {
            queue.kick(&self.domain);
            queue.post(&self.domain);
        }
        self.switch(CONNECTED)?;
        changes.push(Change::Connected(agreed));
        Ok(())
    }

    fn agree(&mut self, backend: &str, queues: u16) -> Result<Agreed, StoreError> {
        let path = self.path("mac");
        let mac = read(&mut self.store, &path)?.as_deref().and_then(parse_mac);
        let mac = mac.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path} is no MAC address"),
            )
        })?;
        let gso = self.settings.gso;
        Ok(Agreed {
            queues,
            mac,
            tso4: gso && self.offer(backend, "feature-gso-tcpv4", 0)? == 1,
            tso6: gso && self.offer(backend, "feature-gso-tcpv6", 0)? == 1,
            csum_ipv6: self.offer(backend, "feature-ipv6-csum-offload", 0)? == 1,
        })
    }

    fn offer(&mut self, backend: &str, key: &str, default: u32) -> Result<u32, StoreError> {
        number(&mut self.store, &format!("{backend}/{key}"), default)
    }

    fn make_queues(
        &mut self,
        remote: DomId,
        count: u16,
        split: bool,
        scatter_gather: bool,
    ) -> io::Result<()> {
        for n in 0..u32::from(count) {
            let settings = QueueSettings {
                remote,
                first_page: self.settings.first_page + n * queue::PAGES,
                generation: self.connects as u32,
                split,
                layout: self.settings.layout,
                scatter_gather,
                rx_limit: self.settings.rx_limit,
            };
            self.queues.push(Queue::new(&self.domain, &settings)?);
        }
        Ok(())
    }

    /// The keys of the frontend directory, per-queue ones flat where there is one queue.
    fn write_keys(&mut self, t: Transaction, multi_queue: bool) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        if multi_queue {
            keys.push((
                "multi-queue-num-queues".to_owned(),
                self.queues.len().to_string(),
            ));
        }
        for (n, queue) in self.queues.iter().enumerate() {
            let prefix = if self.queues.len() == 1 {
                String::new()
            } else {
                format!("queue-{n}/")
            };
            keys.push((format!("{prefix}tx-ring-ref"), queue.tx_ring.0.to_string()));
            keys.push((format!("{prefix}rx-ring-ref"), queue.rx_ring.0.to_string()));
            if queue.tx_port == queue.rx_port {
                keys.push((
                    format!("{prefix}event-channel"),
                    queue.tx_port.0.to_string(),
                ));
            } else {
                keys.push((
                    format!("{prefix}event-channel-tx"),
                    queue.tx_port.0.to_string(),
                ));
                keys.push((
                    format!("{prefix}event-channel-rx"),
                    queue.rx_port.0.to_string(),
                ));
            }
        }
        let flag = |set: bool| u8::from(set).to_string();
        let Settings {
            scatter_gather,
            gso,
            csum_ipv4,
            csum_ipv6,
            multicast_control,
            ..
        } = self.settings;
        keys.push(("request-rx-copy".into(), flag(true)));
        keys.push(("feature-rx-notify".into(), flag(true)));
        keys.push(("feature-sg".into(), flag(scatter_gather)));
        keys.push(("feature-gso-tcpv4".into(), flag(gso)));
        keys.push(("feature-gso-tcpv6".into(), flag(gso)));
        keys.push(("feature-ipv6-csum-offload".into(), flag(csum_ipv6)));
        // Linux's netfront does not know this one.
        if multicast_control {
            keys.push((MULTICAST.into(), flag(true)));
        }
        if !csum_ipv4 {
            keys.push(("feature-no-csum-offload".into(), flag(true)));
        }
        for (key, value) in keys {
            let path = self.path(&key);
            self.store.write(t, &path, &value)?;
        }
        Ok(())
    }

    /// xennet_disconnect_backend.
    fn disconnect(&mut self, changes: &mut Vec<Change>) {
        if self.queues.is_empty() {
            return;
        }
        for (n, queue) in std::mem::take(&mut self.queues).into_iter().enumerate() {
            if self.past.len() <= n {
                self.past.push(QueueCounters::default());
            }
            self.past[n] += queue.counters;
            self.deferred.extend(queue.release(&self.domain));
        }
        changes.push(Change::Disconnected);
    }

    /// End ring grants that a former backend may have let go by now.
    fn retry_deferred(&mut self) {
        let domain = &self.domain;
        self.deferred
            .retain(|gref| domain.end_access(*gref).is_err());
    }

    /// The backend broke the protocol in a way that Linux disables the device for, until it reconnects.
    pub fn disable(&mut self, why: String) {
        if self.disabled.is_none() {
            self.queues
                .iter_mut()
                .take(1)
                .for_each(|queue| queue.counters.protocol_errors += 1);
            self.disabled = Some(why);
        }
    }

    /// Remember what a packet was lost to.
    pub fn complain(&mut self, why: String) {
        self.last_protocol_error = Some(why);
    }

    /// Keep at most `limit` Rx buffers posted a queue, from now on and after reconnects.
    pub fn set_rx_limit(&mut self, limit: u32) {
        self.settings.rx_limit = limit;
        for queue in &mut self.queues {
            queue.rx.set_limit(limit);
            queue.post(&self.domain);
        }
    }

    /// Ask for multicast control, or no longer; the backend samples the key whenever it changes.
    pub fn set_multicast_control(&mut self, on: bool) -> Result<(), StoreError> {
        self.settings.multicast_control = on;
        let path = self.path(MULTICAST);
        self.store
            .write(Transaction::NONE, &path, &u8::from(on).to_string())
    }

    /// Amend the backend's multicast list, which all queues share.
    pub fn subscribe(&mut self, add: bool, address: [u8; 6]) {
        if let Some(queue) = self.queues.first_mut()
            && queue.tx.has_room()
        {
            queue.tx.subscribe(add, address);
            queue.publish(&self.domain);
        }
    }

    /// Everything counted so far.
    pub fn report(&self) -> Report {
        let count = self.queues.len().max(self.past.len());
        let queue: Vec<QueueCounters> = (0..count)
            .map(|n| {
                let mut sum = self.past.get(n).copied().unwrap_or_default();
                sum += self
                    .queues
                    .get(n)
                    .map(|queue| queue.counters)
                    .unwrap_or_default();
                sum
            })
            .collect();
        let mut total = QueueCounters::default();
        queue.iter().for_each(|counters| total += *counters);
        Report {
            domid: self.domain.id().0,
            state: self.state,
            queues: self.queues.len(),
            disabled: self.disabled.clone(),
            last_protocol_error: self.last_protocol_error.clone(),
            connects: self.connects,
            rx_posted: self.queues.iter().map(|queue| queue.rx.outstanding()).sum(),
            tx_pending: self.queues.iter().map(|queue| queue.tx.pending()).sum(),
            total,
            queue,
            ..Report::default()
        }
    }
}

impl AsFd for Netfront {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.store_fd()
    }
}

fn read(store: &mut Client<UnixStream>, path: &str) -> Result<Option<String>, StoreError> {
    match store.read(Transaction::NONE, path) {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A number, `default` where the key is missing or is none (xenbus_read_unsigned).
fn number(store: &mut Client<UnixStream>, path: &str, default: u32) -> Result<u32, StoreError> {
    Ok(read(store, path)?
        .and_then(|value| value.parse().ok())
        .unwrap_or(default))
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
