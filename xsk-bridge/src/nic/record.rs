//! The settings of a device before netback changed them: a file that outlives the process, for `put_back` to restore.
use super::ioctl::Channels;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The state of a device that [`prepare`](super::prepare) may change.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    /// Identifies, with the MAC, the device that was recorded.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub up: bool,
    pub promiscuous: bool,
    pub all_multicast: bool,
    /// Channels; `None` if the driver has no setting for them.
    pub channels: Option<Channels>,
    /// The offloads that netback changes, by the kernel's names.
    pub features: BTreeMap<String, bool>,
    /// Whether IPv6 was off on the device; `None`: netback has not changed it.
    #[serde(default)]
    pub ipv6_was_off: Option<bool>,
}

pub(super) fn path(run_dir: &Path, ifname: &str) -> PathBuf {
    run_dir.join(format!("nic-{ifname}.json"))
}

/// Reads the record of a device. Returns `None` if there is none, or if it is of another device with the same name.
pub(super) fn load(path: &Path) -> io::Result<Option<Record>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes the record completely or not at all, readable by root only.
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
