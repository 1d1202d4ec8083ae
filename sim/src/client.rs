//! Asking the hypervisor what it holds, for tests and the demo.
use sim_machine::control::{Connection, Operation};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xen::grant::DomId;

/// What the hypervisor holds of one domain, alive or dead with pages mapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainCounts {
    /// Its number.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// False: dead, and remembered for pages that somebody has mapped.
    pub alive: bool,
    /// Grant entries that offer something.
    pub granted: u64,
    /// Of them (or of what they once were), mapped by somebody.
    pub mapped: u64,
    /// Open event-channel ports.
    pub ports: u64,
    /// Of them, bound.
    pub bound: u64,
    /// GRANT_COPY ioctls made in this domain.
    pub copy_calls: u64,
    /// Hypercalls these made.
    pub copy_hypercalls: u64,
    /// Operations these carried.
    pub copy_operations: u64,
    /// Operations that were refused.
    pub copy_refused: u64,
    /// Bytes copied.
    pub copy_bytes: u64,
    /// Notifications sent by this domain.
    pub notifications: u64,
    /// Copies made by this domain after which the guest had changed the grant: it must be 0 with honest guests.
    pub accessed_after_revoke: u64,
}

/// What the hypervisor holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Every domain.
    pub domains: Vec<DomainCounts>,
    /// xenstore nodes.
    pub nodes: u64,
    /// xenstore watches.
    pub watches: u64,
    /// xenstore connections.
    pub connections: u64,
}

impl Counts {
    /// A domain's.
    pub fn domain(&self, domid: DomId) -> Option<&DomainCounts> {
        self.domains.iter().find(|domain| domain.domid == domid.0)
    }
}

/// A connection that belongs to no domain.
#[derive(Debug)]
pub struct Hypervisor {
    control: Connection,
}

impl Hypervisor {
    /// Connect to the hypervisor that serves `sim_dir`, which may still be starting, within `limit`.
    pub fn connect(sim_dir: &Path, limit: Duration) -> io::Result<Self> {
        let start = Instant::now();
        loop {
            match Connection::open(sim_dir) {
                Ok(control) => return Ok(Self { control }),
                Err(e) if start.elapsed() > limit => return Err(e),
                Err(_) => sleep(Duration::from_millis(2)),
            }
        }
    }

    /// What it holds now.
    pub fn counts(&self) -> io::Result<Counts> {
        let mut counts = Counts::default();
        let mut from = 0;
        loop {
            let reply = self.control.call(Operation::Counts, [from, 0, 0], "")?;
            for line in reply.text.lines() {
                if line.starts_with("domain=") {
                    counts.domains.push(domain(line));
                } else {
                    counts.nodes = field(line, "nodes");
                    counts.watches = field(line, "watches");
                    counts.connections = field(line, "connections");
                }
            }
            from = reply.words[0];
            if from == 0 {
                return Ok(counts);
            }
        }
    }

    /// `xl xenstore-quota-set -g`: what each domain may have from now on, nodes that it owns and watches of a connection.
    pub fn set_quota(&self, nodes: u32, watches: u32) -> io::Result<()> {
        self.control
            .call(Operation::Quota, [nodes, watches, 0], "")
            .map(drop)
    }

    /// `xl destroy`.
    pub fn destroy(&self, domid: DomId) -> io::Result<()> {
        self.control
            .call(Operation::Destroy, [domid.0.into(), 0, 0], "")
            .map(drop)
    }
}

fn domain(line: &str) -> DomainCounts {
    DomainCounts {
        domid: field(line, "domain") as u16,
        name: line
            .split_once(" name=")
            .map_or("", |(_, name)| name)
            .into(),
        alive: field(line, "alive") == 1,
        granted: field(line, "granted"),
        mapped: field(line, "mapped"),
        ports: field(line, "ports"),
        bound: field(line, "bound"),
        copy_calls: field(line, "copy_calls"),
        copy_hypercalls: field(line, "copy_hypercalls"),
        copy_operations: field(line, "copy_operations"),
        copy_refused: field(line, "copy_refused"),
        copy_bytes: field(line, "copy_bytes"),
        notifications: field(line, "notifications"),
        accessed_after_revoke: field(line, "accessed_after_revoke"),
    }
}

fn field(line: &str, key: &str) -> u64 {
    let value = line
        .split(' ')
        .filter_map(|field| field.split_once('='))
        .find(|(name, _)| *name == key);
    value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
