//! Which descriptors are ours, and the connection to the hypervisor behind them.
use libc::c_int;
use rustix::fs::{OFlags, fcntl_setfl, fstat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use sim_machine::control::{Connection, Operation};
use sim_machine::{Machine, Wakers};
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// One of the device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/dev/xen/gntdev`.
    Gntdev,
    /// `/dev/xen/gntalloc`.
    Gntalloc,
    /// `/dev/xen/evtchn`.
    Evtchn,
    /// `/dev/xen/xenbus`.
    Xenbus,
}

impl Kind {
    /// The device a path names.
    pub fn of_path(path: &CStr) -> Option<Self> {
        match path.to_bytes() {
            b"/dev/xen/gntdev" => Some(Self::Gntdev),
            b"/dev/xen/gntalloc" => Some(Self::Gntalloc),
            b"/dev/xen/evtchn" => Some(Self::Evtchn),
            b"/dev/xen/xenbus" | b"/proc/xen/xenbus" => Some(Self::Xenbus),
            _ => None,
        }
    }

    /// Whether the device is there: a module that nobody has loaded is a file `without-<its name>` in SIM_DIR.
    pub fn is_present(self) -> bool {
        let name = match self {
            Self::Gntdev => "gntdev",
            Self::Gntalloc => "gntalloc",
            Self::Evtchn => "evtchn",
            Self::Xenbus => "xenbus",
        };
        let without = |dir| PathBuf::from(dir).join(format!("without-{name}"));
        std::env::var_os("SIM_DIR").is_some_and(|dir| !without(dir).exists())
    }
}

/// An open device: its kind and, for evtchn and gntalloc, its handle, in a word; 0 is none.
#[derive(Debug, Clone, Copy)]
pub struct Device(u64);

impl Device {
    fn new(kind: Kind, handle: u32) -> Self {
        let kind: u64 = match kind {
            Kind::Gntdev => 1,
            Kind::Evtchn => 2,
            Kind::Xenbus => 3,
            Kind::Gntalloc => 4,
        };
        Self(kind << 32 | u64::from(handle))
    }

    /// Which device.
    pub fn kind(self) -> Kind {
        match self.0 >> 32 {
            1 => Kind::Gntdev,
            2 => Kind::Evtchn,
            4 => Kind::Gntalloc,
            _ => Kind::Xenbus,
        }
    }

    /// The handle of evtchn or gntalloc.
    pub fn handle(self) -> u32 {
        self.0 as u32
    }
}

/// The simulation this process runs in.
#[derive(Debug)]
pub struct Simulation {
    /// Our domain.
    pub domid: u16,
    /// The hypervisor.
    pub control: Connection,
    /// Its shared memory.
    pub machine: Machine,
    /// Pipes of others' handles.
    pub wakers: Wakers,
}

const FDS: usize = 16384;
/// By descriptor, without a lock; beyond it, and for duplicates, by inode.
static BY_FD: [AtomicU64; FDS] = [const { AtomicU64::new(0) }; FDS];
static BY_INODE: Mutex<Option<HashMap<u64, Device>>> = Mutex::new(None);
static SIMULATION: OnceLock<Simulation> = OnceLock::new();
static CONNECTING: Mutex<()> = Mutex::new(());

/// Whether the environment names a simulation; without one nothing is ours.
pub fn configured() -> bool {
    std::env::var_os("SIM_DIR").is_some() && std::env::var_os("SIM_DOMID").is_some()
}

/// The simulation, once a device was opened.
pub fn simulation() -> io::Result<&'static Simulation> {
    SIMULATION
        .get()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

fn connect() -> io::Result<&'static Simulation> {
    let _one = CONNECTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(simulation) = SIMULATION.get() {
        return Ok(simulation);
    }
    let invalid = || io::Error::from_raw_os_error(libc::ENODEV);
    let dir = PathBuf::from(std::env::var_os("SIM_DIR").ok_or_else(invalid)?);
    let domid: u16 = std::env::var("SIM_DOMID")
        .ok()
        .and_then(|id| id.parse().ok())
        .ok_or_else(invalid)?;
    let control = Connection::open(&dir)?;
    let mut reply = control.call(Operation::Attach, [domid.into(), 0, 0], "")?;
    let machine = Machine::map(reply.take_fd()?)?;
    Ok(SIMULATION.get_or_init(|| Simulation {
        domid,
        control,
        machine,
        wakers: Wakers::default(),
    }))
}

/// Open a device of the simulation; None where there is no simulation.
pub fn open(kind: Kind, flags: c_int) -> Option<io::Result<c_int>> {
    configured().then(|| open_device(kind, flags))
}

fn open_device(kind: Kind, flags: c_int) -> io::Result<c_int> {
    if !kind.is_present() {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    let simulation = connect()?;
    let (fd, handle) = match kind {
        Kind::Gntdev => (
            socket_with(
                AddressFamily::UNIX,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            )?,
            0,
        ),
        Kind::Evtchn | Kind::Gntalloc => {
            let mut reply = simulation.control.call(Operation::Open, [0; 3], "")?;
            (reply.take_fd()?, reply.words[0])
        }
        Kind::Xenbus => (
            simulation
                .control
                .call(Operation::OpenStore, [0; 3], "")?
                .take_fd()?,
            0,
        ),
    };
    let nonblock = if flags & libc::O_NONBLOCK != 0 {
        OFlags::NONBLOCK
    } else {
        OFlags::empty()
    };
    fcntl_setfl(&fd, nonblock)?;
    if flags & libc::O_CLOEXEC == 0 {
        fcntl_setfd(&fd, FdFlags::empty())?;
    }
    register(fd, Device::new(kind, handle))
}

fn register(fd: OwnedFd, device: Device) -> io::Result<c_int> {
    let inode = fstat(&fd)?.st_ino;
    BY_INODE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .insert(inode, device);
    let fd = fd.into_raw_fd();
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| BY_FD.get(fd)) {
        slot.store(device.0, Ordering::Release);
    }
    Ok(fd)
}

/// The device behind a descriptor that was opened as one.
pub fn find_fast(fd: c_int) -> Option<Device> {
    let device = BY_FD
        .get(usize::try_from(fd).ok()?)?
        .load(Ordering::Acquire);
    (device != 0).then_some(Device(device))
}

/// The device behind a descriptor, a duplicate too.
pub fn find(fd: c_int) -> Option<Device> {
    if let Some(device) = find_fast(fd) {
        return Some(device);
    }
    if fd < 0 || SIMULATION.get().is_none() {
        return None;
    }
    // SAFETY: only asked about; a closed one is EBADF.
    let inode = fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?.st_ino;
    BY_INODE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()?
        .get(&inode)
        .copied()
}

/// A descriptor is closed or replaced.
pub fn forget(fd: c_int) {
    if let Some(slot) = usize::try_from(fd)
        .ok()
        .and_then(|fd| BY_FD.get(fd))
        .filter(|slot| slot.load(Ordering::Relaxed) != 0)
    {
        slot.store(0, Ordering::Release);
    }
}
