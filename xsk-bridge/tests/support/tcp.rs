//! TCP packets put together by hand, with checksums summed byte by byte: what the crate's own code is compared with.
#![allow(dead_code, missing_docs)]

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// The headers of a TCP packet.
#[derive(Debug, Clone)]
pub struct Tcp {
    pub macs: [u8; 12],
    /// VLAN tags: EtherType and TCI.
    pub tags: Vec<(u16, u16)>,
    pub ipv6: bool,
    /// IPv6: kinds of extension headers, each of the given number of bytes (a multiple of 8).
    pub extensions: Vec<(u8, usize)>,
    /// IPv4: words of options.
    pub ip_options: usize,
    pub tos: u8,
    pub label: u32,
    pub ttl: u8,
    pub id: u16,
    /// IPv4's flags and offset.
    pub fragment: u16,
    pub host: u8,
    pub port: u16,
    pub sequence: u32,
    pub ack: u32,
    pub reserved: u8,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            macs: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            ipv6: false,
            extensions: Vec::new(),
            ip_options: 0,
            tos: 0,
            label: 0x12345,
            ttl: 64,
            id: 7,
            fragment: 0x4000,
            host: 1,
            port: 4000,
            sequence: 1,
            ack: 0x1122_3344,
            reserved: 0,
            flags: ACK,
            window: 501,
            urgent: 0,
            options: vec![1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7],
        }
    }
}

impl Tcp {
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub fn l4(&self) -> usize {
        self.l3()
            + if self.ipv6 {
                40 + self.extensions.iter().map(|(_, len)| len).sum::<usize>()
            } else {
                20 + 4 * self.ip_options
            }
    }

    pub fn header(&self) -> usize {
        self.l4() + 20 + self.options.len()
    }

    /// The packet with a complete checksum.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.blank(payload);
        let l4 = self.l4();
        let sum = sum(&packet[l4..]);
        packet[l4 + 16..l4 + 18].copy_from_slice(&(!sum).to_be_bytes());
        packet
    }

    /// The packet with the pseudo-header's sum for a checksum.
    pub fn blank(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.macs.to_vec();
        for (ethertype, tci) in &self.tags {
            packet.extend(ethertype.to_be_bytes());
            packet.extend(tci.to_be_bytes());
        }
        packet.extend(if self.ipv6 { [0x86, 0xdd] } else { [8, 0] });
        let tcp_len = 20 + self.options.len() + payload.len();
        let addresses = if self.ipv6 {
            self.ipv6(&mut packet, tcp_len)
        } else {
            self.ipv4(&mut packet, tcp_len)
        };
        let start = packet.len();
        packet.extend(self.port.to_be_bytes());
        packet.extend(80u16.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.push(((20 + self.options.len()) / 4) as u8 * 16 + self.reserved);
        packet.push(self.flags);
        packet.extend(self.window.to_be_bytes());
        let mut pseudo = packet[addresses].to_vec();
        pseudo.extend([0, 6]);
        pseudo.extend((tcp_len as u16).to_be_bytes());
        packet.extend(sum(&pseudo).to_be_bytes());
        packet.extend(self.urgent.to_be_bytes());
        packet.extend(&self.options);
        packet.extend(payload);
        assert_eq!(packet.len() - start, tcp_len);
        packet
    }

    fn ipv4(&self, packet: &mut Vec<u8>, tcp_len: usize) -> std::ops::Range<usize> {
        let at = packet.len();
        let header_len = 20 + 4 * self.ip_options;
        packet.extend([0x40 + (header_len / 4) as u8, self.tos]);
        packet.extend(((header_len + tcp_len) as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, 6, 0, 0]);
        packet.extend([10, 0, 0, self.host, 10, 0, 0, 99]);
        packet.extend(vec![1; 4 * self.ip_options]);
        let sum = sum(&packet[at..]);
        packet[at + 10..at + 12].copy_from_slice(&(!sum).to_be_bytes());
        at + 12..at + 20
    }

    fn ipv6(&self, packet: &mut Vec<u8>, tcp_len: usize) -> std::ops::Range<usize> {
        let at = packet.len();
        let extra: usize = self.extensions.iter().map(|(_, len)| len).sum();
        let first = 0x6000_0000 | u32::from(self.tos) << 20 | self.label;
        packet.extend(first.to_be_bytes());
        packet.extend(((extra + tcp_len) as u16).to_be_bytes());
        packet.extend([
            self.extensions.first().map_or(6, |(kind, _)| *kind),
            self.ttl,
        ]);
        for host in [self.host, 99] {
            packet.extend([0xfd; 15]);
            packet.push(host);
        }
        for (n, (_, len)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(n + 1).map_or(6, |(kind, _)| *kind);
            // PadN over all of it (RFC 8200 section 4.2); a routing header with no segments left, of type 0, reads the same.
            packet.extend([next, (len / 8 - 1) as u8, 1, 0]);
            packet.extend(vec![0; len - 4]);
            let options = packet.len() - len + 2;
            packet[options + 1] = (len - 4) as u8;
        }
        at + 8..at + 40
    }

    /// The segments of the packet with `payload`, `size` bytes of it in each, from scratch.
    pub fn segments(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let count = payload.len().div_ceil(size);
        let segment = |(n, bytes): (usize, &[u8])| {
            let mut own = self.clone();
            own.id = self.id.wrapping_add(n as u16);
            own.sequence = self.sequence.wrapping_add((n * size) as u32);
            own.flags &= if n > 0 { !CWR } else { 0xff };
            own.flags &= if n + 1 < count { !(FIN | PSH) } else { 0xff };
            own.packet(bytes)
        };
        payload.chunks(size).enumerate().map(segment).collect()
    }
}

/// The headers of `count` streams, which differ by port; every third is over IPv6.
pub fn streams(count: u16) -> Vec<Tcp> {
    let stream = |n| Tcp {
        port: 4000 + n,
        ipv6: n % 3 == 2,
        ..Tcp::default()
    };
    (0..count).map(stream).collect()
}

/// The segments of several streams, as many of each, one of each stream in turn.
pub fn in_turn(streams: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    let nth = |n: usize| streams.iter().map(move |segments| segments[n].clone());
    let count = streams.first().map_or(0, Vec::len);
    (0..count).flat_map(nth).collect()
}

/// Bytes that tell where they belong.
pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 256 * 7 + 3) as u8).collect()
}

/// The folded Internet sum (RFC 1071), a byte at a time.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for (n, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << if n % 2 == 0 { 8 } else { 0 };
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
