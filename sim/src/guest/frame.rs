//! What netfront has to know of a frame: its offload state, and where its transport checksum is.
pub use ring::packet::Checksum;
use ring::packet::Gso;

/// Offload state of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Segmentation left to the other end.
    pub gso: Option<Gso>,
}

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad tags.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The TCP or UDP header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Its first byte.
    pub start: usize,
    /// Its checksum field.
    pub field: usize,
    /// IPv6 below it.
    pub ipv6: bool,
    /// TCP, else UDP.
    pub tcp: bool,
    /// The frame carries a VLAN tag.
    pub tagged: bool,
}

impl Transport {
    /// First byte of the payload; `None` where the header is cut short or says less than its own length.
    pub fn payload(&self, frame: &[u8]) -> Option<usize> {
        let (length, least) = if self.tcp {
            (usize::from(frame.get(self.start + 12)? >> 4) * 4, 20)
        } else {
            (8, 8)
        };
        Some(self.start + length).filter(|end| length >= least && *end <= frame.len())
    }
}

/// Find the TCP or UDP header of an unfragmented IPv4 or IPv6 frame, through at most two VLAN tags.
pub fn locate(frame: &[u8]) -> Option<Transport> {
    let mut network = ETHERNET;
    let mut tagged = false;
    for _ in 0..2 {
        if !TAGS.contains(&word(frame, network - 2)?) {
            break;
        }
        tagged = true;
        network += 4;
    }
    let (start, protocol, ipv6) = match word(frame, network - 2)? {
        IPV4 => ipv4(frame, network)?,
        IPV6 => ipv6_chain(frame, network)?,
        _ => return None,
    };
    let field = match protocol {
        TCP => start + 16,
        UDP => start + 6,
        _ => return None,
    };
    (field + 2 <= frame.len()).then_some(Transport {
        start,
        field,
        ipv6,
        tcp: protocol == TCP,
        tagged,
    })
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// Start and protocol of what an IPv4 header at `at` carries; `None` for fragments.
fn ipv4(frame: &[u8], at: usize) -> Option<(usize, u8, bool)> {
    let header = usize::from(frame.get(at)? & 15) * 4;
    // More-fragments flag and offset.
    if header < 20 || word(frame, at + 6)? & 0x3fff != 0 {
        return None;
    }
    Some((at + header, *frame.get(at + 9)?, false))
}

/// The same through IPv6 extension headers, as many as Linux's skb_checksum_setup_ipv6 would meet in practice.
fn ipv6_chain(frame: &[u8], at: usize) -> Option<(usize, u8, bool)> {
    let mut next = *frame.get(at + 6)?;
    let mut start = at + 40;
    for _ in 0..8 {
        let units = || frame.get(start + 1).map(|length| usize::from(*length));
        let length = match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => (units()? + 1) * 8,
            // Authentication header.
            51 => (units()? + 2) * 4,
            _ => return Some((start, next, true)),
        };
        next = *frame.get(start)?;
        start += length;
    }
    None
}

/// The ones' complement sum of `bytes`, added to `sum`.
fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    sum
}

/// Fold and complement.
fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded just now: it fits.
    !(sum as u16)
}

/// The Internet checksum of `bytes` (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    finish(add(0, bytes))
}

/// Complete a checksum whose field holds the pseudo-header's sum; false where `field` is not inside the frame.
pub fn complete(frame: &mut [u8], start: usize, field: usize) -> bool {
    if start > field || field + 2 > frame.len() {
        return false;
    }
    let sum = checksum(&frame[start..]);
    // A sum of zero means "no checksum" to UDP; both are equal in ones' complement.
    let sum = if sum == 0 { 0xffff } else { sum };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// The pseudo-header's folded sum for a UDP or TCP segment of `length` bytes over IPv4, as a blank checksum field holds it.
pub fn pseudo_ipv4(source: [u8; 4], dest: [u8; 4], protocol: u8, length: u16) -> u16 {
    !finish(add(
        add(u64::from(protocol) + u64::from(length), &source),
        &dest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4/UDP frame with a blank checksum.
    fn udp() -> Vec<u8> {
        let mut frame = vec![0u8; ETHERNET + 20 + 8 + 5];
        frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
        frame[14] = 0x45;
        frame[23] = UDP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[38..40].copy_from_slice(&13u16.to_be_bytes());
        let pseudo = pseudo_ipv4([10, 0, 0, 1], [10, 0, 0, 2], UDP, 13);
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        frame[42..].copy_from_slice(b"hello");
        frame
    }

    #[test]
    fn a_completed_checksum_verifies() {
        let mut frame = udp();
        let transport = locate(&frame).unwrap();
        assert_eq!(
            (
                transport.start,
                transport.field,
                transport.tcp,
                transport.tagged
            ),
            (34, 40, false, false)
        );
        assert!(complete(&mut frame, transport.start, transport.field));
        let pseudo = u64::from(pseudo_ipv4([10, 0, 0, 1], [10, 0, 0, 2], UDP, 13));
        assert_eq!(finish(add(pseudo, &frame[34..])), 0);
    }

    #[test]
    fn tags_are_seen_and_fragments_have_no_transport() {
        let mut tagged = udp();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x0a]);
        let transport = locate(&tagged).unwrap();
        assert!(transport.tagged && transport.start == 38);
        let mut fragment = udp();
        fragment[20] = 0x20;
        assert_eq!(locate(&fragment), None);
    }

    #[test]
    fn ipv6_extension_headers_are_passed_and_truncation_is_refused() {
        let mut frame = vec![0u8; ETHERNET + 40 + 8 + 20];
        frame[12..14].copy_from_slice(&IPV6.to_be_bytes());
        frame[20] = 0;
        frame[54] = TCP;
        let transport = locate(&frame).unwrap();
        assert!(transport.ipv6 && transport.tcp && transport.start == 62);
        assert_eq!(transport.payload(&frame), None, "a data offset of no words");
        frame[74] = 0x50;
        assert_eq!(transport.payload(&frame), Some(82));
        for length in 0..frame.len() {
            locate(&frame[..length]);
        }
    }
}
