//! What a device's driver does under XDP, as it says itself (generic netlink's family `netdev`; linux/netdev.h).
use super::{
    Attributes, ERROR, HEADER, Messages, NLM_F_REQUEST, append, open_protocol, reported, send,
    u16_at, u32_at,
};
use rustix::net::SocketFlags;
use rustix::net::netlink;
use std::fs::File;
use std::io::{self, Read};

const GENERIC_HEADER: usize = 4; // struct genlmsghdr
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
/// Bits of the features (enum netdev_xdp_act).
const BASIC: u64 = 1;
const ZERO_COPY: u64 = 1 << 3;
const RECEIVES_FRAGMENTS: u64 = 1 << 5;

/// What a driver does under XDP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Driver {
    /// The driver runs programs itself.
    pub native: bool,
    /// The driver hands packets in several buffers to a program that takes them.
    pub receives_fragments: bool,
    /// Most buffers of a packet with zero-copy; `None`: the driver has no zero-copy.
    pub zero_copy_fragments: Option<u32>,
}

impl Driver {
    /// Asks the driver of the device with this index. A kernel before Linux 6.3 has no word on any driver: then the driver does nothing.
    pub fn of(ifindex: u32) -> io::Result<Self> {
        let mut socket = open_protocol(Some(netlink::GENERIC), SocketFlags::empty(), 0)?;
        let name = (CTRL_ATTR_FAMILY_NAME, &b"netdev\0"[..]);
        let family = match ask(&mut socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            answer => answer?,
        };
        let number = Attributes(&family).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
        let number = number.and_then(|(_, value)| u16_at(value, 0));
        let number = number.ok_or(io::ErrorKind::InvalidData)?;
        let index = ifindex.to_ne_bytes();
        let device = (NETDEV_A_DEV_IFINDEX, &index[..]);
        let answer = ask(&mut socket, number, NETDEV_CMD_DEV_GET, device)?;
        Ok(Self::parse(&answer))
    }

    fn parse(attributes: &[u8]) -> Self {
        let (mut features, mut segments) = (0, 1);
        for (kind, value) in Attributes(attributes) {
            match kind {
                NETDEV_A_DEV_XDP_FEATURES => {
                    let bytes = value.get(..8).and_then(|bytes| bytes.try_into().ok());
                    features = bytes.map_or(0, u64::from_ne_bytes);
                }
                NETDEV_A_DEV_XDP_ZC_MAX_SEGS => segments = u32_at(value, 0).unwrap_or(1),
                _ => {}
            }
        }
        Self {
            native: features & BASIC != 0,
            receives_fragments: features & RECEIVES_FRAGMENTS != 0,
            zero_copy_fragments: (features & ZERO_COPY != 0).then_some(segments),
        }
    }
}

/// Sends one request with one attribute, and returns the attributes of the answer.
fn ask(
    socket: &mut File,
    family: u16,
    command: u8,
    (kind, value): (u16, &[u8]),
) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER + GENERIC_HEADER];
    message[4..6].copy_from_slice(&family.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[HEADER] = command;
    message[HEADER + 1] = 1; // The version of either family.
    append(&mut message, kind, value);
    send(socket, message)?;
    let mut buffer = vec![0; 1 << 13];
    let n = socket.read(&mut buffer)?;
    let answer = Messages(&buffer[..n]).next();
    let answer = answer.ok_or(io::ErrorKind::InvalidData)?;
    match answer.kind {
        ERROR => Err(reported(answer.body)),
        _ => Ok(answer
            .body
            .get(GENERIC_HEADER..)
            .unwrap_or_default()
            .to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_its_bits_say() {
        let answer = |features: u64, segments: Option<u32>| {
            let mut bytes = Vec::new();
            append(
                &mut bytes,
                NETDEV_A_DEV_XDP_FEATURES,
                &features.to_ne_bytes(),
            );
            if let Some(segments) = segments {
                append(
                    &mut bytes,
                    NETDEV_A_DEV_XDP_ZC_MAX_SEGS,
                    &segments.to_ne_bytes(),
                );
            }
            let driver = Driver::parse(&bytes);
            assert_eq!(driver.native, features & 1 != 0);
            (driver.receives_fragments, driver.zero_copy_fragments)
        };
        assert_eq!(answer(0, None), (false, None));
        assert_eq!(answer(0x27, None), (true, None));
        assert_eq!(answer(0x0f, Some(1)), (false, Some(1)));
        assert_eq!(answer(0x2f, Some(8)), (true, Some(8)));
        assert_eq!(Driver::parse(&[8, 0, 3, 0, 1]), Driver::default());
    }

    #[test]
    fn loopback_has_no_xdp_in_its_driver() {
        assert_eq!(Driver::of(1).unwrap(), Driver::default());
        assert!(
            Driver::of(u32::MAX >> 1).is_err(),
            "no such device, or no word on it"
        );
    }
}
