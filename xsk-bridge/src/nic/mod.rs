//! Preparing a device for AF_XDP, and restoring it.
//!
//! Guests have MACs of their own, so the device must take every frame: promiscuous and all-multicast. Offloads that strip VLAN
//! tags or merge packets pass metadata that XDP does not see, so they are off. These are settings of the device and not of
//! the process: they remain when the process ends, and [`put_back`] restores them.
mod ioctl;
mod ipv6;
mod multi_buffer;
mod record;
mod segmentation;
mod send_queues;
mod virtual_function;

pub(crate) use ioctl::Handle;
pub use multi_buffer::{LengthLimit, MultiBuffer, largest_mtu, mtu_limit};
pub use segmentation::Segmentation;
pub use send_queues::{SendQueues, Unpredictable};

use crate::device::FRAME_OVERHEAD;
use crate::link::Link;
use crate::xdp::Mode;
use ioctl::{Channels, Feature};
use record::Record;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Offloads that must be off, by the kernel's names (net/ethtool/common.c), each with the consequence if it stays on.
const UNWANTED: &[(&str, &str)] = &[
    (
        "rx-vlan-hw-parse",
        "VLAN tags are stripped, so tagged frames arrive untagged",
    ),
    (
        "rx-vlan-stag-hw-parse",
        "service VLAN tags are stripped, so tagged frames arrive untagged",
    ),
    (
        "tx-vlan-hw-insert",
        "the driver may tag what it was not asked to",
    ),
    (
        "rx-vlan-filter",
        "frames of VLANs that only guests know are filtered out",
    ),
    (
        "rx-lro",
        "received segments are merged over what a frame holds",
    ),
    (
        "rx-gro-hw",
        "received segments are merged over what a frame holds",
    ),
];

/// A device after [`prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Index of the device.
    pub ifindex: u32,
    /// Queues to open a socket on: 0..queues.
    pub queues: u32,
    /// The device's MTU, without the Ethernet header.
    pub mtu: u32,
    /// Longest frame that the device carries: MTU + Ethernet header + one VLAN tag.
    pub max_frame: usize,
    /// The device's MAC address.
    pub mac: [u8; 6],
    /// Steps that failed but do not prevent service, one line each.
    pub warnings: Vec<String>,
}

/// Why a device cannot serve, or cannot be restored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NicError {
    #[error("no interface {name}; there are: {}", there.join(", "))]
    NoInterface { name: String, there: Vec<String> },
    #[error("{0} is the loopback interface: name one that leads to a network")]
    Loopback(String),
    #[error("{0} is no Ethernet interface")]
    NotEthernet(String),
    #[error("{name} is a {kind}, on which AF_XDP does not run: {instead}")]
    Stacked {
        name: String,
        kind: String,
        instead: String,
    },
    #[error(
        "{name} belongs to the {kind} {master}: take it out first with `ip link set dev {name} nomaster`"
    )]
    Enslaved {
        name: String,
        kind: String,
        master: String,
    },
    #[error(
        "{name} has MTU {mtu}, and {limit} is the largest that works, for {why}: `ip link set dev {name} mtu {limit}`{}", why.otherwise()
    )]
    Mtu {
        name: String,
        mtu: u32,
        limit: u32,
        why: LengthLimit,
    },
    #[error(
        "{name} is an untrusted virtual function, which gets no guest's frames: `ip link set dev {physical} vf {vf} trust on spoofchk off`"
    )]
    Untrusted {
        name: String,
        physical: String,
        vf: u32,
    },
    #[error("{name} has {max} queues, not {wanted}")]
    Queues { name: String, wanted: u32, max: u32 },
    #[error(
        "no permission to {action} of {name}: run as root, or with CAP_NET_ADMIN and a writable run directory"
    )]
    Permission { name: String, action: &'static str },
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Record {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("{name}: cannot {action}: {source}")]
    Os {
        name: String,
        action: &'static str,
        source: io::Error,
    },
}

/// Checks whether [`prepare`] would refuse the interface `ifname`, without changing anything.
///
/// # Errors
/// The interface does not exist, or cannot serve in its present state.
pub fn check(ifname: &str, mode: Mode) -> Result<(), NicError> {
    fit(ifname, mode).map(|_| ())
}

/// Brings `ifname` up, promiscuous and all-multicast, with stripping and merging offloads off, and with `queues` channels
/// (`None`: as many as it has); `mode` is where our program is to run. The settings before that are recorded in
/// `<run_dir>/nic-<ifname>.json` first; the record of an earlier `prepare` that was not put back is kept.
pub fn prepare(
    ifname: &str,
    mode: Mode,
    queues: Option<u32>,
    run_dir: &Path,
) -> Result<Prepared, NicError> {
    let link = fit(ifname, mode)?;
    let named = named(ifname);
    let device = Handle::open(ifname).map_err(named("open a control socket"))?;
    let mut warnings = Vec::from_iter(virtual_function::check(&device, ifname)?);
    remember(&device, &link, run_dir)?;
    let queues = set_channels(&device, ifname, queues)?;
    warnings.extend(unwanted_off(&device, ifname)?);
    let flags = device.flags().map_err(named("read the flags"))?;
    let wanted = flags | libc::IFF_UP | libc::IFF_PROMISC | libc::IFF_ALLMULTI;
    if wanted != flags {
        device
            .set_flags(wanted)
            .map_err(named("bring up the promiscuous mode"))?;
    }
    Ok(Prepared {
        ifindex: link.index,
        queues,
        mtu: link.mtu,
        max_frame: link.mtu as usize + FRAME_OVERHEAD,
        mac: link.mac,
        warnings,
    })
}

/// Offloads of `ifname` that [`prepare`] switches off and that are on, by the kernel's names, each with what it does to frames. One
/// that the driver does not let go of is not among them.
pub fn spoiling_offloads(ifname: &str) -> io::Result<Vec<(&'static str, &'static str)>> {
    let features = features(&Handle::open(ifname)?)?;
    let spoils = |name: &str| {
        let mut features = features.iter();
        features.any(|feature| feature.name == name && feature.on && feature.changeable)
    };
    let unwanted = UNWANTED.iter().copied();
    Ok(unwanted.filter(|(name, _)| spoils(name)).collect())
}

/// Restores what [`prepare`] recorded and removes the record. Returns false if there was no record. A record of a device that is gone
/// is only removed. Our program should be off before: drivers refuse some changes under XDP.
pub fn put_back(ifname: &str, run_dir: &Path) -> Result<bool, NicError> {
    let path = record::path(run_dir, ifname);
    let Some(record) = record::load(&path).map_err(record_error(&path, "read the record"))? else {
        return Ok(false);
    };
    let link = Link::by_name(ifname).map_err(named(ifname)("look it up"))?;
    if link.is_some_and(|link| is_of(&record, &link)) {
        restore(ifname, &record)?;
    }
    std::fs::remove_file(&path).map_err(record_error(&path, "remove the record"))?;
    Ok(true)
}

/// Switches IPv6 off on a device that is prepared, which drops its IPv6 addresses, or restores it as it was, as [`put_back`] does too.
///
/// # Errors
/// The device has not been prepared, or the kernel refuses.
pub fn silence_ipv6(ifname: &str, silent: bool, run_dir: &Path) -> Result<(), NicError> {
    let path = record::path(run_dir, ifname);
    let record = record::load(&path).map_err(record_error(&path, "read the record"))?;
    let missing = || record_error(&path, "find the record")(io::ErrorKind::NotFound.into());
    let mut record = record.ok_or_else(missing)?;
    let named = named(ifname);
    let action = "switch IPv6 off or on";
    match (silent, record.ipv6_was_off) {
        (true, None) => {
            let Some(is_off) = ipv6::is_off(ifname).map_err(named(action))? else {
                return Ok(());
            };
            // Recorded before it is done, so that it is put back whatever ends the process in between.
            record.ipv6_was_off = Some(is_off);
            record::store(&path, &record).map_err(record_error(&path, "write the record"))?;
            ipv6::set_off(ifname, true).map_err(named(action))
        }
        // Another program may have switched IPv6 on meanwhile.
        (true, Some(_)) => ipv6::set_off(ifname, true).map_err(named(action)),
        (false, Some(was_off)) => {
            ipv6::set_off(ifname, was_off).map_err(named(action))?;
            record.ipv6_was_off = None;
            record::store(&path, &record).map_err(record_error(&path, "write the record"))
        }
        (false, None) => Ok(()),
    }
}

/// Whether [`prepare`] has prepared this very device, and nothing has put it back.
pub fn is_prepared(ifname: &str, run_dir: &Path) -> bool {
    let record = record::load(&record::path(run_dir, ifname)).ok().flatten();
    let link = Link::by_name(ifname).ok().flatten();
    record.is_some_and(|record| link.is_some_and(|link| is_of(&record, &link)))
}

fn is_of(record: &Record, link: &Link) -> bool {
    record.ifindex == link.index && record.mac == link.mac
}

/// Opens the device if it can serve.
fn fit(ifname: &str, mode: Mode) -> Result<Link, NicError> {
    let links = Link::all().map_err(named(ifname)("list the interfaces"))?;
    let name = ifname.to_owned();
    let Some(link) = links.iter().find(|link| link.name == ifname).cloned() else {
        let there = links.into_iter().map(|link| link.name).collect();
        return Err(NicError::NoInterface { name, there });
    };
    if link.hardware == libc::ARPHRD_LOOPBACK {
        return Err(NicError::Loopback(name));
    }
    if link.hardware != libc::ARPHRD_ETHER {
        return Err(NicError::NotEthernet(name));
    }
    if let Some(kind @ ("bond" | "team" | "bridge" | "vlan" | "openvswitch" | "vrf")) =
        link.kind.as_deref()
    {
        let kind = kind.to_owned();
        let beneath = links
            .iter()
            .filter(|other| other.master == Some(link.index));
        let beneath: Vec<&str> = beneath.map(|link| &*link.name).collect();
        let instead = instead_of(&kind, &beneath);
        return Err(NicError::Stacked {
            name,
            kind,
            instead,
        });
    }
    if let Some(master) = link.master {
        let master = links.iter().find(|link| link.index == master);
        return Err(NicError::Enslaved {
            name,
            kind: link.slave_kind.unwrap_or_else(|| "interface".to_owned()),
            master: master.map_or_else(|| "above it".to_owned(), |link| link.name.clone()),
        });
    }
    if let Err((limit, why)) = multi_buffer::fit_mtu(&link, mode) {
        let mtu = link.mtu;
        return Err(NicError::Mtu {
            name,
            mtu,
            limit,
            why,
        });
    }
    Ok(link)
}

/// Advice on which device to name in the place of one of this kind, with these devices beneath it.
fn instead_of(kind: &str, beneath: &[&str]) -> String {
    match (kind, beneath) {
        ("bond" | "team", [first, second, ..]) => format!(
            "take its cards out (`ip link set dev {first} nomaster`, and so on) and name two of them, uplink = {first:?} and backup = {second:?}"
        ),
        ("vlan", _) => {
            "name the card beneath it as uplink, and the tag by vlan = of the [[bridge]]".into()
        }
        (_, [first, ..]) => {
            format!("take {first} out (`ip link set dev {first} nomaster`) and name it")
        }
        (_, []) => "name the card beneath it".into(),
    }
}

/// Records the device's settings, unless a predecessor has: then the device has the settings that the predecessor made.
fn remember(device: &Handle, link: &Link, run_dir: &Path) -> Result<(), NicError> {
    let path = record::path(run_dir, &link.name);
    let old = record::load(&path).map_err(record_error(&path, "read the record"))?;
    if old.is_some_and(|record| is_of(&record, link)) {
        return Ok(());
    }
    let named = named(&link.name);
    let features = features(device).map_err(named("read the offloads"))?;
    let flags = device.flags().map_err(named("read the flags"))?;
    let record = Record {
        ifindex: link.index,
        mac: link.mac,
        up: flags & libc::IFF_UP != 0,
        promiscuous: flags & libc::IFF_PROMISC != 0,
        all_multicast: flags & libc::IFF_ALLMULTI != 0,
        channels: supported(device.channels()).map_err(named("read the channels"))?,
        features: features
            .into_iter()
            .filter(|f| f.changeable && UNWANTED.iter().any(|(name, _)| *name == f.name))
            .map(|f| (f.name, f.on))
            .collect(),
        ipv6_was_off: None,
    };
    record::store(&path, &record).map_err(record_error(&path, "write the record"))
}

/// Sets the channels to `wanted`, or leaves them. Returns how many queues receive.
fn set_channels(device: &Handle, ifname: &str, wanted: Option<u32>) -> Result<u32, NicError> {
    let named = named(ifname);
    let Some(now) = supported(device.channels()).map_err(named("read the channels"))? else {
        let rings = supported(device.recv_rings()).map_err(named("read the receive rings"))?;
        let queues = rings.unwrap_or(1).max(1);
        return match wanted {
            Some(wanted) if wanted != queues => Err(too_many(ifname, wanted, queues)),
            _ => Ok(queues),
        };
    };
    let queues = now.combined + now.rx;
    let Some(wanted) = wanted.filter(|wanted| *wanted != queues) else {
        return Ok(queues);
    };
    let next = if now.max_combined > 0 {
        Channels {
            combined: wanted,
            rx: 0,
            tx: 0,
            ..now
        }
    } else {
        Channels {
            rx: wanted,
            tx: wanted.min(now.max_tx),
            ..now
        }
    };
    let max = now.max_combined.max(now.max_rx);
    if wanted == 0 || wanted > max {
        return Err(too_many(ifname, wanted, max));
    }
    device
        .set_channels(next)
        .map_err(named("set the channels"))?;
    Ok(wanted)
}

fn too_many(ifname: &str, wanted: u32, max: u32) -> NicError {
    NicError::Queues {
        name: ifname.to_owned(),
        wanted,
        max,
    }
}

/// Switches the unwanted offloads off. Returns a line for each that stays on.
fn unwanted_off(device: &Handle, ifname: &str) -> Result<Vec<String>, NicError> {
    let named = named(ifname);
    let is_on = |features: &[Feature], name: &str| {
        features
            .iter()
            .any(|feature| feature.name == name && feature.on)
    };
    let before = features(device).map_err(named("read the offloads"))?;
    let off: Vec<_> = UNWANTED
        .iter()
        .filter(|(name, _)| is_on(&before, name))
        .map(|(name, _)| (*name, false))
        .collect();
    if off.is_empty() {
        return Ok(Vec::new());
    }
    device
        .set_features(&off)
        .map_err(named("switch offloads off"))?;
    let after = features(device).map_err(named("read the offloads"))?;
    Ok(UNWANTED
        .iter()
        .filter(|(name, _)| is_on(&after, name))
        .map(|(name, why)| format!("{ifname}: the driver keeps {name} on: {why}"))
        .collect())
}

fn restore(ifname: &str, record: &Record) -> Result<(), NicError> {
    let named = named(ifname);
    let device = Handle::open(ifname).map_err(named("open a control socket"))?;
    let features: Vec<_> = features_of(&record.features);
    device
        .set_features(&features)
        .map_err(named("restore the offloads"))?;
    if let Some(channels) = record.channels {
        let now = device.channels().map_err(named("read the channels"))?;
        if now != channels {
            device
                .set_channels(channels)
                .map_err(named("restore the channels"))?;
        }
    }
    if let Some(was_off) = record.ipv6_was_off {
        ipv6::set_off(ifname, was_off).map_err(named("restore IPv6"))?;
    }
    let mut flags = device.flags().map_err(named("read the flags"))?;
    for (flag, was) in [
        (libc::IFF_UP, record.up),
        (libc::IFF_PROMISC, record.promiscuous),
        (libc::IFF_ALLMULTI, record.all_multicast),
    ] {
        flags = if was { flags | flag } else { flags & !flag };
    }
    device.set_flags(flags).map_err(named("restore the flags"))
}

fn features_of(recorded: &BTreeMap<String, bool>) -> Vec<(&str, bool)> {
    recorded
        .iter()
        .map(|(name, on)| (name.as_str(), *on))
        .collect()
}

/// Returns the device's offloads; none if the driver does not support the request.
fn features(device: &Handle) -> io::Result<Vec<Feature>> {
    Ok(supported(device.features())?.unwrap_or_default())
}

/// Returns `None` if the driver does not support the request.
fn supported<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes the error of a failed request to `ifname`, with the name of the attempted step.
fn named(ifname: &str) -> impl Fn(&'static str) -> Box<dyn FnOnce(io::Error) -> NicError> {
    let name = ifname.to_owned();
    move |action| {
        let name = name.clone();
        Box::new(move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => NicError::Permission { name, action },
            _ => NicError::Os {
                name,
                action,
                source,
            },
        })
    }
}

fn record_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> NicError {
    let path = path.to_owned();
    move |source| NicError::Record {
        path,
        action,
        source,
    }
}
