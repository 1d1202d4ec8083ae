//! A device made fit for AF_XDP, and put back as it was.
use std::path::Path;

/// What the device has after [`prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Index of the device.
    pub ifindex: u32,
    /// Queues to open a socket on: 0..queues.
    pub queues: u32,
    /// Its MTU, without the Ethernet header.
    pub mtu: u32,
    /// Longest frame it carries: MTU + Ethernet header + one VLAN tag.
    pub max_frame: usize,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// What could not be done and does not forbid the service, one line each.
    pub warnings: Vec<String>,
}

/// Why the device cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum NicError {}

/// Bring `ifname` up, promiscuous and all-multicast, with stripping and merging offloads off, and with `queues` channels
/// (`None`: as many as it has). What was there before is recorded in `<run_dir>/nic-<ifname>.json` first.
pub fn prepare(ifname: &str, queues: Option<u32>, run_dir: &Path) -> Result<Prepared, NicError> {
    let _ = (ifname, queues, run_dir);
    todo!()
}

/// Restore what [`prepare`] recorded and remove the record; `Ok(false)`: there was none.
pub fn put_back(ifname: &str, run_dir: &Path) -> Result<bool, NicError> {
    let _ = (ifname, run_dir);
    todo!()
}
