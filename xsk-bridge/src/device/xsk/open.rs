//! Binding a socket to a queue, and what can be in the way.
// xsk-rs's constructor trusts the caller with the frames.
#![allow(unsafe_code)]
use super::sockopt;
use crate::frame::{AfXdp, os_error};
use crate::nic::{LengthLimit, largest_mtu};
use crate::xdp::{Attachment, Mode, XdpError};
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue};

/// The kernel frees a dead process's queue in the background, 4 to 16 ms later, and where the machine is busy seconds later; longer, and
/// somebody has it.
const BIND_PATIENCE: Duration = Duration::from_secs(10);

/// How to open a queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Never zero-copy. Sockets of one UMEM are all zero-copy or none, as the first one turned out: set it where one of the
    /// devices has no zero-copy.
    pub copy: bool,
}

/// Why the queue is not open.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error(
        "the packet memory was made without AF_XDP, for no bridge had an uplink: restart netback"
    )]
    PlainMemory,
    #[error(
        "interface {ifname} queue {queue} is in use by another AF_XDP socket (another netback?)"
    )]
    InUse { ifname: String, queue: u32 },
    #[error("interface {0} is gone")]
    NoInterface(String),
    #[error(
        "interface {ifname} has MTU {mtu}, and {limit} is the largest that works, for {why}: `ip link set dev {ifname} mtu {limit}`{}", why.otherwise()
    )]
    Mtu {
        ifname: String,
        mtu: u32,
        limit: u32,
        why: LengthLimit,
    },
    #[error("interface {ifname} has no queue {queue}")]
    NoQueue { ifname: String, queue: u32 },
    #[error(
        "interface {ifname} has no zero-copy, but the first interface does, and all share one memory: restart netback, and the kernel copies for all (before Linux 6.3, say xdp = \"generic\" for the first one's bridge)"
    )]
    NoZeroCopy { ifname: String },
    #[error(
        "interface {ifname} cannot join: the first interface, which holds the shared memory, is gone; restart netback"
    )]
    FirstGone { ifname: String },
    #[error(
        "no permission for AF_XDP on {ifname}: run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
    )]
    Permission { ifname: String },
    #[error("ring sizes are powers of two, not {0}")]
    RingSize(u32),
    #[error(transparent)]
    Xdp(#[from] XdpError),
    #[error("interface {ifname} queue {queue}: cannot {action}: {source}")]
    Os {
        ifname: String,
        queue: u32,
        action: &'static str,
        source: io::Error,
    },
}

/// A bound socket's four rings.
#[derive(Debug)]
pub(super) struct Rings {
    pub tx: TxQueue,
    pub rx: RxQueue,
    pub fill: FillQueue,
    pub comp: CompQueue,
}

/// Bind `queue` of a device of `mtu` bytes, waiting a little for a predecessor's socket to go.
pub(super) fn bind(
    memory: &AfXdp,
    attachment: &Attachment,
    queue: u32,
    mtu: u32,
    options: Options,
) -> Result<Rings, OpenError> {
    let several = match memory.multi_buffer.get() {
        Some(&several) => several,
        None => wants_several(attachment, mtu, options),
    };
    let config = config(memory, attachment, several, options)?;
    let interface: Interface = attachment
        .ifname()
        .parse()
        .map_err(|_| OpenError::NoInterface(attachment.ifname().to_owned()))?;
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        // SAFETY: frames pass to and from this socket's rings only with their tokens (see the module), and the UMEM's frame size
        // is the one that all its sockets share.
        let bound = unsafe { Socket::new(config, &memory.umem, &interface, queue) };
        match bound {
            Ok((tx, rx, Some((fill, comp)))) => {
                memory.multi_buffer.get_or_init(|| several);
                return Ok(Rings { tx, rx, fill, comp });
            }
            // The UMEM has a socket on this queue already: ours.
            Ok((_, _, None)) => return Err(in_use(attachment, queue)),
            Err(e) if os_error(&e) == Some(libc::EBUSY) && Instant::now() < deadline => {
                sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(refusal(&e, attachment, queue)),
        }
    }
}

/// Whether the first socket is to be bound for packets in several frames: where that costs nothing, and where the MTU needs it.
fn wants_several(attachment: &Attachment, mtu: u32, options: Options) -> bool {
    let can = attachment.multi_buffer();
    let copies = options.copy || attachment.mode() == Mode::Generic;
    can.kernel && (copies || can.is_free() || mtu > largest_mtu(1))
}

/// How a socket is to be bound. Sockets on memory that has one already are bound with its flags (net/xdp/xsk.c, xsk_bind).
fn config(
    memory: &AfXdp,
    attachment: &Attachment,
    several: bool,
    options: Options,
) -> Result<SocketConfig, OpenError> {
    let size = |n| QueueSize::new(n).map_err(|_| OpenError::RingSize(n));
    // A program in the stack sees no frames of the driver's, so there zero-copy would receive nothing.
    let copy = options.copy || attachment.mode() == Mode::Generic;
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    flags.set(BindFlags::XDP_COPY, copy);
    flags.set(BindFlags::XDP_USE_SG, several);
    Ok(SocketConfig::builder()
        .rx_queue_size(size(memory.rings.recv)?)
        .tx_queue_size(size(memory.rings.send)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build())
}

fn in_use(attachment: &Attachment, queue: u32) -> OpenError {
    OpenError::InUse {
        ifname: attachment.ifname().to_owned(),
        queue,
    }
}

fn refusal(error: &dyn std::error::Error, attachment: &Attachment, queue: u32) -> OpenError {
    let ifname = attachment.ifname().to_owned();
    match os_error(error) {
        Some(libc::EBUSY) => OpenError::InUse { ifname, queue },
        Some(libc::EINVAL) => OpenError::NoQueue { ifname, queue },
        Some(libc::ENODEV | libc::ENXIO) => OpenError::NoInterface(ifname),
        Some(libc::EOPNOTSUPP) => OpenError::NoZeroCopy { ifname },
        Some(libc::EBADF) => OpenError::FirstGone { ifname },
        Some(libc::EPERM | libc::EACCES) => OpenError::Permission { ifname },
        code => OpenError::Os {
            ifname,
            queue,
            action: "bind an AF_XDP socket",
            source: code.map_or_else(
                || io::Error::other(error.to_string()),
                io::Error::from_raw_os_error,
            ),
        },
    }
}

/// Sets the options of a bound socket.
pub(super) fn tune(
    fd: std::os::fd::BorrowedFd<'_>,
    memory: &AfXdp,
    attachment: &Attachment,
    queue: u32,
) -> Result<(), OpenError> {
    let os = |action| {
        move |source| OpenError::Os {
            ifname: attachment.ifname().to_owned(),
            queue,
            action,
            source,
        }
    };
    sockopt::allow_whole_ring(fd, memory.rings.send).map_err(os("raise the send buffer"))
}

/// Refuses a device whose MTU is larger than what works.
pub(super) fn check_mtu(
    attachment: &Attachment,
    mtu: u32,
    (limit, why): (u32, LengthLimit),
) -> Result<(), OpenError> {
    match mtu > limit {
        true => Err(OpenError::Mtu {
            ifname: attachment.ifname().to_owned(),
            mtu,
            limit,
            why,
        }),
        false => Ok(()),
    }
}
