//! A TAP with vnet headers: the guest's network interface, whose other side is Linux's stack.
// Ioctls on /dev/net/tun have no safe wrapper.
#![allow(unsafe_code)]
use super::virtio::{self, Header};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// TUN_F_* of linux/if_tun.h.
const TUN_F_CSUM: libc::c_uint = 1;
const TUN_F_TSO4: libc::c_uint = 2;
const TUN_F_TSO6: libc::c_uint = 4;

/// A TAP in the network namespace of the thread that made it; gone when dropped.
pub struct Tap {
    name: String,
    queues: Vec<OwnedFd>,
    /// Any socket, for interface ioctls.
    socket: OwnedFd,
}

impl Tap {
    /// Make interface `name` with one queue. It stays down, without carrier.
    pub fn create(name: &str, mac: [u8; 6], mtu: u32) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        let mut tap = Self {
            name: name.into(),
            queues: vec![open_queue(name)?],
            socket: socket.into(),
        };
        tap.set_carrier(false)?;
        tap.set_mac(mac)?;
        tap.set_mtu(mtu)?;
        Ok(tap)
    }

    /// How many queues it has.
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Attach or detach queues until there are `count` (at least one).
    pub fn set_queues(&mut self, count: usize) -> io::Result<()> {
        self.queues.truncate(count.max(1));
        while self.queues.len() < count {
            self.queues.push(open_queue(&self.name)?);
        }
        Ok(())
    }

    /// What is pollable for queue `queue`.
    pub fn queue_fd(&self, queue: usize) -> BorrowedFd<'_> {
        self.queues[queue].as_fd()
    }

    /// What the stack may leave to us.
    pub fn set_offload(&self, tso4: bool, tso6: bool) -> io::Result<()> {
        let flags =
            TUN_F_CSUM | if tso4 { TUN_F_TSO4 } else { 0 } | if tso6 { TUN_F_TSO6 } else { 0 };
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe {
            libc::ioctl(
                self.queues[0].as_raw_fd(),
                libc::TUNSETOFFLOAD as _,
                libc::c_ulong::from(flags),
            )
        })
    }

    /// Plug the cable in or out.
    pub fn set_carrier(&self, up: bool) -> io::Result<()> {
        let value = libc::c_int::from(up);
        // SAFETY: TUNSETCARRIER reads one int.
        check(unsafe { libc::ioctl(self.queues[0].as_raw_fd(), libc::TUNSETCARRIER as _, &value) })
    }

    fn set_mac(&mut self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = interface(&self.name)?;
        let mut address = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: [0; 14],
        };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        // SAFETY: SIOCSIFHWADDR reads the ifreq.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFHWADDR as _, &request) })
    }

    fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        let mut request = interface(&self.name)?;
        request.ifr_ifru.ifru_mtu =
            libc::c_int::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: SIOCSIFMTU reads the ifreq.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFMTU as _, &request) })
    }

    /// The next frame that the stack sends on queue `queue`; `None`: nothing now. `frame` should hold 64 KiB.
    pub fn recv(&self, queue: usize, frame: &mut [u8]) -> io::Result<Option<(Header, usize)>> {
        let mut header = [0u8; virtio::SIZE];
        let parts = [
            io_slice(header.as_mut_ptr(), header.len()),
            io_slice(frame.as_mut_ptr(), frame.len()),
        ];
        // SAFETY: both parts are live, writable and as long as they say.
        let n = unsafe { libc::readv(self.queues[queue].as_raw_fd(), parts.as_ptr(), 2) };
        match usize::try_from(n) {
            Ok(n) if n >= virtio::SIZE => Ok(Some((Header::from_bytes(&header), n - virtio::SIZE))),
            Ok(_) => Ok(None),
            Err(_) => would_block(io::Error::last_os_error()),
        }
    }

    /// Hand the stack a frame that arrived on queue `queue`; false where it would not take it (interface down, no memory).
    pub fn send(&self, queue: usize, header: Header, frame: &[u8]) -> bool {
        let header = header.to_bytes();
        let parts = [
            io_slice(header.as_ptr().cast_mut(), header.len()),
            io_slice(frame.as_ptr().cast_mut(), frame.len()),
        ];
        // SAFETY: writev only reads from both parts, which are live and as long as they say.
        let n = unsafe { libc::writev(self.queues[queue].as_raw_fd(), parts.as_ptr(), 2) };
        n >= 0
    }
}

fn io_slice(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

fn would_block<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An ifreq that names `name`.
fn interface(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("\"{name}\" is no interface name"),
        ));
    }
    // SAFETY: ifreq is plain data; zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn open_queue(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = interface(name)?;
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE)
            as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
    Ok(file.into())
}
