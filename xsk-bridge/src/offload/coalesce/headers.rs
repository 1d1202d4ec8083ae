//! The headers of a packet that segments are merged into: what all of its segments have in common.
use super::{DONT_FRAGMENT, IPV4_LEN, LAST, Segment};
use crate::header::{ETHERNET_LEN, IPV6_LEN, IpVersion, Protocol, TCP_MIN_LEN};
use crate::offload::sum::Sum;

/// Most bytes of headers: a TCP header is at most 60 bytes long (RFC 9293 section 3.1).
const MAX_HEADER: usize = ETHERNET_LEN + IPV6_LEN + 60;
/// Bytes that are compared at once where a packet has them: those of headers with TCP's timestamps, and more.
const AT_ONCE: usize = 96;

/// The bits of headers without IP options, up to TCP's, that are the same in all segments of a packet. What differs: the length and the
/// identification, which are looked at by themselves, checksums, sequence number, urgent pointer, FIN and PSH.
const IPV4_SAME: [u8; MAX_HEADER] = same(ETHERNET_LEN + IPV4_LEN, &[16, 17, 18, 19, 24, 25]);
const IPV6_SAME: [u8; MAX_HEADER] = same(ETHERNET_LEN + IPV6_LEN, &[18, 19]);

/// All bits but those of the bytes `differing`, and in a TCP header at `l4` of sequence number, FIN, PSH, checksum and urgent pointer.
const fn same(l4: usize, differing: &[usize]) -> [u8; MAX_HEADER] {
    let mut bits = [0xff; MAX_HEADER];
    let (mut n, tcp) = (0, [4, 5, 6, 7, 16, 17, 18, 19]);
    while n < differing.len() {
        bits[differing[n]] = 0;
        n += 1;
    }
    n = 0;
    while n < tcp.len() {
        bits[l4 + tcp[n]] = 0;
        n += 1;
    }
    bits[l4 + 13] = !LAST;
    bits
}

/// The headers of a packet's first segment.
#[derive(Debug)]
pub(super) struct Headers {
    bytes: [u8; MAX_HEADER],
    /// The bits that all segments have in common; none behind the headers.
    same: [u8; MAX_HEADER],
    len: u8,
    ip: IpVersion,
    /// Sum of pseudo-header and TCP header without what may differ between segments: length, sequence number, the word with the flags,
    /// checksum and urgent pointer.
    tcp_sum: Sum,
    /// Sum of the words of an IPv4 header without length, identification and checksum.
    ipv4_sum: u32,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_HEADER],
            same: [0; MAX_HEADER],
            len: 0,
            ip: IpVersion::V4,
            tcp_sum: Sum::default(),
            ipv4_sum: 0,
        }
    }
}

impl Headers {
    /// Makes them the headers of `packet`, which holds the segment `first`.
    pub fn set(&mut self, first: &Segment, packet: &[u8]) {
        let (l4, len) = (usize::from(first.l4), usize::from(first.header));
        (self.ip, self.len) = (first.ip, first.header);
        self.bytes[..len].copy_from_slice(&packet[..len]);
        self.same = match first.ip {
            IpVersion::V4 => IPV4_SAME,
            IpVersion::V6 => IPV6_SAME,
        };
        self.same[len..].fill(0);
        // Ports; acknowledgment; window; options.
        let tcp = [
            l4..l4 + 4,
            l4 + 8..l4 + 12,
            l4 + 14..l4 + 16,
            l4 + TCP_MIN_LEN..len,
        ];
        self.tcp_sum = self.pseudo_sum(0);
        for part in tcp {
            self.tcp_sum.add(&self.bytes[part]);
        }
        let words = [14, 20, 22, 26, 28, 30, 32].map(|at| u32::from(word(&self.bytes, at)));
        self.ipv4_sum = words.iter().sum();
    }

    /// The headers.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }

    /// Whether those of a packet are the same but for what may differ within a packet, and have payload behind them.
    #[inline]
    pub fn are_of(&self, packet: &[u8]) -> bool {
        let len = usize::from(self.len);
        let differing = match (packet.first_chunk::<AT_ONCE>(), len <= AT_ONCE) {
            // Without a branch: the compiler compares by vectors.
            (Some(packet), true) => self.differing(packet),
            _ => self.differing(&packet[..len.min(packet.len())]),
        };
        packet.len() > len && differing == 0
    }

    #[inline(always)] // Of a constant number of bytes in one case.
    fn differing(&self, packet: &[u8]) -> u8 {
        let ours = self.bytes.iter().zip(&self.same);
        let both = packet.iter().zip(ours);
        both.fold(0, |differing, (theirs, (ours, same))| {
            differing | (theirs ^ ours) & same
        })
    }

    /// Whether the IP length of a packet with the same headers is right, and the checksum of an IPv4 header.
    #[inline]
    pub fn lengths_fit(&self, packet: &[u8]) -> bool {
        match self.ip {
            IpVersion::V4 => {
                let (length, id) = (word(packet, 16), word(packet, 18));
                let sum = u32::from(length) + u32::from(id) + u32::from(word(packet, 24));
                // A one's-complement sum of all ones is a multiple of 0xffff.
                usize::from(length) == packet.len() - ETHERNET_LEN
                    && (self.ipv4_sum + sum).is_multiple_of(0xffff)
            }
            IpVersion::V6 => {
                usize::from(word(packet, 18)) == packet.len() - ETHERNET_LEN - IPV6_LEN
            }
        }
    }

    /// IPv4's flag is set that forbids fragments.
    pub fn forbid_fragments(&self) -> bool {
        word(&self.bytes, 20) & DONT_FRAGMENT != 0
    }

    /// The sum of pseudo-header and TCP header of a segment with `payload` bytes, whose TCP header `tcp` is one of these.
    #[inline]
    pub fn sum(&self, tcp: &[u8], payload: usize) -> Sum {
        let mut sum = self.tcp_sum;
        sum.add_word((tcp.len() + payload) as u16);
        let tcp = &tcp[..TCP_MIN_LEN];
        sum.add_quad([tcp[4], tcp[5], tcp[6], tcp[7]]);
        sum.add_finished([tcp[12], tcp[13]]);
        sum.add_quad([tcp[16], tcp[17], tcp[18], tcp[19]]);
        sum
    }

    /// Makes the headers of the segment `first` those of a packet of `len` bytes, of whose segments one had the flags `last`. The checksum
    /// is blank.
    pub fn merge(&mut self, first: &Segment, len: usize, last: u8) {
        let l4 = usize::from(first.l4);
        let tcp_len = len - l4;
        let mut put =
            |at: usize, word: u16| self.bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
        match self.ip {
            IpVersion::V4 => {
                put(ETHERNET_LEN + 2, (IPV4_LEN + tcp_len) as u16);
                put(ETHERNET_LEN + 10, 0);
                let mut sum = Sum::default();
                sum.add(&self.bytes[ETHERNET_LEN..l4]);
                self.bytes[ETHERNET_LEN + 10..ETHERNET_LEN + 12].copy_from_slice(&sum.complement());
            }
            IpVersion::V6 => put(ETHERNET_LEN + 4, tcp_len as u16),
        }
        self.bytes[l4 + 13] |= last;
        let blank = self.pseudo_sum(tcp_len).finish();
        let at = l4 + Protocol::Tcp.checksum_offset();
        self.bytes[at..at + 2].copy_from_slice(&blank);
    }

    /// The sum of the pseudo-header of a TCP packet with `len` bytes behind its IP header.
    fn pseudo_sum(&self, len: usize) -> Sum {
        let mut sum = Sum::default();
        sum.add(match self.ip {
            IpVersion::V4 => &self.bytes[ETHERNET_LEN + 12..ETHERNET_LEN + 20],
            IpVersion::V6 => &self.bytes[ETHERNET_LEN + 8..ETHERNET_LEN + 40],
        });
        sum.add_word(Protocol::Tcp.number().into());
        sum.add_word(len as u16);
        sum
    }
}

/// The word at `at`, in host order.
#[inline]
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
