//! The configuration file: TOML, validated with line and reason before anything is touched.
mod error;
mod read;
mod table;
#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use read::KEYS;

use crate::vif::bandwidth::Bandwidth;
use read::File;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use table::Text;
use xsk_bridge::frame::Rings;
use xsk_bridge::switch::filter::Addresses;
use xsk_bridge::xdp::Mode;

/// Path of the configuration where `--config` is not given.
pub const DEFAULT_PATH: &str = "/etc/netback/netback.toml";

/// What a configuration without a bridge means, and what to write: for the log, `status` and `run --check`.
pub const NO_BRIDGE: &str = "no [[bridge]], so no guest is served: write one with name = \"xenbr0\" and uplink = the network card, \
                             as `netback doctor` proposes";

/// What the operator asked for. Every value in it is in range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[daemon]`: files of the process.
    pub daemon: Daemon,
    /// `[workers]`: threads of the data plane.
    pub workers: Workers,
    /// `[vif]`: bounds for every guest interface.
    pub vif: Vif,
    /// `[umem]`: packet memory.
    pub umem: Umem,
    /// `[[bridge]]`, in the order of the file; names are unique, and so are VLANs of an uplink. Without one nobody is served.
    pub bridges: Vec<Bridge>,
}

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Directory on tmpfs for the per-vif files, the lock and the control socket.
    pub run_dir: PathBuf,
    /// The control socket; by default `control` in `run_dir`.
    pub control_socket: PathBuf,
    /// Directory in a BPF file system where program, map and link are pinned, one directory an uplink.
    pub bpf_dir: PathBuf,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            run_dir: "/run/netback".into(),
            control_socket: "/run/netback/control".into(),
            bpf_dir: "/sys/fs/bpf/netback".into(),
        }
    }
}

impl Daemon {
    /// Reads `[daemon]` of `path` alone, for the commands beside the daemon: mistakes in other tables do not matter to them. Where
    /// there is no file [`DEFAULT_PATH`], the defaults.
    ///
    /// # Errors
    /// There is no such file, it is not TOML, or `[daemon]` is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) =>
            {
                return Ok(Self::default());
            }
            text => text.map_err(|error| unreadable(path, &error))?,
        };
        let text = Text { path, text: &text };
        File::new(text)?.daemon()
    }
}

/// `[workers]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Threads; `None`: one a core.
    pub count: Option<u16>,
    /// Pin worker n to core n.
    pub pin: bool,
    /// How long a worker without work polls at most before it sleeps, in microseconds; 0 sleeps at once.
    pub poll_us: u32,
}

/// `[vif]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vif {
    /// Queues offered to a frontend (`multi-queue-max-queues`); `None`: one a worker.
    pub max_queues: Option<u16>,
    /// Most bytes that wait for one queue's Rx slots.
    pub backlog_bytes: u32,
    /// Longest that a packet waits for Rx slots, in milliseconds.
    pub backlog_ms: u32,
    /// A guest sends from its own MAC only.
    pub mac_lock: bool,
    /// Guests reach the uplink and the host only, not each other.
    pub isolated: bool,
    /// The addresses that a guest without a key `ip` may use; `None`: any.
    pub ip: Option<Addresses>,
    /// For how long, in milliseconds, a guest takes none of the packets that wait for it before it counts as stalled; 0: never.
    pub stall_ms: u32,
    /// What each guest may receive; `None`: as much as it can.
    pub rate_in: Option<Bandwidth>,
}

/// `[umem]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Umem {
    /// Frames of 4096 bytes for the whole process; `None`: as many as workers, uplinks and backlogs need.
    pub frames: Option<u32>,
}

/// One `[[bridge]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The name that a vif's `bridge` key chooses it by.
    pub name: String,
    /// Network interface behind it; `None`: guests see only each other.
    pub uplink: Option<String>,
    /// Network interface that takes over while the uplink has no link.
    pub backup: Option<String>,
    /// How the XDP program attaches to the uplink.
    pub xdp: XdpMode,
    /// The VLAN of the uplink that the bridge is; `None`: frames without a tag.
    pub vlan: Option<u16>,
    /// A TAP with the bridge's name is a port of the bridge, so that the driver domain itself has an address on it.
    pub host: bool,
    /// Who segments large TCP packets for the uplink.
    pub bulk: Bulk,
}

/// `bulk` of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bulk {
    /// The network card, where it can and where AF_XDP copies anyway.
    #[default]
    Auto,
    /// Netback, always.
    Off,
}

impl Bridge {
    /// The network interfaces of the bridge: its uplink, and the backup.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.uplink.iter().chain(&self.backup).map(String::as_str)
    }
}

/// `xdp` of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// On the kernel's packet buffers: any device, slower.
    Generic,
}

impl XdpMode {
    /// Where the program runs if the driver takes it.
    pub fn wanted(self) -> Mode {
        match self {
            Self::Auto | Self::Native => Mode::Native,
            Self::Generic => Mode::Generic,
        }
    }
}

impl Config {
    /// Reads and validates `path`.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// Validates `text`; `path` is only for the error line.
    ///
    /// # Errors
    /// Something in the text is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::read(Text { path, text })
    }

    /// How many workers to start.
    pub fn worker_count(&self) -> u16 {
        self.workers.count.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            u16::try_from(cores).unwrap_or(256).min(256)
        })
    }

    /// Whether the daemon gets uplinks: now, or by a reload that brings the first bridge.
    pub fn may_have_uplinks(&self) -> bool {
        self.bridges.is_empty() || self.bridges.iter().any(|bridge| bridge.uplink.is_some())
    }

    /// Whether a bridge has this uplink.
    pub fn has_uplink(&self, uplink: Option<&str>) -> bool {
        let mut uplinks = self.bridges.iter().map(|bridge| bridge.uplink.as_deref());
        uplink.is_some() && uplinks.any(|other| other == uplink)
    }

    /// Frames of packet memory for which none is ever missing; without a bridge, for one uplink that a reload brings.
    pub fn frames_needed(&self) -> u32 {
        let uplinks = match self.bridges.as_slice() {
            [] => 1,
            bridges => {
                let interfaces = bridges.iter().flat_map(Bridge::interfaces);
                interfaces.collect::<BTreeSet<_>>().len() as u32
            }
        };
        let hosts = self.bridges.iter().filter(|bridge| bridge.host).count() as u32;
        let workers = u32::from(self.worker_count());
        // A device rarely has more queues than we have workers.
        crate::bounds::frames_needed(
            workers,
            uplinks * workers,
            Rings::default(),
            hosts * workers,
        )
    }

    /// How many frames of packet memory to make. Their number is most of a start's time, for the kernel clears and pins every page.
    pub fn frames(&self) -> u32 {
        self.umem.frames.unwrap_or_else(|| self.frames_needed())
    }

    /// How many queues a frontend is offered.
    pub fn max_queues(&self) -> u16 {
        self.vif
            .max_queues
            .unwrap_or_else(|| self.worker_count().min(64))
    }
}

/// Why the file could not be read.
fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => {
            "no such file; write one (see `netback run --help`) or name it with --config".into()
        }
        io::ErrorKind::PermissionDenied => "it cannot be read: run as root".into(),
        io::ErrorKind::IsADirectory => "it is a directory; name a file with --config".into(),
        io::ErrorKind::InvalidData => "it holds bytes that are not UTF-8 text".into(),
        _ => format!("it cannot be read: {error}"),
    };
    ConfigError {
        file: path.into(),
        line: None,
        field: String::new(),
        reason,
    }
}
