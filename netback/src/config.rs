//! The configuration file: TOML, validated with line and reason before anything is touched.
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use xsk_bridge::frame::Rings;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/netback/netback.toml";

/// Guest queues a worker whose backlogs may all be full at once, where the configuration does not size the packet memory.
const BACKLOGS_PER_WORKER: u32 = 4;

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
    /// `[[bridge]]`, in the order of the file; at least one, names and uplinks unique.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vif {
    /// Queues offered to a frontend (`multi-queue-max-queues`); `None`: one a worker.
    pub max_queues: Option<u16>,
    /// Most bytes that wait for one queue's Rx slots.
    pub backlog_bytes: u32,
    /// Longest that a packet waits for Rx slots, in milliseconds.
    pub backlog_ms: u32,
}

/// `[umem]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Umem {
    /// Frames of 4096 bytes for the whole process; `None`: what a handful of guest queues a worker can fill.
    pub frames: Option<u32>,
}

/// One `[[bridge]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The name that a vif's `bridge` key chooses it by.
    pub name: String,
    /// Network interface behind it; `None`: guests see only each other.
    pub uplink: Option<String>,
    /// How the XDP program attaches to the uplink.
    pub xdp: XdpMode,
}

/// `xdp` of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// On the kernel's packet buffers: any device, slower.
    Generic,
}

/// Why a configuration was refused: one line, `file:line: field: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the operator named it.
    pub file: PathBuf,
    /// Line of the value, from 1; `None` where there is no file or no such line.
    pub line: Option<usize>,
    /// The field, as `table.key`; empty where the text is not TOML.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}
impl std::error::Error for ConfigError {}

/// The file as it is written; `Spanned` where validation has to name a line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    daemon: DaemonTable,
    #[serde(default)]
    workers: WorkersTable,
    #[serde(default)]
    vif: VifTable,
    #[serde(default)]
    umem: UmemTable,
    #[serde(default)]
    bridge: Vec<BridgeTable>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct DaemonTable {
    run_dir: Option<Spanned<PathBuf>>,
    control_socket: Option<Spanned<PathBuf>>,
    bpf_dir: Option<Spanned<PathBuf>>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct WorkersTable {
    count: Option<Spanned<i64>>,
    pin: Option<bool>,
    poll_us: Option<Spanned<i64>>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct VifTable {
    max_queues: Option<Spanned<i64>>,
    backlog_bytes: Option<Spanned<i64>>,
    backlog_ms: Option<Spanned<i64>>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct UmemTable {
    frames: Option<Spanned<i64>>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BridgeTable {
    name: Spanned<String>,
    uplink: Option<Spanned<String>>,
    #[serde(default)]
    xdp: XdpMode,
}

impl Config {
    /// Read and validate `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: path.into(),
            line: None,
            field: String::new(),
            reason: match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "no such file; write one (see `netback run --help`) or name it with --config"
                        .into()
                }
                _ => format!("cannot read it: {error}"),
            },
        })?;
        Self::parse(path, &text)
    }

    /// Validate `text`; `path` is only for the error line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let file: File = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        Ok(Self {
            daemon: source.daemon(&file.daemon)?,
            workers: Workers {
                count: source.number("workers.count", &file.workers.count, 1..=256)?,
                pin: file.workers.pin.unwrap_or(true),
                poll_us: source
                    .number("workers.poll_us", &file.workers.poll_us, 0..=1_000_000)?
                    .unwrap_or(50),
            },
            vif: Vif {
                max_queues: source.number("vif.max_queues", &file.vif.max_queues, 1..=64)?,
                // At least one packet of the largest size must fit, or such a packet could never be delivered.
                backlog_bytes: source
                    .number(
                        "vif.backlog_bytes",
                        &file.vif.backlog_bytes,
                        65_536..=1 << 28,
                    )?
                    .unwrap_or(524_288),
                backlog_ms: source
                    .number("vif.backlog_ms", &file.vif.backlog_ms, 1..=600_000)?
                    .unwrap_or(10_000),
            },
            umem: Umem {
                frames: source.number("umem.frames", &file.umem.frames, 1024..=1 << 20)?,
            },
            bridges: source.bridges(&file.bridge)?,
        })
    }

    /// How many workers to start.
    pub fn worker_count(&self) -> u16 {
        self.workers.count.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            u16::try_from(cores).unwrap_or(256).min(256)
        })
    }

    /// Frames of packet memory for which none is ever missing.
    pub fn frames_needed(&self) -> u32 {
        let uplinks = self
            .bridges
            .iter()
            .filter(|bridge| bridge.uplink.is_some())
            .count() as u32;
        let workers = u32::from(self.worker_count());
        // A device rarely has more queues than we have workers, and few guests' backlogs are ever full at once.
        let queues = workers * BACKLOGS_PER_WORKER;
        crate::worker::frames_needed(workers, queues, uplinks * workers, Rings::default())
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

/// The text under validation, to turn byte spans into lines.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}
impl Source<'_> {
    fn error(&self, at: Option<usize>, field: &str, reason: String) -> ConfigError {
        ConfigError {
            file: self.path.into(),
            line: at.map(|byte| self.before(byte).matches('\n').count() + 1),
            field: field.into(),
            reason,
        }
    }

    /// The text before `byte`, all of it where the parser's span is beyond the end.
    fn before(&self, byte: usize) -> &str {
        self.text.get(..byte).unwrap_or(self.text)
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        // The parser's message may have several lines; the rule is one.
        let reason = error.message().lines().collect::<Vec<_>>().join("; ");
        let start = error.span().map(|span| span.start);
        let field = start.map_or(String::new(), |byte| self.key_at(byte));
        self.error(start, &field, reason)
    }

    /// `table.key` of the line that holds `byte`, as far as the line itself tells.
    fn key_at(&self, byte: usize) -> String {
        let line_start = self.before(byte).rfind('\n').map_or(0, |n| n + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let Some((key, _)) = line.split_once('=') else {
            return line.trim().trim_matches(['[', ']']).trim().to_owned();
        };
        let table = self.text[..line_start]
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| line.starts_with('['))
            .map(|line| line.trim_matches(['[', ']']).trim().to_owned());
        match table {
            Some(table) => format!("{table}.{}", key.trim()),
            None => key.trim().to_owned(),
        }
    }

    fn number<T: TryFrom<i64>>(
        &self,
        field: &str,
        value: &Option<Spanned<i64>>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        let (number, at) = (*value.get_ref(), Some(value.span().start));
        let refused = || {
            let reason = format!(
                "{number} is not between {} and {}",
                range.start(),
                range.end()
            );
            self.error(at, field, reason)
        };
        if !range.contains(&number) {
            return Err(refused());
        }
        T::try_from(number).map(Some).map_err(|_| refused())
    }

    fn path(
        &self,
        field: &str,
        value: &Option<Spanned<PathBuf>>,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        if value.get_ref().is_absolute() {
            return Ok(Some(value.get_ref().clone()));
        }
        let reason = format!("\"{}\" is not an absolute path", value.get_ref().display());
        Err(self.error(Some(value.span().start), field, reason))
    }

    fn daemon(&self, table: &DaemonTable) -> Result<Daemon, ConfigError> {
        let run_dir = self
            .path("daemon.run_dir", &table.run_dir)?
            .unwrap_or_else(|| "/run/netback".into());
        let control_socket = self
            .path("daemon.control_socket", &table.control_socket)?
            .unwrap_or_else(|| run_dir.join("control"));
        // sun_path holds 108 bytes with its terminating zero (unix(7)).
        if control_socket.as_os_str().len() > 107 {
            let at = table.control_socket.as_ref().or(table.run_dir.as_ref());
            let reason = "a socket's path may have at most 107 bytes".into();
            return Err(self.error(at.map(|v| v.span().start), "daemon.control_socket", reason));
        }
        let bpf_dir = self
            .path("daemon.bpf_dir", &table.bpf_dir)?
            .unwrap_or_else(|| "/sys/fs/bpf/netback".into());
        Ok(Daemon {
            run_dir,
            control_socket,
            bpf_dir,
        })
    }

    fn bridges(&self, tables: &[BridgeTable]) -> Result<Vec<Bridge>, ConfigError> {
        if tables.is_empty() {
            let reason =
                "there is none; add [[bridge]] with name = \"xenbr0\" and uplink = \"eth0\"";
            return Err(self.error(None, "bridge", reason.into()));
        }
        let mut bridges: Vec<Bridge> = Vec::with_capacity(tables.len());
        for table in tables {
            let bridge = self.bridge(table)?;
            let at = Some(table.name.span().start);
            if bridges.iter().any(|other| other.name == bridge.name) {
                let reason = format!("\"{}\" is the name of an earlier bridge", bridge.name);
                return Err(self.error(at, "bridge.name", reason));
            }
            if let (Some(uplink), Some(spanned)) = (&bridge.uplink, &table.uplink)
                && let Some(other) = bridges.iter().find(|b| b.uplink.as_ref() == Some(uplink))
            {
                let reason = format!("\"{uplink}\" is the uplink of bridge \"{}\"", other.name);
                return Err(self.error(Some(spanned.span().start), "bridge.uplink", reason));
            }
            bridges.push(bridge);
        }
        Ok(bridges)
    }

    fn bridge(&self, table: &BridgeTable) -> Result<Bridge, ConfigError> {
        let name = table.name.get_ref();
        if name.is_empty()
            || name.len() > 64
            || name.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            let reason = "a name has 1 to 64 characters and no white space".into();
            return Err(self.error(Some(table.name.span().start), "bridge.name", reason));
        }
        if let Some(uplink) = &table.uplink {
            // IFNAMSIZ is 16 with its terminating zero; the kernel refuses '/', ':' and white space (dev_valid_name).
            let bad = |c: char| c.is_whitespace() || c == '/' || c == ':';
            let text = uplink.get_ref();
            if text.is_empty()
                || text.len() > 15
                || text == "."
                || text == ".."
                || text.contains(bad)
            {
                let reason = format!("\"{text}\" is not the name of a network interface");
                return Err(self.error(Some(uplink.span().start), "bridge.uplink", reason));
            }
        }
        Ok(Bridge {
            name: name.clone(),
            uplink: table.uplink.as_ref().map(|uplink| uplink.get_ref().clone()),
            xdp: table.xdp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("n.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bridge_is_all_that_must_be_said() {
        let config = parse(BRIDGE).unwrap();
        assert_eq!(
            config.daemon.control_socket,
            Path::new("/run/netback/control")
        );
        assert_eq!(config.daemon.bpf_dir, Path::new("/sys/fs/bpf/netback"));
        assert_eq!(config.vif.backlog_bytes, 524_288);
        assert_eq!(config.vif.backlog_ms, 10_000);
        assert!(config.worker_count() >= 1 && config.max_queues() >= 1);
        assert_eq!(config.bridges[0].uplink.as_deref(), Some("eth0"));
    }

    #[test]
    fn every_field_is_taken() {
        let text = format!(
            "[daemon]\nrun_dir = \"/tmp/r\"\ncontrol_socket = \"/tmp/c\"\nbpf_dir = \"/tmp/b\"\n[workers]\ncount = 3\npin = false\npoll_us = 7\n\
             [vif]\nmax_queues = 2\nbacklog_bytes = 65536\nbacklog_ms = 5\n[umem]\nframes = 2048\n{BRIDGE}xdp = \"generic\"\n[[bridge]]\nname = \"inner\"\n"
        );
        let config = parse(&text).unwrap();
        let workers = Workers {
            count: Some(3),
            pin: false,
            poll_us: 7,
        };
        assert_eq!(config.workers, workers);
        let vif = Vif {
            max_queues: Some(2),
            backlog_bytes: 65_536,
            backlog_ms: 5,
        };
        assert_eq!(config.vif, vif);
        assert_eq!(config.umem.frames, Some(2048));
        assert_eq!(config.daemon.run_dir, Path::new("/tmp/r"));
        assert_eq!(config.daemon.control_socket, Path::new("/tmp/c"));
        assert_eq!(config.bridges[0].xdp, XdpMode::Generic);
        assert_eq!(config.bridges[1].uplink, None);
        assert_eq!((config.worker_count(), config.max_queues()), (3, 2));
    }

    #[test]
    fn each_mistake_is_one_line_with_file_line_field_and_reason() {
        let long = "a".repeat(110);
        let cases = [
            (String::new(), "n.toml: bridge: there is none"),
            (
                format!("[workers]\ncount = 0\n{BRIDGE}"),
                "n.toml:2: workers.count: 0 is not between 1 and 256",
            ),
            (
                format!("[workers]\ncont = 1\n{BRIDGE}"),
                "n.toml:2: workers.cont: unknown field",
            ),
            (
                format!("[workers]\ncount = \"two\"\n{BRIDGE}"),
                "n.toml:2: workers.count: invalid type",
            ),
            (
                format!("[wokers]\n{BRIDGE}"),
                "n.toml:1: wokers: unknown field",
            ),
            (
                format!("\n[vif]\nbacklog_bytes = 9\n{BRIDGE}"),
                "n.toml:3: vif.backlog_bytes: 9 is not between",
            ),
            (
                format!("[umem]\nframes = -1\n{BRIDGE}"),
                "n.toml:2: umem.frames: -1 is not between",
            ),
            (
                format!("[daemon]\nrun_dir = \"run\"\n{BRIDGE}"),
                "n.toml:2: daemon.run_dir: \"run\" is not an absolute path",
            ),
            (
                format!("[daemon]\nrun_dir = \"/{long}\"\n{BRIDGE}"),
                "n.toml:2: daemon.control_socket: a socket's path",
            ),
            (
                format!("{BRIDGE}{BRIDGE}"),
                "n.toml:5: bridge.name: \"xenbr0\" is the name of an earlier",
            ),
            (
                format!("{BRIDGE}[[bridge]]\nname = \"b\"\nuplink = \"eth0\"\n"),
                "n.toml:6: bridge.uplink: \"eth0\" is the uplink of bridge \"xenbr0\"",
            ),
            (
                "[[bridge]]\nname = \"a b\"\n".into(),
                "n.toml:2: bridge.name: a name has",
            ),
            (
                "[[bridge]]\nname = \"a\"\nuplink = \"eth/0\"\n".into(),
                "n.toml:3: bridge.uplink: \"eth/0\" is not",
            ),
            (
                "[[bridge]]\nname = \"a\"\nxdp = \"fast\"\n".into(),
                "n.toml:3: bridge.xdp: unknown variant",
            ),
            (
                "[[bridge]]\nuplink = \"eth0\"\n".into(),
                "n.toml:1: bridge: missing field `name`",
            ),
            ("[[bridge]\n".into(), "n.toml:1: bridge: "),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err();
            assert!(
                error.starts_with(expected),
                "{text:?}\n gave {error:?}\n not {expected:?}"
            );
            assert_eq!(error.lines().count(), 1, "{error:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_one_line() {
        let error = Config::load(Path::new("/nonexistent/n.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("/nonexistent/n.toml: no such file"),
            "{error}"
        );
    }
}
