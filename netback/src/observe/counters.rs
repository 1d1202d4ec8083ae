//! Every counter there is: written by one worker, read with Relaxed by the control thread for `status`.
use super::declare::{Declared, Field, Kind, counters};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows. Exactly one thread adds to it; anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);
impl Counter {
    /// Add `n`. A plain load and store (no locked instruction): the owner of the counter is its only writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Its value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that goes up and down. Exactly one thread sets it; anybody reads.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);
impl Gauge {
    /// Set it to `n`.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// Its value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares [`DropReason`] with its names and its array, so that a reason without a name cannot exist.
macro_rules! drop_reasons {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet went nowhere. Counted once, where it happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $help])+ $variant,)+ }
        impl DropReason {
            /// Every reason, in the order of [`Drops`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// The name in `status`.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }
            /// The reason's doc comment.
            pub fn help(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($help),+),)+ }
            }
        }
    };
}
drop_reasons! {
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// The source MAC belongs to another port, or is not the guest's own.
    SpoofedSource = "spoofed_source",
    /// Sent by a guest with the source MAC of a host on the wire, heard there within the last 30 seconds.
    WireSource = "wire_source",
    /// The source MAC is zero or multicast.
    BadSource = "bad_source",
    /// The destination is behind the port it came from.
    SamePort = "same_port",
    /// With the tag of a VLAN that the port it came in by is not in, or sent by a guest with two tags.
    Vlan = "vlan_tag",
    /// Between two guests of which one is isolated (`[vif] isolated`).
    Isolated = "isolated",
    /// Sent by a guest whose MAC is locked (`[vif] mac_lock`) with another source MAC.
    FilterMac = "filter_mac",
    /// ARP that a guest sent for an address which is not its own.
    FilterArp = "filter_arp",
    /// IPv4 that a guest sent from an address which is not its own.
    FilterIpv4 = "filter_ipv4",
    /// IPv6 that a guest sent from an address which is not its own, or with headers that end before one can tell.
    FilterIpv6 = "filter_ipv6",
    /// Neighbour discovery that a guest sent for an address which is not its own.
    FilterNd = "filter_nd",
    /// A router advertisement or a redirect that a guest sent.
    FilterRa = "filter_ra",
    /// Sent by a guest whose addresses are filtered, with more VLAN tags than the filter looks behind.
    FilterTags = "filter_tags",
    /// 01:80:c2:00:00:0x, which a bridge never forwards.
    LinkLocal = "link_local",
    /// The bridge has no other port to flood to.
    NoPort = "no_port",
    /// A chain of slots the protocol does not allow; answered ERROR.
    Malformed = "malformed",
    /// Xen refused a grant copy of it.
    CopyFailed = "copy_failed",
    /// A blank checksum that cannot be completed (fragment, unknown protocol, header out of bounds).
    ChecksumImpossible = "checksum_impossible",
    /// Longer than the port it is for can carry.
    TooLong = "too_long",
    /// To be segmented (a GSO extra), but no TCP packet that can be, or into more than 128 segments.
    GsoRefused = "gso_refused",
    /// The floods of the port it came from have cost their share of the turn.
    FloodLimit = "flood_limit",
    /// The receiving queue's backlog is at its bound in bytes.
    BacklogFull = "backlog_full",
    /// More for the guest than its rate_in, and what may wait for it is full.
    RateExceeded = "rate_exceeded",
    /// Waited in the backlog longer than allowed.
    BacklogExpired = "backlog_expired",
    /// No free frame.
    NoFrame = "no_frame",
    /// The uplink or host port takes no more, or its driver dropped the packet.
    UplinkFull = "uplink_full",
    /// Came in by the uplink that stands by, while the other one carries the bridge's frames.
    Standby = "standby",
    /// The link of the uplink or host port is down.
    LinkDown = "link_down",
    /// The kernel handed back a descriptor that is no frame of ours.
    BadDescriptor = "bad_descriptor",
    /// The queue between two workers is full.
    MailboxFull = "mailbox_full",
    /// The port it was for has gone.
    PortGone = "port_gone",
    /// Multicast that the receiving guest did not subscribe to.
    MulticastFiltered = "multicast_filtered",
    /// Needs more Rx slots than the frontend's ring can ever hold.
    TooManySlots = "too_many_slots",
}
impl From<xsk_bridge::switch::DropReason> for DropReason {
    fn from(reason: xsk_bridge::switch::DropReason) -> Self {
        use xsk_bridge::switch::DropReason as Switch;
        match reason {
            Switch::Runt => Self::Runt,
            Switch::SpoofedSource => Self::SpoofedSource,
            Switch::WireSource => Self::WireSource,
            Switch::BadSource => Self::BadSource,
            Switch::Vlan => Self::Vlan,
            Switch::Isolated => Self::Isolated,
            Switch::PortGone => Self::PortGone,
            Switch::SamePort => Self::SamePort,
            Switch::LinkLocal => Self::LinkLocal,
        }
    }
}

impl From<xsk_bridge::switch::filter::Broken> for DropReason {
    fn from(broken: xsk_bridge::switch::filter::Broken) -> Self {
        use xsk_bridge::switch::filter::Broken;
        match broken {
            Broken::Mac => Self::FilterMac,
            Broken::Arp => Self::FilterArp,
            Broken::Ipv4 => Self::FilterIpv4,
            Broken::Ipv6 => Self::FilterIpv6,
            Broken::NeighborDiscovery => Self::FilterNd,
            Broken::RouterAdvertisement => Self::FilterRa,
            Broken::Tags => Self::FilterTags,
        }
    }
}

/// One counter for each [`DropReason`].
#[derive(Debug)]
pub struct Drops([Counter; DropReason::ALL.len()]);
impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}
impl Drops {
    /// Count `n` packets dropped for `reason`.
    #[inline]
    pub fn add(&self, reason: DropReason, n: u64) {
        self.0[reason as usize].add(n);
    }
    /// How many were dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].get()
    }
    /// Dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
    /// The reasons that happened, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.get(reason)))
            .filter(|&(_, count)| count != 0)
    }
}

fn nonzero(value: u64) -> Option<String> {
    (value != 0).then(|| value.to_string())
}

impl Field for Counter {
    const KIND: Kind = Kind::Counter;
    type Value = u64;
    fn value(&self) -> u64 {
        self.get()
    }
    fn text(value: &u64) -> Option<String> {
        nonzero(*value)
    }
}

impl Field for Gauge {
    const KIND: Kind = Kind::Gauge;
    type Value = u64;
    fn value(&self) -> u64 {
        self.get()
    }
    fn text(value: &u64) -> Option<String> {
        nonzero(*value)
    }
}

/// Packets dropped, by the name of the reason; reasons that never happened are absent.
pub type DropCounts = BTreeMap<String, u64>;

impl Field for Drops {
    const KIND: Kind = Kind::Drops;
    type Value = DropCounts;
    fn value(&self) -> DropCounts {
        self.nonzero()
            .map(|(reason, count)| (reason.name().to_owned(), count))
            .collect()
    }
    fn text(value: &DropCounts) -> Option<String> {
        let each = value
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"));
        (!value.is_empty()).then(|| each.collect::<Vec<_>>().join(" "))
    }
}

impl Field for RingGauges {
    const KIND: Kind = Kind::Ring;
    type Value = RingIndices;
    fn value(&self) -> RingIndices {
        self.into()
    }
    fn text(value: &RingIndices) -> Option<String> {
        Some(format!(
            "{}/{}/{}",
            value.req_prod, value.req_cons, value.rsp_prod
        ))
    }
}

counters! {
    /// A ring's indices as the worker last saw them (netif.md section 3); the frontend's values are not validated.
    RingGauges,
    /// A ring's indices in a report, free-running.
    RingIndices,
    {
        /// Requests the frontend has published.
        req_prod: Gauge,
        /// Requests the backend has consumed.
        req_cons: Gauge,
        /// Request at which the backend asked for an event.
        req_event: Gauge,
        /// Responses the backend has published.
        rsp_prod: Gauge,
        /// Responses the backend has written.
        rsp_prod_pvt: Gauge,
        /// Response at which the frontend asked for an event.
        rsp_event: Gauge,
    }
}
impl RingGauges {
    /// Take over a snapshot of the ring.
    pub fn set(&self, indices: ring::back::Indices) {
        self.req_prod.set(indices.req_prod.into());
        self.req_cons.set(indices.req_cons.into());
        self.req_event.set(indices.req_event.into());
        self.rsp_prod.set(indices.rsp_prod.into());
        self.rsp_prod_pvt.set(indices.rsp_prod_pvt.into());
        self.rsp_event.set(indices.rsp_event.into());
    }
}

counters! {
    /// Counters of one queue of a vif; the queue's worker is their only writer. Tx and Rx are the guest's.
    #[repr(align(128))]
    QueueStats,
    /// What a report says of one queue of a vif.
    QueueCounts,
    {
        /// Packets the guest sent that were forwarded to at least one port.
        tx_packets: Counter,
        /// Bytes of the packets in `tx_packets`.
        tx_bytes: Counter,
        /// Packets put on the guest's Rx ring with status OKAY.
        rx_packets: Counter,
        /// Bytes of the packets in `rx_packets`.
        rx_bytes: Counter,
        /// Tx slots answered with ERROR.
        tx_errors: Counter,
        /// Rx slots answered with an error.
        rx_errors: Counter,
        /// Events sent to the frontend.
        notifications: Counter,
        /// Events that came from the frontend.
        events: Counter,
        /// Times the guest had sent what its rate allows, and its requests waited.
        tx_paced: Counter,
        /// Times the guest had received what its rate allows, and packets for it waited.
        rx_paced: Counter,
        /// Blank checksums completed in software.
        checksums_completed: Counter,
        /// Packets the guest sent to be segmented without saying that their checksum is blank: taken for blank, as Linux does.
        checksum_fixups: Counter,
        /// Packets in `tx_packets` that were to be segmented.
        tx_gso_packets: Counter,
        /// Packets in `rx_packets` that the guest segments itself.
        rx_gso_packets: Counter,
        /// Packets for the guest that were merged of several TCP segments.
        rx_coalesced_packets: Counter,
        /// TCP segments that the packets in `rx_coalesced_packets` were merged of.
        rx_coalesced_segments: Counter,
        /// Packets that were cut into segments for the guest.
        rx_cut_packets: Counter,
        /// Packets the guest sent that went nowhere, by reason.
        tx_drops: Drops,
        /// Packets for the guest that did not reach it, by reason.
        rx_drops: Drops,
        /// Bytes waiting for Rx slots.
        backlog_bytes: Gauge,
        /// Packets waiting for Rx slots.
        backlog_packets: Gauge,
        /// Indices of the Tx ring.
        tx_ring: RingGauges,
        /// Indices of the Rx ring.
        rx_ring: RingGauges,
    }
}

counters! {
    /// Counters of one queue of an uplink or a host port; the queue's worker is their only writer.
    #[repr(align(128))]
    UplinkStats,
    /// What a report says of one queue of an uplink or a host port.
    UplinkCounts,
    {
        /// Frames received from the wire, or packets from the driver domain's own stack.
        recv_packets: Counter,
        /// Bytes of the frames in `recv_packets`.
        recv_bytes: Counter,
        /// Packets in `recv_packets` that came whole, still to be segmented.
        recv_gso_packets: Counter,
        /// Frames handed to the kernel for sending, or packets to the driver domain's own stack.
        send_packets: Counter,
        /// Bytes of the frames in `send_packets`.
        send_bytes: Counter,
        /// Packets in `send_packets` that went whole, still to be segmented.
        send_gso_packets: Counter,
        /// Packets that were cut into segments here for the wire.
        cut_packets: Counter,
        /// Segments that the packets in `cut_packets` were cut into.
        segments: Counter,
        /// Packets in `send_packets` that the device segments itself: the bulk lane's.
        lane_packets: Counter,
        /// Bytes of the packets in `lane_packets`.
        lane_bytes: Counter,
        /// Times the kernel had no room for a packet of the bulk lane, which was tried again later.
        lane_refusals: Counter,
        /// System calls made to have frames sent.
        kicks: Counter,
        /// System calls to have frames sent that the kernel refused.
        kick_errors: Counter,
        /// Frames received that went nowhere, by reason.
        recv_drops: Drops,
        /// Frames to be sent that went nowhere, by reason.
        send_drops: Drops,
        /// Frames in the kernel's hands to receive into.
        held_fill: Gauge,
        /// Frames in the kernel's hands being sent.
        held_send: Gauge,
    }
}

counters! {
    /// Counters of one worker, which is their only writer.
    #[repr(align(128))]
    WorkerStats,
    /// What a report says of one worker.
    WorkerCounts,
    {
        /// Turns of the worker's loop.
        turns: Counter,
        /// Turns that found work.
        busy_turns: Counter,
        /// Times the worker slept.
        sleeps: Counter,
        /// Grant-copy calls.
        copy_calls: Counter,
        /// Segments in the grant-copy calls.
        copy_segments: Counter,
        /// Packets in the grant-copy calls.
        copy_packets: Counter,
        /// Frames on the worker's free list.
        frames_free: Gauge,
        /// Frames in backlogs of the worker's queues.
        frames_backlog: Gauge,
        /// Frames lent to other workers and not back yet, less other workers' frames that are here.
        frames_travelling: Gauge,
        /// Guest queues the worker serves.
        queues: Gauge,
        /// Packets from other workers that could not be delivered here, by reason.
        drops: Drops,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_in_its_own_place_under_its_own_name() {
        let drops = Drops::default();
        for (n, &reason) in DropReason::ALL.iter().enumerate() {
            drops.add(reason, n as u64 + 1);
        }
        let mut names: Vec<_> = drops.nonzero().map(|(reason, _)| reason.name()).collect();
        for (n, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(drops.get(reason), n as u64 + 1);
        }
        let count = DropReason::ALL.len();
        assert_eq!(drops.total(), (count * (count + 1) / 2) as u64);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
