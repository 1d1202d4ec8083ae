//! A peer that does not exist: it accepts every TCP connection and acknowledges whatever arrives, over IPv4 and IPv6.

use std::collections::HashMap;

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;
/// The sink's first sequence number.
const OUR_START: u32 = 1000;
/// TCP options: the largest segment that fits over IPv4 and IPv6, and window scale 7.
const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0xa0, 3, 3, 7, 0];

/// The next byte expected of each connection, by the guest's address and port.
#[derive(Default)]
pub struct Sink {
    expected: HashMap<(Vec<u8>, u16), u32>,
}

/// The parts of a TCP segment that the sink looks at.
struct Segment<'a> {
    guest: &'a [u8],
    peer: &'a [u8],
    guest_port: u16,
    peer_port: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    /// Bytes of payload, by the packet's length: the IP header of a long GSO packet may have no length.
    payload: u32,
    mac: [u8; 6],
}

impl Sink {
    /// Returns the frame that answers a packet of `length` bytes that begins with `head`, if there is one.
    pub fn answer(&mut self, head: &[u8], length: usize) -> Option<Vec<u8>> {
        let segment = parse(head, length)?;
        let key = (segment.guest.to_vec(), segment.guest_port);
        if segment.flags & SYN != 0 {
            self.expected.insert(key, segment.sequence.wrapping_add(1));
            return Some(reply(
                &segment,
                OUR_START,
                segment.sequence.wrapping_add(1),
                SYN | ACK,
            ));
        }
        let expected = self.expected.get_mut(&key)?;
        let fin = segment.flags & FIN != 0;
        if segment.payload == 0 && !fin {
            return None;
        }
        if segment.sequence == *expected {
            *expected = expected.wrapping_add(segment.payload + u32::from(fin));
        }
        // The guest's acknowledgement number is our next sequence number. Its FIN is answered with ours.
        let flags = if fin { ACK | FIN } else { ACK };
        Some(reply(&segment, segment.acknowledged, *expected, flags))
    }
}

fn parse(head: &[u8], length: usize) -> Option<Segment<'_>> {
    let (guest, peer, tcp) = match head.get(12..14)? {
        [0x08, 0x00] if *head.get(23)? == 6 => (
            head.get(26..30)?,
            head.get(30..34)?,
            14 + usize::from(head.get(14)? & 15) * 4,
        ),
        [0x86, 0xdd] if *head.get(20)? == 6 => (head.get(22..38)?, head.get(38..54)?, 54),
        _ => return None,
    };
    let half = |at: usize| Some(u16::from_be_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let data = tcp + usize::from(head.get(tcp + 12)? >> 4) * 4;
    Some(Segment {
        guest,
        peer,
        guest_port: half(tcp)?,
        peer_port: half(tcp + 2)?,
        sequence: word(tcp + 4)?,
        acknowledged: word(tcp + 8)?,
        flags: *head.get(tcp + 13)?,
        payload: u32::try_from(length.checked_sub(data)?).ok()?,
        mac: head.get(6..12)?.try_into().ok()?,
    })
}

/// An Ethernet frame with a segment without data back to the guest, all checksums complete.
fn reply(to: &Segment, sequence: u32, acknowledge: u32, flags: u8) -> Vec<u8> {
    let options: &[u8] = if flags & SYN != 0 { &SYN_OPTIONS } else { &[] };
    let mut tcp = [to.peer_port.to_be_bytes(), to.guest_port.to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledge.to_be_bytes());
    let offset =
        u8::try_from((20 + options.len()) / 4).expect("a TCP header has at most 60 bytes") << 4;
    tcp.extend([offset, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(options);
    let length = u16::try_from(tcp.len()).expect("a TCP header has at most 60 bytes");
    let pseudo = [to.peer, to.guest, &[0, 6], &length.to_be_bytes()].concat();
    let sum = checksum(&[&pseudo[..], &tcp].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let (ethertype, ip) = if to.guest.len() == 4 {
        ([0x08, 0x00], ipv4(to, 20 + length))
    } else {
        ([0x86, 0xdd], ipv6(to, length))
    };
    [&to.mac[..], &OUR_MAC, &ethertype, &ip, &tcp].concat()
}

fn ipv4(to: &Segment, total: u16) -> Vec<u8> {
    let [high, low] = total.to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0];
    header.extend(to.peer);
    header.extend(to.guest);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ipv6(to: &Segment, payload: u16) -> Vec<u8> {
    let [high, low] = payload.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, high, low, 6, 64];
    header.extend(to.peer);
    header.extend(to.guest);
    header
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}
