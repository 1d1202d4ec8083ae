//! TCP segmentation (GSO) in software: a large TCP packet is judged once and cut into segments of at most the size its sender asked
//! for, each as Linux would make it (net/ipv4/tcp_offload.c `tcp_gso_segment`, net/ipv4/af_inet.c `inet_gso_segment`,
//! net/ipv6/ip6_offload.c `ipv6_gso_segment`).
use super::checksum::pseudo_header;
use super::sum::Sum;
use crate::header::{HeaderError, IPV6_LEN, IpVersion, Protocol, TCP_MIN_LEN, Transport};
use crate::packet::{Checksum, Gso};
use thiserror::Error;

/// Most segments of one packet. A packet of 65 535 bytes with segments of 536 bytes (RFC 9293 section 3.7.1) has 123; smaller ones are
/// a sender's way to ask for a thousand frames with one packet.
pub const MAX_SEGMENTS: usize = 128;
/// Most bytes of headers, Ethernet's to TCP's: as many as are fetched of a packet before it is judged.
pub const MAX_HEADER: usize = 256;

/// Flags in byte 13 of a TCP header (RFC 9293 section 3.1, RFC 3168 section 6.1).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a packet that its sender marked for segmentation is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// The headers are no good, or the IP length is larger than the packet.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Not TCP.
    #[error("it is not TCP")]
    NotTcp,
    /// TCP over the other IP version than the mark says.
    #[error("its IP version is not the one that is to be segmented")]
    WrongVersion,
    /// An IPv6 authentication or fragment header: Linux does not cut these either.
    #[error("it has an IPv6 authentication or fragment header")]
    Indivisible,
    /// An IPv6 routing header with segments left and a checksum that is not blank: the pseudo-header's destination is not known.
    #[error("it is source-routed and its checksum is not blank")]
    SourceRouted,
    /// The TCP data offset is below 20 bytes, or beyond the end of the IP packet.
    #[error("its TCP data offset contradicts the packet")]
    DataOffset,
    /// The headers are longer than [`MAX_HEADER`].
    #[error("its headers are longer than 256 bytes")]
    HeaderTooLong,
    /// Headers only.
    #[error("it has no payload")]
    NoPayload,
    /// Segments of no bytes.
    #[error("its segment size is zero")]
    NoSegmentSize,
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("it has too many segments")]
    TooManySegments,
}

/// A packet that can be cut: where its headers end and how much follows. Offsets count from the Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GsoHead {
    ip: IpVersion,
    tagged: bool,
    source_routed: bool,
    l3: u16,
    l4: u16,
    header: u16,
    segment: u16,
    payload: u32,
}

impl GsoHead {
    /// Judges a packet of `len` bytes that starts with `head`, a private copy with all headers in it. `checksum`: what the sender says
    /// of the TCP checksum.
    pub fn parse(head: &[u8], len: usize, gso: Gso, checksum: Checksum) -> Result<Self, Refusal> {
        let transport = Transport::parse(head, len)?;
        let Transport { l3, l4, l4_len, .. } = transport;
        if transport.protocol != Protocol::Tcp {
            return Err(Refusal::NotTcp);
        }
        if gso.ipv6 != (transport.ip == IpVersion::V6) {
            return Err(Refusal::WrongVersion);
        }
        if transport.indivisible {
            return Err(Refusal::Indivisible);
        }
        if transport.source_routed && checksum != Checksum::Blank {
            return Err(Refusal::SourceRouted);
        }
        let tcp_len = usize::from(head[l4 + 12] >> 4) * 4;
        if tcp_len < TCP_MIN_LEN || tcp_len > l4_len {
            return Err(Refusal::DataOffset);
        }
        let header = l4 + tcp_len;
        if header > MAX_HEADER {
            return Err(Refusal::HeaderTooLong);
        }
        if header > head.len() {
            return Err(HeaderError::Truncated.into());
        }
        let payload = l4_len - tcp_len;
        if payload == 0 {
            return Err(Refusal::NoPayload);
        }
        if gso.segment == 0 {
            return Err(Refusal::NoSegmentSize);
        }
        if payload.div_ceil(gso.segment.into()) > MAX_SEGMENTS {
            return Err(Refusal::TooManySegments);
        }
        Ok(Self {
            ip: transport.ip,
            tagged: transport.tags > 0,
            source_routed: transport.source_routed,
            // All at most MAX_HEADER; the payload is at most what an IP length field says.
            l3: l3 as u16,
            l4: l4 as u16,
            header: header as u16,
            segment: gso.segment,
            payload: payload as u32,
        })
    }

    /// Bytes of all headers.
    pub fn header(&self) -> usize {
        self.header.into()
    }

    /// Bytes of the whole packet; fewer than it came with where bytes follow the IP packet, which are not part of the stream.
    #[allow(clippy::len_without_is_empty)] // It has headers and payload.
    pub fn len(&self) -> usize {
        self.header() + self.payload as usize
    }

    /// Segments it is cut into, 1 to [`MAX_SEGMENTS`]. A packet of one segment is an ordinary packet with a blank checksum, and is to be
    /// passed on as such: Linux refuses to segment it.
    pub fn segments(&self) -> usize {
        self.payload.div_ceil(self.segment.into()) as usize
    }

    /// Bytes of the longest segment, headers included: what must not exceed the receiver's longest frame.
    pub fn longest(&self) -> usize {
        self.header() + usize::from(self.segment).min(self.payload as usize)
    }

    /// It carries a VLAN tag: a netfront drops it whole, for Linux sets up no blank checksum behind a tag (net/core/skbuff.c
    /// `skb_checksum_setup`). It is to be cut for every receiver.
    pub fn tagged(&self) -> bool {
        self.tagged
    }

    /// Writes the pseudo-header's sum into the checksum field of `head`, as a receiver of the whole packet expects a blank checksum,
    /// whatever the sender left there.
    pub fn blank_checksum(&self, head: &mut [u8]) {
        if !self.source_routed {
            let at = usize::from(self.l4) + Protocol::Tcp.checksum_offset();
            let sum = pseudo_header(&self.transport(), head);
            head[at..at + 2].copy_from_slice(&sum);
        }
    }

    /// Its TCP header follows the IP header at once, and there is no VLAN tag: a packet that every device with TSO takes. Linux cuts one
    /// with IPv6 extension headers in software (net/core/dev.c, `gso_features_check`).
    pub fn is_plain(&self) -> bool {
        let behind = match self.ip {
            IpVersion::V4 => self.l4,
            IpVersion::V6 => self.l3 + IPV6_LEN as u16,
        };
        !self.tagged && self.l4 == behind
    }

    /// The segmentation that was asked for.
    pub fn gso(&self) -> Gso {
        Gso {
            segment: self.segment,
            ipv6: self.ip == IpVersion::V6,
        }
    }

    /// The packet has CWR set, which only its first segment may have. `head`: what it was judged from.
    pub fn has_cwr(&self, head: &[u8]) -> bool {
        head[usize::from(self.l4) + 13] & CWR != 0
    }

    /// Where its TCP segment is.
    pub(crate) fn transport(&self) -> Transport {
        Transport {
            ip: self.ip,
            protocol: Protocol::Tcp,
            tags: 0,
            l3: self.l3.into(),
            l4: self.l4.into(),
            l4_len: self.len() - usize::from(self.l4),
            source_routed: self.source_routed,
            indivisible: false,
        }
    }
}

/// Where the bytes behind a packet's private head come from, in order and each read once.
pub trait Payload {
    /// Copies the next `into.len()` bytes, and adds them to `sum`.
    fn read(&mut self, into: &mut [u8], sum: &mut Sum);
}

/// Payload in slices that follow one another. Reading beyond the last one panics: the packet's length is known before it is cut.
pub struct Slices<'a, I> {
    rest: I,
    current: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Slices<'a, I> {
    /// The bytes of `slices`.
    pub fn new(slices: impl IntoIterator<IntoIter = I>) -> Self {
        Self {
            rest: slices.into_iter(),
            current: &[],
        }
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Payload for Slices<'a, I> {
    #[inline]
    fn read(&mut self, mut into: &mut [u8], sum: &mut Sum) {
        while !into.is_empty() {
            if self.current.is_empty() {
                self.current = self
                    .rest
                    .next()
                    .expect("the payload is as long as its packet");
            }
            let count = self.current.len().min(into.len());
            let (from, rest) = self.current.split_at(count);
            let (to, left) = into.split_at_mut(count);
            sum.add_copied(from, to);
            (self.current, into) = (rest, left);
        }
    }
}

/// Cuts one packet. Frames for all of [`GsoHead::segments`] are to be at hand before the first one is cut: half a packet is never sent.
#[derive(Debug)]
pub struct Cutter<'a> {
    shape: GsoHead,
    /// The private copy of the packet's first bytes: the headers, and payload where more was copied.
    head: &'a [u8],
    /// Payload bytes cut so far.
    cut: usize,
    /// IPv4: the header without total length, identification and checksum.
    ip_sum: Sum,
    /// The pseudo-header without the length, and the TCP header without sequence number, flags and checksum.
    tcp_sum: Sum,
}

impl<'a> Cutter<'a> {
    /// Begins to cut the packet that `shape` was judged from; `head` is the same private copy.
    pub fn new(shape: GsoHead, head: &'a [u8]) -> Self {
        Self {
            shape,
            head,
            cut: 0,
            ip_sum: ip_sum(&shape, head),
            tcp_sum: tcp_sum(&shape, head),
        }
    }

    /// Writes the next segment into the slices of `room`, one behind the other, and returns its length; `None` behind the last one.
    /// The first slice must hold the headers, and all of them [`GsoHead::longest`] bytes. `payload` has what follows the private head.
    pub fn next<'r>(
        &mut self,
        payload: &mut impl Payload,
        room: impl IntoIterator<Item = &'r mut [u8]>,
    ) -> Option<usize> {
        let total = self.shape.payload as usize;
        let count = (total - self.cut).min(self.shape.segment.into());
        if count == 0 {
            return None;
        }
        let mut room = room.into_iter();
        let first = room.next().expect("a segment has a frame");
        let (header, mut body) = first.split_at_mut(self.shape.header());
        header.copy_from_slice(&self.head[..header.len()]);
        let mut sum = self.header(header, count);
        let mut left = count;
        loop {
            let here = body.len().min(left);
            self.read(payload, &mut body[..here], &mut sum);
            left -= here;
            if left == 0 {
                break;
            }
            body = room.next().expect("a segment has frames for its length");
        }
        let at = usize::from(self.shape.l4) + Protocol::Tcp.checksum_offset();
        header[at..at + 2].copy_from_slice(&sum.complement());
        Some(self.shape.header() + count)
    }

    /// Copies the next payload bytes, first those of the private head, and adds them to `sum`.
    #[inline]
    fn read(&mut self, payload: &mut impl Payload, into: &mut [u8], sum: &mut Sum) {
        let at = self.shape.header() + self.cut;
        self.cut += into.len();
        let private = self.head.len().saturating_sub(at).min(into.len());
        if private > 0 {
            sum.add_copied(&self.head[at..at + private], &mut into[..private]);
        }
        payload.read(&mut into[private..], sum);
    }

    /// Makes a copy of the packet's headers those of the segment with the next `count` bytes; the sum for its checksum without these
    /// bytes.
    fn header(&self, header: &mut [u8], count: usize) -> Sum {
        let (l3, l4) = (usize::from(self.shape.l3), usize::from(self.shape.l4));
        let mut put =
            |at: usize, word: u16| header[at..at + 2].copy_from_slice(&word.to_be_bytes());
        // No longer than the packet, whose lengths fit.
        let ip_len = (self.shape.header() + count - l3) as u16;
        match self.shape.ip {
            IpVersion::V4 => {
                let number = self.cut / usize::from(self.shape.segment);
                let id = word_at(self.head, l3 + 4).wrapping_add(number as u16);
                let mut sum = self.ip_sum;
                sum.add_word(ip_len);
                sum.add_word(id);
                put(l3 + 2, ip_len);
                put(l3 + 4, id);
                put(l3 + 10, u16::from_be_bytes(sum.complement()));
            }
            IpVersion::V6 => put(l3 + 4, ip_len - IPV6_LEN as u16),
        }
        let sequence = u32::from_be_bytes([
            self.head[l4 + 4],
            self.head[l4 + 5],
            self.head[l4 + 6],
            self.head[l4 + 7],
        ])
        .wrapping_add(self.cut as u32);
        let mut flags = word_at(self.head, l4 + 12);
        if self.cut > 0 {
            flags &= !u16::from(CWR);
        }
        if self.cut + count < self.shape.payload as usize {
            flags &= !u16::from(FIN | PSH);
        }
        put(l4 + 4, (sequence >> 16) as u16);
        put(l4 + 6, sequence as u16);
        put(l4 + 12, flags);
        let mut sum = self.tcp_sum;
        sum.add_word((sequence >> 16) as u16);
        sum.add_word(sequence as u16);
        sum.add_word(flags);
        sum.add_word(ip_len - (l4 - l3) as u16);
        sum
    }
}

/// The sum of an IPv4 header without total length, identification and checksum; none over IPv6.
fn ip_sum(shape: &GsoHead, head: &[u8]) -> Sum {
    let mut sum = Sum::default();
    if shape.ip == IpVersion::V4 {
        let header = &head[shape.l3.into()..shape.l4.into()];
        sum.add(&header[..2]);
        sum.add(&header[6..10]);
        sum.add(&header[12..]);
    }
    sum
}

/// The sum of pseudo-header and TCP header without length, sequence number, flags and checksum.
fn tcp_sum(shape: &GsoHead, head: &[u8]) -> Sum {
    let transport = shape.transport();
    let header = &head[shape.l4.into()..shape.header()];
    let mut sum = Sum::default();
    if shape.source_routed {
        // The last destination is the sender's to know: its sum, less the length of the whole packet.
        sum.add(&header[16..18]);
        sum.add_word(!(transport.l4_len as u16));
    } else {
        sum.add(transport.addresses(head));
        sum.add_word(Protocol::Tcp.number().into());
    }
    sum.add(&header[..4]);
    sum.add(&header[8..12]);
    sum.add(&header[14..16]);
    sum.add(&header[18..]);
    sum
}

fn word_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
