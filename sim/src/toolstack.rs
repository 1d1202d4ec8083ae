//! What libxl does in dom0 for a vif: the nodes it writes, in one transaction, and how it takes them away
//! (tools/libs/light/libxl_nic.c, libxl_device.c).
use crate::client::Hypervisor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sim_machine::STORE_SOCKET;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use xen::grant::DomId;
use xen::store::{Client, StoreError, Transaction, XenStore};

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
    /// 1500 where it is not given; the backend's key is written only where it differs.
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
        Self {
            mac: [0x00, 0x16, 0x3e, 0, 0, 1],
            bridge: "xenbr0".into(),
            kind: "vif".into(),
            rate: None,
            mtu: None,
            vlan: None,
            ip: None,
            vifname: None,
            script: "/etc/xen/scripts/vif-bridge".into(),
            trusted: true,
        }
    }
}

/// Dom0's view: the privileged xenstore connection and the hypervisor's control socket.
#[derive(Debug)]
pub struct Toolstack {
    hypervisor: Hypervisor,
    store: Client<UnixStream>,
}

/// XenbusStateClosing, XenbusStateClosed (xen/include/public/io/xenbus.h).
const CLOSING: &str = "5";
const CLOSED: u32 = 6;

fn backend_path(backend: DomId, frontend: DomId, devid: u32) -> String {
    format!("/local/domain/{backend}/backend/vif/{frontend}/{devid}")
}

fn frontend_path(frontend: DomId, devid: u32) -> String {
    format!("/local/domain/{frontend}/device/vif/{devid}")
}

impl Toolstack {
    /// Connect to the hypervisor that serves `sim_dir`.
    pub fn connect(sim_dir: &Path) -> io::Result<Self> {
        let hypervisor = Hypervisor::connect(sim_dir, Duration::from_secs(10))?;
        let store = Client::new(UnixStream::connect(sim_dir.join(STORE_SOCKET))?);
        Ok(Self { hypervisor, store })
    }

    /// Privileged xenstore connection.
    pub fn store(&mut self) -> &mut Client<UnixStream> {
        &mut self.store
    }

    /// The hypervisor, to ask what it holds.
    pub fn hypervisor(&self) -> &Hypervisor {
        &self.hypervisor
    }

    /// Write the nodes of vif `devid` of guest `frontend` served by `backend`; does not wait.
    pub fn create_vif(
        &mut self,
        backend: DomId,
        frontend: DomId,
        devid: u32,
        config: &VifConfig,
    ) -> Result<(), StoreError> {
        let (back, front) = (
            backend_path(backend, frontend, devid),
            frontend_path(frontend, devid),
        );
        let back_keys = backend_keys(frontend, devid, &front, config);
        let front_keys = frontend_keys(backend, devid, &back, config);
        let (of_back, of_front) = (format!("n{backend}"), format!("n{frontend}"));
        let (to_back, to_front) = (format!("r{backend}"), format!("r{frontend}"));
        let mtu_permissions = [of_back.as_str(), to_front.as_str()];
        self.store.transact(|store, t| {
            make_directory(store, t, &front, &[&of_front, &to_back], &front_keys)?;
            // The backend domain owns the frontend's mtu, for the hotplug script to rewrite.
            store.set_permissions(t, &format!("{front}/mtu"), &mtu_permissions)?;
            make_directory(store, t, &back, &[&of_back, &to_front], &back_keys)
        })
    }

    /// Wait until the backend's state is exactly `state`; `Io` with `TimedOut` where it was not within `limit`.
    pub fn wait_backend_state(
        &mut self,
        backend: DomId,
        frontend: DomId,
        devid: u32,
        state: u32,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let path = backend_path(backend, frontend, devid);
        let wanted = state.to_string();
        let found = self.wait(&path, limit, |store| {
            match store.read(Transaction::NONE, &format!("{path}/state")) {
                Ok(value) => Ok(value == wanted),
                Err(StoreError::Missing(_)) => Ok(false),
                Err(e) => Err(e),
            }
        })?;
        if found {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{path}/state is not {state}"),
            )
            .into())
        }
    }

    /// `xl network-detach`: `online=0`, `state=5`, wait for 6, wait for the path to vanish; true when it did in time.
    /// Then, or when it did not, both directories are removed.
    pub fn detach_vif(
        &mut self,
        backend: DomId,
        frontend: DomId,
        devid: u32,
        limit: Duration,
    ) -> Result<bool, StoreError> {
        let path = backend_path(backend, frontend, devid);
        self.store.transact(|store, t| {
            store.write(t, &format!("{path}/online"), "0")?;
            store.write(t, &format!("{path}/state"), CLOSING)
        })?;
        // Who deletes its node right after Closed may never be seen in it, so only the path's end counts.
        match self.wait_backend_state(backend, frontend, devid, CLOSED, limit) {
            Err(StoreError::Io(e)) if e.kind() == io::ErrorKind::TimedOut => {}
            other => other?,
        }
        let gone = self.wait(&path, limit, |store| {
            match store.read(Transaction::NONE, &path) {
                Err(StoreError::Missing(_)) => Ok(true),
                other => other.map(|_| false),
            }
        })?;
        self.destroy_vif(backend, frontend, devid)?;
        Ok(gone)
    }

    /// Remove both directories at once, whatever state they are in, and the backend's parent when it is empty.
    pub fn destroy_vif(
        &mut self,
        backend: DomId,
        frontend: DomId,
        devid: u32,
    ) -> Result<(), StoreError> {
        self.remove_if_there(&frontend_path(frontend, devid))?;
        let path = backend_path(backend, frontend, devid);
        self.remove_if_there(&path)?;
        let parent = format!("/local/domain/{backend}/backend/vif/{frontend}");
        match self.store.directory(Transaction::NONE, &parent) {
            Ok(children) if children.is_empty() => self.remove_if_there(&parent),
            Ok(_) | Err(StoreError::Missing(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// `xl destroy`: the domain is gone for everyone; its process notices by the hang-up of `Domain::lifeline`.
    pub fn destroy_domain(&mut self, domain: DomId) -> io::Result<()> {
        self.hypervisor.destroy(domain)
    }

    fn remove_if_there(&mut self, path: &str) -> Result<(), StoreError> {
        match self.store.remove(Transaction::NONE, path) {
            Err(StoreError::Missing(_)) => Ok(()),
            other => other,
        }
    }

    /// Ask `done` now and after every change below `path`, until it says so or `limit` is over.
    fn wait(
        &mut self,
        path: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Client<UnixStream>) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        const TOKEN: &str = "wait";
        let end = Instant::now() + limit;
        self.store.watch(path, TOKEN)?;
        let result = loop {
            self.store.events()?;
            match done(&mut self.store) {
                Ok(false) => {}
                other => break other,
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Ok(false);
            }
            // An event may have come with the reply to `done`; look at least ten times a second.
            let left = left.min(Duration::from_millis(100));
            let left = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().into(),
            };
            let fd = self.store.fd();
            let mut polls = [PollFd::new(&fd, PollFlags::IN)];
            // Interrupted is as good as woken.
            let _ = poll(&mut polls, Some(&left));
        };
        self.store.unwatch(path, TOKEN)?;
        result
    }
}

type Keys = Vec<(&'static str, String)>;

fn mac(config: &VifConfig) -> String {
    config.mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn backend_keys(frontend: DomId, devid: u32, front: &str, config: &VifConfig) -> Keys {
    let mut keys = vec![
        ("frontend", front.into()),
        ("frontend-id", frontend.to_string()),
        ("online", "1".into()),
        ("state", "1".into()),
        ("script", config.script.clone()),
        ("mac", mac(config)),
        ("bridge", config.bridge.clone()),
        ("handle", devid.to_string()),
        ("type", config.kind.clone()),
        ("hotplug-status", String::new()),
    ];
    let mtu = config
        .mtu
        .filter(|mtu| *mtu != 1500)
        .map(|mtu| mtu.to_string());
    let optional = [
        ("rate", &config.rate),
        ("mtu", &mtu),
        ("vlan", &config.vlan),
        ("ip", &config.ip),
        ("vifname", &config.vifname),
    ];
    keys.extend(
        optional
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?))),
    );
    keys
}

fn frontend_keys(backend: DomId, devid: u32, back: &str, config: &VifConfig) -> Keys {
    vec![
        ("backend", back.into()),
        ("backend-id", backend.to_string()),
        ("state", "1".into()),
        ("handle", devid.to_string()),
        ("mac", mac(config)),
        ("trusted", u8::from(config.trusted).to_string()),
        ("mtu", config.mtu.unwrap_or(1500).to_string()),
    ]
}

fn make_directory(
    store: &mut Client<UnixStream>,
    t: Transaction,
    path: &str,
    permissions: &[&str],
    keys: &Keys,
) -> Result<(), StoreError> {
    match store.remove(t, path) {
        Ok(()) | Err(StoreError::Missing(_)) => {}
        Err(e) => return Err(e),
    }
    store.mkdir(t, path)?;
    store.set_permissions(t, path, permissions)?;
    keys.iter()
        .try_for_each(|(key, value)| store.write(t, &format!("{path}/{key}"), value))
}
