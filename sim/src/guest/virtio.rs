//! The header that a TAP with IFF_VNET_HDR puts before each frame (linux/virtio_net.h, `struct virtio_net_hdr`).
use super::frame::{Checksum, Meta, locate};
use ring::packet::{Gso, GsoKind};

/// Bytes of the header.
pub const SIZE: usize = 10;
/// The checksum field holds the pseudo-header's sum only.
const NEEDS_CSUM: u8 = 1;
/// Checksums were verified.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Flag in `gso_type`: the segments' CWR wants care.
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, in the machine's byte order as legacy TAPs have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// NEEDS_CSUM, DATA_VALID.
    pub flags: u8,
    /// GSO_*.
    pub gso_type: u8,
    /// Bytes of all headers, a hint.
    pub hdr_len: u16,
    /// Payload bytes a segment.
    pub gso_size: u16,
    /// Where the checksum starts to sum.
    pub csum_start: u16,
    /// Where its field is, from `csum_start`.
    pub csum_offset: u16,
}

impl Header {
    /// Decode.
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// Encode.
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        for (at, value) in [
            (2, self.hdr_len),
            (4, self.gso_size),
            (6, self.csum_start),
            (8, self.csum_offset),
        ] {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// Where the stack left a checksum to be completed: start and field.
    pub fn partial(&self) -> Option<(usize, usize)> {
        (self.flags & NEEDS_CSUM != 0).then(|| {
            (
                usize::from(self.csum_start),
                usize::from(self.csum_start) + usize::from(self.csum_offset),
            )
        })
    }

    /// The segmentation that the stack left to us.
    pub fn gso(&self) -> Option<Gso> {
        let kind = match self.gso_type & !GSO_ECN {
            GSO_TCPV4 => GsoKind::TcpV4,
            GSO_TCPV6 => GsoKind::TcpV6,
            _ => return None,
        };
        Some(Gso {
            size: self.gso_size,
            kind,
        })
    }

    /// The header for a received frame; `None`: a blank checksum where there is nothing to complete, which Linux drops.
    pub fn for_received(frame: &[u8], meta: Meta) -> Option<Self> {
        let mut header = Self {
            gso_type: GSO_NONE,
            ..Self::default()
        };
        // As Linux: a GSO packet is taken for blank whatever its flags say.
        if meta.checksum == Checksum::Blank || meta.gso.is_some() {
            let l4 = locate(frame).filter(|l4| !l4.tagged)?;
            header.flags = NEEDS_CSUM;
            header.csum_start = u16::try_from(l4.start).ok()?;
            header.csum_offset = u16::try_from(l4.field - l4.start).ok()?;
            if let Some(gso) = meta.gso {
                header.gso_type = if gso.kind == GsoKind::TcpV4 {
                    GSO_TCPV4
                } else {
                    GSO_TCPV6
                };
                header.gso_size = gso.size;
                header.hdr_len = u16::try_from(l4.payload(frame)?).ok()?;
            }
        } else if meta.checksum == Checksum::Validated {
            header.flags = DATA_VALID;
        }
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        let header = Header {
            flags: 1,
            gso_type: 0x84,
            hdr_len: 66,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(Header::from_bytes(&header.to_bytes()), header);
        assert_eq!(header.partial(), Some((34, 50)));
        assert_eq!(
            header.gso(),
            Some(Gso {
                size: 1448,
                kind: GsoKind::TcpV6
            })
        );
    }

    #[test]
    fn a_blank_checksum_needs_a_transport_header() {
        let meta = Meta {
            checksum: Checksum::Blank,
            gso: None,
        };
        assert_eq!(Header::for_received(&[0; 60], meta), None);
    }
}
