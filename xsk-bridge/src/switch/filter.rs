//! What a port may send: its own MAC, and the addresses that are its own. Judged by the first bytes of a frame, which nobody vouches
//! for.
use crate::header::{ETHERNET_LEN, Mac, VLAN_TAG_LEN};
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use thiserror::Error;

/// Most entries of a list of addresses: each is looked at for every packet.
pub const MAX_ADDRESSES: usize = 64;
/// Most VLAN tags that are looked behind.
const MAX_TAGS: usize = 2;
/// Most IPv6 extension headers that are looked behind.
const MAX_EXTENSIONS: usize = 8;

/// The addresses that a guest may use: single ones and prefixes of both IP versions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    v4: Vec<Prefix<u32>>,
    v6: Vec<Prefix<u128>>,
}

/// The addresses that agree with `bits` where `mask` has ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix<T> {
    bits: T,
    mask: T,
}

impl Addresses {
    #[inline]
    fn has_v4(&self, address: [u8; 4]) -> bool {
        let address = u32::from_be_bytes(address);
        self.v4.iter().any(|own| address & own.mask == own.bits)
    }

    #[inline]
    fn has_v6(&self, address: [u8; 16]) -> bool {
        let address = u128::from_be_bytes(address);
        self.v6.iter().any(|own| address & own.mask == own.bits)
    }
}

/// The key `ip` as xl-network-configuration(5) has it: addresses or prefixes, of either version, with white space between them. The
/// bits of an address behind its prefix do not count, as in iptables(8).
impl FromStr for Addresses {
    type Err = InvalidAddresses;

    fn from_str(text: &str) -> Result<Self, InvalidAddresses> {
        let mut addresses = Self::default();
        for (n, entry) in text.split_whitespace().enumerate() {
            if n == MAX_ADDRESSES {
                return Err(InvalidAddresses::TooMany);
            }
            let wrong = || InvalidAddresses::Entry(entry.chars().take(64).collect());
            let (address, prefix) = match entry.split_once('/') {
                Some((address, prefix)) => (address, Some(prefix)),
                None => (entry, None),
            };
            // No sign and no leading zero: what is meant by those is anybody's guess.
            let plain = |text: &str| text == "0" || !text.starts_with(['0', '+']);
            let bits = |longest: u32| match prefix {
                None => Ok(longest),
                Some(prefix) => {
                    let bits = prefix.parse::<u32>().ok().filter(|_| plain(prefix));
                    bits.filter(|bits| *bits <= longest).ok_or_else(wrong)
                }
            };
            match address.parse::<IpAddr>().map_err(|_| wrong())? {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(32 - bits(32)?).unwrap_or(0);
                    let bits = u32::from(address) & mask;
                    addresses.v4.push(Prefix { bits, mask });
                }
                IpAddr::V6(address) => {
                    let mask = u128::MAX.checked_shl(128 - bits(128)?).unwrap_or(0);
                    let bits = u128::from(address) & mask;
                    addresses.v6.push(Prefix { bits, mask });
                }
            }
        }
        match addresses == Self::default() {
            true => Err(InvalidAddresses::None),
            false => Ok(addresses),
        }
    }
}

impl Display for Addresses {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let v4 = self.v4.iter().map(|own| {
            let address = IpAddr::V4(Ipv4Addr::from_bits(own.bits));
            (address, own.mask.count_ones(), 32)
        });
        let v6 = self.v6.iter().map(|own| {
            let address = IpAddr::V6(Ipv6Addr::from_bits(own.bits));
            (address, own.mask.count_ones(), 128)
        });
        for (n, (address, bits, longest)) in v4.chain(v6).enumerate() {
            let space = if n > 0 { " " } else { "" };
            match bits == longest {
                true => write!(f, "{space}{address}")?,
                false => write!(f, "{space}{address}/{bits}")?,
            }
        }
        Ok(())
    }
}

/// Why a list of addresses says nothing that can be done; one line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidAddresses {
    /// Not an address.
    #[error("{0:?} is no address and no prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::7")]
    Entry(String),
    /// More than [`MAX_ADDRESSES`].
    #[error("it lists more than {MAX_ADDRESSES} addresses: use prefixes, such as 192.0.2.0/24")]
    TooMany,
    /// The list of addresses is empty.
    #[error("it lists no address")]
    None,
}

/// The rule that a frame breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// The source MAC is not the guest's own.
    Mac,
    /// An ARP packet that speaks for an address which is not the guest's, or in the name of another MAC.
    Arp,
    /// An IPv4 source that is not the guest's, or no whole IPv4 header.
    Ipv4,
    /// An IPv6 source that is not the guest's, or headers that end before one can tell.
    Ipv6,
    /// A neighbour solicitation or advertisement that speaks for an address which is not the guest's, or in the name of another MAC.
    NeighborDiscovery,
    /// A router advertisement or a redirect.
    RouterAdvertisement,
    /// More VLAN tags than are looked behind.
    Tags,
}

/// What a guest's port may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    mac: Mac,
    mac_lock: bool,
    addresses: Option<Addresses>,
    /// The link-local address that a stack makes of the guest's MAC (RFC 4291 appendix A).
    link_local: [u8; 16],
}

impl Filter {
    /// The filter of a guest with this MAC; `None` where it may send anything.
    pub fn new(mac: Mac, mac_lock: bool, addresses: Option<Addresses>) -> Option<Self> {
        let [a, b, c, d, e, f] = mac;
        let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        let mut link_local = [0; 16];
        link_local[..2].copy_from_slice(&[0xfe, 0x80]);
        link_local[8..].copy_from_slice(&interface);
        (mac_lock || addresses.is_some()).then_some(Self {
            mac,
            mac_lock,
            addresses,
            link_local,
        })
    }

    /// Whether the guest may send from its own MAC only.
    pub fn mac_lock(&self) -> bool {
        self.mac_lock
    }

    /// The addresses that the guest is held to.
    pub fn addresses(&self) -> Option<&Addresses> {
        self.addresses.as_ref()
    }

    /// Judges a frame by its first bytes: 256 of a long one, all of a short one. What is too short to be a frame is the switch's to
    /// refuse.
    pub fn judge(&self, head: &[u8]) -> Result<(), Broken> {
        let Some(ethernet) = head.first_chunk::<ETHERNET_LEN>() else {
            return Ok(());
        };
        let source: Mac = bytes(ethernet, 6).unwrap_or_default();
        if self.mac_lock && source != self.mac {
            return Err(Broken::Mac);
        }
        let Some(addresses) = &self.addresses else {
            return Ok(());
        };
        let (ethertype, l3) = behind_tags(head).ok_or(Broken::Tags)?;
        let packet = head.get(l3..).unwrap_or_default();
        let rules = Rules {
            addresses,
            source,
            link_local: self.link_local,
        };
        match ethertype {
            [0x08, 0x06] => rules.arp(packet).ok_or(Broken::Arp),
            [0x08, 0x00] => rules.ipv4(packet).ok_or(Broken::Ipv4),
            [0x86, 0xdd] => rules.ipv6(packet),
            _ => Ok(()),
        }
    }
}

/// The EtherType behind the VLAN tags and a SNAP header, and where what follows it begins; `None`: there are too many tags, or the frame
/// ends in one.
fn behind_tags(head: &[u8]) -> Option<([u8; 2], usize)> {
    let mut at = ETHERNET_LEN;
    for _ in 0..=MAX_TAGS {
        let ethertype: [u8; 2] = bytes(head, at - 2)?;
        match ethertype {
            [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00] => at += VLAN_TAG_LEN,
            [0..=5, _] => return Some(behind_snap(head, at).unwrap_or((ethertype, at))),
            _ => return Some((ethertype, at)),
        }
    }
    None
}

/// The EtherType of a SNAP header at `at` (RFC 1042; IEEE 802.1H for the second organisation), and where what follows it begins.
fn behind_snap(head: &[u8], at: usize) -> Option<([u8; 2], usize)> {
    match bytes(head, at)? {
        [0xaa, 0xaa, 3, 0, 0, 0x00 | 0xf8, high, low] => Some(([high, low], at + 8)),
        _ => None,
    }
}

/// `N` bytes from `at` on, where there are so many.
#[inline]
fn bytes<const N: usize>(of: &[u8], at: usize) -> Option<[u8; N]> {
    of.get(at..)?.first_chunk().copied()
}

/// What one frame is judged by.
struct Rules<'a> {
    addresses: &'a Addresses,
    /// The frame's source MAC.
    source: Mac,
    link_local: [u8; 16],
}

impl Rules<'_> {
    /// RFC 826: whoever asks or answers does so for itself. An address is probed (RFC 5227) with a sender of 0.0.0.0.
    fn arp(&self, packet: &[u8]) -> Option<()> {
        // Ethernet, IPv4, and the lengths of their addresses.
        let kinds: [u8; 6] = bytes(packet, 0)?;
        let (sender_mac, sender): (Mac, [u8; 4]) = (bytes(packet, 8)?, bytes(packet, 14)?);
        let target: [u8; 4] = bytes(packet, 24)?;
        let speaks_for = match sender {
            [0, 0, 0, 0] => target,
            sender => sender,
        };
        let fine = kinds == [0, 1, 8, 0, 6, 4]
            && sender_mac == self.source
            && self.addresses.has_v4(speaks_for);
        fine.then_some(())
    }

    #[inline]
    fn ipv4(&self, packet: &[u8]) -> Option<()> {
        let header: [u8; 20] = bytes(packet, 0)?;
        let length = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || length < header.len() {
            return None;
        }
        let source = bytes(&header, 12)?;
        if self.addresses.has_v4(source) {
            return Some(());
        }
        // DHCP's client speaks from 0.0.0.0 (RFC 2131 section 4.1), in one piece.
        let whole = [header[6] & 0x3f, header[7]] == [0, 0];
        let dhcp = [0, 68, 0, 67];
        let is_dhcp =
            source == [0; 4] && header[9] == UDP && whole && bytes(packet, length) == Some(dhcp);
        is_dhcp.then_some(())
    }

    fn may_use(&self, address: [u8; 16]) -> bool {
        address == self.link_local || self.addresses.has_v6(address)
    }

    fn ipv6(&self, packet: &[u8]) -> Result<(), Broken> {
        let (source, upper) = ipv6(packet).ok_or(Broken::Ipv6)?;
        let unspecified = source == [0; 16];
        if !(unspecified || self.may_use(source)) {
            return Err(Broken::Ipv6);
        }
        match upper {
            Upper::Icmp { message, .. } if unspecified && !is_said_without_address(message[0]) => {
                Err(Broken::Ipv6)
            }
            Upper::Icmp { message, fragment } => self.discovery(message, fragment, unspecified),
            Upper::Other if unspecified => Err(Broken::Ipv6),
            Upper::Other => Ok(()),
        }
    }

    /// Neighbour discovery (RFC 4861 section 4), which is never fragmented (RFC 6980) and never longer than what is at hand.
    fn discovery(&self, message: &[u8], fragment: bool, unspecified: bool) -> Result<(), Broken> {
        let refused = Err(Broken::NeighborDiscovery);
        let (speaks_for_target, options) = match message[0] {
            ROUTER_ADVERTISEMENT | REDIRECT => return Err(Broken::RouterAdvertisement),
            ROUTER_SOLICITATION => (false, 8),
            // Who has an address may ask for anybody's; without one, a guest asks whether its own is free.
            NEIGHBOR_SOLICITATION => (unspecified, 24),
            NEIGHBOR_ADVERTISEMENT => (true, 24),
            _ => return Ok(()),
        };
        if fragment {
            return refused;
        }
        let target = || bytes(message, 8).is_some_and(|target| self.may_use(target));
        if speaks_for_target && !target() {
            return refused;
        }
        let Some(mut options) = message.get(options..) else {
            return refused;
        };
        while let [kind, length, ..] = *options {
            let length = usize::from(length) * 8;
            if length == 0 || length > options.len() {
                return refused;
            }
            // Source and target link-layer address.
            if matches!(kind, 1 | 2) && bytes(options, 2) != Some(self.source) {
                return refused;
            }
            options = &options[length..];
        }
        match options.is_empty() {
            true => Ok(()),
            false => refused,
        }
    }
}

/// What is above IPv6.
enum Upper<'a> {
    /// ICMPv6: the bytes of the message that are at hand, its type at least; whether it is (the first) part of a fragmented packet.
    Icmp { message: &'a [u8], fragment: bool },
    /// Anything else, and later fragments.
    Other,
}

/// Steps behind IPv6 extension headers (RFC 8200 section 4) to what they carry: the source address, and that. `None`: the headers end
/// before one can tell, which is how router advertisements are hidden (RFC 7113).
fn ipv6(packet: &[u8]) -> Option<([u8; 16], Upper<'_>)> {
    let header: [u8; 40] = bytes(packet, 0)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let source = bytes(&header, 8)?;
    let end = header.len() + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let whole = packet.len() >= end;
    let packet = &packet[..packet.len().min(end)];
    let (mut next, mut at, mut fragment) = (header[6], header.len(), false);
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT => {}
            ICMPV6 => {
                let message = packet.get(at..).filter(|message| !message.is_empty())?;
                // Of a message that is longer than what is at hand, the rest cannot be judged.
                let fragment = fragment || !whole;
                return Some((source, Upper::Icmp { message, fragment }));
            }
            _ => return Some((source, Upper::Other)),
        }
        let [following, length, high, low] = bytes(packet, at)?;
        at += match next {
            FRAGMENT => {
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Some((source, Upper::Other));
                }
                fragment = true;
                8
            }
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        next = following;
    }
    None
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Whether a host says this before it has an address: duplicate address detection (RFC 4862 section 5.4), a question for routers, and
/// multicast listeners' reports and farewells (RFC 2710, RFC 3810).
fn is_said_without_address(kind: u8) -> bool {
    matches!(
        kind,
        NEIGHBOR_SOLICITATION | ROUTER_SOLICITATION | 131 | 132 | 143
    )
}

#[cfg(test)]
mod tests;
