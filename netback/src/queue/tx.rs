//! The guest's transmit side: chains out of the ring, answers into it.
use super::TxRing;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::worker::ports::Hop;
use ring::packet::{self, Chain, Fatal, Slots, TxPacket};
use ring::wire::NETIF_RSP_ERROR;

/// How a chain is to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Its slots.
    pub slots: Slots,
    /// `NETIF_RSP_*` for the data slots that nothing else is known of.
    pub status: i16,
    /// Bit n: data slot n (0 is the head, extras not counted) is answered ERROR.
    pub errors: u32,
}

impl Answer {
    /// Answer ERROR on one slot, counted with extras.
    pub fn fail(&mut self, slot: u8) {
        self.errors |= 1 << self.data_slot(slot);
    }

    /// Data slots come at most 19 to a packet, whatever the number of extras between the first and the others.
    #[inline]
    fn data_slot(&self, slot: u8) -> u32 {
        u32::from(slot.saturating_sub(self.slots.extras)) & 31
    }

    #[inline]
    fn status(&self, slot: u8) -> i16 {
        if self.errors != 0 && self.errors & 1 << self.data_slot(slot) != 0 {
            NETIF_RSP_ERROR
        } else {
            self.status
        }
    }
}

/// The way out of this worker that a queue used last and that can be full: while it is, the queue's requests wait in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// An uplink of this worker, by slot.
    Wire(u16),
    /// Another worker.
    Worker(u8),
}

impl Exit {
    /// What `hop` leads out of, if it does.
    #[inline]
    pub fn of(hop: Hop) -> Option<Self> {
        match hop {
            Hop::Wire(slot) => Some(Self::Wire(slot)),
            Hop::Worker(worker) => Some(Self::Worker(worker)),
            Hop::Queue(_) | Hop::Nowhere => None,
        }
    }
}

/// The Tx ring of a queue.
pub(crate) struct TxSide<H: Hypervisor> {
    ring: TxRing<H>,
    pub exit: Option<Exit>,
    /// Whether its payload may go straight from its pages to a receiver's. Ends with the first such copy that failed, so that a sender
    /// cannot have error after error put on somebody else's ring.
    pub direct: bool,
}

impl<H: Hypervisor> TxSide<H> {
    pub fn new(ring: TxRing<H>) -> Self {
        Self {
            ring,
            exit: None,
            direct: true,
        }
    }

    /// Take the next chain out of the ring.
    #[inline]
    pub fn next<'a>(&mut self, room: &'a mut TxPacket) -> Result<Option<Chain<'a>>, Fatal> {
        packet::next_chain(&mut self.ring, room)
    }

    /// Write the answer to the oldest unanswered chain.
    #[inline]
    pub fn answer(&mut self, answer: Answer) {
        packet::answer(&mut self.ring, answer.slots, |slot| {
            crash_point!("tx-response");
            answer.status(slot)
        });
    }

    /// Publish the turn's answers, all whole chains. True: the guest asked to be notified.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Ask for an event at the next request; true when there is one already.
    pub fn arm(&mut self) -> Result<bool, Fatal> {
        Ok(self.ring.arm(0)?)
    }

    pub fn ring(&self) -> &TxRing<H> {
        &self.ring
    }
}
