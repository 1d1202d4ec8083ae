//! The bulk lane of a device queue: packets that the device segments itself go to the kernel whole, through a socket of their own, where
//! AF_XDP would have the kernel copy every segment.
//!
//! A flow's packets keep their order: both sockets use the same send queue of the device, and a packet enters the lane only once the
//! kernel has taken all frames before it. What the kernel has no room for is kept, with everything behind it, and tried again.
use super::egress::frames_for;
use super::uplink::UplinkQueue;
use crate::bounds::{HOLD, LANE_RETRY, LANE_SEGMENTS};
use crate::crash_point;
use crate::observe::counters::{DropReason, UplinkStats};
use arrayvec::ArrayVec;
use rustix::thread::sched_getcpu;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Instant;
use xsk_bridge::device::Rest;
use xsk_bridge::device::packet_socket::{LargeSender, MAX_SLICES, Refused};
use xsk_bridge::device::vnet::VnetHeader;
use xsk_bridge::frame::FramePool;
use xsk_bridge::nic::Segmentation;
use xsk_bridge::offload::segment::GsoHead;
use xsk_bridge::packet::Packet;

/// What the control thread found out about a device, for as long as the lane of one of its queues is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneTerms {
    /// What the device segments itself.
    pub segmentation: Segmentation,
    /// The only core whose packets take the queue's own send queue; `None`: there is only one send queue.
    pub core: Option<usize>,
}

/// The lane of one queue.
pub(crate) struct Lane {
    sender: Box<dyn LargeSender>,
    /// `None`: the lane is closed, and every packet is cut here.
    terms: Option<LaneTerms>,
    /// Since when the kernel has had no room for the packet that is tried.
    full_since: Option<Instant>,
    /// When a packet may be tried again.
    next_try: Option<Instant>,
}

impl Lane {
    /// Makes a lane that is closed.
    pub fn new(sender: Box<dyn LargeSender>) -> Self {
        Self {
            sender,
            terms: None,
            full_since: None,
            next_try: None,
        }
    }

    /// Whether the device segments this packet itself; `head`: what `shape` was judged from.
    fn takes(&self, shape: &GsoHead, head: &[u8]) -> bool {
        let Some(LaneTerms { segmentation, core }) = self.terms else {
            return false;
        };
        let version = match shape.gso().ipv6 {
            true => segmentation.ipv6,
            false => segmentation.ipv4,
        };
        version
            && shape.is_plain()
            && (LANE_SEGMENTS..=segmentation.max_segments as usize).contains(&shape.segments())
            && shape.len() < segmentation.max_size as usize
            && (segmentation.ecn || !shape.has_cwr(head))
            && core.is_none_or(|core| sched_getcpu() == core)
    }

    /// Sends one packet that the lane takes.
    fn send<'a>(
        &mut self,
        shape: &GsoHead,
        slices: impl Iterator<Item = &'a [u8]>,
        now: Instant,
        stats: &UplinkStats,
    ) -> Result<(), Refused> {
        if self.next_try.is_some_and(|at| now < at) {
            return Err(Refused::Full);
        }
        let mut parts = ArrayVec::<IoSlice<'_>, MAX_SLICES>::new();
        for slice in slices {
            let part = parts.try_push(IoSlice::new(slice));
            part.map_err(|_| Refused::Unfit)?;
        }
        let head = parts.first().ok_or(Refused::Unfit)?;
        let sent = self.sender.send(VnetHeader::segmented(shape, head), &parts);
        match sent {
            Ok(()) => {
                stats.lane_packets.add(1);
                stats.lane_bytes.add(shape.len() as u64);
                (self.full_since, self.next_try) = (None, None);
            }
            Err(Refused::Full) => {
                stats.lane_refusals.add(1);
                self.full_since.get_or_insert(now);
                self.next_try = Some(now + LANE_RETRY);
            }
            Err(Refused::LinkDown | Refused::Unfit) => {}
        }
        crash_point!("lane");
        sent
    }

    /// Whether the kernel has had no room for so long that the packet goes another way.
    fn is_stuck(&self, now: Instant) -> bool {
        self.full_since
            .is_some_and(|since| now.saturating_duration_since(since) >= HOLD)
    }
}

/// A packet that the kernel had no room for in the lane, and everything behind it.
pub(crate) struct Kept {
    /// The first one is to be segmented, unless there is none.
    packets: VecDeque<Packet>,
    frames: usize,
}

impl Kept {
    pub fn with_capacity(packets: usize) -> Self {
        Self {
            packets: VecDeque::with_capacity(packets),
            frames: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Frames that hold the packets.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Appends a packet; the first one must be one that is to be segmented.
    pub fn push(&mut self, packet: Packet) {
        self.frames += packet.frame_count();
        self.packets.push_back(packet);
    }

    /// Drops the packets that do not stay; the first one stays. Returns how many were dropped.
    pub fn retain(&mut self, stays: impl Fn(&Packet) -> bool, pool: &mut FramePool) -> u64 {
        let mut dropped = 0;
        for _ in 0..self.packets.len() {
            match self.pop() {
                Some(packet) if stays(&packet) => self.push(packet),
                Some(packet) => {
                    dropped += 1;
                    pool.recycle(packet);
                }
                None => {}
            }
        }
        dropped
    }

    fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.frames -= packet.frame_count();
        Some(packet)
    }

    /// The next packet, where it is not to be segmented.
    fn pop_plain(&mut self) -> Option<Packet> {
        match self.packets.front()?.offload.gso {
            None => self.pop(),
            Some(_) => None,
        }
    }
}

impl UplinkQueue {
    /// Opens the lane on these terms, or closes it; packets that wait are cut here then.
    pub fn set_lane(&mut self, terms: Option<LaneTerms>) {
        if let Some(lane) = &mut self.lane {
            lane.terms = terms;
        }
    }

    /// Whether the lane takes the packet.
    pub(super) fn lane_takes(&self, shape: &GsoHead, head: &[u8]) -> bool {
        let lane = self.lane.as_ref();
        lane.is_some_and(|lane| lane.takes(shape, head))
    }

    /// Sends a packet that the lane takes from where it is, once the kernel has all frames before it. `Err(Full)`: it is to be kept.
    pub(super) fn send_by_lane<'a>(
        &mut self,
        shape: &GsoHead,
        slices: impl Iterator<Item = &'a [u8]>,
        pool: &mut FramePool,
    ) -> Result<(), Refused> {
        self.flush(pool);
        if !self.is_drained() || !self.kept.is_empty() {
            return Err(Refused::Full);
        }
        let Some(lane) = &mut self.lane else {
            return Err(Refused::Unfit);
        };
        let sent = lane.send(shape, slices, self.now, &self.stats);
        if sent == Ok(()) {
            self.count_sent(shape);
        }
        sent
    }

    /// Counts a packet that was cut here.
    pub(super) fn count_cut(&self, shape: &GsoHead) {
        self.stats.cut_packets.add(1);
        self.stats.segments.add(shape.segments() as u64);
    }

    fn count_sent(&self, shape: &GsoHead) {
        self.stats.send_packets.add(1);
        self.stats.send_bytes.add(shape.len() as u64);
    }

    /// Whether the kernel has every frame that AF_XDP was to send.
    fn is_drained(&self) -> bool {
        self.outbox.is_empty() && self.rest == Rest::Nothing
    }

    /// Sends what is kept, as far as the kernel has room.
    #[cold]
    pub(super) fn send_kept(&mut self, pool: &mut FramePool) {
        while self.is_drained() && !self.kept.is_empty() && self.send_first_kept(pool) {
            while let Some(packet) = self.kept.pop_plain() {
                self.push_out(packet);
            }
            self.send_outbox(pool);
        }
    }

    /// Sends the first packet that is kept, or does away with it. False: it stays.
    fn send_first_kept(&mut self, pool: &mut FramePool) -> bool {
        let (umem, now) = (pool.umem().clone(), self.now);
        let (Some(packet), Some(lane)) = (self.kept.packets.front(), &mut self.lane) else {
            return false;
        };
        let head = packet.head(&umem);
        let Some(shape) = packet.offload.gso.and_then(|gso| {
            GsoHead::parse(head, packet.len as usize, gso, packet.offload.checksum).ok()
        }) else {
            return self.drop_first_kept(DropReason::GsoRefused, pool);
        };
        if shape.longest() > self.capabilities.max_frame {
            return self.drop_first_kept(DropReason::TooLong, pool);
        }
        let sent = match lane.takes(&shape, head) {
            true => lane.send(&shape, packet.slices(&umem), now, &self.stats),
            false => Err(Refused::Unfit),
        };
        match sent {
            Ok(()) => {
                self.count_sent(&shape);
                self.kept
                    .pop()
                    .into_iter()
                    .for_each(|packet| pool.recycle(packet));
                true
            }
            Err(Refused::Full) if !lane.is_stuck(now) => false,
            Err(Refused::Full | Refused::Unfit) => self.cut_first_kept(&shape, pool),
            Err(Refused::LinkDown) => self.drop_first_kept(DropReason::LinkDown, pool),
        }
    }

    fn drop_first_kept(&mut self, reason: DropReason, pool: &mut FramePool) -> bool {
        self.stats.send_drops.add(reason, 1);
        self.kept
            .pop()
            .into_iter()
            .for_each(|packet| pool.recycle(packet));
        self.forget_refusals();
        true
    }

    /// Cuts the first packet that is kept, as if there were no lane. False: there are too few free frames for that now.
    fn cut_first_kept(&mut self, shape: &GsoHead, pool: &mut FramePool) -> bool {
        if pool.len() < frames_for(shape) {
            return false;
        }
        let Some(packet) = self.kept.pop() else {
            return false;
        };
        self.forget_refusals();
        self.cut(shape, &packet, pool);
        pool.recycle(packet);
        true
    }

    fn forget_refusals(&mut self) {
        if let Some(lane) = &mut self.lane {
            (lane.full_since, lane.next_try) = (None, None);
        }
    }
}
