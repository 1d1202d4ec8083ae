//! TCP coalescing (GRO) in software: consecutive segments of a stream become one packet that its receiver's TCP takes at once, as Linux
//! merges them (net/ipv4/tcp_offload.c `tcp_gro_receive`, net/ipv4/af_inet.c `inet_gro_receive`, net/ipv6/ip6_offload.c
//! `ipv6_gro_receive`): what Linux would not merge is not merged. Every segment is verified in the pass that copies it.
mod headers;

use self::headers::Headers;
use super::flows::{ipv4_flow, ipv6_flow};
use super::segment::MAX_SEGMENTS;
use crate::header::{ETHERNET_LEN, IPV6_LEN, IpVersion, Protocol, TCP_MIN_LEN};
use crate::packet::{Checksum, Gso, Offload};

/// Bytes of an IPv4 header without options; one with options is not merged.
const IPV4_LEN: usize = 20;
/// Most bytes of a packet, headers included: what its receivers, and everything between, take of a packet.
const MAX_LEN: usize = 65_535;

/// Flags in byte 13 of a TCP header (RFC 9293 section 3.1, RFC 3168 section 6.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
/// Flags that only the last segment of a packet may have.
const LAST: u8 = FIN | PSH;

/// IPv4's flag that forbids fragments (RFC 791).
const DONT_FRAGMENT: u16 = 0x4000;

/// A TCP segment that may be merged with others, as its headers say. Its checksum is verified when it is copied.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    ip: IpVersion,
    l4: u8,
    header: u8,
    flags: u8,
    payload: u16,
    sequence: u32,
    /// IPv4's identification.
    id: u16,
    /// The stream's number among [`Flows`](super::flows::Flows).
    flow: u32,
}

impl Segment {
    const NONE: Self = Self {
        ip: IpVersion::V4,
        l4: 0,
        header: 0,
        flags: 0,
        payload: 0,
        sequence: 0,
        id: 0,
        flow: 0,
    };

    /// Reads the headers of a whole packet; `None` where it is never merged: other protocols, VLAN tags, IP options and extension headers,
    /// fragments, an IPv4 header with a wrong checksum, padding behind the IP packet, no payload, and SYN, RST, URG or CWR.
    #[inline]
    pub fn of(packet: &[u8]) -> Option<Self> {
        let (ip, l4, flow) = match packet.get(12..16)? {
            [0x08, 0x00, 0x45, _] => (IpVersion::V4, ipv4(packet)?, ipv4_flow(packet)?),
            [0x86, 0xdd, version, _] if version >> 4 == 6 => {
                (IpVersion::V6, ipv6(packet)?, ipv6_flow(packet)?)
            }
            _ => return None,
        };
        let tcp: &[u8; TCP_MIN_LEN] = packet.get(l4..)?.first_chunk()?;
        let header = l4 + usize::from(tcp[12] >> 4) * 4;
        let never = SYN | RST | URG | CWR;
        if header < l4 + TCP_MIN_LEN || header >= packet.len() || tcp[13] & never != 0 {
            return None;
        }
        let (l4, header) = (l4 as u8, header as u8);
        let same = Self {
            ip,
            l4,
            header,
            flow,
            ..Self::NONE
        };
        Some(same.with(packet, tcp))
    }

    /// The segment in `packet`, whose TCP header begins with `tcp`: it has IP version, places of headers and stream of this one.
    #[inline]
    fn with(self, packet: &[u8], tcp: &[u8; TCP_MIN_LEN]) -> Self {
        Self {
            flags: tcp[13],
            // The IP length says as much.
            payload: (packet.len() - usize::from(self.header)) as u16,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            id: u16::from_be_bytes([packet[18], packet[19]]),
            ..self
        }
    }

    /// Which stream it is of: the same number for all segments of one.
    #[inline]
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// Nothing may follow it in a packet: it has PSH or FIN.
    #[inline]
    pub fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }

    /// It is TCP over IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.ip == IpVersion::V6
    }
}

/// Start of the TCP header behind an IPv4 header that can be merged.
#[inline]
fn ipv4(packet: &[u8]) -> Option<usize> {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    let header: &[u8; IPV4_LEN] = packet.get(ETHERNET_LEN..)?.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let fits = header[9] == Protocol::Tcp.number()
        && usize::from(word(2)) == packet.len() - ETHERNET_LEN
        && word(6) & !DONT_FRAGMENT == 0;
    // A one's-complement sum of all ones is a multiple of 0xffff, in words of whatever size.
    let words = header.as_chunks::<4>().0.iter();
    let sum: u64 = words.map(|&word| u64::from(u32::from_be_bytes(word))).sum();
    (fits && sum.is_multiple_of(0xffff)).then_some(L4)
}

/// Start of the TCP header behind an IPv6 header that can be merged.
#[inline]
fn ipv6(packet: &[u8]) -> Option<usize> {
    const L4: usize = ETHERNET_LEN + IPV6_LEN;
    let header = packet.get(ETHERNET_LEN..L4)?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    (header[6] == Protocol::Tcp.number() && len == packet.len() - L4).then_some(L4)
}

/// Memory in which a merged packet is put together.
pub trait Room {
    /// Makes room for the first `len` bytes of the packet; false where there is none.
    fn reserve(&mut self, len: usize) -> bool;
    /// The bytes from `position` on that lie together, at least one; room was reserved for them.
    fn at(&mut self, position: usize) -> &mut [u8];
}

/// What became of a segment that was to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The segment was right, and is part of the packet.
    Right,
    /// The segment's checksum is wrong: the segment is no part of the packet, and goes alone.
    Wrong,
    /// There is no room for the segment.
    NoRoom,
}

/// A packet that grows by the segments that follow it. Only its first segment's headers are kept here: what is merged is in a [`Room`].
#[derive(Debug)]
pub struct Coalescer {
    headers: Headers,
    first: Segment,
    /// Payload bytes in the room, all of them verified.
    payload: u32,
    /// Segments in the room.
    segments: u16,
    /// IPv4: every segment has the same identification, which only one that must not be fragmented may have (RFC 6864).
    fixed_id: bool,
    /// FIN and PSH, where a segment had them.
    last: u8,
    /// Another segment may follow.
    open: bool,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            headers: Headers::default(),
            first: Segment::NONE,
            payload: 0,
            segments: 0,
            fixed_id: false,
            last: 0,
            open: false,
        }
    }
}

impl Coalescer {
    /// Begins a packet with its first segment, which is not the [last](Segment::is_last) of one. Nothing is copied yet.
    #[inline]
    pub fn begin(&mut self, segment: &Segment) {
        debug_assert!(!segment.is_last(), "nothing may follow it");
        self.first = *segment;
        (self.payload, self.segments, self.last) = (0, 0, 0);
        (self.fixed_id, self.open) = (false, true);
    }

    /// Copies the headers of the first segment, with which those of others are compared: a second one of its stream has come.
    #[inline]
    pub fn set_headers(&mut self, packet: &[u8]) {
        self.headers.set(&self.first, packet);
    }

    /// The segment in a packet whose headers are those of this one but for what may differ between segments: what [`Segment::of`] says of
    /// it, found by a comparison. `None` where they are not.
    #[inline]
    pub fn next(&self, packet: &[u8]) -> Option<Segment> {
        let l4 = usize::from(self.first.l4);
        let tcp = packet.get(l4..)?.first_chunk()?;
        let same = self.headers.are_of(packet) && self.headers.lengths_fit(packet);
        same.then(|| self.first.with(packet, tcp))
    }

    /// How long the packet is with a segment that continues it; `None` where the segment does not. The first segment counts, copied or not;
    /// its headers [were copied](Self::set_headers).
    #[inline]
    pub fn takes(&self, segment: &Segment, packet: &[u8]) -> Option<usize> {
        self.follows(segment)
            .filter(|_| segment.header == self.first.header && self.headers.are_of(packet))
    }

    /// As [`Self::takes`], of a segment that has the packet's headers, as [`Self::next`] has found.
    #[inline]
    pub fn follows(&self, segment: &Segment) -> Option<usize> {
        let first = &self.first;
        let (payload, segments) = match self.segments {
            0 => (first.payload.into(), 1),
            segments => (self.payload, segments),
        };
        let len = usize::from(first.header) + payload as usize + usize::from(segment.payload);
        let follows = self.open
            && segment.sequence == first.sequence.wrapping_add(payload)
            && segment.payload <= first.payload
            && len <= MAX_LEN
            && usize::from(segments) < MAX_SEGMENTS
            && self.has_next_id(segment.id, segments);
        follows.then_some(len)
    }

    /// Whether an IPv4 identification follows that of `segments` segments: each one more, or all the same where fragments are forbidden.
    #[inline]
    fn has_next_id(&self, id: u16, segments: u16) -> bool {
        if self.first.ip == IpVersion::V6 {
            return true;
        }
        let step = id.wrapping_sub(self.first.id);
        match segments {
            1 => step == 1 || (step == 0 && self.headers.forbid_fragments()),
            _ if self.fixed_id => step == 0,
            _ => step == segments,
        }
    }

    /// Copies the payload of the first segment into `room`, before others are appended. Where the segment is wrong, nothing is merged.
    pub fn copy_first(&mut self, packet: &[u8], room: &mut impl Room) -> Copied {
        let segment = self.first;
        self.copy(&segment, packet, room)
    }

    /// Appends a segment that the packet [takes](Self::takes), behind the first one. One that is wrong leaves the packet as it was.
    pub fn append(&mut self, segment: &Segment, packet: &[u8], room: &mut impl Room) -> Copied {
        debug_assert!(self.segments > 0, "the first segment is copied first");
        self.copy(segment, packet, room)
    }

    /// Copies a segment's payload behind what is in the room, where its checksum is right.
    fn copy(&mut self, segment: &Segment, packet: &[u8], room: &mut impl Room) -> Copied {
        let (header, mut payload) = packet.split_at(segment.header.into());
        let mut position = self.len();
        if !room.reserve(position + payload.len()) {
            return Copied::NoRoom;
        }
        let mut sum = self
            .headers
            .sum(&header[segment.l4.into()..], payload.len());
        while !payload.is_empty() {
            let into = room.at(position);
            let (now, later) = payload.split_at(into.len().min(payload.len()));
            sum.add_copied(now, &mut into[..now.len()]);
            position += now.len();
            payload = later;
        }
        if sum.finish() != [0xff, 0xff] {
            // What was written is beyond the packet's end, and the next segment overwrites it.
            return Copied::Wrong;
        }
        self.fixed_id |= self.segments == 1 && segment.id == self.first.id;
        self.payload += u32::from(segment.payload);
        self.segments += 1;
        self.last |= segment.flags & LAST;
        self.open = self.last == 0 && segment.payload == self.first.payload;
        Copied::Right
    }

    /// Bytes of the packet in the room, headers included.
    #[allow(clippy::len_without_is_empty)] // It has headers.
    pub fn len(&self) -> usize {
        usize::from(self.first.header) + self.payload as usize
    }

    /// Segments that were copied into the room, all of them right.
    pub fn segments(&self) -> usize {
        self.segments.into()
    }

    /// Writes the headers of the packet, which has at least one segment, into `room`: what is to be done with the packet.
    pub fn finish(&mut self, room: &mut impl Room) -> Offload {
        let offload = match self.segments {
            // A segment alone is as it came.
            1 => Offload {
                checksum: Checksum::Valid,
                gso: None,
            },
            _ => {
                self.headers.merge(&self.first, self.len(), self.last);
                Offload {
                    checksum: Checksum::Blank,
                    gso: Some(Gso {
                        segment: self.first.payload,
                        ipv6: self.first.is_ipv6(),
                    }),
                }
            }
        };
        let (mut header, mut position) = (self.headers.bytes(), 0);
        while !header.is_empty() {
            let into = room.at(position);
            let count = into.len().min(header.len());
            into[..count].copy_from_slice(&header[..count]);
            (header, position) = (&header[count..], position + count);
        }
        self.open = false;
        offload
    }
}

#[cfg(test)]
mod tests;
