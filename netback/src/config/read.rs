//! The tables of the configuration file, read into [`Config`] with every value in its range.
use super::table::{Table, Text};
use super::{Bridge, Bulk, Config, ConfigError, Daemon, Umem, Vif, Workers, XdpMode};
use crate::bounds::MAX_BACKLOG_BYTES;
use crate::vif::bandwidth::Bandwidth;
use std::borrow::Cow;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use xsk_bridge::switch::filter::InvalidAddresses;
use xsk_bridge::switch::vlan::{LAST, NATIVE};

/// Every table of the file with its keys; `bridge` may be there several times, the others once.
pub const KEYS: [(&str, &[&str]); 5] = [
    (
        "bridge",
        &["name", "uplink", "backup", "xdp", "bulk", "vlan", "host"],
    ),
    ("workers", &["count", "pin", "poll_us"]),
    (
        "vif",
        &[
            "max_queues",
            "backlog_bytes",
            "backlog_ms",
            "stall_ms",
            "rate_in",
            "mac_lock",
            "ip",
            "isolated",
        ],
    ),
    ("umem", &["frames"]),
    ("daemon", &["run_dir", "control_socket", "bpf_dir"]),
];

/// The tables of the file, each of which is taken once.
pub(super) struct File<'a> {
    text: Text<'a>,
    tables: DeTable<'a>,
}

impl<'a> File<'a> {
    /// The tables that `text` has, known or not.
    ///
    /// # Errors
    /// The text is not TOML.
    pub(super) fn new(text: Text<'a>) -> Result<Self, ConfigError> {
        let tables = text.parse()?;
        Ok(Self { text, tables })
    }

    /// Refuses the first table of the file that is not in [`KEYS`].
    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let known = |name: &str| KEYS.iter().any(|(table, _)| *table == name);
        let unknown = self
            .tables
            .iter()
            .filter(|(name, _)| !known(name.get_ref()));
        match unknown.min_by_key(|(name, _)| name.span().start) {
            Some((name, value)) => Err(self.unknown(name, value.get_ref())),
            None => Ok(()),
        }
    }

    /// The error for a table, or for a key before any table, that the file has and netback has not.
    fn unknown(&self, name: &Spanned<Cow<'_, str>>, value: &DeValue<'_>) -> ConfigError {
        let (at, name) = (Some(name.span().start), &**name.get_ref());
        let holds = |(_, keys): &&(&str, &[&str])| keys.contains(&name);
        let reason = match KEYS.iter().find(holds) {
            Some(("bridge", _)) if !value.is_table() => "it belongs below a [[bridge]]".into(),
            Some((table, _)) if !value.is_table() => format!("it belongs below [{table}]"),
            _ => "there is no such table; there are [[bridge]], [workers], [vif], [umem], [daemon]"
                .into(),
        };
        self.text.error(at, name, reason)
    }

    /// The table `name`, empty where it is not in the file.
    fn table(&mut self, name: &'static str) -> Result<Table<'a>, ConfigError> {
        let keys = KEYS.iter().find(|(table, _)| *table == name);
        let keys = keys.map_or(&[][..], |(_, keys)| keys);
        let Some(value) = self.tables.remove(name) else {
            return Table::new(self.text, name, keys, DeTable::new());
        };
        let at = Some(value.span().start);
        match value.into_inner() {
            DeValue::Table(values) => Table::new(self.text, name, keys, values),
            DeValue::Array(_) => {
                let reason =
                    format!("there is one such table: write [{name}], or its keys in {{}}");
                Err(self.text.error(at, name, reason))
            }
            _ => {
                let reason = format!("it is a table: write [{name}], and its keys below");
                Err(self.text.error(at, name, reason))
            }
        }
    }

    pub(super) fn daemon(&mut self) -> Result<Daemon, ConfigError> {
        let table = self.table("daemon")?;
        let default = Daemon::default();
        let run_dir = table.path("run_dir")?;
        let control_socket = table.path("control_socket")?;
        let at_fault = match control_socket {
            Some(_) => "control_socket",
            None => "run_dir",
        };
        let run_dir = run_dir.unwrap_or(default.run_dir);
        let control_socket = control_socket.unwrap_or_else(|| run_dir.join("control"));
        // sun_path holds 108 bytes with its terminating zero (unix(7)).
        let length = control_socket.as_os_str().len();
        if length > 107 {
            let reason = format!(
                "the control socket would have a path of {length} bytes, and 107 is the most"
            );
            return Err(table.error(at_fault, reason));
        }
        let bpf_dir = table.path("bpf_dir")?.unwrap_or(default.bpf_dir);
        Ok(Daemon {
            run_dir,
            control_socket,
            bpf_dir,
        })
    }

    pub(super) fn workers(&mut self) -> Result<Workers, ConfigError> {
        let table = self.table("workers")?;
        Ok(Workers {
            count: table.number("count", 1..=256)?,
            pin: table.boolean("pin")?.unwrap_or(true),
            poll_us: table.number("poll_us", 0..=1_000_000)?.unwrap_or(50),
        })
    }

    pub(super) fn vif(&mut self) -> Result<Vif, ConfigError> {
        let table = self.table("vif")?;
        // At least one packet of the largest size must fit, or such a packet could never be delivered.
        let backlog = 65_536..=i64::from(MAX_BACKLOG_BYTES);
        let ip = table.string("ip")?.map(|ip| {
            let parsed = ip.parse();
            parsed.map_err(|error: InvalidAddresses| table.error("ip", error.to_string()))
        });
        Ok(Vif {
            max_queues: table.number("max_queues", 1..=64)?,
            backlog_bytes: table.number("backlog_bytes", backlog)?.unwrap_or(524_288),
            backlog_ms: table.number("backlog_ms", 1..=600_000)?.unwrap_or(10_000),
            stall_ms: table.number("stall_ms", 0..=86_400_000)?.unwrap_or(60_000),
            rate_in: rate(&table, "rate_in")?,
            mac_lock: table.boolean("mac_lock")?.unwrap_or(false),
            isolated: table.boolean("isolated")?.unwrap_or(false),
            ip: ip.transpose()?,
        })
    }

    pub(super) fn umem(&mut self) -> Result<Umem, ConfigError> {
        let table = self.table("umem")?;
        Ok(Umem {
            frames: table.number("frames", 1024..=1 << 20)?,
        })
    }

    pub(super) fn bridges(&mut self) -> Result<Vec<Bridge>, ConfigError> {
        let Some(value) = self.tables.remove("bridge") else {
            return Ok(Vec::new());
        };
        let (text, at) = (self.text, Some(value.span().start));
        let wrong = |reason: &str| Err(text.error(at, "bridge", reason.into()));
        let tables = match value.into_inner() {
            DeValue::Array(tables) => tables,
            DeValue::Table(_) => return wrong("write [[bridge]], with two brackets on each side"),
            _ => return wrong("it is a table: write [[bridge]], and its keys below"),
        };
        let mut bridges: Vec<Bridge> = Vec::with_capacity(tables.len());
        for value in tables {
            let at = value.span().start;
            let DeValue::Table(values) = value.into_inner() else {
                return wrong("it is a table: write [[bridge]], and its keys below");
            };
            let table = Table::new(text, "bridge", KEYS[0].1, values)?;
            let bridge = bridge(&table, || {
                let reason = "it is missing: write name = \"xenbr0\", or what guests' bridge= says";
                text.error(Some(at), "bridge.name", reason.into())
            })?;
            unique(&table, &bridge, &bridges)?;
            bridges.push(bridge);
        }
        Ok(bridges)
    }
}

/// The rate under `key`; `None` where the key is not there.
fn rate(table: &Table<'_>, key: &str) -> Result<Option<Bandwidth>, ConfigError> {
    let Some(text) = table.string(key)? else {
        return Ok(None);
    };
    let rate = Bandwidth::from_text(&text).ok_or_else(|| {
        let reason = format!("{text:?} is not a rate as \"10Mb/s\", \"250KB/s\" or \"1MB/s@20ms\"");
        table.error(key, reason)
    });
    rate.map(Some)
}

/// One bridge by its table; `nameless` makes the error for a table without a name.
fn bridge(
    table: &Table<'_>,
    nameless: impl FnOnce() -> ConfigError,
) -> Result<Bridge, ConfigError> {
    let name = table.string("name")?.ok_or_else(nameless)?;
    let unfit = |c: char| c.is_control() || c.is_whitespace();
    if name.is_empty() || name.len() > 64 || name.contains(unfit) {
        let reason = format!("{name:?} is not a name of 1 to 64 bytes without white space");
        return Err(table.error("name", reason));
    }
    let uplink = interface(table, "uplink")?;
    let backup = interface(table, "backup")?;
    if backup.is_some() && uplink.is_none() {
        let reason = "there is no uplink that it could stand in for: name one".to_owned();
        return Err(table.error("backup", reason));
    }
    let xdp = match table.string("xdp")?.as_deref() {
        None | Some("auto") => XdpMode::Auto,
        Some("native") => XdpMode::Native,
        Some("generic") => XdpMode::Generic,
        Some(other) => {
            let reason = format!("{other:?} is not \"auto\", \"native\" or \"generic\"");
            return Err(table.error("xdp", reason));
        }
    };
    let bulk = match table.string("bulk")?.as_deref() {
        None | Some("auto") => Bulk::Auto,
        Some("off") => Bulk::Off,
        Some(other) => {
            let reason = format!("{other:?} is not \"auto\" or \"off\"");
            return Err(table.error("bulk", reason));
        }
    };
    let vlan = table.number("vlan", 1..=i64::from(LAST))?;
    if vlan.is_some() && uplink.is_none() {
        let reason = "it is a VLAN of the uplink, and there is none: name one, or take vlan out";
        return Err(table.error("vlan", reason.into()));
    }
    let host = table.boolean("host")?.unwrap_or(false);
    if host && !names_interface(&name) {
        let reason = format!(
            "the host port has the bridge's name, and {name:?} cannot be the name of a network interface: at most 15 bytes without / and :"
        );
        return Err(table.error("host", reason));
    }
    Ok(Bridge {
        name,
        uplink,
        backup,
        xdp,
        bulk,
        vlan,
        host,
    })
}

/// The name of a network interface under `key`; `None` where the key is not there.
fn interface(table: &Table<'_>, key: &str) -> Result<Option<String>, ConfigError> {
    let name = table.string(key)?;
    if let Some(name) = name.as_deref().filter(|name| !names_interface(name)) {
        let reason = format!("{name:?} cannot be the name of a network interface");
        return Err(table.error(key, reason));
    }
    Ok(name)
}

/// Whether the kernel could give an interface this name: IFNAMSIZ is 16 with its terminating zero, and `/`, `:` and white space
/// are refused (dev_valid_name).
fn names_interface(name: &str) -> bool {
    let unfit = |c: char| c.is_control() || c.is_whitespace() || c == '/' || c == ':';
    (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.contains(unfit)
}

/// Refuses a name that an earlier bridge has, an uplink whose VLAN one has, and an interface that is another's uplink, backup or host
/// port.
fn unique(table: &Table<'_>, bridge: &Bridge, earlier: &[Bridge]) -> Result<(), ConfigError> {
    if earlier.iter().any(|other| other.name == bridge.name) {
        let reason = format!("{:?} is the name of an earlier bridge", bridge.name);
        return Err(table.error("name", reason));
    }
    if bridge.backup.is_some() && bridge.backup == bridge.uplink {
        let reason = "it is the uplink itself: name another interface".to_owned();
        return Err(table.error("backup", reason));
    }
    for other in earlier {
        for (key, interface) in ["uplink", "backup"].into_iter().zip(bridge.interfaces()) {
            let is_shared = other.interfaces().any(|other| other == interface);
            if is_shared && !other.interfaces().eq(bridge.interfaces()) {
                let reason = format!(
                    "{interface:?} is an interface of bridge {:?} too: bridges that share one have the same uplink and backup",
                    other.name
                );
                return Err(table.error(key, reason));
            }
        }
    }
    let is_host = |host: &Bridge, other: &Bridge| {
        host.host && other.interfaces().any(|interface| interface == host.name)
    };
    let mut hosts = earlier.iter().chain([bridge]);
    if let Some(host) = hosts.find(|host| is_host(host, bridge)) {
        let reason = format!(
            "{:?} is the host port of a bridge, no network card",
            host.name
        );
        return Err(table.error("uplink", reason));
    }
    if earlier.iter().any(|other| is_host(bridge, other)) {
        let reason = format!("{:?} is the uplink of an earlier bridge", bridge.name);
        return Err(table.error("host", reason));
    }
    let Some(uplink) = &bridge.uplink else {
        return Ok(());
    };
    for other in earlier {
        if other.uplink.as_ref() != Some(uplink) {
            continue;
        }
        if other.vlan.unwrap_or(NATIVE) == bridge.vlan.unwrap_or(NATIVE) {
            let reason = format!(
                "{uplink:?} is the uplink of bridge {:?}: give one of the two a vlan of its own",
                other.name
            );
            return Err(table.error("uplink", reason));
        }
        if other.xdp != bridge.xdp {
            let reason = format!(
                "bridge {:?} has the same uplink and another xdp: say the same in both",
                other.name
            );
            return Err(table.error("uplink", reason));
        }
        if other.bulk != bridge.bulk {
            let reason = format!(
                "bridge {:?} has the same uplink and another bulk: say the same in both",
                other.name
            );
            return Err(table.error("uplink", reason));
        }
    }
    Ok(())
}

impl Config {
    /// Every table of the file.
    pub(super) fn read(text: Text<'_>) -> Result<Self, ConfigError> {
        let mut file = File::new(text)?;
        file.refuse_unknown()?;
        Ok(Self {
            daemon: file.daemon()?,
            workers: file.workers()?,
            vif: file.vif()?,
            umem: file.umem()?,
            bridges: file.bridges()?,
        })
    }
}
