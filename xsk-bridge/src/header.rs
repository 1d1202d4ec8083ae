//! Ethernet, VLAN, IPv4, IPv6, TCP and UDP headers, read with bounds checks from untrusted bytes.
use thiserror::Error;

/// Bytes of an Ethernet header without a tag (IEEE 802.3 clause 3).
pub const ETHERNET_LEN: usize = 14;
/// Bytes of one VLAN tag (IEEE 802.1Q clause 9).
pub const VLAN_TAG_LEN: usize = 4;
/// Most VLAN tags that a parser skips: a service tag and a customer tag (802.1ad).
const MAX_VLAN_TAGS: usize = 2;
/// Most IPv6 extension headers that a parser skips; a usual stack sends at most one of each of the six kinds (RFC 8200 section 4.1).
const MAX_EXTENSIONS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const IPV4_MIN_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
pub(crate) const TCP_MIN_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// An Ethernet address (MAC), in the order of its bytes on the wire.
pub type Mac = [u8; 6];

/// Why a header could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum HeaderError {
    /// The bytes end inside a header.
    #[error("it ends inside a header")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("it is not IP")]
    NotIp,
    /// A length field contradicts its header or the packet.
    #[error("a length field contradicts the packet")]
    BadLength,
    /// IP, but neither TCP nor UDP.
    #[error("it is neither TCP nor UDP")]
    NotTransport,
    /// A fragment of a datagram: the checksum covers bytes that are not in the packet.
    #[error("it is a fragment")]
    Fragment,
    /// More than `MAX_EXTENSIONS` IPv6 extension headers.
    #[error("it has too many IPv6 extension headers")]
    TooManyExtensions,
}

/// An Ethernet header with its outermost tag. An address is held as a number, its six bytes in network byte order, because tables
/// compare numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub destination: u64,
    /// Source address.
    pub source: u64,
    /// VLAN of the outermost tag, 1..=4095; 0 without a tag and for a priority tag.
    pub vlan: u16,
}
impl Ethernet {
    /// Reads the header from the first bytes of a frame.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, HeaderError> {
        // Two loads: the destination and two bytes more; the source and the EtherType.
        let (Some(first), Some(last)) = (
            frame.first_chunk(),
            frame.get(6..ETHERNET_LEN).and_then(<[u8]>::first_chunk),
        ) else {
            return Err(HeaderError::Truncated);
        };
        let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
        let vlan = match last as u16 {
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => u16_at(frame, ETHERNET_LEN)? & 0x0fff,
            _ => 0,
        };
        Ok(Self {
            destination: first >> 16,
            source: last >> 16,
            vlan,
        })
    }
}

/// Returns whether a VLAN tag follows the addresses of an Ethernet header.
pub fn is_tagged(header: &[u8]) -> bool {
    matches!(
        u16_at(header, ETHERNET_LEN - 2),
        Ok(ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN)
    )
}

/// Converts a hardware address to the number that [`Ethernet`] holds.
pub(crate) fn number(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// The transport protocols whose checksums netback completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}
impl Protocol {
    /// Returns the protocol's number in IP headers.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
    /// Returns the offset of the checksum from the start of the protocol's header, in bytes.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
    fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
    fn min_len(self) -> usize {
        match self {
            Self::Tcp => TCP_MIN_LEN,
            Self::Udp => UDP_LEN,
        }
    }
}

/// The place of a TCP segment or UDP datagram in a packet. Offsets and lengths are in bytes, and checked to be inside the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// IP version.
    pub ip: IpVersion,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Number of VLAN tags before the IP header.
    pub tags: u8,
    /// Start of the IP header.
    pub l3: usize,
    /// Start of the TCP or UDP header, whose minimum length is inside the bytes that were parsed.
    pub l4: usize,
    /// Bytes from `l4` to the end of the IP packet; the rest of the frame is padding.
    pub l4_len: usize,
    /// There is an IPv6 routing header with segments left: the pseudo-header has another destination than the IP header.
    pub source_routed: bool,
    /// There is an IPv6 authentication or fragment header, whose contents are valid for this packet only: the packet cannot be cut.
    pub indivisible: bool,
}

impl Transport {
    /// Finds the transport header in a packet of `packet_len` bytes whose first bytes are `head`; all headers must be inside `head`.
    pub fn parse(head: &[u8], packet_len: usize) -> Result<Self, HeaderError> {
        let head = &head[..head.len().min(packet_len)];
        let (l3, tags, ethertype) = skip_tags(head)?;
        let ip = match ethertype {
            ETHERTYPE_IPV4 => ipv4(head, l3)?,
            ETHERTYPE_IPV6 => ipv6(head, l3)?,
            _ => return Err(HeaderError::NotIp),
        };
        if ip.end > packet_len || ip.end < ip.payload {
            return Err(HeaderError::BadLength);
        }
        let protocol = Protocol::from_number(ip.protocol).ok_or(HeaderError::NotTransport)?;
        let l4_len = ip.end - ip.payload;
        if l4_len < protocol.min_len() {
            return Err(HeaderError::BadLength);
        }
        if head.len() < ip.payload + protocol.min_len() {
            return Err(HeaderError::Truncated);
        }
        Ok(Self {
            ip: ip.version,
            protocol,
            tags,
            l3,
            l4: ip.payload,
            l4_len,
            source_routed: ip.source_routed,
            indivisible: ip.indivisible,
        })
    }

    /// Returns the offset of the checksum field in the packet.
    pub fn checksum(&self) -> usize {
        self.l4 + self.protocol.checksum_offset()
    }

    /// Returns the addresses of the IP header as the pseudo-header has them.
    pub fn addresses<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        match self.ip {
            IpVersion::V4 => &head[self.l3 + 12..self.l3 + 20],
            IpVersion::V6 => &head[self.l3 + 8..self.l3 + 40],
        }
    }
}

/// The payload that an IP header describes.
struct Ip {
    version: IpVersion,
    /// Protocol of the payload.
    protocol: u8,
    /// Offset of the first byte after all IP headers.
    payload: usize,
    /// Offset of the first byte after the IP packet.
    end: usize,
    source_routed: bool,
    indivisible: bool,
}

/// Returns the offset of the network header, the number of VLAN tags before it, and its EtherType.
fn skip_tags(head: &[u8]) -> Result<(usize, u8, u16), HeaderError> {
    let mut at = ETHERNET_LEN;
    let mut tags = 0;
    loop {
        let ethertype = u16_at(head, at - 2)?;
        let is_tag = matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN);
        if !is_tag || usize::from(tags) == MAX_VLAN_TAGS {
            return Ok((at, tags, ethertype));
        }
        at += VLAN_TAG_LEN;
        tags += 1;
    }
}

fn ipv4(head: &[u8], l3: usize) -> Result<Ip, HeaderError> {
    let header: &[u8; IPV4_MIN_LEN] = head
        .get(l3..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(HeaderError::Truncated)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4_MIN_LEN {
        return Err(HeaderError::BadLength);
    }
    // RFC 791: the more-fragments bit and 13 bits of offset; the don't-fragment bit does not matter.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(HeaderError::Fragment);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Ok(Ip {
        version: IpVersion::V4,
        protocol: header[9],
        payload: l3 + header_len,
        end: l3 + total,
        source_routed: false,
        indivisible: false,
    })
}

fn ipv6(head: &[u8], l3: usize) -> Result<Ip, HeaderError> {
    let header: &[u8; IPV6_LEN] = head
        .get(l3..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(HeaderError::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(HeaderError::BadLength);
    }
    let mut ip = Ip {
        version: IpVersion::V6,
        protocol: header[6],
        payload: l3 + IPV6_LEN,
        end: l3 + IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]])),
        source_routed: false,
        indivisible: false,
    };
    for _ in 0..MAX_EXTENSIONS {
        if !extension(head, &mut ip)? {
            return Ok(ip);
        }
    }
    if extension(head, &mut ip)? {
        Err(HeaderError::TooManyExtensions)
    } else {
        Ok(ip)
    }
}

/// Skips one extension header (RFC 8200 section 4). Returns false if there is none.
fn extension(head: &[u8], ip: &mut Ip) -> Result<bool, HeaderError> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    if !matches!(
        ip.protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    ) {
        return Ok(false);
    }
    let header: &[u8; 8] = head
        .get(ip.payload..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(HeaderError::Truncated)?;
    let len = match ip.protocol {
        // An atomic fragment (offset 0, no more to come: RFC 6946) is a whole packet.
        FRAGMENT if u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0 => {
            return Err(HeaderError::Fragment);
        }
        FRAGMENT => 8,
        AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
        _ => (usize::from(header[1]) + 1) * 8,
    };
    ip.source_routed |= ip.protocol == ROUTING && header[3] != 0;
    ip.indivisible |= matches!(ip.protocol, FRAGMENT | AUTHENTICATION);
    ip.protocol = header[0];
    ip.payload += len;
    Ok(true)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, HeaderError> {
    let two: &[u8; 2] = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(HeaderError::Truncated)?;
    Ok(u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ipv6FragmentHeader, Ipv6RawExtHeader, PacketBuilder};
    use proptest::prelude::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn tcp4(payload: usize) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(A, B)
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4);
        let mut out = Vec::new();
        builder.write(&mut out, &vec![7; payload]).unwrap();
        out
    }

    #[test]
    fn ethernet_takes_the_outermost_vlan_and_keeps_a_priority_tag_at_zero() {
        let mut frame = vec![0u8; 18];
        frame[..6].copy_from_slice(&B);
        frame[6..12].copy_from_slice(&A);
        for (ethertype, tci, vlan) in [
            (0x8100, 0x2123, 0x123),
            (0x88a8, 0x0fff, 0xfff),
            (0x8100, 0xe000, 0),
            (0x0800, 5, 0),
        ] {
            frame[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
            frame[14..16].copy_from_slice(&u16::to_be_bytes(tci));
            let ethernet = Ethernet {
                destination: number(B),
                source: number(A),
                vlan,
            };
            assert_eq!(Ethernet::parse(&frame), Ok(ethernet));
        }
        assert_eq!(Ethernet::parse(&frame[..13]), Err(HeaderError::Truncated));
        frame[12..14].copy_from_slice(&[0x81, 0]);
        assert_eq!(Ethernet::parse(&frame[..15]), Err(HeaderError::Truncated));
    }

    #[test]
    fn padding_is_not_part_of_the_segment() {
        let mut packet = tcp4(1);
        packet.resize(60, 0);
        let transport = Transport::parse(&packet, packet.len()).unwrap();
        assert_eq!((transport.l3, transport.l4, transport.l4_len), (14, 34, 21));
        assert_eq!(transport.checksum(), 50);
    }

    #[test]
    fn every_refusal_has_its_name() {
        let whole = tcp4(100);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = whole.clone();
            change(&mut packet);
            Transport::parse(&packet, packet.len()).unwrap_err()
        };
        assert_eq!(with(&|p| p.truncate(33)), HeaderError::Truncated);
        assert_eq!(with(&|p| p.truncate(120)), HeaderError::BadLength);
        assert_eq!(with(&|p| p[12] = 0x90), HeaderError::NotIp);
        assert_eq!(with(&|p| p[14] = 0x44), HeaderError::BadLength);
        assert_eq!(with(&|p| p[14] = 0x65), HeaderError::BadLength);
        assert_eq!(with(&|p| p[20] = 0x20), HeaderError::Fragment);
        assert_eq!(with(&|p| p[21] = 1), HeaderError::Fragment);
        assert_eq!(with(&|p| p[23] = 1), HeaderError::NotTransport);
        assert_eq!(
            with(&|p| p[16..18].copy_from_slice(&[0, 39])),
            HeaderError::BadLength
        );
        // The head may be shorter than the packet, but not than its headers.
        assert!(Transport::parse(&whole[..54], whole.len()).is_ok());
        assert_eq!(
            Transport::parse(&whole[..53], whole.len()),
            Err(HeaderError::Truncated)
        );
    }

    /// An IPv6 packet with the given (kind, header) chain in front of a UDP header.
    fn udp6(extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut body: Vec<u8> = Vec::new();
        for (n, (_, bytes)) in extensions.iter().enumerate() {
            let start = body.len();
            body.extend_from_slice(bytes);
            body[start] = extensions.get(n + 1).map_or(17, |next| next.0);
        }
        body.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0, 0]);
        let mut packet = vec![0u8; 14 + 40];
        packet[12..14].copy_from_slice(&[0x86, 0xdd]);
        packet[14] = 0x60;
        packet[18..20].copy_from_slice(&u16::to_be_bytes(body.len() as u16));
        packet[20] = extensions.first().map_or(17, |first| first.0);
        packet.extend(body);
        packet
    }

    #[test]
    fn extension_headers_are_stepped_over_up_to_the_bound() {
        let options = Ipv6RawExtHeader::new_raw(17.into(), &[0; 14])
            .unwrap()
            .to_bytes()
            .to_vec();
        let atomic = Ipv6FragmentHeader::new(17.into(), etherparse::IpFragOffset::ZERO, false, 1)
            .to_bytes()
            .to_vec();
        let packet = udp6(&[
            (0, options.clone()),
            (44, atomic),
            (51, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (60, options.clone()),
        ]);
        let transport = Transport::parse(&packet, packet.len()).unwrap();
        assert_eq!((transport.l4, transport.l4_len), (packet.len() - 8, 8));
        assert!(!transport.source_routed);

        let many = |n| udp6(&vec![(60, options.clone()); n]);
        assert!(Transport::parse(&many(MAX_EXTENSIONS), many(MAX_EXTENSIONS).len()).is_ok());
        let packet = many(MAX_EXTENSIONS + 1);
        assert_eq!(
            Transport::parse(&packet, packet.len()),
            Err(HeaderError::TooManyExtensions)
        );

        let more = Ipv6FragmentHeader::new(17.into(), etherparse::IpFragOffset::ZERO, true, 1)
            .to_bytes()
            .to_vec();
        let packet = udp6(&[(44, more)]);
        assert_eq!(
            Transport::parse(&packet, packet.len()),
            Err(HeaderError::Fragment)
        );

        let packet = udp6(&[(43, vec![0, 0, 4, 1, 0, 0, 0, 0])]);
        assert!(
            Transport::parse(&packet, packet.len())
                .unwrap()
                .source_routed
        );
    }

    proptest! {
        /// Bytes of any kind, cut anywhere: no panic, and what is found is inside the packet.
        #[test]
        fn what_is_found_is_inside(mut packet in proptest::collection::vec(any::<u8>(), 0..200), ip6: bool, tags in 0..4usize, extra in 0..100usize) {
            if packet.len() > 15 + 4 * tags {
                for tag in 0..tags { packet[12 + 4 * tag] = 0x81; packet[13 + 4 * tag] = 0; }
                let at = 12 + 4 * tags;
                packet[at..at + 3].copy_from_slice(if ip6 { &[0x86, 0xdd, 0x60] } else { &[0x08, 0x00, 0x45] });
            }
            let len = packet.len() + extra;
            if let Ok(transport) = Transport::parse(&packet, len) {
                prop_assert!(transport.l4 + transport.l4_len <= len);
                prop_assert!(transport.checksum() + 2 <= packet.len());
                prop_assert!(transport.l3 + 20 <= transport.l4);
                let addresses = if ip6 { 32 } else { 8 };
                prop_assert_eq!(transport.addresses(&packet).len(), addresses);
            }
        }
    }
}
