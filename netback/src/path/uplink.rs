//! A device queue, of an uplink or a host port, as its worker uses it: the packets of a turn, and those that the room did not suffice
//! for, go to the device in one burst.
use super::lane::{Kept, Lane};
use crate::bounds::{HOLD, KEPT, OUTBOX};
use crate::observe::counters::{DropReason, UplinkStats};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use xsk_bridge::device::{Capabilities, Device, Received, Rest};
use xsk_bridge::frame::FramePool;
use xsk_bridge::packet::{MAX_FRAMES, Offload, Packet};
use xsk_bridge::switch::{Bridge, BridgeView, PortId};

/// One queue of an uplink or a host port.
pub(crate) struct UplinkQueue {
    pub port_id: PortId,
    /// The queue's number on the device.
    pub queue: u16,
    pub bridge: BridgeView,
    pub device: Box<dyn Device>,
    pub stats: Arc<UplinkStats>,
    /// The turn in which a packet for the device was last deferred: no later packet of that turn may overtake it.
    pub barrier: u64,
    pub capabilities: Capabilities,
    /// The device's index.
    pub index: u32,
    /// Another device carries the frames of the port: what comes in here is dropped, for it comes in there too.
    pub standby: bool,
    /// The way of packets that the device segments itself, where it has one.
    pub lane: Option<Lane>,
    /// Packets for the end of the turn.
    pub(super) outbox: VecDeque<Packet>,
    /// Frames of the packets of the outbox beyond one each.
    behind: usize,
    /// Packets behind those of the outbox.
    pub(super) kept: Kept,
    /// When the turn began.
    pub(super) now: Instant,
    /// Frames that the device took when the turn began.
    room: usize,
    /// Frames this turn's queues were allowed in view of the room.
    claimed: usize,
    /// Since when every turn found the outbox full.
    full_since: Option<Instant>,
    /// What the kernel left of the last burst.
    pub(super) rest: Rest,
}

impl UplinkQueue {
    pub fn new(
        port_id: PortId,
        queue: u16,
        bridge: Arc<Bridge>,
        device: Box<dyn Device>,
        lane: Option<Lane>,
        stats: Arc<UplinkStats>,
    ) -> Self {
        Self {
            port_id,
            queue,
            bridge: BridgeView::new(bridge),
            capabilities: device.capabilities(),
            device,
            stats,
            barrier: 0,
            index: 0,
            standby: false,
            kept: Kept::with_capacity(lane.as_ref().map_or(0, |_| KEPT)),
            lane,
            outbox: VecDeque::new(),
            behind: 0,
            now: Instant::now(),
            room: 0,
            claimed: 0,
            full_since: None,
            rest: Rest::Nothing,
        }
    }

    /// Begins a turn: takes back the frames of what was sent, and asks for the device's room.
    pub fn begin(&mut self, pool: &mut FramePool, now: Instant) {
        self.now = now;
        self.room = self.device.room(pool);
        if !self.kept.is_empty() {
            // Nothing overtakes what is kept.
            self.room = 0;
        }
        self.claimed = 0;
        // Grows until it has room for the device's whole ring, and never again.
        let most = self.room + OUTBOX;
        self.outbox.reserve(most.saturating_sub(self.outbox.len()));
        match self.is_full() {
            true => drop(self.full_since.get_or_insert(now)),
            false => self.full_since = None,
        }
    }

    /// Receives packets of at most `max` frames into `out`, which is empty, and counts them. Returns the number of packets.
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize {
        let received = self.device.recv(pool, out, max);
        if received != Received::default() {
            self.stats.recv_packets.add(received.packets as u64);
            self.stats.recv_bytes.add(received.bytes);
            self.stats.recv_gso_packets.add(received.gso);
            let drops = &self.stats.recv_drops;
            drops.add(DropReason::BadDescriptor, received.bad);
            drops.add(DropReason::GsoRefused, received.unfit);
            if self.standby {
                drops.add(DropReason::Standby, received.packets as u64);
                out.drain(..).for_each(|packet| pool.recycle(packet));
                return 0;
            }
        }
        received.packets
    }

    /// Frames that queues whose last packets went to the device may still fill in this turn.
    #[inline]
    pub fn allowance(&self) -> usize {
        self.room.saturating_sub(self.waiting() + self.claimed)
    }

    /// Takes off the allowance what a queue consumed.
    #[inline]
    pub fn claim(&mut self, frames: usize) {
        self.claimed += frames;
    }

    /// Frames that wait to be sent.
    #[inline]
    fn waiting(&self) -> usize {
        self.outbox.len() + self.behind + self.kept.frames()
    }

    /// Whether no more packets should be brought to the device.
    #[inline]
    fn is_full(&self) -> bool {
        self.waiting() >= self.room + OUTBOX
    }

    /// Whether packets for the device had better wait where they are: it is full, and has not been for long.
    pub fn holds(&self, now: Instant) -> bool {
        let short = |since| now.saturating_duration_since(since) < HOLD;
        self.is_full() && self.full_since.is_none_or(short)
    }

    /// Why the device does not take a packet of this length and kind now; `None`: it does. This is asked before a byte is copied.
    #[inline]
    pub fn refuses(&self, len: u32, offload: &Offload) -> Option<DropReason> {
        match offload.gso {
            None if len as usize > self.capabilities.max_frame => Some(DropReason::TooLong),
            _ if self.is_full() => Some(DropReason::UplinkFull),
            _ => None,
        }
    }

    /// Whether there is room for so many frames.
    pub fn has_room(&self, frames: usize) -> bool {
        self.waiting() + frames <= self.room + OUTBOX
    }

    /// Sends a packet of one frame, or one that the device segments, with the turn's burst.
    #[inline]
    pub fn send(&mut self, packet: Packet) {
        match self.kept.is_empty() {
            true => self.outbox.push_back(packet),
            false => self.kept.push(packet),
        }
    }

    /// Sends a packet of any number of frames, with the turn's burst.
    pub fn send_long(&mut self, packet: Packet) {
        match self.kept.is_empty() {
            true => self.push_out(packet),
            false => self.kept.push(packet),
        }
    }

    /// Puts a packet of any number of frames into the outbox.
    pub(super) fn push_out(&mut self, packet: Packet) {
        self.behind += packet.frame_count() - 1;
        self.outbox.push_back(packet);
    }

    /// Ends a turn: the device gets the burst.
    pub fn flush(&mut self, pool: &mut FramePool) {
        self.send_outbox(pool);
        if !self.kept.is_empty() {
            self.send_kept(pool);
        }
    }

    /// Gives the device what is before the packets that are kept.
    pub(super) fn send_outbox(&mut self, pool: &mut FramePool) {
        if self.outbox.is_empty() && self.rest == Rest::Nothing {
            return;
        }
        let sent = self.device.send(&mut self.outbox, pool);
        if self.behind > 0 {
            self.count_behind();
        }
        self.rest = sent.rest;
        self.stats.send_packets.add(sent.packets);
        self.stats.send_bytes.add(sent.bytes);
        self.stats.send_gso_packets.add(sent.gso);
        self.stats.kicks.add(sent.kicks);
        self.stats.kick_errors.add(sent.kick_errors);
        let drops = &self.stats.send_drops;
        drops.add(DropReason::LinkDown, sent.link_down);
        drops.add(DropReason::UplinkFull, sent.refused);
        drops.add(DropReason::ChecksumImpossible, sent.unfit);
    }

    /// Counts the frames beyond one a packet anew, after packets were taken out of the outbox.
    #[cold]
    fn count_behind(&mut self) {
        let packets = self.outbox.iter();
        self.behind = packets.map(|packet| packet.frame_count() - 1).sum();
    }

    /// Writes the levels that `status` shows.
    pub fn show(&self) {
        let held = self.device.held();
        self.stats.held_fill.set(held.fill.into());
        self.stats.held_send.set(held.send.into());
    }

    /// Whether the worker is short of frames, and the kernel has some to give back, of which no event tells.
    pub fn starves(&self, pool: &FramePool) -> bool {
        pool.len() < MAX_FRAMES && self.device.held().send > 0
    }

    /// Whether packets wait for room in the device, of which no event tells: the worker sleeps with a timeout.
    pub fn waits(&self) -> bool {
        self.rest == Rest::InRing || self.waiting() > 0
    }

    /// Frames of packets that wait for room.
    pub fn frames(&self) -> usize {
        let outbox: usize = self.outbox.iter().map(Packet::frame_count).sum();
        outbox + self.kept.frames()
    }

    /// Takes over the MTU that the device has now; packets that wait and have become too long are dropped.
    pub fn set_mtu(&mut self, mtu: u32, pool: &mut FramePool) {
        self.device.set_mtu(mtu);
        self.capabilities = self.device.capabilities();
        let max_frame = self.capabilities.max_frame;
        let stays = |packet: &Packet| {
            // What is still to be segmented is looked at again when it is sent.
            packet.len as usize <= max_frame || packet.offload.gso.is_some()
        };
        let mut dropped = 0;
        for _ in 0..self.outbox.len() {
            match self.outbox.pop_front() {
                Some(packet) if stays(&packet) => self.outbox.push_back(packet),
                Some(packet) => {
                    dropped += 1;
                    pool.recycle(packet);
                }
                None => {}
            }
        }
        dropped += self.kept.retain(stays, pool);
        self.count_behind();
        self.stats.send_drops.add(DropReason::TooLong, dropped);
    }
}
