//! A guest of the lab: its process, its namespace, its control socket.
use super::process::Process;
use super::{Directory, Host, Namespace, interrupt, programs};
use anyhow::{Context, Result};
use sim::guest::control::Client;
use sim::guest::counters::Report;
use sim::toolstack::VifConfig;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;
use xen::grant::DomId;

/// How long a guest may take to connect on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// The guest's interface.
const INTERFACE: &str = "eth0";
/// `XenbusStateConnected`.
const CONNECTED: u32 = 4;

/// What guest to start.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Its name.
    pub name: String,
    /// Queues it would like.
    pub queues: u16,
    /// False: no TAP, only a generator and a sink.
    pub tap: bool,
    /// Bridge of its vif.
    pub bridge: String,
    /// VLANs of its vif, as the toolstack writes them.
    pub vlan: Option<String>,
    /// Addresses that it may use, as the toolstack writes them.
    pub ip: Option<String>,
    /// More arguments of `sim-guest`.
    pub arguments: Vec<String>,
}

impl GuestConfig {
    /// A guest with one queue and a TAP on xenbr0.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            queues: 1,
            tap: true,
            bridge: "xenbr0".into(),
            vlan: None,
            ip: None,
            arguments: Vec::new(),
        }
    }
}

/// A running guest; killed when dropped.
pub struct Guest {
    process: Process,
    control: Client,
    /// Its domain.
    pub domid: DomId,
    /// Its stack.
    pub host: Host,
    config: GuestConfig,
    configured: bool,
}

impl Guest {
    /// Start guest `number` of the lab, whose addresses come from the number.
    pub fn start(
        directory: &Directory,
        namespace: Namespace,
        config: GuestConfig,
        number: usize,
    ) -> Result<Self> {
        let last = number + 1;
        let low = u16::try_from(last)
            .context("too many guests")?
            .to_be_bytes();
        let mac = [0x00, 0x16, 0x3e, 0x00, low[0], low[1]];
        let log = File::create(directory.file(&format!("{}.log", config.name)))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(programs::path("sim-guest")?);
        command.arg("--sim-dir").arg(directory.path()).args([
            "--name",
            &config.name,
            "--netns",
            namespace.name(),
        ]);
        command.args(["--queues", &config.queues.to_string()]);
        if config.tap {
            command.args(["--tap", INTERFACE]);
        }
        command
            .args(&config.arguments)
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Process::start(&config.name, &mut command)?;
        let ready = process.first_line();
        let domid =
            ready.and_then(|line| line.parse().context("sim-guest did not print its domain"));
        let domid = domid.with_context(|| {
            std::fs::read_to_string(directory.file(&format!("{}.log", config.name)))
                .unwrap_or_default()
        })?;
        let control = Client::connect(directory.path(), &config.name)?;
        let host = Host {
            name: config.name.clone(),
            namespace,
            interface: INTERFACE.into(),
            mac,
            ipv4: format!("10.77.0.{last}"),
            ipv6: format!("fd77::{last}"),
        };
        Ok(Self {
            process,
            control,
            domid: DomId(domid),
            host,
            config,
            configured: false,
        })
    }

    /// What the toolstack is to make for each of its vifs.
    pub fn vif_configs(&self) -> impl Iterator<Item = VifConfig> + '_ {
        std::iter::once(VifConfig {
            mac: self.host.mac,
            bridge: self.config.bridge.clone(),
            vlan: self.config.vlan.clone(),
            ip: self.config.ip.clone(),
            ..VifConfig::default()
        })
    }

    /// Its process, to be stopped or killed.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Send a command to it; reports of its vifs.
    pub fn command(&mut self, line: &str) -> Result<Vec<Report>> {
        self.control
            .command(line)
            .with_context(|| format!("{}: {line}", self.host.name))
    }

    /// The report of its first vif.
    pub fn report(&mut self) -> Result<Report> {
        self.control
            .counters()
            .with_context(|| format!("{}: counters", self.host.name))
    }

    /// Wait until every vif is connected.
    pub fn wait_connected(&mut self) -> Result<()> {
        let name = self.host.name.clone();
        interrupt::wait_for(&format!("{name} connected"), PATIENCE, || {
            Ok(self
                .command("counters")?
                .iter()
                .all(|report| report.state == CONNECTED && report.queues > 0))
        })
    }

    /// Give its interface addresses, the first time.
    pub fn configure(&mut self) -> Result<()> {
        if self.config.tap && !self.configured {
            self.host.configure()?;
            self.configured = true;
        }
        Ok(())
    }
}
