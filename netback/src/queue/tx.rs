//! The guest's transmit side: chains out of the ring, answers into it.
use super::TxRing;
use super::bucket::Pacing;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::path::ports::Destination;
use ring::packet::{self, Chain, Fatal, Slots, TxPacket};
use std::time::Instant;

/// The Tx ring of a queue.
pub(crate) struct TxSide<H: Hypervisor> {
    ring: TxRing<H>,
    /// The last destination that can be full: a device or another worker.
    pub last: Option<Destination>,
    /// Since when the queue's requests wait because that destination is full; `None`: they do not.
    pub held_since: Option<Instant>,
    /// Bytes that the queue may still consume before the others have had their share.
    pub deficit: isize,
    /// Until when packets go by our own memory, because a copy from page to page failed.
    pub suspected_until: Option<Instant>,
    /// How the guest's rate is kept.
    pub pacing: Pacing,
}

impl<H: Hypervisor> TxSide<H> {
    pub fn new(ring: TxRing<H>) -> Self {
        Self {
            ring,
            last: None,
            held_since: None,
            deficit: 0,
            suspected_until: None,
            pacing: Pacing::default(),
        }
    }

    /// Takes the next chain out of the ring.
    #[inline]
    pub fn next<'a>(&mut self, room: &'a mut TxPacket) -> Result<Option<Chain<'a>>, Fatal> {
        packet::next_chain(&mut self.ring, room)
    }

    /// Writes the answer to the oldest unanswered chain, with a `status` for each data slot.
    #[inline]
    pub fn answer(&mut self, slots: Slots, status: impl Fn(u8) -> i16) {
        packet::answer(&mut self.ring, slots, |slot| {
            crash_point!("tx-response");
            status(slot)
        });
    }

    /// Publishes the turn's answers, all to whole chains. Returns whether the guest asked to be notified.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Asks for an event at the next request. Returns true when there is a request already.
    pub fn arm(&mut self) -> Result<bool, Fatal> {
        Ok(self.ring.arm(0)?)
    }

    pub fn ring(&self) -> &TxRing<H> {
        &self.ring
    }
}
