//! netback's XDP program on a device: loaded, attached as a BPF link, pinned with its socket map, taken over after a restart.
//!
//! The program sends every frame to the AF_XDP socket of its queue, and drops it where the queue has none: the device is
//! promiscuous, and while no process runs, the driver domain's own stack must not receive what is for guests. Link and map are pinned
//! under `<bpf_dir>/<ifname>/`, so both outlive the process, because attaching a program resets the link of real NICs. The pinned program,
//! which may be an earlier version's, is replaced in its link, without an interval in which the device has none.
mod bpf;

use crate::link::{Link, XdpProgram};
use crate::nic::MultiBuffer;
use bpf::Instruction;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Number of queues in the socket map. It is fixed, so that a map that is taken over fits any number of channels set later.
const MAP_ENTRIES: u32 = 256;

/// The verdict that drops a frame (linux/bpf.h, enum xdp_action).
const XDP_DROP: i32 = 1;

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's stack, on any device (XDP_FLAGS_SKB_MODE).
    Generic,
}

impl Mode {
    /// "native" or "generic".
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// netback's program on a device. The program stays attached when this value is dropped, because the pins keep it.
#[derive(Debug)]
pub struct Attachment {
    map: OwnedFd,
    ifname: String,
    ifindex: u32,
    mode: Mode,
    adopted: bool,
    native_refusal: Option<io::Error>,
    multi_buffer: MultiBuffer,
}

/// Why the program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum XdpError {
    #[error("no interface {0}")]
    NoInterface(String),
    #[error(
        "{ifname} already has an XDP program (id {id}); remove it with `ip link set dev {ifname} {flag} off`"
    )]
    Occupied {
        ifname: String,
        id: u32,
        flag: &'static str,
    },
    #[error(
        "no permission to {action}: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN (for bpffs)"
    )]
    Permission { action: &'static str },
    #[error("this kernel cannot {action}: XDP links need Linux 5.9 with CONFIG_BPF_SYSCALL")]
    TooOld { action: &'static str },
    #[error(
        "{ifname} takes no XDP program: native mode: {native}; generic mode: {generic} (MTU over the limit for XDP?)"
    )]
    Refused {
        ifname: String,
        native: io::Error,
        generic: io::Error,
    },
    #[error("queue {queue} of {ifname} is over the {MAP_ENTRIES} queues that can be served")]
    QueueRange { ifname: String, queue: u32 },
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Pin {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {action}: {source}")]
    Os {
        action: &'static str,
        source: io::Error,
    },
}

/// Attaches the program to `ifname`, or takes over the one that a predecessor pinned under `<bpf_dir>/<ifname>/` and leaves the
/// device untouched. Pins of a device that is gone, or whose program was detached, are replaced.
pub fn install_or_adopt(ifname: &str, bpf_dir: &Path) -> Result<Attachment, XdpError> {
    let device = Link::by_name(ifname)
        .map_err(named("list the interfaces"))?
        .ok_or_else(|| XdpError::NoInterface(ifname.to_owned()))?;
    let pins = Pins::new(bpf_dir, ifname);
    bpf::prepare_dir(bpf_dir).map_err(|e| pins.error("make the directory in bpffs", e))?;
    let can = MultiBuffer::of(device.index).map_err(named("ask what the driver does under XDP"))?;
    if let Some(attachment) = adopt(&device, &pins, can)? {
        return Ok(attachment);
    }
    if let Some(XdpProgram { id, generic }) = device.xdp {
        return Err(XdpError::Occupied {
            ifname: device.name,
            id,
            flag: if generic { "xdpgeneric" } else { "xdp" },
        });
    }
    pins.remove()?;
    std::fs::create_dir_all(&pins.dir).map_err(|e| pins.error("make the directory in bpffs", e))?;
    install(device, &pins, can, XDP_DROP)
}

/// Detaches the program from `ifname` and removes the pins. Returns false if there were none. A running daemon loses its uplink.
pub fn uninstall(ifname: &str, bpf_dir: &Path) -> Result<bool, XdpError> {
    let pins = Pins::new(bpf_dir, ifname);
    match bpf::open_pinned(&pins.link()) {
        Ok(link) => bpf::detach_link(link.as_fd()).map_err(named("detach the XDP program"))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(pins.error("open the pinned link", e)),
    }
    pins.remove()
}

/// Returns the names of the devices that have something pinned below `bpf_dir`, where other programs may have pinned theirs beside
/// them; none where there is no such directory.
pub fn pinned(bpf_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(bpf_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let pins = Pins::new(bpf_dir, &name);
        if pins.link().exists() || pins.map().exists() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Opens the predecessor's link and map, if the link is still on this device and the map exists. Replaces the program in the link.
fn adopt(device: &Link, pins: &Pins, can: MultiBuffer) -> Result<Option<Attachment>, XdpError> {
    let pinned = || {
        let link = bpf::open_pinned(&pins.link()).ok()?;
        let map = bpf::open_pinned(&pins.map()).ok()?;
        let on = bpf::link_info(link.as_fd()).ok()?;
        let running = device.xdp?;
        let here = on.ifindex == device.index && on.program_id == running.id;
        here.then_some((link, map, running))
    };
    let Some((link, map, running)) = pinned() else {
        return Ok(None);
    };
    let program = load(&map, can, XDP_DROP)?;
    // Whether the pinned one is the same cannot be asked without CAP_SYS_ADMIN (kernel/bpf/syscall.c, bpf_prog_get_fd_by_id), and
    // drivers take a program in the place of another without a reset.
    bpf::update_link(link.as_fd(), program.as_fd())
        .map_err(named("replace the XDP program of the process before"))?;
    Ok(Some(Attachment {
        map,
        ifname: device.name.clone(),
        ifindex: device.index,
        mode: if running.generic {
            Mode::Generic
        } else {
            Mode::Native
        },
        adopted: true,
        native_refusal: None,
        multi_buffer: can,
    }))
}

/// Attaches a program whose verdict for a queue without a socket is `no_socket`.
fn install(
    device: Link,
    pins: &Pins,
    can: MultiBuffer,
    no_socket: i32,
) -> Result<Attachment, XdpError> {
    let map = bpf::create_xskmap(MAP_ENTRIES).map_err(named("create the socket map"))?;
    let program = load(&map, can, no_socket)?;
    let (link, mode, native_refusal) = attach(&device, program.as_fd())?;
    // The map first: a pinned link without a map could not be adopted.
    bpf::pin(map.as_fd(), &pins.map()).map_err(|e| pins.error("pin the socket map", e))?;
    bpf::pin(link.as_fd(), &pins.link()).map_err(|e| pins.error("pin the XDP link", e))?;
    Ok(Attachment {
        map,
        ifname: device.name,
        ifindex: device.index,
        mode,
        adopted: false,
        native_refusal,
        multi_buffer: can,
    })
}

/// Attaches the program in the driver if that is possible, else in the kernel's stack.
fn attach(
    device: &Link,
    program: BorrowedFd<'_>,
) -> Result<(OwnedFd, Mode, Option<io::Error>), XdpError> {
    let native = match unfit_driver(Path::new("/sys"), &device.name) {
        Some(reason) => reason,
        None => match bpf::create_link(program, device.index, bpf::XDP_FLAGS_DRV_MODE) {
            Ok(link) => return Ok((link, Mode::Native, None)),
            Err(e) => e,
        },
    };
    match bpf::create_link(program, device.index, bpf::XDP_FLAGS_SKB_MODE) {
        Ok(link) => Ok((link, Mode::Generic, Some(native))),
        Err(generic) => match generic.raw_os_error() {
            Some(libc::EPERM) => Err(XdpError::Permission {
                action: "attach an XDP program",
            }),
            _ => Err(XdpError::Refused {
                ifname: device.name.clone(),
                native,
                generic,
            }),
        },
    }
}

/// Why the program must not run in the driver of `ifname`, although the driver takes it; `sys` is where sysfs is mounted.
///
/// Linux's netfront has its backend leave 256 bytes of room before each packet while a program is on it, and the backend counts the room
/// as part of the packet (drivers/net/xen-netback/rx.c, `xenvif_rx_data_slot`; drivers/net/xen-netfront.c, `xennet_run_xdp`): each frame
/// ends with 256 bytes of what was in the page before. Moreover the frontend tells of the change before it asks for the room
/// (`xennet_xdp_set`); a backend that is fast enough leaves none, and the program does not see the packet.
fn unfit_driver(sys: &Path, ifname: &str) -> Option<io::Error> {
    let driver = sys.join("class/net").join(ifname).join("device/driver");
    let driver = std::fs::read_link(driver).ok()?;
    let is_netfront = driver.ends_with("drivers/vif");
    is_netfront.then(|| io::Error::other("netfront shows a program wrong frames"))
}

/// Loads the program; where the driver hands over packets in several buffers, as one that takes them.
fn load(map: &OwnedFd, can: MultiBuffer, no_socket: i32) -> Result<OwnedFd, XdpError> {
    let flags = match can.kernel && can.driver.receives_fragments {
        true => bpf::XDP_HAS_FRAGS,
        false => 0,
    };
    bpf::load(&program(map, no_socket), flags).map_err(named("load the XDP program"))
}

/// `return bpf_redirect_map(&sockets, context->rx_queue_index, no_socket)`: the flags name the verdict for a queue without a
/// socket.
fn program(map: &OwnedFd, no_socket: i32) -> [Instruction; 6] {
    use std::os::fd::AsRawFd;
    const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const LOAD_IMMEDIATE_64: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW, two instructions
    const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const PSEUDO_MAP_FD: u8 = 1;
    const RX_QUEUE_INDEX: i16 = 16; // struct xdp_md
    const REDIRECT_MAP: i32 = 51;
    let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    };
    [
        instruction(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        instruction(LOAD_IMMEDIATE_64, 1, PSEUDO_MAP_FD, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE_IMMEDIATE, 3, 0, 0, no_socket),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

impl Attachment {
    /// Returns the device's name.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Returns the device's index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Returns where the program runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns whether a predecessor's program was taken over, so that the device was not touched.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Returns what the kernel and the driver do with packets in several frames.
    pub fn multi_buffer(&self) -> MultiBuffer {
        self.multi_buffer
    }

    /// Returns why a newly attached program runs in generic mode: the driver's error for native mode.
    pub fn native_refusal(&self) -> Option<&io::Error> {
        self.native_refusal.as_ref()
    }

    /// Directs what arrives on `queue` to `socket`. The kernel removes the entry when the socket is closed.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        if queue >= MAP_ENTRIES {
            return Err(XdpError::QueueRange {
                ifname: self.ifname.clone(),
                queue,
            });
        }
        bpf::update(self.map.as_fd(), queue, socket).map_err(named("put a socket into the map"))
    }
}

/// The paths under which a device's objects are pinned.
struct Pins {
    dir: PathBuf,
}

impl Pins {
    fn new(bpf_dir: &Path, ifname: &str) -> Self {
        Self {
            dir: bpf_dir.join(ifname),
        }
    }

    fn link(&self) -> PathBuf {
        self.dir.join("link")
    }

    fn map(&self) -> PathBuf {
        self.dir.join("sockets")
    }

    /// Removes the pins and their directory. Returns whether there was one.
    fn remove(&self) -> Result<bool, XdpError> {
        let mut found = false;
        for path in [self.link(), self.map()] {
            match std::fs::remove_file(&path) {
                Ok(()) => found = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.error("remove the pins", e)),
            }
        }
        match std::fs::remove_dir(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(self.error("remove the pins' directory", e))
            }
            _ => Ok(found),
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> XdpError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => XdpError::Permission { action },
            _ => XdpError::Pin {
                action,
                path: self.dir.clone(),
                source,
            },
        }
    }
}

/// Makes an error of the kernel's, with the name of the attempted step.
fn named(action: &'static str) -> impl Fn(io::Error) -> XdpError {
    move |source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => XdpError::Permission { action },
        Some(libc::ENOSYS | libc::EINVAL) => XdpError::TooOld { action },
        _ => XdpError::Os { action, source },
    }
}

#[cfg(all(test, feature = "af-xdp"))]
mod tests;
