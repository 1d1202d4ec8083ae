//! Our XDP program on a device: loaded, attached as a BPF link, pinned with its socket map, adopted on restart.
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, on any device (XDP_FLAGS_SKB_MODE).
    Generic,
}

/// Our program on a device. Dropping it takes nothing off: the pins keep it there.
#[derive(Debug)]
pub struct Attachment {
    map: OwnedFd,
    ifname: String,
    ifindex: u32,
    mode: Mode,
    adopted: bool,
}

/// Why the program is not on the device.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {}

/// Put our program on `ifname`, or take over the one a predecessor pinned under `<bpf_dir>/<ifname>/`.
pub fn install_or_adopt(ifname: &str, bpf_dir: &Path) -> Result<Attachment, XdpError> {
    let _ = (ifname, PathBuf::from(bpf_dir));
    todo!()
}

/// Take our program off `ifname` and remove its pins; `Ok(false)`: there were none.
pub fn uninstall(ifname: &str, bpf_dir: &Path) -> Result<bool, XdpError> {
    let _ = (ifname, bpf_dir);
    todo!()
}

impl Attachment {
    /// Name of the device.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Its index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// How the program runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// True when a predecessor's program was taken over, so that the device was not touched.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Send what arrives on `queue` to `socket`.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let _ = (queue, socket, &self.map);
        todo!()
    }
}
