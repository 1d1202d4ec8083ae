//! What a device was like before we changed it: a file that outlives the process, so that `put_back` can restore it.
use super::ioctl::Channels;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The state of a device that [`prepare`](super::prepare) may change.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    /// With the MAC says whether the device is still the one that was recorded.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub up: bool,
    pub promiscuous: bool,
    pub all_multicast: bool,
    /// `None`: the driver has none to set.
    pub channels: Option<Channels>,
    /// The offloads we touch, by the kernel's names.
    pub features: BTreeMap<String, bool>,
    /// Whether IPv6 was off on the device; `None`: it is as it was.
    #[serde(default)]
    pub ipv6_was_off: Option<bool>,
}

pub(super) fn path(run_dir: &Path, ifname: &str) -> PathBuf {
    run_dir.join(format!("nic-{ifname}.json"))
}

/// The record of this very device; `None` where there is none, or one of another device of the name.
pub(super) fn load(path: &Path) -> io::Result<Option<Record>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Write it whole or not at all, for root only.
pub(super) fn store(path: &Path, record: &Record) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(record).map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}
