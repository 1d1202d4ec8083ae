//! What the checks look at: files below a root, and what xenstore and ip(8) said.

use crate::control::socket::{self, Request};
use crate::observe::status::{Status, Uplink};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use xen::store::{StoreError, Transaction, XenStore};
use xsk_bridge::nic::{self, MultiBuffer};

/// The machine as the checks see it; a test makes one up.
#[derive(Debug)]
pub struct View {
    root: PathBuf,
    /// The configuration file, by an absolute path that holds wherever a cure is typed; read below the root.
    pub config: PathBuf,
    /// The vifs in our backend directory, or why xenstore could not be asked.
    pub backends: Result<Vec<Backend>, String>,
    /// What `ip -details -json address show` printed: one object a network interface. Empty where there is no ip(8).
    pub links: Vec<serde_json::Value>,
    /// Offloads that are on and spoil frames, by interface: the kernel's name and what it does. Empty where there are none.
    pub offloads: BTreeMap<String, Vec<(&'static str, &'static str)>>,
    /// What kernel and driver do with frames in several buffers, by interface. Without an interface that could not be asked.
    pub multi_buffer: BTreeMap<String, MultiBuffer>,
    /// The uplinks of the running netback, as it reports them. Empty where none runs.
    pub uplinks: Vec<Uplink>,
}

/// A vif that the toolstack wants us to serve, as `backend/vif/<domid>/<devid>` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// The guest's domain id, as the name of the directory.
    pub domid: String,
    /// The device id.
    pub devid: String,
    /// `bridge`; None where the toolstack wrote none.
    pub bridge: Option<String>,
    /// `mac`.
    pub mac: Option<String>,
    /// `mtu`; absent means 1500.
    pub mtu: Option<String>,
    /// `hotplug-error`: why netback, or a hotplug script, does not serve it.
    pub hotplug_error: Option<String>,
}

impl Backend {
    /// `<domid>.<devid>`, as the kernel's netback names its interfaces.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.domid, self.devid)
    }
}

impl View {
    /// This machine, with xenstore and ip(8) asked, and the netback that listens on `socket`.
    pub fn of_this_machine(config: &Path, socket: Option<&Path>) -> Self {
        let links = ask_ip();
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        // Where the driver cannot be asked there is nothing to say.
        let offloads = names
            .filter_map(|name| Some((name.to_owned(), nic::spoiling_offloads(name).ok()?)))
            .collect();
        let indexed = links.iter().filter_map(|link| {
            let index = link["ifindex"].as_u64()?.try_into().ok()?;
            Some((link["ifname"].as_str()?.to_owned(), index))
        });
        let multi_buffer = indexed
            .filter_map(|(name, index)| Some((name, MultiBuffer::of(index).ok()?)))
            .collect();
        Self {
            offloads,
            multi_buffer,
            uplinks: socket.map(ask_netback).unwrap_or_default(),
            ..Self::below(Path::new("/"), config, ask_xenstore(), links)
        }
    }

    /// A machine whose files lie below `root`.
    pub fn below(
        root: &Path,
        config: &Path,
        backends: Result<Vec<Backend>, String>,
        links: Vec<serde_json::Value>,
    ) -> Self {
        Self {
            root: root.into(),
            config: config.into(),
            backends,
            links,
            offloads: BTreeMap::new(),
            multi_buffer: BTreeMap::new(),
            uplinks: Vec::new(),
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The file's text without white space at its ends; None where it cannot be read.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        // Files of /proc and of others may hold anything, and no check needs more than this of one.
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.path(path)).ok()?;
        file.take(1 << 20).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The file's number; None where it holds none.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        let text = self.read(path)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// Whether there is such a file or directory.
    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// The mode of the file; None where there is none.
    pub(super) fn mode(&self, path: impl AsRef<Path>) -> Option<u32> {
        Some(self.path(path).metadata().ok()?.mode())
    }

    /// Names in the directory, sorted; empty where there is none.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        names
    }

    /// The last part of where the symbolic link leads.
    pub(super) fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The configuration's text.
    pub(super) fn config_text(&self) -> io::Result<String> {
        std::fs::read_to_string(self.path(&self.config))
    }

    /// Network interfaces that have a driver and are not vifs of this domain's own.
    pub(super) fn nics(&self) -> Vec<String> {
        let is_nic = |name: &String| {
            let driver = self.link(format!("/sys/class/net/{name}/device/driver"));
            driver.is_some_and(|driver| driver != "vif")
        };
        let names = self.list("/sys/class/net").into_iter();
        names.filter(is_nic).collect()
    }

    /// Addresses of this domain on the interface by which others can reach it.
    pub(super) fn addresses(&self, interface: &str) -> Vec<String> {
        let prefixed = self.prefixed_addresses(interface).into_iter();
        let bare = |address: String| address.split('/').next().unwrap_or_default().to_owned();
        prefixed.map(bare).collect()
    }

    /// As [`Self::addresses`], each with the length of its prefix, as ip(8) takes them.
    pub(super) fn prefixed_addresses(&self, interface: &str) -> Vec<String> {
        let known = self.ip(interface);
        let addresses = known.and_then(|link| link["addr_info"].as_array());
        let global = addresses
            .into_iter()
            .flatten()
            .filter(|address| address["scope"] == "global");
        let prefixed = |address: &serde_json::Value| {
            let local = address["local"].as_str()?;
            Some(match address["prefixlen"].as_u64() {
                Some(length) => format!("{local}/{length}"),
                None => local.to_owned(),
            })
        };
        global.filter_map(prefixed).collect()
    }

    /// What ip(8) said of the interface.
    pub(super) fn ip(&self, interface: &str) -> Option<&serde_json::Value> {
        self.links.iter().find(|link| link["ifname"] == interface)
    }

    /// The type of the file system that `path` is on (or would be on, where it is not there yet), from /proc/mounts.
    pub(super) fn file_system(&self, path: &Path) -> Option<String> {
        let mounts = self.read("/proc/mounts")?;
        let mount = |line: &str| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        };
        // The longest mount point wins; of equal ones the last, which hides the others.
        let above = mounts.lines().filter_map(mount);
        let above = above.filter(|(point, _)| path.starts_with(point));
        Some(above.max_by_key(|(point, _)| point.len())?.1)
    }

    /// Process ids and arguments of every process whose program has the name `program`.
    pub(super) fn processes(&self, program: &str) -> Vec<(String, Vec<String>)> {
        let pids = self.list("/proc").into_iter();
        let pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let process = |pid: String| {
            let line = self.read(format!("/proc/{pid}/cmdline"))?;
            let arguments: Vec<String> = line.split('\0').map(str::to_owned).collect();
            let name = Path::new(&arguments[0]).file_name()?.to_string_lossy();
            (name == program).then_some((pid, arguments))
        };
        pids.filter_map(process).collect()
    }
}

/// What ip(8) knows of every interface.
fn ask_ip() -> Vec<serde_json::Value> {
    let mut ip = Command::new("ip");
    ip.args(["-details", "-json", "address", "show"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = ip.output().map(|output| output.stdout).unwrap_or_default();
    serde_json::from_slice(&output).unwrap_or_default()
}

/// The uplinks of the netback that listens on `socket`; none where none does, or one of another version.
fn ask_netback(socket: &Path) -> Vec<Uplink> {
    let answer = socket::ask(socket, &Request::Status).and_then(|answer| answer);
    let status = answer
        .ok()
        .and_then(|answer| serde_json::from_value(answer).ok());
    status.map_or(Vec::new(), |status: Status| status.uplinks)
}

/// Our backend directory, through /dev/xen/xenbus.
fn ask_xenstore() -> Result<Vec<Backend>, String> {
    let (sender, receiver) = mpsc::channel();
    // Where no xenstored answers, the read blocks for ever and cannot be cancelled: leave it to a thread that ends with us.
    std::thread::spawn(move || {
        let asked = xen::linux::open_store().map_err(|error| error.to_string());
        let _ = sender.send(asked.and_then(|mut store| {
            backends(&mut store).map_err(|error: StoreError| error.to_string())
        }));
    });
    let patience = Duration::from_secs(3);
    let silence = || format!("xenstored does not answer within {} s", patience.as_secs());
    receiver
        .recv_timeout(patience)
        .unwrap_or_else(|_| Err(silence()))
}

/// Every vif below our own `backend/vif`.
pub(super) fn backends(store: &mut impl XenStore) -> Result<Vec<Backend>, StoreError> {
    let none = Transaction::NONE;
    let mut found = Vec::new();
    for domid in directory(store, "backend/vif")? {
        for devid in directory(store, &format!("backend/vif/{domid}"))? {
            let mut key =
                |key: &str| match store.read(none, &format!("backend/vif/{domid}/{devid}/{key}")) {
                    Ok(value) => Ok(Some(value)),
                    Err(StoreError::Missing(_)) => Ok(None),
                    Err(error) => Err(error),
                };
            found.push(Backend {
                bridge: key("bridge")?,
                mac: key("mac")?,
                mtu: key("mtu")?,
                hotplug_error: key("hotplug-error")?,
                domid: domid.clone(),
                devid,
            });
        }
    }
    Ok(found)
}

/// Names in a directory; none where it is not there.
fn directory(store: &mut impl XenStore, path: &str) -> Result<Vec<String>, StoreError> {
    match store.directory(Transaction::NONE, path) {
        Err(StoreError::Missing(_)) => Ok(Vec::new()),
        other => other,
    }
}
