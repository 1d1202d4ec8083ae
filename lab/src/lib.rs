//! The laboratory of demo and tests: a hypervisor, guests and peers in namespaces, and the real daemon between them.
//! Everything is gone when it is dropped, after a panic or an interrupt too; what a killed one left is swept by the next.
pub mod daemon;
pub mod demo;
pub mod directory;
pub mod guest;
pub mod interrupt;
pub mod manager;
pub mod namespace;
pub mod outside;
pub mod process;
pub mod programs;

use anyhow::{Context, Result};
use daemon::{Daemon, StartOptions};
use directory::Directory;
use guest::{Guest, GuestConfig};
use namespace::Namespace;
use outside::Outside;
use process::Process;
use sim::client::{Counts, DomainCounts};
use sim::domain::{Domain, DomainConfig};
use sim::toolstack::Toolstack;
use sim_machine::GNTALLOC_LIMIT;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Labs made by this process.
static LABS: AtomicU32 = AtomicU32::new(0);

/// A network stack in the lab: a namespace with one interface, and how to reach it.
pub struct Host {
    /// What the lab's user calls it.
    pub name: String,
    /// Where its stack is.
    pub namespace: Namespace,
    /// Its interface in the namespace.
    pub interface: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ipv4: String,
    /// IPv6 address.
    pub ipv6: String,
}

impl Host {
    /// Give the interface its addresses and take it up.
    pub fn configure(&self) -> Result<()> {
        let interface = &self.interface;
        self.namespace.ip(&[
            "addr",
            "add",
            &format!("{}/24", self.ipv4),
            "dev",
            interface,
        ])?;
        self.namespace.ip(&[
            "addr",
            "add",
            &format!("{}/64", self.ipv6),
            "dev",
            interface,
            "nodad",
        ])?;
        self.namespace.ip(&["link", "set", interface, "up"])
    }
}

/// The lab. Fields are dropped in this order: guests first, so that the daemon sees them go, namespaces and files last.
pub struct Lab {
    /// Guests in the order in which they were added.
    pub guests: Vec<Guest>,
    /// The daemon, while one was started.
    pub daemon: Option<Daemon>,
    /// Dom0.
    pub toolstack: Toolstack,
    driver_domain: Domain,
    /// The hypervisor's process.
    pub hypervisor: Process,
    /// What is behind the uplinks.
    pub outside: Vec<Outside>,
    driver_namespace: Namespace,
    directory: Directory,
    id: String,
}

impl Lab {
    /// A hypervisor, and a driver domain in a namespace of its own. Refuses in one line where something is missing.
    pub fn new() -> Result<Self> {
        programs::check_host()?;
        directory::sweep();
        let id = format!(
            "{}-{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let directory = Directory::create(&id)?;
        let driver_namespace = Namespace::create(format!("nb{id}-driver"))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(programs::path("sim-hypervisor")?)
            .arg(directory.path());
        let hypervisor = Process::start("sim-hypervisor", &mut command)?;
        let toolstack =
            Toolstack::connect(directory.path()).context("cannot talk to sim-hypervisor")?;
        let driver_domain = Domain::create(
            directory.path(),
            DomainConfig {
                name: "driver-domain".into(),
                pages: GNTALLOC_LIMIT,
            },
        )?;
        Ok(Self {
            guests: Vec::new(),
            daemon: None,
            toolstack,
            driver_domain,
            hypervisor,
            outside: Vec::new(),
            driver_namespace,
            directory,
            id,
        })
    }

    /// The lab's files.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The driver domain.
    pub fn driver_domain(&self) -> &Domain {
        &self.driver_domain
    }

    /// The namespace that the daemon runs in.
    pub fn driver_namespace(&self) -> &Namespace {
        &self.driver_namespace
    }

    /// The driver domain's own stack, by its host port `interface`.
    pub fn driver_host(&self, interface: &str) -> Result<Host> {
        let link = self.driver_namespace.link(interface)?;
        Ok(Host {
            name: "driver-domain".into(),
            namespace: self.driver_namespace.alias(),
            interface: interface.into(),
            mac: link.mac,
            ipv4: "10.77.0.200".into(),
            ipv6: "fd77::200".into(),
        })
    }

    /// Run a cable from the driver domain's interface `uplink` to a host of its own; `queues` on the driver domain's end.
    pub fn add_outside(&mut self, name: &str, uplink: &str, queues: u16) -> Result<&Outside> {
        let number = u8::try_from(self.outside.len()).context("too many uplinks")?;
        let namespace = Namespace::create(format!("nb{}-{name}", self.id))?;
        let outside = Outside::connect(
            name,
            namespace,
            &self.driver_namespace,
            uplink,
            queues,
            number,
        )?;
        self.outside.push(outside);
        Ok(&self.outside[usize::from(number)])
    }

    /// Start a guest and let the toolstack make its vifs; it connects once a daemon serves it. Its number in `guests`.
    pub fn add_guest(&mut self, config: GuestConfig) -> Result<usize> {
        let number = self.guests.len();
        let namespace = Namespace::create(format!("nb{}-{}", self.id, config.name))?;
        let guest = Guest::start(&self.directory, namespace, config, number)?;
        self.guests.push(guest);
        let guest = &self.guests[number];
        for (devid, vif) in guest.vif_configs().enumerate() {
            self.toolstack
                .create_vif(self.driver_domain.id(), guest.domid, devid as u32, &vif)?;
        }
        Ok(number)
    }

    /// Start the daemon on `config` (see [`Daemon::config`]); it runs when this returns, and may not serve yet.
    pub fn start_daemon(&mut self, config: &str) -> Result<()> {
        self.start_daemon_with(config, &StartOptions::default())
    }

    /// As [`Self::start_daemon`], with what `options` ask for.
    pub fn start_daemon_with(&mut self, config: &str, options: &StartOptions<'_>) -> Result<()> {
        let daemon = Daemon::start(
            &self.directory,
            &self.driver_namespace,
            self.driver_domain.id(),
            config,
            options,
        )?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("no daemon was started")
    }

    /// Wait until every guest's every vif is connected, and give those with a TAP their addresses.
    pub fn connect_guests(&mut self) -> Result<()> {
        for number in 0..self.guests.len() {
            if let Err(error) = self.guests[number].wait_connected() {
                let log = self
                    .daemon
                    .as_ref()
                    .map(Daemon::log_tail)
                    .unwrap_or_default();
                return Err(error.context(format!(
                    "{} did not connect; the daemon said: {log}",
                    self.guests[number].host.name
                )));
            }
            self.guests[number].configure()?;
        }
        Ok(())
    }

    /// A host by name: a guest, or an outside.
    pub fn host(&self, name: &str) -> Option<&Host> {
        let guests = self.guests.iter().map(|guest| &guest.host);
        guests
            .chain(self.outside.iter().map(|outside| &outside.host))
            .find(|host| host.name == name)
    }

    /// What the hypervisor counts.
    pub fn counts(&self) -> Result<Counts> {
        Ok(self.toolstack.hypervisor().counts()?)
    }

    /// What it counts for the driver domain.
    pub fn driver_counts(&self) -> Result<DomainCounts> {
        self.counts()?
            .domain(self.driver_domain.id())
            .cloned()
            .context("the driver domain is gone")
    }

    /// End every guest at once, as a power cut would.
    pub fn kill_guests(&mut self) {
        self.guests.clear();
    }
}
