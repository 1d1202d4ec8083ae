//! One network namespace an instance: QEMU runs in it, and its tap is the peer on the other end of the NIC's cable.

use crate::os;
use crate::shell::output;
use anyhow::{Context, Result, ensure};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

/// The peer's tap, as QEMU is told.
pub const TAP: &str = "peer0";

/// An instance's namespace. Nothing in it is reachable from outside of it, and nothing outside from within.
#[derive(Clone)]
pub struct Network {
    name: String,
}

impl Network {
    /// The namespace of `instance`, which need not exist yet.
    pub fn new(instance: u8) -> Self {
        Self {
            name: format!("netback-xen-{instance}"),
        }
    }

    /// The first `count` of `instances` that nothing runs in; one that a killed test has left counts as free.
    pub fn free(instances: impl IntoIterator<Item = u8>, count: usize) -> Result<Vec<u8>> {
        let mut free = Vec::new();
        for instance in instances {
            if free.len() == count {
                break;
            }
            let network = Self::new(instance);
            let used = network.path().exists()
                && !output(Command::new("ip").args(["netns", "pids", &network.name]))?
                    .trim()
                    .is_empty();
            if !used {
                free.push(instance);
            }
        }
        ensure!(free.len() == count, "every instance is in use");
        Ok(free)
    }

    /// Make it, with loopback up.
    pub fn create(&self) -> Result<()> {
        output(Command::new("ip").args(["netns", "add", &self.name]))?;
        output(self.command("ip").args(["link", "set", "lo", "up"])).map(drop)
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Give the tap, once QEMU has made it, the peer's addresses.
    pub fn configure_peer(&self) -> Result<()> {
        let script = format!(
            "ip addr add 10.9.0.1/24 dev {TAP}; ip addr add fd09::1/64 dev {TAP} nodad; ip link set {TAP} up"
        );
        output(self.command("bash").args(["-ec", &script])).map(drop)
    }

    /// Connect to a port of the namespace's loopback.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        let connect = || TcpStream::connect(("127.0.0.1", port));
        os::in_namespace(&self.path(), connect)?
            .with_context(|| format!("nothing listens on port {port} of {}", self.name))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// End what still runs inside and remove the namespace; the tap goes with it. Nothing happens where there is none.
    pub fn remove(&self) -> Result<()> {
        if !self.path().exists() {
            return Ok(());
        }
        let pids = output(Command::new("ip").args(["netns", "pids", &self.name]))?;
        for pid in pids.split_whitespace() {
            // One that ended meanwhile is what is wanted.
            let _ = output(Command::new("kill").args(["-KILL", pid]));
        }
        output(Command::new("ip").args(["netns", "del", &self.name])).map(drop)
    }
}
