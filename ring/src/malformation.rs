//! Every way a Tx chain can be wrong, and its outcome: the contract of Linux's xen-netback (drivers/net/xen-netback/netback.c,
//! `xenvif_count_requests`, `xenvif_get_extras`, `xenvif_tx_build_gops`, `xenvif_set_skb_gso`).

/// Every way a chain can be wrong; [`Self::is_fatal`] tells whether the vif is disabled or the chain answered ERROR.
/// Sizes and offsets are bytes; slots are counted from the packet's first, 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformation {
    /// Fatal: the chain says it goes on where the frontend has published nothing.
    #[error("chain goes on past the {available} requests there are")]
    Incomplete {
        /// Requests from the chain's first on.
        available: u32,
    },
    /// Fatal: an extra is announced where the frontend has published nothing.
    #[error("extra slot announced past the {available} requests there are")]
    MissingExtra {
        /// Requests from the chain's first on.
        available: u32,
    },
    /// Fatal: type 0 or one nobody defined.
    #[error("extra of unknown type {kind} in slot {slot}")]
    UnknownExtra {
        /// `XEN_NETIF_EXTRA_TYPE_*`.
        kind: u8,
        /// The extra's.
        slot: u16,
    },
    /// Fatal: more data slots than any frontend uses.
    #[error("more than {most} data slots: malicious")]
    FarTooManySlots {
        /// The most that is not fatal.
        most: u16,
    },
    /// More data slots than a packet may have.
    #[error("more than {most} data slots")]
    TooManySlots {
        /// The most that is forwarded.
        most: u16,
    },
    /// Fatal: a fragment is not inside its page.
    #[error("fragment in slot {slot} crosses its page: offset {offset} size {size}")]
    FragmentCrossesPage {
        /// The fragment's.
        slot: u16,
        /// As sent.
        offset: u16,
        /// As sent.
        size: u16,
    },
    /// Fatal: the first fragment, whose length is the total less the others, is not inside its page.
    #[error("first fragment crosses its page: offset {offset} size {size}")]
    HeadCrossesPage {
        /// As sent.
        offset: u16,
        /// Total less the others.
        size: u16,
    },
    /// A fragment is larger than what is left of the total: frontends whose 64 KiB overflowed do it.
    #[error("fragment in slot {slot} has size {size} of the {remaining} left of the packet")]
    FragmentExceedsTotal {
        /// The fragment's.
        slot: u16,
        /// As sent.
        size: u16,
        /// Total less the fragments before.
        remaining: u16,
    },
    /// The first fragment cannot hold an Ethernet header.
    #[error("first fragment of {size} bytes is shorter than an Ethernet header")]
    HeadTooShort {
        /// Total less the others.
        size: u16,
    },
    /// Fatal: segments of no payload.
    #[error("GSO extra with segment size 0")]
    GsoSizeZero,
    /// Fatal: neither TCPv4 nor TCPv6.
    #[error("GSO extra of unknown type {kind}")]
    UnknownGso {
        /// `XEN_NETIF_GSO_TYPE_*`.
        kind: u8,
    },
}

impl Malformation {
    /// True: the vif is disabled, nothing of the chain was consumed. False: its slots are answered ERROR, and that is all.
    pub fn is_fatal(&self) -> bool {
        !matches!(
            self,
            Self::TooManySlots { .. }
                | Self::FragmentExceedsTotal { .. }
                | Self::HeadTooShort { .. }
        )
    }
}
