//! Two simulated guests and a host outside, joined by the real daemon with one worker on core 0. Whatever makes them send, everything but
//! that worker and the bare sender, is on the other cores.
use crate::station::Station;
use crate::usage::Thread;
use anyhow::{Context, Result, ensure};
use lab::daemon::{Bridge, Daemon, StartOptions};
use lab::guest::GuestConfig;
use lab::{Lab, interrupt};
use netback::observe::status::Status;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use sim::guest::generator::{Generator, Stream};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The driver domain's ends of two cables: the uplink, and the bare sender's, which the daemon leaves alone.
const UPLINK: &str = "up0";
const BARE: &str = "bare0";
/// The core that the daemon pins its first worker to.
pub const WORKER_CORE: usize = 0;
/// How long the daemon may take to tell its worker of every port.
const PATIENCE: Duration = Duration::from_secs(10);

/// A path that packets take through the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Path {
    /// A guest's Tx ring to AF_XDP on veth.
    #[serde(rename = "guest -> AF_XDP")]
    GuestToWire,
    /// AF_XDP on veth to a guest's Rx ring.
    #[serde(rename = "AF_XDP -> guest")]
    WireToGuest,
    /// A guest's Tx ring to another's Rx ring.
    #[serde(rename = "guest -> guest")]
    GuestToGuest,
}

impl Path {
    /// All paths, in the order in which they are measured.
    pub const ALL: [Self; 3] = [Self::GuestToWire, Self::WireToGuest, Self::GuestToGuest];

    /// The path's name, as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestToWire => "guest -> AF_XDP",
            Self::WireToGuest => "AF_XDP -> guest",
            Self::GuestToGuest => "guest -> guest",
        }
    }
}

/// Builds the programs that are measured, where the lab looks for them: cargo bench builds libraries only.
pub fn build_programs() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "-p", "netback", "-p", "sim"])
        .args(["-p", "sim-preload"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(())
}

/// The daemon, its guests and the outside. Stations are dropped first, so that they let go of the cables before these go.
pub struct Rig {
    bare: Station,
    outside: Station,
    worker: Thread,
    socket: PathBuf,
    lab: Lab,
}

impl Rig {
    /// Starts everything, the daemon as `options` say, and lets the switch learn where the outside is.
    pub fn start(options: &StartOptions<'_>) -> Result<Self> {
        leave_core_to_worker()?;
        let mut lab = Lab::new()?;
        lab.add_outside("outside", UPLINK, 1)?;
        lab.add_outside("bare", BARE, 1)?;
        for name in ["guest-a", "guest-b"] {
            lab.add_guest(GuestConfig {
                tap: false,
                ..GuestConfig::new(name)
            })?;
        }
        let bridge = Bridge {
            name: "xenbr0".into(),
            uplink: Some(UPLINK.into()),
        };
        // No polling: a worker that spins while it waits for a slow guest would count the wait as its cost.
        let workers = "\n[workers]\ncount = 1\npoll_us = 0\n";
        let config = Daemon::config(lab.directory(), 0, &[bridge], workers);
        lab.start_daemon_with(&config, options)?;
        lab.connect_guests()?;
        let pid = lab.daemon()?.process().id();
        let outside = &lab.outside[0].host;
        let rig = Self {
            bare: station(lab.driver_namespace().name(), BARE, true)?,
            outside: station(outside.namespace.name(), &outside.interface, false)?,
            worker: Thread::find(pid, "netback-w0")?,
            socket: lab.directory().file("run").join("control"),
            lab,
        };
        rig.teach()?;
        Ok(rig)
    }

    /// Sends frames from the outside until they reach the first guest.
    fn teach(&self) -> Result<()> {
        interrupt::wait_for("frames from outside reach a guest", PATIENCE, || {
            self.outside.send(&self.frame(Path::WireToGuest, 64));
            self.outside.stop()?;
            Ok(self.delivered(&self.status()?, Path::WireToGuest)? > 0)
        })
    }

    /// The frame that the path's source sends.
    fn frame(&self, path: Path, size: usize) -> Vec<u8> {
        let (outside, guests) = (&self.lab.outside[0].host, &self.lab.guests);
        let (source, dst_mac) = match path {
            Path::GuestToWire => (guests[0].host.mac, outside.mac),
            Path::WireToGuest => (outside.mac, guests[0].host.mac),
            Path::GuestToGuest => (guests[0].host.mac, guests[1].host.mac),
        };
        frame(size, source, dst_mac)
    }

    /// Makes the path's source send as fast as it can.
    pub fn send(&mut self, path: Path, size: usize) -> Result<()> {
        let frame = self.frame(path, size);
        if path == Path::WireToGuest {
            self.outside.send(&frame);
            return Ok(());
        }
        let mac: Vec<String> = frame[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let line = format!("generate size={size},dst-mac={}", mac.join(":"));
        self.lab.guests[0].command(&line).map(drop)
    }

    /// Stops the path's source.
    pub fn stop(&mut self, path: Path) -> Result<()> {
        match path {
            Path::WireToGuest => self.outside.stop().map(drop),
            _ => self.lab.guests[0].command("generate off").map(drop),
        }
    }

    /// The bare sender, on the worker's core, and the frame that makes its far end do what the outside does.
    pub fn bare(&self, size: usize) -> (&Station, Vec<u8>) {
        let source = self.lab.guests[0].host.mac;
        (
            &self.bare,
            frame(size, source, self.lab.outside[1].host.mac),
        )
    }

    /// The daemon's worker.
    pub fn worker(&self) -> &Thread {
        &self.worker
    }

    /// What `netback status --json` prints, without a process that is started in the middle of a measurement.
    pub fn status(&self) -> Result<Status> {
        status(&self.socket)
    }

    /// Packets that have reached the path's end.
    pub fn delivered(&self, status: &Status, path: Path) -> Result<u64> {
        let guest = match path {
            Path::GuestToWire => {
                let queues = status.uplinks.iter().flat_map(|uplink| &uplink.queues);
                return Ok(queues.map(|queue| queue.counts.send_packets).sum());
            }
            Path::WireToGuest => &self.lab.guests[0],
            Path::GuestToGuest => &self.lab.guests[1],
        };
        let mut vifs = status.vifs.iter();
        let vif = vifs.find(|vif| vif.domid == guest.domid.0);
        let vif = vif.with_context(|| format!("{} has no vif", guest.host.name))?;
        Ok(vif.queues.iter().map(|queue| queue.counts.rx_packets).sum())
    }

    /// What the daemon logged last, for an error message.
    pub fn last_words(&self) -> String {
        let daemon = self.lab.daemon.as_ref();
        daemon.map_or_else(String::new, |daemon| {
            format!("the daemon said: {}", daemon.log_tail())
        })
    }
}

/// What the daemon behind the control socket `socket` says of itself.
pub fn status(socket: &std::path::Path) -> Result<Status> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"command\":\"status\"}\n")?;
    serde_json::from_reader(stream).context("the daemon's status")
}

/// Returns a frame of `size` bytes, such as a generator in a simulated guest sends.
pub fn frame(size: usize, source: [u8; 6], dst_mac: [u8; 6]) -> Vec<u8> {
    let stream = Stream {
        size,
        rate: 0,
        count: None,
        dst_mac,
    };
    Generator::new(stream, source).next_frame().to_vec()
}

/// A bare sender on `ifname` in `namespace`, on the worker's core or with the rest.
fn station(namespace: &str, ifname: &str, on_worker_core: bool) -> Result<Station> {
    let name = namespace.to_owned();
    Station::start(ifname, move || {
        if on_worker_core {
            let mut set = CpuSet::new();
            set.set(WORKER_CORE);
            sched_setaffinity(None, &set)?;
        }
        sim::namespace::enter(&name)
    })
}

/// Keeps whatever this thread starts from here on off the worker's core, where there is another one; the daemon pins its worker itself.
pub fn leave_core_to_worker() -> Result<()> {
    let mut set = sched_getaffinity(None).context("sched_getaffinity")?;
    if set.count() > 1 {
        set.unset(WORKER_CORE);
    }
    sched_setaffinity(None, &set).context("sched_setaffinity")
}
