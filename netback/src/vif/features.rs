//! The features negotiated with a frontend.

/// What a frontend can take and asked for (xen/include/public/io/netif.h, the feature keys).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Features {
    /// `feature-sg`: packets of several slots.
    pub sg: bool,
    /// `feature-gso-tcpv4`.
    pub gso_tcpv4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_tcpv6: bool,
    /// Packets over IPv4 with a blank checksum may be sent to the guest (default true: `feature-no-csum-offload` absent or 0).
    pub csum_ipv4: bool,
    /// `feature-ipv6-csum-offload`.
    pub csum_ipv6: bool,
    /// `feature-rx-notify`. Absent: the frontend never notifies after posting Rx buffers, so they are polled for.
    pub rx_notify: bool,
    /// `request-multicast-control`, which may change at any time.
    pub multicast_control: bool,
    /// The frontend wrote `event-channel-tx` and `event-channel-rx` rather than `event-channel`.
    pub split_event_channels: bool,
}

impl Features {
    /// Whether the frontend segments TCP packets itself, over IPv6 or over IPv4.
    #[inline]
    pub fn takes_gso(&self, ipv6: bool) -> bool {
        let version = match ipv6 {
            false => self.gso_tcpv4 && self.csum_ipv4,
            true => self.gso_tcpv6 && self.csum_ipv6,
        };
        version && self.sg
    }
}
