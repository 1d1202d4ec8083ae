//! What libxl does in dom0 for a vif: the nodes it writes, in one transaction, and how it takes them away.
use std::path::Path;
use std::time::Duration;
use xen::grant::DomId;
use xen::store::StoreError;

/// A vif as a domain's configuration describes it; `Default` is libxl's.
#[derive(Debug, Clone)]
pub struct VifConfig {
    /// MAC address of the guest's end.
    pub mac: [u8; 6],
    /// Bridge (libxl: xenbr0).
    pub bridge: String,
    /// `vif`, or `vif_ioemu` for HVM guests.
    pub kind: String,
    /// `"<bytes>,<microseconds>"`.
    pub rate: Option<String>,
    /// Written only where it is not 1500; into the frontend directory too.
    pub mtu: Option<u32>,
    /// VLAN specification (Xen 4.19: `10p/20`).
    pub vlan: Option<String>,
    /// Addresses the guest may use.
    pub ip: Option<String>,
    /// Name of the interface a kernel backend would make.
    pub vifname: Option<String>,
    /// Hotplug script.
    pub script: String,
    /// The guest trusts the backend.
    pub trusted: bool,
}

impl Default for VifConfig {
    fn default() -> Self {
        todo!()
    }
}

/// Dom0's view: the privileged xenstore connection and the hypervisor's control socket.
pub struct Toolstack {}

impl Toolstack {
    /// Connect to the hypervisor that serves `sim_dir`.
    pub fn connect(sim_dir: &Path) -> std::io::Result<Self> {
        todo!()
    }
    /// Privileged xenstore connection.
    pub fn store(&mut self) -> &mut xen::store::Client<std::os::unix::net::UnixStream> {
        todo!()
    }
    /// Write the nodes of vif `devid` of guest `frontend` served by `backend`; does not wait.
    pub fn create_vif(&mut self, backend: DomId, frontend: DomId, devid: u32, config: &VifConfig) -> Result<(), StoreError> {
        todo!()
    }
    /// Wait until the backend's state is exactly `state`.
    pub fn wait_backend_state(&mut self, backend: DomId, frontend: DomId, devid: u32, state: u32, limit: Duration) -> Result<(), StoreError> {
        todo!()
    }
    /// `xl network-detach`: `online=0`, `state=5`, wait for 6, wait for the path to vanish; true when it did in time.
    pub fn detach_vif(&mut self, backend: DomId, frontend: DomId, devid: u32, limit: Duration) -> Result<bool, StoreError> {
        todo!()
    }
    /// Remove both directories at once, whatever state they are in.
    pub fn destroy_vif(&mut self, backend: DomId, frontend: DomId, devid: u32) -> Result<(), StoreError> {
        todo!()
    }
    /// `xl destroy`: the domain is gone for everyone; its process notices by its event descriptor's hang-up.
    pub fn destroy_domain(&mut self, domain: DomId) -> std::io::Result<()> {
        todo!()
    }
}
