//! A TAP of netback's: made or found again with a descriptor for each queue, set up, and taken away.
//!
//! The kernel takes the carrier off a TAP once its last descriptor is closed, persistent or not, and network managers then drop its
//! addresses. Whoever wants a restart not to be noticed keeps the descriptors open beside the process, and hands them to the next.
// Ioctls on /dev/net/tun have no safe wrapper.
#![allow(unsafe_code)]
use crate::header::Mac;
use crate::link::{Change, Link, delete};
use crate::offload::segment::MAX_SEGMENTS;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The kind of a TAP's device in rtnetlink.
const KIND: &str = "tun";
/// IFF_* of linux/if_tun.h: packets with Ethernet and vnet headers, several queues.
const MODE: libc::c_int =
    libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
/// The flags of a TAP that must be as netback sets them. IFF_NO_PI, IFF_TAP, IFF_VNET_HDR and IFF_MULTI_QUEUE are shown by TUNGETIFF.
const SHOWN: libc::c_int = MODE;
/// TUN_F_* of linux/if_tun.h, the work that the stack may leave to us: checksums, TCP's segmentation, also of packets with CWR.
const OFFLOADS: libc::c_ulong = 1 | 2 | 4 | 8;

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TapError {
    #[error(
        "{name} is a {kind}, which netback's own port of that name takes the place of: take its addresses off and remove it with `ip link del dev {name}`, and out of the network configuration"
    )]
    Occupied { name: String, kind: String },
    #[error(
        "{name} is a TUN or TAP of another program's, with one queue or without vnet headers: end that program and `ip link del dev {name}`, or give the bridge another name"
    )]
    Foreign { name: String },
    #[error(
        "no permission to make the TAP {name}: run as root, or with CAP_NET_ADMIN and /dev/net/tun"
    )]
    Permission { name: String },
    #[error("cannot make the TAP {name}: this kernel has no /dev/net/tun; `modprobe tun`")]
    NoTun { name: String },
    #[error("{name}: cannot {action}: {source}")]
    Os {
        name: String,
        action: &'static str,
        source: io::Error,
    },
}

/// A TAP with a descriptor for each of its queues.
#[derive(Debug)]
pub struct Tap {
    /// The device as the kernel describes it.
    pub link: Link,
    /// The queues, by the number of the worker that serves each.
    pub queues: Vec<OwnedFd>,
    /// The TAP was not there before.
    pub made: bool,
}

/// Finds out whether [`open`] would refuse `name` for what is there, without changing anything.
///
/// # Errors
/// Another device has the name.
pub fn check(name: &str) -> Result<(), TapError> {
    find(name).map(|_| ())
}

/// Opens the TAP `name`, which is made where it is not there, with `queues` queues: those of `held` that are the TAP's, in order, and as many
/// new ones as are missing. The TAP stays when its last descriptor is closed.
///
/// # Errors
/// Another device has the name, or the kernel refuses.
pub fn open(
    name: &str,
    queues: usize,
    held: Vec<OwnedFd>,
    like: Option<(Mac, u32)>,
) -> Result<Tap, TapError> {
    let failed = named(name);
    let before = find(name)?;
    let mut list = held;
    list.truncate(queues);
    while list.len() < queues {
        list.push(attach(name)?);
    }
    if let Some(queue) = list.first() {
        set(queue, libc::TUNSETPERSIST as _, 1).map_err(failed("have it stay"))?;
        set(queue, libc::TUNSETOFFLOAD as _, OFFLOADS).map_err(failed("set its offloads"))?;
    }
    let gone = || TapError::Os {
        name: name.into(),
        action: "find it again",
        source: io::ErrorKind::NotFound.into(),
    };
    let link = find(name)?.ok_or_else(gone)?;
    let made = before.is_none();
    // In one request, which sets the MAC address before the TAP comes up: its link-local IPv6 address is made of the one it has then.
    let change = Change {
        mac: like.map(|(mac, _)| mac).filter(|mac| *mac != link.mac),
        mtu: like.map(|(_, mtu)| mtu).filter(|mtu| *mtu != link.mtu),
        gso_max_segments: made.then_some(MAX_SEGMENTS as u32),
        up: made,
    };
    if change != Change::default() {
        change.apply(link.index).map_err(failed("set it up"))?;
    }
    Ok(Tap {
        link: find(name)?.ok_or_else(gone)?,
        queues: list,
        made,
    })
}

/// Whether `fd` is a queue of the TAP `name` as netback makes it, and the TAP was not removed meanwhile.
pub fn is_queue_of(fd: BorrowedFd<'_>, name: &str) -> bool {
    let Ok(mut request) = interface("") else {
        return false;
    };
    // SAFETY: TUNGETIFF writes an ifreq; of a descriptor that is no TAP's it is refused.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) };
    if result < 0 {
        return false;
    }
    // SAFETY: the request filled in this member.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let bytes = request.ifr_name.map(|c| c as u8);
    let is_it = bytes.split(|byte| *byte == 0).next() == Some(name.as_bytes());
    is_it && flags & SHOWN == SHOWN
}

/// Removes the TAP `name`, whoever holds its descriptors. `Ok(false)`: there is no TAP of netback's of that name.
///
/// # Errors
/// What the kernel says.
pub fn remove(name: &str) -> Result<bool, TapError> {
    match find(name) {
        Ok(Some(link)) => {
            delete(link.index).map_err(named(name)("remove it"))?;
            Ok(true)
        }
        Ok(None) | Err(TapError::Occupied { .. } | TapError::Foreign { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Finds the TAP of this name; another device of the name is an error.
fn find(name: &str) -> Result<Option<Link>, TapError> {
    let link = Link::by_name(name).map_err(named(name)("look it up"))?;
    let Some(link) = link else { return Ok(None) };
    let name = name.to_owned();
    match link.kind.as_deref() {
        // A TUN carries no Ethernet.
        Some(KIND) if link.hardware != libc::ARPHRD_ETHER => Err(TapError::Foreign { name }),
        Some(KIND) => Ok(Some(link)),
        Some("bridge") => Err(TapError::Occupied {
            name,
            kind: "bridge of the kernel".into(),
        }),
        kind => Err(TapError::Occupied {
            name,
            kind: kind.map_or("network card".into(), |kind| format!("{kind} device")),
        }),
    }
}

/// Opens a new queue of the TAP, which is made where it is not there.
fn attach(name: &str) -> Result<OwnedFd, TapError> {
    let failed = named(name);
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun");
    let tun: OwnedFd = match tun {
        Ok(tun) => tun.into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TapError::NoTun { name: name.into() });
        }
        Err(error) => return Err(failed("open /dev/net/tun")(error)),
    };
    let mut request = interface(name).map_err(failed("name it"))?;
    request.ifr_ifru.ifru_flags = MODE as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            // Another type, one queue only, or in use by a program that takes none beside it.
            Some(libc::EINVAL | libc::EBUSY) => TapError::Foreign { name: name.into() },
            _ => failed("attach a queue")(error),
        });
    }
    Ok(tun)
}

/// Makes a request that takes its argument by value.
fn set(queue: &OwnedFd, code: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST and TUNSETOFFLOAD take their argument by value.
    match unsafe { libc::ioctl(queue.as_raw_fd(), code as _, value) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An ifreq that names `name`.
fn interface(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ifreq is plain data; zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Makes the error of a failed request, with the name of the attempted step.
fn named(
    name: &str,
) -> impl Fn(&'static str) -> Box<dyn FnOnce(io::Error) -> TapError> + Copy + '_ {
    move |action| {
        let name = name.to_owned();
        Box::new(move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TapError::Permission { name },
            _ => TapError::Os {
                name,
                action,
                source,
            },
        })
    }
}
