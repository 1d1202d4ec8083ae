//! Network namespaces: made, and removed.
use anyhow::{Context, Result, anyhow};
use sim::namespace::enter;
use std::net::UdpSocket;
use std::process::Command;
use xsk_bridge::link::Link;

/// A namespace that goes with this value, unless it is an alias.
pub struct Namespace {
    name: String,
    is_alias: bool,
}

impl Namespace {
    /// Make `name` with its loopback up and addresses usable at once (no duplicate address detection).
    pub fn create(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self {
            name,
            is_alias: false,
        };
        namespace.ip(&["link", "set", "lo", "up"])?;
        namespace.run(|| {
            for interface in ["all", "default"] {
                // A kernel without IPv6 has no such file; the tests that need it say so themselves.
                let _ = std::fs::write(
                    format!("/proc/sys/net/ipv6/conf/{interface}/accept_dad"),
                    "0",
                );
            }
        })?;
        Ok(namespace)
    }

    /// The same namespace for another holder, which must not outlive this one.
    pub fn alias(&self) -> Self {
        Self {
            name: self.name.clone(),
            is_alias: true,
        }
    }

    /// What the kernel says of an interface in it.
    pub fn link(&self, interface: &str) -> Result<Link> {
        let link = self.run(|| Link::by_name(interface))??;
        link.with_context(|| format!("there is no {interface} in {}", self.name))
    }

    /// Its name for ip-netns(8).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip -n <name> ...`.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all)
    }

    /// `program` to be run in the namespace, with a /sys that shows its interfaces; killed with the thread that starts it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "ip",
            "netns",
            "exec",
            &self.name,
            program,
        ]);
        command
    }

    /// Run `work` in a thread that lives in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            enter(&self.name)?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
    }

    /// A UDP socket that stays in the namespace whoever uses it.
    pub fn udp_socket(&self, address: &str) -> Result<UdpSocket> {
        self.run(|| UdpSocket::bind(address))?
            .with_context(|| format!("cannot bind {address} in {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.is_alias {
            return;
        }
        // Nobody is left to tell; the next lab sweeps what a failure here leaves.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Run `ip` with `arguments`; its own message where it fails.
pub fn ip(arguments: &[&str]) -> Result<()> {
    super::process::run(Command::new("ip").args(arguments))
}
