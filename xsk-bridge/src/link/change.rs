//! Requests that change a device, or take it away (rtnetlink; linux/rtnetlink.h, linux/if_link.h).
use super::{
    ERROR, HEADER, IFINFO, IFLA_ADDRESS, IFLA_GSO_MAX_SEGS, IFLA_MTU, Messages, NLM_F_REQUEST,
    append, open, send, u32_at,
};
use rustix::net::SocketFlags;
use std::io::{self, Read};

const NLM_F_ACK: u16 = 4;
const IFF_UP: u32 = libc::IFF_UP as u32;

/// What is to be different about a device; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// Bytes without the Ethernet header.
    pub mtu: Option<u32>,
    /// Most segments of a packet that the stack leaves to be segmented.
    pub gso_max_segments: Option<u32>,
    /// Take it up.
    pub up: bool,
}

impl Change {
    /// Changes the device with this index.
    ///
    /// # Errors
    /// What the kernel says, of a device that is gone too.
    pub fn apply(&self, index: u32) -> io::Result<()> {
        let up = if self.up { IFF_UP } else { 0 };
        let mut message = request(libc::RTM_NEWLINK, index, up);
        if let Some(mac) = self.mac {
            append(&mut message, IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = self.mtu {
            append(&mut message, IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(segments) = self.gso_max_segments {
            append(&mut message, IFLA_GSO_MAX_SEGS, &segments.to_ne_bytes());
        }
        ask(message)
    }
}

/// Takes the device with this index away.
///
/// # Errors
/// What the kernel says, of a device that is gone already too.
pub fn delete(index: u32) -> io::Result<()> {
    ask(request(libc::RTM_DELLINK, index, 0))
}

/// The header of a message and a struct ifinfomsg: `flags` are what is to be set of IFF_*.
fn request(kind: u16, index: u32, flags: u32) -> Vec<u8> {
    let mut message = vec![0; HEADER + IFINFO];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    message[24..28].copy_from_slice(&flags.to_ne_bytes());
    message[28..32].copy_from_slice(&flags.to_ne_bytes());
    message
}

/// Sends a request and waits for the kernel's word on it.
fn ask(message: Vec<u8>) -> io::Result<()> {
    let mut socket = open(SocketFlags::empty(), 0)?;
    send(&mut socket, message)?;
    let mut buffer = vec![0; 1 << 12];
    loop {
        let n = socket.read(&mut buffer)?;
        let mut answers = Messages(&buffer[..n]);
        if let Some(answer) = answers.find(|answer| answer.kind == ERROR) {
            return match u32_at(answer.body, 0) {
                Some(0) => Ok(()),
                _ => Err(super::reported(answer.body)),
            };
        }
    }
}
