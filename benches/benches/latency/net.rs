//! The networks that are pinged: four guests and a host outside, joined by netback or by the kernel's bridge, on the same cores.
//!
//! Whatever joins them works on the first core, and every stack on the others. Worker and simulated netfronts come before other programs on
//! their cores, as on a machine that has nothing else to do and in guests whose netfront is part of the kernel. The netfronts of guests that
//! no stream ends in come before those that carry one, as guests do that have a core of their own.
use anyhow::{Context, Result, ensure};
use benches::cost::Cost;
use benches::live::{self, WORKER_CORE};
use benches::place::{self, Priority};
use benches::usage::Thread;
use lab::daemon::{Bridge, Daemon, StartOptions};
use lab::guest::GuestConfig;
use lab::namespace::Namespace;
use lab::outside::Outside;
use lab::{Host, Lab, process};
use netback::observe::status::Status;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// The guest that pings in rows of neighbours.
pub const PINGER: &str = "pinger";
/// The guest that it pings.
pub const ANSWERER: &str = "answerer";
/// The guest that sends streams, and receives those of the wire.
pub const SENDER: &str = "sender";
/// The guest that receives the sender's.
pub const RECEIVER: &str = "receiver";
/// The host on the wire.
pub const WIRE: &str = "wire";
const GUESTS: [&str; 4] = [PINGER, ANSWERER, SENDER, RECEIVER];

/// The uplink's name in the driver domain.
const UPLINK: &str = "up0";
/// The name of the kernel's bridge.
const KERNEL_BRIDGE: &str = "br0";

/// What joins guests and wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub enum Joint {
    /// netback, whose grant copies cost their memcpy alone.
    #[serde(rename = "netback, free")]
    NetbackFree,
    /// netback, whose grant copies cost what they cost on Xen.
    #[serde(rename = "netback, charged")]
    NetbackCharged,
    /// Linux's bridge with a veth pair for each guest.
    #[serde(rename = "kernel bridge")]
    KernelBridge,
}

impl Joint {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 3] = [Self::NetbackFree, Self::NetbackCharged, Self::KernelBridge];

    /// The joint's name, as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetbackFree => "netback, free",
            Self::NetbackCharged => "netback, charged",
            Self::KernelBridge => "kernel bridge",
        }
    }
}

/// Where the guests run that no stream ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// On the stacks' core, with the guests and the host that streams end in.
    Stacks,
    /// On the worker's core, which they take before the worker, so that they never wait for a stream's stacks.
    Worker,
}

impl Core {
    /// The core, or cores.
    pub fn set(self) -> Result<CpuSet> {
        let mut set = sched_getaffinity(None)?;
        ensure!(
            !set.is_set(WORKER_CORE) && set.count() > 0,
            "two cores are needed: one for the worker, one for the stacks"
        );
        if self == Self::Worker {
            set.clear();
            set.set(WORKER_CORE);
        }
        Ok(set)
    }
}

/// A network with everything in it that pings and streams need.
pub enum Net {
    /// Simulated guests and the real daemon.
    Netback {
        /// Guests, wire and daemon.
        lab: Box<Lab>,
        /// The daemon's one worker.
        worker: Thread,
    },
    /// Namespaces on the kernel's bridge.
    KernelBridge {
        /// The cable of each host; guests are hosts like the one on the wire here.
        cables: Vec<Outside>,
        /// Where the bridge is; dropped last.
        _middle: Namespace,
    },
}

impl Net {
    /// Starts what `joint` says. A worker without work polls for `poll_us` before it sleeps.
    pub fn start(joint: Joint, poll_us: u32) -> Result<Self> {
        live::leave_core_to_worker()?;
        match joint {
            Joint::NetbackFree => Self::netback(Cost::Free, poll_us),
            Joint::NetbackCharged => Self::netback(Cost::Charged, poll_us),
            Joint::KernelBridge => Self::kernel_bridge(),
        }
    }

    fn netback(cost: Cost, poll_us: u32) -> Result<Self> {
        let mut lab = Box::new(Lab::new()?);
        lab.add_outside(WIRE, UPLINK, 1)?;
        for name in GUESTS {
            lab.add_guest(GuestConfig::new(name))?;
        }
        let bridge = Bridge {
            name: "xenbr0".into(),
            uplink: Some(UPLINK.into()),
        };
        let workers = format!("\n[workers]\ncount = 1\npoll_us = {poll_us}\n");
        let config = Daemon::config(lab.directory(), 0, &[bridge], &workers);
        let options = StartOptions {
            copy_cost: cost.copy_cost(),
            ..StartOptions::default()
        };
        lab.start_daemon_with(&config, &options)?;
        lab.connect_guests()?;
        let worker = Thread::find(lab.daemon()?.process().id(), "netback-w0")?;
        place::prefer(worker.id(), Priority::First)?;
        for guest in &mut lab.guests {
            let priority = match is_neighbour(&guest.host) {
                true => Priority::BeforeFirst,
                false => Priority::First,
            };
            place::prefer(guest.process().id(), priority)?;
        }
        let wire = &lab.outside[0].host;
        steer(&wire.namespace, &wire.interface, Core::Stacks)?;
        Ok(Self::Netback { lab, worker })
    }

    /// The bridge forwards on the worker's core: what comes out of a cable is handled there, and what goes into one at its far end.
    fn kernel_bridge() -> Result<Self> {
        let namespace =
            |name: &str| Namespace::create(format!("nb{}-bench-{name}", std::process::id()));
        let middle = namespace("bridge")?;
        middle.ip(&["link", "add", KERNEL_BRIDGE, "type", "bridge"])?;
        middle.ip(&["link", "set", KERNEL_BRIDGE, "up"])?;
        let mut cables = Vec::new();
        for (number, name) in (0u8..).zip(GUESTS.into_iter().chain([WIRE])) {
            let port = format!("port{number}");
            let cable = Outside::connect(name, namespace(name)?, &middle, &port, 1, number)?;
            middle.ip(&["link", "set", &port, "master", KERNEL_BRIDGE])?;
            if name != WIRE {
                // As a guest's device does; the host on the wire finishes its checksums and segments itself, as it does beside netback.
                let mut ethtool = cable.host.namespace.command("ethtool");
                process::run(ethtool.args(["-K", &cable.host.interface, "tx", "on", "tso", "on"]))?;
            }
            steer(&middle, &port, Core::Worker)?;
            steer(&cable.host.namespace, &cable.host.interface, Core::Stacks)?;
            cables.push(cable);
        }
        Ok(Self::KernelBridge {
            cables,
            _middle: middle,
        })
    }

    /// Has the guests that no stream ends in run on `core`.
    pub fn move_neighbours(&mut self, core: Core) -> Result<()> {
        match self {
            Self::Netback { lab, .. } => {
                let neighbours = lab
                    .guests
                    .iter_mut()
                    .filter(|guest| is_neighbour(&guest.host));
                for guest in neighbours {
                    let pid = Pid::from_raw(guest.process().id().cast_signed());
                    sched_setaffinity(pid, &core.set()?)?;
                }
            }
            Self::KernelBridge { cables, .. } => {
                let hosts = cables.iter().map(|cable| &cable.host);
                for host in hosts.filter(|host| is_neighbour(host)) {
                    steer(&host.namespace, &host.interface, core)?;
                }
            }
        }
        Ok(())
    }

    /// The guest or host with this name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let host = match self {
            Self::Netback { lab, .. } => lab.host(name),
            Self::KernelBridge { cables, .. } => {
                let mut hosts = cables.iter().map(|cable| &cable.host);
                hosts.find(|host| host.name == name)
            }
        };
        host.with_context(|| format!("there is no {name}"))
    }

    /// netback's worker, and what the daemon says of itself.
    pub fn worker(&self) -> Result<Option<(&Thread, Status)>> {
        match self {
            Self::Netback { lab, worker } => {
                let status = live::status(&lab.directory().file("run").join("control"))?;
                Ok(Some((worker, status)))
            }
            Self::KernelBridge { .. } => Ok(None),
        }
    }

    /// What the daemon logged last, for an error message.
    pub fn last_words(&self) -> String {
        let daemon = match self {
            Self::Netback { lab, .. } => lab.daemon.as_ref(),
            Self::KernelBridge { .. } => None,
        };
        daemon.map_or_else(String::new, |daemon| {
            format!("the daemon said: {}", daemon.log_tail())
        })
    }
}

/// Whether the host is a guest that no stream ends in.
fn is_neighbour(host: &Host) -> bool {
    [PINGER, ANSWERER].contains(&host.name.as_str())
}

/// Has the kernel handle on `core` what arrives at `interface` (Documentation/networking/scaling.rst, RPS), whichever core sent it.
fn steer(namespace: &Namespace, interface: &str, core: Core) -> Result<()> {
    let set = core.set()?;
    let cores = (0..u64::BITS as usize).filter(|core| set.is_set(*core));
    let mask = cores.fold(0u64, |mask, core| mask | 1 << core);
    let write = format!("echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
    process::run(namespace.command("sh").args(["-c", &write]))
}
