//! Raw frames on a host's interface, by packet(7): what goes in on one side must come out on the other, byte for byte.
// socket(2), bind(2) and recvmsg(2) with a packet socket's addresses and control messages.
#![allow(unsafe_code)]
use anyhow::{Context, Result, bail};
use lab::Host;
use std::io::{self, Write};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// IEEE 802's EtherType for local experiments: no stack answers it.
pub const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// 802.1Q.
const VLAN: [u8; 2] = [0x81, 0x00];
/// How long a frame may be on its way on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A frame of `size` bytes with an experimental EtherType (after `tag`, where there is one) and contents of its own.
pub fn frame(
    destination: [u8; 6],
    source: [u8; 6],
    tag: Option<u16>,
    size: usize,
    seed: u8,
) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    if let Some(tag) = tag {
        frame.extend(VLAN);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(EXPERIMENTAL);
    let start = frame.len();
    frame.extend((start..size).map(|n| (n as u8).wrapping_mul(31) ^ seed));
    frame
}

/// A packet socket on a host's interface.
pub struct Tap {
    socket: std::fs::File,
    name: String,
}

impl Tap {
    /// Opens the socket. From now on every experimental frame that comes in is kept for [`Self::receive`].
    pub fn open(host: &Host) -> Result<Self> {
        let open = || packet_socket(interface_index(&host.interface)?);
        let socket = host.namespace.run(open)?;
        let socket =
            socket.with_context(|| format!("cannot open a packet socket on {}", host.name))?;
        Ok(Self {
            socket: socket.into(),
            name: host.name.clone(),
        })
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let sent = self
            .socket
            .write(frame)
            .with_context(|| format!("sending {} bytes from {}", frame.len(), self.name))?;
        anyhow::ensure!(
            sent == frame.len(),
            "{} sent {sent} of {} bytes",
            self.name,
            frame.len()
        );
        Ok(())
    }

    /// Returns the next experimental frame that came in, its VLAN tag in place, or an error where none comes.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(frame) = self.receive_within(PATIENCE)? {
                return Ok(frame);
            }
        }
        bail!(
            "nothing came in on {} within {} s",
            self.name,
            PATIENCE.as_secs()
        )
    }

    /// Returns every experimental frame that comes in until none has come for `quiet`.
    pub fn drain(&mut self, quiet: Duration) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.receive_within(quiet)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Returns the next frame of any kind, its VLAN tag in place; `None` where none came within `limit`.
    pub fn receive_any(&mut self, limit: Duration) -> Result<Option<Vec<u8>>> {
        set_timeout(&self.socket, limit)?;
        match receive(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            frame => Ok(frame?),
        }
    }

    /// Returns the next experimental frame; `None` where none came within `limit`.
    fn receive_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            set_timeout(&self.socket, left)?;
            match receive(&self.socket) {
                Ok(Some(frame)) if is_experimental(&frame) => return Ok(Some(frame)),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the EtherType, behind a VLAN tag or not, is [`EXPERIMENTAL`].
fn is_experimental(frame: &[u8]) -> bool {
    let at = if frame.get(12..14) == Some(&VLAN) {
        16
    } else {
        12
    };
    frame.get(at..at + 2) == Some(&EXPERIMENTAL)
}

fn interface_index(name: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name ends with a zero and lives across the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index as i32),
    }
}

fn packet_socket(index: i32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no memory is involved.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol.into(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
    // Frames that this socket's host sends would come in again.
    option(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_IGNORE_OUTGOING,
        &1i32,
    )?;
    option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        &(8 << 20i32),
    )?;
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives across the call and has this length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

fn set_timeout(socket: &impl AsRawFd, limit: Duration) -> io::Result<()> {
    // A timeout of zero would be none at all.
    let microseconds = (limit.as_micros() as i64).max(1000);
    let time = libc::timeval {
        tv_sec: microseconds / 1_000_000,
        tv_usec: microseconds % 1_000_000,
    };
    option(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
}

fn option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives across the call and has this length.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Reads one frame, and puts back the VLAN tag that the kernel took out of it; `None`: the frame was longer than any frame of ours.
fn receive(socket: &impl AsRawFd) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = [0u8; 4096];
    let mut control = [0u64; 16];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: everything that the header points to lives across the call and has the lengths it says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Ok(None);
    }
    let mut frame = bytes[..length].to_vec();
    if let Some(tag) = stripped_tag(&message)
        && frame.len() >= 12
    {
        frame.splice(12..12, VLAN.into_iter().chain(tag.to_be_bytes()));
    }
    Ok(Some(frame))
}

/// The tag in the control message PACKET_AUXDATA, where there was one.
fn stripped_tag(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: the kernel filled in header and control buffer.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref()? };
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a message of this type holds this structure; it may be unaligned.
    let data = unsafe {
        std::ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>())
    };
    (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(data.tp_vlan_tci)
}
