//! The third stage: packets are prepared for what their receiver can do, and handed to it.
//!
//! Packets go in their order, as runs with one destination. What lies behind a packet's head is still in its sender's pages: where it
//! is needed here, the packet is deferred until a second copy call has fetched it, and with it all later packets for that destination.
mod coalesce;
mod flood;
mod mirror;
mod queue;
mod segments;
mod uplink;
mod worker;

pub(super) use segments::frames_for;

use super::batch::Batch;
use super::job::Outcome;
use super::ports::Destination;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::worker::Worker;
use arrayvec::ArrayVec;
use std::ops::Range;
use xsk_bridge::frame::{DATA_CAPACITY, Frame, FramePool, Umem};
use xsk_bridge::packet::{MAX_FRAMES, Offload, Packet};

/// Which look at a packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// What lies behind heads has not been fetched.
    First,
    /// Everything that was deferred has been fetched.
    Second,
}

/// What a receiver does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// The receiver takes the packet, and counts it where it drops it later.
    Taken,
    /// The packet must be fetched first.
    Deferred,
    /// The receiver refuses the packet; the sender counts it.
    Refused(DropReason),
}

impl<H: Hypervisor> Worker<H> {
    /// Hands every packet of the turn to its receiver.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn egress(&mut self) {
        let mut n = 0;
        while n < self.batch.jobs.len() {
            let run = self.batch.run_from(n);
            n = run.end;
            self.hand_over(run, Pass::First);
        }
        if !self.batch.deferred.is_empty() {
            self.fetch_tails();
        }
        crash_point!("fetched");
        for at in 0..self.batch.deferred.len() {
            let n = usize::from(self.batch.deferred[at]);
            if self.batch.jobs[n].outcome == Outcome::Pending {
                self.hand_over(n..n + 1, Pass::Second);
            }
        }
        self.close_merges();
        crash_point!("forwarded");
    }

    /// Hands over consecutive packets with one destination.
    fn hand_over(&mut self, jobs: Range<usize>, pass: Pass) {
        match self.batch.jobs[jobs.start].destination {
            Destination::Queue(slot) => self.hand_to_queue(slot, jobs, pass),
            Destination::Uplink(slot) => self.hand_to_uplink(slot, jobs, pass),
            Destination::QueueOf(worker) | Destination::UplinkOf(worker) => {
                self.hand_to_worker(worker, jobs, pass);
            }
            Destination::Flood(flood) => jobs.for_each(|n| self.flood(n, flood, pass)),
            Destination::Undecided | Destination::Nowhere => {
                for job in &mut self.batch.jobs[jobs] {
                    job.drop_for(DropReason::PortGone);
                }
            }
        }
    }

    /// Fetches what lies behind the heads of deferred packets: the second copy call.
    fn fetch_tails(&mut self) {
        let batch = &mut self.batch;
        for at in 0..batch.deferred.len() {
            let n = usize::from(batch.deferred[at]);
            if !batch.jobs[n].is_whole() && !batch.plan_tail(n) {
                debug_assert!(false, "what lies behind heads has its room reserved");
                batch.jobs[n].drop_for(DropReason::NoFrame);
            }
        }
        let (operations, packets) = (batch.tails.len(), batch.deferred.len());
        batch.tails.run(&*self.grants);
        for at in 0..batch.deferred.len() {
            batch.check_tail(usize::from(batch.deferred[at]));
        }
        self.batch.staging.end_reserve();
        self.count_copies(operations, packets);
    }
}

impl Batch {
    /// The longest run of packets from `n` on that have one destination.
    #[inline]
    fn run_from(&self, n: usize) -> Range<usize> {
        let destination = self.jobs[n].destination;
        let others = self.jobs[n + 1..].iter();
        let more = others.take_while(|job| job.destination == destination);
        n..n + 1 + more.count()
    }

    /// Notes what became of fetching the rest of a deferred packet.
    fn check_tail(&mut self, n: usize) {
        let job = &mut self.jobs[n];
        if job.is_whole() || job.outcome != Outcome::Pending {
            return;
        }
        if self.tails.succeeded(job.fetches[1]) {
            job.staged = job.len;
            return;
        }
        for (position, _) in self.tails.failures(job.fetches[1]) {
            job.fail_at(position, &self.fragments);
        }
        job.outcome = Outcome::CopyFailed;
    }

    /// Notes what the receiver did with packet `n`. Returns true where the packet was deferred.
    #[inline]
    fn settle(&mut self, n: usize, handed: Handed) -> bool {
        let job = &mut self.jobs[n];
        match handed {
            Handed::Taken => job.outcome = Outcome::Sent,
            Handed::Refused(reason) => job.drop_for(reason),
            Handed::Deferred => self.deferred.push(n as u16),
        }
        handed == Handed::Deferred
    }

    /// A whole packet in one frame: its own where it came in one, else a copy in a frame out of `pool`. `None`: there is no free frame.
    #[inline]
    fn take_frame(&mut self, n: usize, pool: &mut FramePool) -> Option<Frame> {
        match self.jobs[n].packet.take().map(Packet::into_linear) {
            Some(Ok(frame)) => return Some(frame),
            Some(Err(packet)) => self.jobs[n].packet = Some(packet),
            None => {}
        }
        self.copy_frame(n, pool)
    }

    /// A whole packet in frames: its own where it came in frames, else a copy in frames out of `pool`. `None`: there are too few free frames.
    fn take_packet(&mut self, n: usize, pool: &mut FramePool) -> Option<Packet> {
        match self.jobs[n].packet.take() {
            Some(packet) => Some(packet),
            None => self.copy_frames(n, pool),
        }
    }

    /// A copy of a whole packet of at most DATA_CAPACITY bytes in a frame out of `pool`. `None`: there is no free frame.
    #[inline]
    fn copy_frame(&self, n: usize, pool: &mut FramePool) -> Option<Frame> {
        let mut frame = pool.take()?;
        let umem = pool.umem();
        let (data, mut at) = (umem.data_mut(&mut frame), 0);
        self.each_slice(n, umem, |bytes| {
            data[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        });
        Some(frame)
    }

    /// A copy of a whole packet in frames out of `pool`. `None`: there are too few free frames.
    fn copy_frames(&self, n: usize, pool: &mut FramePool) -> Option<Packet> {
        let job = &self.jobs[n];
        let mut frames = NewFrames::take(job.len as usize, pool)?;
        let umem = pool.umem();
        self.each_slice(n, umem, |bytes| frames.write(bytes, umem));
        frames.into_packet(job.len, job.offload, pool)
    }
}

/// Frames that a packet is written into.
pub(super) struct NewFrames {
    pub frames: ArrayVec<Frame, MAX_FRAMES>,
    /// The frame, and the place in it, of the next byte.
    at: usize,
    within: usize,
}

impl NewFrames {
    /// Frames for a packet of at most `len` bytes. `None`: there are too few free ones.
    pub fn take(len: usize, pool: &mut FramePool) -> Option<Self> {
        let count = len.div_ceil(DATA_CAPACITY);
        (pool.len() >= count).then(|| Self {
            frames: (0..count).map_while(|_| pool.take()).collect(),
            at: 0,
            within: 0,
        })
    }

    /// Writes the packet's next bytes.
    fn write(&mut self, mut bytes: &[u8], umem: &Umem) {
        while !bytes.is_empty() {
            let room = &mut umem.data_mut(&mut self.frames[self.at])[self.within..];
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.within += count;
            if self.within == DATA_CAPACITY {
                (self.at, self.within) = (self.at + 1, 0);
            }
        }
    }

    /// The packet of `len` bytes that was written; frames that it did not take go back to `pool`.
    pub fn into_packet(self, len: u32, offload: Offload, pool: &mut FramePool) -> Option<Packet> {
        let behind = (len as usize).div_ceil(DATA_CAPACITY).saturating_sub(1);
        let mut frames = self.frames.into_iter();
        let mut packet = Packet::new(frames.next()?, len, offload);
        for frame in frames.by_ref().take(behind) {
            packet.append(frame, pool.umem());
        }
        pool.extend(frames);
        Some(packet)
    }
}

/// A packet of `len` bytes, those of `slices`, in frames out of `pool`. `None`: there are too few free frames.
pub(super) fn in_new_frames<'a>(
    slices: impl Iterator<Item = &'a [u8]>,
    len: usize,
    offload: Offload,
    pool: &mut FramePool,
) -> Option<Packet> {
    if len > MAX_FRAMES * DATA_CAPACITY {
        return None;
    }
    let mut frames = NewFrames::take(len, pool)?;
    let umem = pool.umem();
    slices.for_each(|bytes| frames.write(bytes, umem));
    frames.into_packet(len as u32, offload, pool)
}
