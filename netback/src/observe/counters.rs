//! Counters: one writer each (a worker), read Relaxed by the control thread for `status`.
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
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Why a packet went nowhere. Counted once, where it happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum DropReason { $($(#[$doc])* $variant,)+ }
        impl DropReason {
            /// Every reason, in the order of [`Drops`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// The name in `status`.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }
        }
    };
}
drop_reasons! {
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// The source MAC belongs to another port, or is not the guest's own.
    SpoofedSource = "spoofed_source",
    /// The source MAC is zero or multicast.
    BadSource = "bad_source",
    /// The destination is behind the port it came from.
    SamePort = "same_port",
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
    /// To be segmented (a GSO extra), and the port it is for takes no such packet.
    GsoUnsupported = "gso_unsupported",
    /// The receiving queue's backlog is at its bound in bytes.
    BacklogFull = "backlog_full",
    /// Waited in the backlog longer than allowed.
    BacklogExpired = "backlog_expired",
    /// No free frame.
    NoFrame = "no_frame",
    /// The uplink takes no more, or its driver dropped the packet.
    UplinkFull = "uplink_full",
    /// The uplink's link is down.
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
            Switch::BadSource => Self::BadSource,
            Switch::SamePort => Self::SamePort,
            Switch::LinkLocal => Self::LinkLocal,
        }
    }
}

/// One counter for each [`DropReason`].
#[derive(Debug, Default)]
pub struct Drops([Counter; DropReason::ALL.len()]);
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

/// A ring's indices as the worker last saw them (netif.md section 3); the frontend's values are not validated.
#[derive(Debug, Default)]
pub struct RingGauges {
    /// Requests the frontend has published.
    pub req_prod: Gauge,
    /// Requests we consumed.
    pub req_cons: Gauge,
    /// Where we asked to be woken.
    pub req_event: Gauge,
    /// Responses we published.
    pub rsp_prod: Gauge,
    /// Responses we wrote.
    pub rsp_prod_pvt: Gauge,
    /// Where the frontend asked to be woken.
    pub rsp_event: Gauge,
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

/// One queue of a vif; its worker is the only writer. Tx and Rx are the guest's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueStats {
    /// Packets the guest sent that were forwarded to at least one port.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Packets put on the guest's Rx ring with status OKAY.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Tx slots answered with ERROR.
    pub tx_errors: Counter,
    /// Rx slots answered with an error.
    pub rx_errors: Counter,
    /// Events we sent to the frontend.
    pub notifications: Counter,
    /// Events that came from the frontend.
    pub events: Counter,
    /// Blank checksums completed in software.
    pub checksums_completed: Counter,
    /// Packets the guest sent to be segmented without saying that their checksum is blank: taken for blank, as Linux does.
    pub checksum_fixups: Counter,
    /// Packets the guest sent that went nowhere.
    pub tx_drops: Drops,
    /// Packets for the guest that did not reach it.
    pub rx_drops: Drops,
    /// Bytes waiting for Rx slots.
    pub backlog_bytes: Gauge,
    /// Packets waiting for Rx slots.
    pub backlog_packets: Gauge,
    /// The Tx ring.
    pub tx_ring: RingGauges,
    /// The Rx ring.
    pub rx_ring: RingGauges,
}

/// One queue of an uplink; its worker is the only writer.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct UplinkStats {
    /// Frames received from the wire.
    pub recv_packets: Counter,
    /// Their bytes.
    pub recv_bytes: Counter,
    /// Frames handed to the kernel for sending.
    pub send_packets: Counter,
    /// Their bytes.
    pub send_bytes: Counter,
    /// System calls made to have frames sent.
    pub kicks: Counter,
    /// Kicks the kernel refused.
    pub kick_errors: Counter,
    /// Frames from the wire that went nowhere.
    pub recv_drops: Drops,
    /// Frames for the wire that went nowhere.
    pub send_drops: Drops,
    /// Frames in the kernel's hands to receive into.
    pub held_fill: Gauge,
    /// Frames in the kernel's hands being sent.
    pub held_send: Gauge,
}

/// One worker; it is the only writer.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Turns of its loop.
    pub turns: Counter,
    /// Turns that found work.
    pub busy_turns: Counter,
    /// Times it slept.
    pub sleeps: Counter,
    /// Grant-copy calls.
    pub copy_calls: Counter,
    /// Segments in them.
    pub copy_segments: Counter,
    /// Packets in them.
    pub copy_packets: Counter,
    /// Frames on its free list.
    pub frames_free: Gauge,
    /// Frames in backlogs of its queues.
    pub frames_backlog: Gauge,
    /// Frames of ours it has not got back from, or not yet sent home to, another worker.
    pub frames_travelling: Gauge,
    /// Queues it serves.
    pub queues: Gauge,
    /// Packets from other workers that could not be delivered here.
    pub drops: Drops,
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
