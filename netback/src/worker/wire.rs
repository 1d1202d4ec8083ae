//! An uplink queue as its worker uses it: room counted once a turn, and an outbox for what the room did not suffice for.
use crate::observe::counters::{DropReason, UplinkStats};
use std::collections::VecDeque;
use std::sync::Arc;
use xsk_bridge::frame::{FramePool, Umem};
use xsk_bridge::packet::{Checksum, MAX_FRAMES, Packet};
use xsk_bridge::switch::{Bridge, BridgeView, PortId};
use xsk_bridge::uplink::Uplink;

/// Packets that wait for room. Queues stop consuming when there is none; this takes what was on its way already (a turn of queues that
/// had not sent to the wire before, floods, other workers' packets).
pub(crate) const OUTBOX: usize = 256;

/// One uplink queue.
pub(crate) struct Wire {
    pub port_id: PortId,
    pub bridge: BridgeView,
    pub uplink: Box<dyn Uplink>,
    pub stats: Arc<UplinkStats>,
    /// Longest frame that the uplink carries.
    max_frame: usize,
    outbox: VecDeque<Packet>,
    /// Packets the uplink still takes this turn.
    room: usize,
    /// Packets this turn's queues were allowed in view of the room.
    claimed: usize,
    /// Sent since the last flush.
    unflushed: bool,
}

impl Wire {
    pub fn new(
        port_id: PortId,
        bridge: Arc<Bridge>,
        uplink: Box<dyn Uplink>,
        stats: Arc<UplinkStats>,
    ) -> Self {
        let outbox = VecDeque::with_capacity(OUTBOX);
        let max_frame = uplink.max_frame();
        Self {
            port_id,
            bridge: BridgeView::new(bridge),
            uplink,
            stats,
            max_frame,
            outbox,
            room: 0,
            claimed: 0,
            unflushed: false,
        }
    }

    /// A turn begins: reclaim what was sent, send what waits.
    pub fn begin(&mut self, pool: &mut FramePool) {
        self.room = self.uplink.room(pool);
        self.claimed = 0;
        while self.room > 0
            && let Some(packet) = self.outbox.pop_front()
        {
            self.put(packet);
        }
    }

    /// Packets that queues in the habit of sending to the wire may still consume this turn.
    #[inline]
    pub fn allowance(&self) -> usize {
        self.room.saturating_sub(self.claimed)
    }

    /// A queue consumed `packets` of the allowance.
    #[inline]
    pub fn claim(&mut self, packets: usize) {
        self.claimed += packets;
    }

    /// True while nothing more should be brought here.
    pub fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX
    }

    /// Make `packet` ready for the wire: one frame that the device takes, its checksum complete, and room for it here.
    #[inline]
    pub fn admit(&self, packet: &mut Packet, umem: &Umem) -> Result<(), DropReason> {
        if packet.offload.gso.is_some() {
            return Err(DropReason::GsoUnsupported);
        }
        if packet.frames.len() != 1 || packet.len as usize > self.max_frame {
            return Err(DropReason::TooLong);
        }
        if self.room == 0 && self.is_full() {
            return Err(DropReason::UplinkFull);
        }
        match packet.offload.checksum {
            Checksum::Blank => packet
                .complete_checksum(umem)
                .map_err(|_| DropReason::ChecksumImpossible),
            _ => Ok(()),
        }
    }

    /// Send an admitted packet, now or when there is room.
    #[inline]
    pub fn send(&mut self, packet: Packet) {
        if self.room > 0 {
            self.put(packet);
        } else {
            self.outbox.push_back(packet);
        }
    }

    #[inline]
    fn put(&mut self, packet: Packet) {
        self.room -= 1;
        self.unflushed = true;
        self.stats.send_packets.add(1);
        self.stats.send_bytes.add(packet.len.into());
        self.uplink.send(packet);
    }

    /// The turn ends: have the kernel send.
    pub fn flush(&mut self, pool: &mut FramePool) {
        if !self.unflushed && self.outbox.is_empty() {
            return;
        }
        self.stats.kicks.add(1);
        match self.uplink.flush(pool) {
            // False: the ring is full still; the next turn kicks again.
            Ok(drained) => self.unflushed = !drained,
            Err(_) => self.stats.kick_errors.add(1),
        }
    }

    /// Write the levels that `status` shows.
    pub fn show(&self) {
        let held = self.uplink.held();
        self.stats.held_fill.set(held.fill.into());
        self.stats.held_send.set(held.send.into());
    }

    /// Frames that were sent are wanted back, of which no event tells.
    pub fn starves(&self, pool: &FramePool) -> bool {
        pool.len() < MAX_FRAMES && self.uplink.held().send > 0
    }

    /// Something is on its way that no event will tell of: sleep with a timeout.
    pub fn waits(&self) -> bool {
        self.unflushed || !self.outbox.is_empty()
    }

    /// Frames in the outbox.
    pub fn frames(&self) -> usize {
        self.outbox.len()
    }

    /// Take it apart; what waited is lost, its frames are not.
    pub fn close(mut self, pool: &mut FramePool) -> Box<dyn Uplink> {
        self.stats
            .send_drops
            .add(DropReason::PortGone, self.outbox.len() as u64);
        for packet in self.outbox.drain(..) {
            pool.extend(packet.frames);
        }
        self.uplink
    }
}
