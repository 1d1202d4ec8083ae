//! The xenstore side: the handshake as xen/include/public/io/netif.h has it, offering what Linux's netback offers.

use crate::log::Log;
use crate::rings::{Keys, Rings};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;
use xen::grant::DomId;
use xen::store::{Client, StoreError, Transaction, XenStore};

const NONE: Transaction = Transaction::NONE;
const OFFER: [(&str, &str); 14] = [
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "0"),
    ("feature-multicast-control", "1"),
    ("feature-dynamic-multicast-control", "1"),
    ("feature-split-event-channels", "1"),
    ("feature-xdp-headroom", "1"),
    ("feature-ctrl-ring", "1"),
    ("multi-queue-max-queues", "1"),
    ("hotplug-status", "connected"),
    ("state", "2"),
];
/// The pause between two looks at the rings: as long as a round trip in a small network, so that the guest's congestion window opens and its
/// segment chains grow.
const PAUSE: Duration = Duration::from_millis(1);
/// The pause between two looks for a vif.
const LOOK_EVERY: Duration = Duration::from_millis(100);

struct Vif {
    store: Client<File>,
    backend: String,
    frontend: String,
    guest: DomId,
    seen: BTreeMap<String, String>,
    /// `state` and `online` of our own directory, as last written down.
    own: [Option<String>; 2],
}

/// Serves the first vif that appears until its node is gone.
pub fn serve(log: &mut Log) -> Result<()> {
    let mut vif = Vif::find(log)?;
    let mut rings: Option<Rings> = None;
    vif.store.watch(&vif.backend.clone(), "backend")?;
    vif.store.watch(&vif.frontend.clone(), "frontend")?;
    vif.note_frontend(log)?;
    vif.offer(log)?;
    // Every round reads each key's newest value; keys that were written in one transaction are read together, in the order of their names.
    while let Some(own) = vif.note_own(log)? {
        vif.note_frontend(log)?;
        let theirs = vif.seen.get("state").cloned().unwrap_or_default();
        let online = vif.own[1].as_deref() == Some("1");
        match (own.as_str(), theirs.as_str()) {
            ("2", "4") => rings = Some(vif.connect(log)?),
            ("4", "5" | "6") => {
                rings = None;
                vif.write_state(log, "6")?;
            }
            // The frontend begins anew, and the toolstack is not taking the vif away.
            ("6", "1") if online => vif.offer(log)?,
            ("5", _) => {
                rings = None;
                vif.write_state(log, "6")?;
            }
            ("6", _) if !online => {
                vif.note_frontend(log)?;
                vif.store.remove(NONE, &vif.backend)?;
                return Ok(());
            }
            _ => {}
        }
        // Rings are looked at until xenstore has news.
        while vif.store.events()?.is_empty() {
            std::thread::sleep(PAUSE);
            if let Some(rings) = &mut rings {
                rings.turn(log)?;
            }
        }
    }
    Ok(())
}

impl Vif {
    /// Waits for a node below ours, and writes down what the toolstack put there.
    fn find(log: &mut Log) -> Result<Self> {
        let mut store = xen::linux::open_store().context("cannot open xenstore")?;
        let domid = store.domid()?;
        let root = format!("/local/domain/{domid}/backend/vif");
        let (guest, device) = loop {
            if let Some(found) = first(&mut store, &root)? {
                break found;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let backend = format!("{root}/{guest}/{device}");
        let mut vif = Self {
            frontend: store.read(NONE, &format!("{backend}/frontend"))?,
            guest: DomId(guest.parse()?),
            seen: BTreeMap::new(),
            own: [None, None],
            store,
            backend,
        };
        for (key, value) in vif.keys(&vif.backend.clone())? {
            log.line(&format!("toolstack {key} {value}"))?;
        }
        Ok(vif)
    }

    fn offer(&mut self, log: &mut Log) -> Result<()> {
        let backend = self.backend.clone();
        self.store.transact(|store, t| {
            OFFER
                .iter()
                .try_for_each(|(key, value)| store.write(t, &format!("{backend}/{key}"), value))
        })?;
        self.own[0] = Some("2".into());
        OFFER
            .iter()
            .try_for_each(|(key, value)| log.line(&format!("backend {key} {value}")))
    }

    fn connect(&mut self, log: &mut Log) -> Result<Rings> {
        let seen = &self.seen;
        let number = |key: &str| -> Result<u32> {
            Ok(seen
                .get(key)
                .with_context(|| format!("the frontend wrote no {key}"))?
                .parse()?)
        };
        let keys = Keys {
            tx_ring: number("tx-ring-ref")?,
            rx_ring: number("rx-ring-ref")?,
            tx_port: number("event-channel-tx")?,
            rx_port: number("event-channel-rx")?,
        };
        let rings = Rings::connect(self.guest, keys)?;
        let (tx, rx) = rings.produced();
        log.line(&format!("rings {tx} {rx}"))?;
        self.write_state(log, "4")?;
        Ok(rings)
    }

    fn write_state(&mut self, log: &mut Log, state: &str) -> Result<()> {
        self.store
            .write(NONE, &format!("{}/state", self.backend), state)?;
        self.own[0] = Some(state.into());
        log.line(&format!("backend state {state}"))
    }

    /// Reads a key of our own directory; `None` where the key, or the directory, is gone.
    fn read_own(&mut self, key: &str) -> Result<Option<String>> {
        match self.store.read(NONE, &format!("{}/{key}", self.backend)) {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Missing(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down what the toolstack has changed of our `state` and `online`. Returns our state; `None` where our node is gone.
    fn note_own(&mut self, log: &mut Log) -> Result<Option<String>> {
        for (n, key) in ["state", "online"].into_iter().enumerate() {
            let value = self.read_own(key)?;
            if self.own[n] != value {
                log.line(&format!(
                    "toolstack {key} {}",
                    value.as_deref().unwrap_or_default()
                ))?;
                self.own[n] = value;
            }
        }
        Ok(self.own[0].clone())
    }

    /// Writes down what has changed in the frontend's directory, `state` last, as a frontend writes it.
    fn note_frontend(&mut self, log: &mut Log) -> Result<()> {
        let now = self.keys(&self.frontend.clone())?;
        let gone = self.seen.keys().filter(|key| !now.contains_key(*key));
        for key in gone {
            log.line(&format!("frontend {key}"))?;
        }
        let changed = |key: &&String| self.seen.get(*key) != now.get(*key);
        let (state, others): (Vec<_>, Vec<_>) =
            now.keys().filter(changed).partition(|key| *key == "state");
        for key in others.into_iter().chain(state) {
            log.line(&format!("frontend {key} {}", now[key]))?;
        }
        self.seen = now;
        Ok(())
    }

    /// Reads all keys of a directory with their values, those of one level below as `queue-0/key`; none where the directory is gone.
    fn keys(&mut self, directory: &str) -> Result<BTreeMap<String, String>> {
        let mut keys = BTreeMap::new();
        for name in self.list(directory)? {
            let path = format!("{directory}/{name}");
            for child in self.list(&path)? {
                keys.insert(
                    format!("{name}/{child}"),
                    self.store.read(NONE, &format!("{path}/{child}"))?,
                );
            }
            match self.store.read(NONE, &path) {
                Ok(value) => drop(keys.insert(name, value)),
                Err(StoreError::Missing(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(keys)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<String>> {
        list(&mut self.store, directory)
    }
}

fn list(store: &mut Client<File>, directory: &str) -> Result<Vec<String>> {
    match store.directory(NONE, directory) {
        Ok(names) => Ok(names),
        Err(StoreError::Missing(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn first(store: &mut Client<File>, root: &str) -> Result<Option<(String, String)>> {
    for guest in list(store, root)? {
        if let Some(device) = list(store, &format!("{root}/{guest}"))?.into_iter().next() {
            return Ok(Some((guest, device)));
        }
    }
    Ok(None)
}
