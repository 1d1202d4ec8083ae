//! The guest's receive side: posted requests for whole packets, responses in ring order.
use super::RxRing;
use super::backlog::Backlog;
use super::bucket::Pacing;
use super::merge::Merge;
use crate::bounds::MAX_PACKET;
use crate::copy::memory::UmemMemory;
use crate::copy::plan::CopyPlan;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Placed;
use crate::vif::features::Features;
use arrayvec::ArrayVec;
use ring::packet::{Fatal, Fragment};
use ring::wire::{
    Extra, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED,
    NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, Protocol, Rx, RxResponse,
};
use std::time::Instant;
use xen::grant::PAGE_SIZE;
use xsk_bridge::header::{self, Transport};
use xsk_bridge::packet::{Checksum, Gso, Offload};

/// Longest packet for a frontend without feature-sg: a full Ethernet frame with one VLAN tag.
const MAX_PACKET_WITHOUT_SG: u32 = 1514 + 4;
/// Most data slots of a packet; netfront takes 17 (MAX_SKB_FRAGS).
pub(crate) const MAX_DATA_SLOTS: usize = MAX_PACKET.div_ceil(PAGE_SIZE);
const _: () = assert!(MAX_DATA_SLOTS <= 17);
/// Most data slots of a packet whose first one holds headers alone: netfront pulls that one into the head, and takes 17 behind it.
pub(crate) const MAX_MIRRORED: usize = 18;

/// The Rx ring of a queue.
pub(crate) struct RxSide<H: Hypervisor> {
    ring: RxRing<H>,
    features: Features,
    /// Grants of the pages taken last.
    pages: ArrayVec<u32, MAX_MIRRORED>,
    pub backlog: Backlog,
    /// Packets that TCP segments of this turn are merged into.
    pub merge: Merge,
    /// The turn in which a packet for the queue was last deferred: no later packet of that turn may overtake it.
    pub barrier: u64,
    /// Until when packets come out of our own memory, because a copy from page to page failed.
    pub suspected_until: Option<Instant>,
    /// How the rate towards the guest is kept.
    pub pacing: Pacing,
    /// The queue is in the worker's list of queues with a backlog.
    pub listed: bool,
}

impl<H: Hypervisor> RxSide<H> {
    pub fn new(ring: RxRing<H>, features: Features, backlog: Backlog) -> Self {
        Self {
            ring,
            merge: Merge::new(&features),
            features,
            pages: ArrayVec::new(),
            backlog,
            barrier: 0,
            suspected_until: None,
            pacing: Pacing::default(),
            listed: false,
        }
    }

    /// Why the guest cannot take a packet of this length; `None`: it can.
    #[inline]
    pub fn refuses(&self, len: u32) -> Option<DropReason> {
        let longest = if self.features.sg {
            MAX_PACKET as u32
        } else {
            MAX_PACKET_WITHOUT_SG
        };
        (len > longest).then_some(DropReason::TooLong)
    }

    /// Whether the guest segments such a packet itself. Behind a VLAN tag it does not: netfront finds no blank checksum there.
    #[inline]
    pub fn takes_gso(&self, gso: Gso, head: &[u8]) -> bool {
        self.features.takes_gso(gso.ipv6) && !header::is_tagged(head)
    }

    /// Whether the packet of `len` bytes with this head may reach the guest with a blank checksum: netfront completes none
    /// behind a VLAN tag, and throws away what is no whole TCP or UDP packet, which is to be named here.
    #[inline]
    pub fn takes_blank(&self, head: &[u8], len: u32) -> bool {
        let takes = match head.get(12..14) {
            Some([0x08, 0x00]) => self.features.csum_ipv4,
            Some([0x86, 0xdd]) => self.features.csum_ipv6,
            _ => false,
        };
        takes && Transport::parse(head, len as usize).is_ok()
    }

    /// Whether payload had better not come straight from a sender's pages now.
    #[inline]
    pub fn is_suspected(&self, now: Instant) -> bool {
        self.suspected_until.is_some_and(|until| now < until)
    }

    /// Whether the guest has posted the requests for a whole packet.
    #[inline(always)] // Called, its result would go by memory.
    pub fn has_posted(&mut self, len: u32, offload: &Offload) -> Result<bool, Fatal> {
        self.has_posted_slots(slots(len, offload))
    }

    /// Whether the guest has posted `needed` requests.
    #[inline(always)] // Called, its result would go by memory.
    pub fn has_posted_slots(&mut self, needed: u32) -> Result<bool, Fatal> {
        Ok(self.ring.known() >= needed || self.ring.unconsumed()? >= needed)
    }

    /// Takes the requests for a whole packet, of which [`Self::has_posted`] was true, into [`Self::pages`].
    #[inline]
    pub fn take(&mut self, len: u32, offload: &Offload) {
        self.take_slots(slots(len, offload), offload.gso.is_some());
    }

    /// Takes `needed` requests, the second of them for an extra where there is one, into [`Self::pages`];
    /// [`Self::has_posted_slots`] was asked.
    #[inline]
    pub fn take_slots(&mut self, needed: u32, extra: bool) {
        self.pages.clear();
        for slot in 0..needed {
            let gref = self.ring.look(slot).gref;
            if slot != 1 || !extra {
                self.pages.push(gref);
            }
        }
        self.ring.consume(needed);
        crash_point!("consumed");
    }

    /// Takes the one request for a packet of at most a page that is not to be segmented, of which [`Self::has_posted`] was true. Returns the
    /// request's grant.
    #[inline(always)] // There is one caller.
    pub fn take_page(&mut self) -> u32 {
        let gref = self.ring.look(0).gref;
        self.ring.consume(1);
        crash_point!("consumed");
        gref
    }

    /// The grants of the pages that were taken last, where a packet's data goes.
    #[inline]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Writes the responses of the oldest placed packet. Returns true where all of the packet was copied.
    #[inline]
    pub fn respond(&mut self, placed: &Placed, plan: &CopyPlan<UmemMemory>) -> bool {
        if plan.all_succeeded() || placed.spans.iter().all(|&span| plan.succeeded(span)) {
            match placed.offload.gso {
                None if placed.len as usize <= PAGE_SIZE => self.respond_page(placed),
                _ => self.respond_with(placed.len, &placed.offload, |_| None),
            }
            return true;
        }
        let mut failed = [None; MAX_DATA_SLOTS];
        for (position, status) in failures(placed, plan) {
            failed[position / PAGE_SIZE] = Some(status);
        }
        self.respond_with(placed.len, &placed.offload, |slot| failed[slot]);
        false
    }

    /// Writes the responses of the oldest placed packet, which lies as in its sender's `slots`; true where all of it was copied.
    #[inline(never)]
    pub fn respond_mirrored(
        &mut self,
        placed: &Placed,
        slots: &[Fragment],
        plan: &CopyPlan<UmemMemory>,
    ) -> bool {
        let mut statuses: ArrayVec<i16, MAX_MIRRORED> =
            slots.iter().map(|slot| slot.size as i16).collect();
        let mut succeeded = true;
        for (position, status) in failures(placed, plan) {
            let mut end = 0;
            let holds = slots.iter().position(|slot| {
                end += usize::from(slot.size);
                position < end
            });
            if let Some(slot) = holds {
                statuses[slot] = status;
            }
            succeeded = false;
        }
        self.respond_slots(statuses.into_iter(), &placed.offload);
        succeeded
    }

    /// Writes the one response of a packet of at most a page that is not to be segmented.
    #[inline]
    fn respond_page(&mut self, placed: &Placed) {
        let id = self.ring.consumed_request(self.ring.next_response()).id;
        self.ring.respond(RxResponse {
            id,
            offset: 0,
            flags: first_flags(&placed.offload),
            status: placed.len as i16,
        });
        crash_point!("rx-response");
    }

    /// `failed` says with which error a data slot is answered, if with one.
    fn respond_with(&mut self, len: u32, offload: &Offload, failed: impl Fn(usize) -> Option<i16>) {
        let len = len as usize;
        let status = |slot| {
            let rest = len - slot * PAGE_SIZE;
            failed(slot).unwrap_or(rest.min(PAGE_SIZE) as i16)
        };
        self.respond_slots((0..len.div_ceil(PAGE_SIZE)).map(status), offload);
    }

    /// Writes a response for each data slot of a packet, with its size or an error.
    #[inline(always)] // There is one caller for most packets.
    fn respond_slots(&mut self, statuses: impl ExactSizeIterator<Item = i16>, offload: &Offload) {
        let last = statuses.len() - 1;
        let mut flags = first_flags(offload);
        for (slot, status) in statuses.enumerate() {
            if slot < last {
                flags |= NETRXF_MORE_DATA;
            }
            let id = self.ring.consumed_request(self.ring.next_response()).id;
            self.ring.respond(RxResponse {
                id,
                offset: 0,
                flags,
                status,
            });
            crash_point!("rx-response");
            if let (0, Some(gso)) = (slot, offload.gso) {
                self.ring.respond_words(gso_extra(gso).to_words(false));
                crash_point!("rx-response");
            }
            flags = 0;
        }
    }

    /// Publishes the turn's responses, all of whole packets. Returns whether the guest asked to be notified.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Asks for an event once the packet that waits longest can be placed. Returns true when it can be placed now.
    pub fn arm(&mut self) -> Result<bool, Fatal> {
        match self.backlog.front() {
            Some((len, offload)) => Ok(self.ring.arm(slots(len, &offload) - 1)?),
            None => Ok(false),
        }
    }

    /// Whether the frontend never tells that it has posted requests.
    pub fn must_be_polled(&self) -> bool {
        !self.features.rx_notify && !self.backlog.is_empty()
    }

    pub fn ring(&self) -> &RxRing<H> {
        &self.ring
    }
}

/// Where in a packet copies failed, and with which error its slots are answered: whatever Xen says, towards the guest it is negative.
fn failures(placed: &Placed, plan: &CopyPlan<UmemMemory>) -> impl Iterator<Item = (usize, i16)> {
    let failures = placed.spans.iter().flat_map(|&span| plan.failures(span));
    failures.map(|(position, status)| (position, status.0.min(-1)))
}

/// Rx requests that a packet takes, extras included.
#[inline]
pub(super) fn slots(len: u32, offload: &Offload) -> u32 {
    len.div_ceil(PAGE_SIZE as u32) + u32::from(offload.gso.is_some())
}

fn gso_extra(gso: Gso) -> Extra {
    Extra::Gso {
        size: gso.segment,
        kind: match gso.ipv6 {
            true => GSO_TYPE_TCPV6,
            false => GSO_TYPE_TCPV4,
        },
        features: 0,
    }
}

/// Flags of a packet's first response.
fn first_flags(offload: &Offload) -> u16 {
    let checksum = match offload.checksum {
        Checksum::Unverified => 0,
        Checksum::Valid => NETRXF_DATA_VALIDATED,
        Checksum::Blank => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
    };
    checksum
        | if offload.gso.is_some() {
            NETRXF_EXTRA_INFO
        } else {
            0
        }
}

/// The longest packet always fits the ring, so that none waits for ever.
const _: () = assert!((MAX_DATA_SLOTS + 1) as u32 <= Rx::ENTRIES);
