//! The header that the kernel and we put before a packet to say what is left to do to it: `struct virtio_net_hdr`
//! (linux/virtio_net.h), as packet sockets (packet(7), PACKET_VNET_HDR) and TAPs (IFF_VNET_HDR) have it, in the machine's byte order.
use crate::header::{HeaderError, Transport};
use crate::offload::segment::{GsoHead, Refusal};
use crate::offload::sum::Sum;
use crate::packet::{Checksum, Gso, Offload};
use thiserror::Error;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum field holds the sum of the pseudo-header only.
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_F_DATA_VALID: the checksum was verified.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// VIRTIO_NET_HDR_GSO_ECN, a flag beside the type: the packet has CWR, which only its first segment may have.
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// VIRTIO_NET_HDR_F_*.
    pub flags: u8,
    /// VIRTIO_NET_HDR_GSO_*.
    pub gso_type: u8,
    /// Bytes of all headers of a packet to be segmented: a hint for the kernel.
    pub header_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where a checksum begins to sum, from the packet's first byte.
    pub checksum_start: u16,
    /// Where its field is, from `checksum_start`.
    pub checksum_offset: u16,
}

/// What a header asks for that [`Offload`] does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unsupported {
    /// A blank checksum at another place than TCP's or UDP's of the outermost IP packet, as a tunnel's inner packet has it:
    /// [`VnetHeader::complete`] completes it.
    #[error("its blank checksum is not that of its TCP or UDP header")]
    Checksum,
    /// Another segmentation than TCP's.
    #[error("it asks for segmentation of type {0}, which is not TCP's")]
    Segmentation(u8),
}

impl VnetHeader {
    /// Bytes of the header.
    pub const LEN: usize = 10;

    /// What `offload` says of a packet of `len` bytes that starts with `head` (all headers must be in it).
    pub fn of(head: &[u8], len: usize, offload: Offload) -> Result<Self, Refusal> {
        if let Some(gso) = offload.gso {
            let shape = GsoHead::parse(head, len, gso, offload.checksum)?;
            return Ok(Self::segmented(&shape, head));
        }
        Ok(match offload.checksum {
            Checksum::Unverified => Self::default(),
            Checksum::Valid => Self {
                flags: DATA_VALID,
                ..Self::default()
            },
            Checksum::Blank => Self::default().blank(&Transport::parse(head, len)?),
        })
    }

    /// What is said of a packet to be segmented, whose checksum field holds the pseudo-header's sum
    /// ([`GsoHead::blank_checksum`]). `head`: what `shape` was judged from.
    pub fn segmented(shape: &GsoHead, head: &[u8]) -> Self {
        let gso = shape.gso();
        let kind = match gso.ipv6 {
            true => GSO_TCPV6,
            false => GSO_TCPV4,
        };
        let ecn = match shape.has_cwr(head) {
            true => GSO_ECN,
            false => 0,
        };
        Self {
            gso_type: kind | ecn,
            // At most MAX_HEADER.
            header_len: shape.header() as u16,
            gso_size: gso.segment,
            ..Self::default().blank(&shape.transport())
        }
    }

    fn blank(self, transport: &Transport) -> Self {
        Self {
            flags: NEEDS_CSUM,
            // The headers of a packet whose IP length is 16 bits.
            checksum_start: transport.l4 as u16,
            checksum_offset: transport.protocol.checksum_offset() as u16,
            ..self
        }
    }

    /// What the header says of a packet of `len` bytes that starts with `head` (all headers must be in it).
    pub fn offload(&self, head: &[u8], len: usize) -> Result<Offload, Unsupported> {
        let gso = |ipv6| Gso {
            segment: self.gso_size,
            ipv6,
        };
        let gso = match self.gso_type & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(gso(false)),
            GSO_TCPV6 => Some(gso(true)),
            other => return Err(Unsupported::Segmentation(other)),
        };
        let checksum = match self.flags {
            flags if flags & NEEDS_CSUM != 0 => {
                let found = Transport::parse(head, len);
                if !found.is_ok_and(|transport| self.is_blank_at(&transport)) {
                    return Err(Unsupported::Checksum);
                }
                Checksum::Blank
            }
            flags if flags & DATA_VALID != 0 => Checksum::Valid,
            _ => Checksum::Unverified,
        };
        Ok(Offload { checksum, gso })
    }

    fn is_blank_at(&self, transport: &Transport) -> bool {
        usize::from(self.checksum_start) == transport.l4
            && usize::from(self.checksum_offset) == transport.protocol.checksum_offset()
    }

    /// Completes the blank checksum of a packet in one piece wherever the header says that it is, as Linux does
    /// (net/core/dev.c, `skb_checksum_help`): its sum runs to the packet's end.
    pub fn complete(&self, packet: &mut [u8]) -> Result<(), HeaderError> {
        let start = usize::from(self.checksum_start);
        let at = start + usize::from(self.checksum_offset);
        if at + 2 > packet.len() {
            return Err(HeaderError::Truncated);
        }
        let mut sum = Sum::default();
        sum.add(&packet[start..]);
        let mut field = (!u16::from_ne_bytes(sum.finish())).to_ne_bytes();
        if field == [0, 0] {
            field = [0xff, 0xff];
        }
        packet[at..at + 2].copy_from_slice(&field);
        Ok(())
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [
            self.header_len,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The header that these bytes are; any bytes are one.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }
}

#[cfg(test)]
mod tests;
