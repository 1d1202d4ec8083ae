//! Extra slots (netif.h, `netif_extra_info`): what travels beside a packet's data, both ways.
use super::{Words, halves, word};

/// `XEN_NETIF_EXTRA_TYPE_GSO`.
const GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_ADD`.
const MCAST_ADD: u8 = 2;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_DEL`.
const MCAST_DEL: u8 = 3;
/// `XEN_NETIF_EXTRA_TYPE_HASH`.
const HASH: u8 = 4;
/// `XEN_NETIF_EXTRA_TYPE_XDP` (Linux).
const XDP: u8 = 5;
/// `XEN_NETIF_EXTRA_FLAG_MORE`: another extra follows.
const FLAG_MORE: u8 = 1;

/// `XEN_NETIF_GSO_TYPE_TCPV4`.
pub const GSO_TYPE_TCPV4: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV6`.
pub const GSO_TYPE_TCPV6: u8 = 2;

/// `netif_extra_info`, 8 bytes, decoded; the numbers in it are the guest's and unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Segmentation: `size` bytes of payload a segment, `kind` is `XEN_NETIF_GSO_TYPE_*`.
    Gso {
        /// Payload bytes of a segment.
        size: u16,
        /// `XEN_NETIF_GSO_TYPE_*`.
        kind: u8,
        /// `XEN_NETIF_GSO_FEAT_*`: none is defined.
        features: u16,
    },
    /// Let multicast for this address through.
    MulticastAdd([u8; 6]),
    /// No longer.
    MulticastDel([u8; 6]),
    /// The hash the sender computed.
    Hash {
        /// `_XEN_NETIF_CTRL_HASH_TYPE_*`, a bit number: 0 IPv4, 1 IPv4/TCP, 2 IPv6, 3 IPv6/TCP.
        kind: u8,
        /// `XEN_NETIF_CTRL_HASH_ALGORITHM_*`.
        algorithm: u8,
        /// The value's four bytes as they lie in the slot.
        value: [u8; 4],
    },
    /// Bytes left free before the packet (towards the guest only).
    Xdp {
        /// Bytes.
        headroom: u16,
    },
}

impl Extra {
    /// Decode a slot, and whether another extra follows.
    ///
    /// # Errors
    /// The type's number where it is 0 or unknown: fatal for a backend.
    #[inline]
    pub fn from_words(words: Words) -> Result<(Self, bool), u8> {
        let [kind, flags, b2, b3] = words[0].to_le_bytes();
        let [b4, b5, b6, b7] = words[1].to_le_bytes();
        let extra = match kind {
            GSO => Self::Gso {
                size: u16::from_le_bytes([b2, b3]),
                kind: b4,
                features: u16::from_le_bytes([b6, b7]),
            },
            MCAST_ADD => Self::MulticastAdd([b2, b3, b4, b5, b6, b7]),
            MCAST_DEL => Self::MulticastDel([b2, b3, b4, b5, b6, b7]),
            HASH => Self::Hash {
                kind: b2,
                algorithm: b3,
                value: [b4, b5, b6, b7],
            },
            XDP => Self::Xdp {
                headroom: u16::from_le_bytes([b2, b3]),
            },
            other => return Err(other),
        };
        Ok((extra, flags & FLAG_MORE != 0))
    }

    /// Encode into a slot; `more`: another extra follows.
    #[inline]
    pub fn to_words(self, more: bool) -> Words {
        let (kind, low, high) = match self {
            Self::Gso {
                size,
                kind,
                features,
            } => (GSO, size, word(u16::from(kind), features)),
            Self::MulticastAdd(a) => (
                MCAST_ADD,
                u16::from_le_bytes([a[0], a[1]]),
                u32::from_le_bytes([a[2], a[3], a[4], a[5]]),
            ),
            Self::MulticastDel(a) => (
                MCAST_DEL,
                u16::from_le_bytes([a[0], a[1]]),
                u32::from_le_bytes([a[2], a[3], a[4], a[5]]),
            ),
            Self::Hash {
                kind,
                algorithm,
                value,
            } => (
                HASH,
                u16::from_le_bytes([kind, algorithm]),
                u32::from_le_bytes(value),
            ),
            Self::Xdp { headroom } => (XDP, headroom, 0),
        };
        let flags = if more { FLAG_MORE } else { 0 };
        [word(u16::from_le_bytes([kind, flags]), low), high, 0, 0]
    }
}

/// The `id` field a Tx response leaves over an extra slot: its type and flags, untouched as in Linux.
pub(crate) const fn extra_id(words: Words) -> u16 {
    halves(words[0]).0
}
