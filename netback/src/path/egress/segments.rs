//! Packets that are cut into segments for a receiver that does not segment them itself.
use super::{Handed, NewFrames, Pass};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Batch;
use crate::path::egress::queue::Turn;
use crate::path::uplink::UplinkQueue;
use crate::queue::Queue;
use xsk_bridge::device::packet_socket::Refused;
use xsk_bridge::frame::{DATA_CAPACITY, Frame, FramePool, Umem};
use xsk_bridge::offload::segment::{Cutter, GsoHead, Payload, Slices};
use xsk_bridge::packet::{Checksum, Offload, Packet};

/// The offload of a segment, whose checksum has just been made.
const SEGMENT: Offload = Offload {
    checksum: Checksum::Valid,
    gso: None,
};

impl Batch {
    /// How packet `n`, which asks for segmentation and was judged when it came in, is cut.
    pub(super) fn shape(&self, n: usize, umem: &Umem) -> Result<GsoHead, DropReason> {
        let job = &self.jobs[n];
        let gso = job.offload.gso.ok_or(DropReason::GsoRefused)?;
        let head = job.head_bytes(&self.staging, umem);
        GsoHead::parse(head, job.len as usize, gso, job.offload.checksum)
            .map_err(|_| DropReason::GsoRefused)
    }

    /// Cuts packet `n`, which is whole. `put` is called for each segment, with a function that writes the segment into frames, of which
    /// there are enough for the longest, and returns its length.
    fn each_segment(
        &self,
        n: usize,
        shape: GsoHead,
        umem: &Umem,
        put: impl FnMut(&mut dyn FnMut(&mut [Frame]) -> usize),
    ) {
        let job = &self.jobs[n];
        let head = job.head_bytes(&self.staging, umem);
        match &job.packet {
            Some(packet) => {
                let payload = Slices::new(packet.slices(umem).skip(1));
                each_segment(shape, head, payload, umem, put);
            }
            None => {
                let behind = job.behind.of(&self.pieces).iter();
                let payload = Slices::new(behind.map(|&piece| self.staging.bytes(piece)));
                each_segment(shape, head, payload, umem, put);
            }
        }
    }
}

/// Cuts a packet that begins with `head`, of which `payload` is the rest; `put` as in [`Batch::each_segment`].
fn each_segment(
    shape: GsoHead,
    head: &[u8],
    mut payload: impl Payload,
    umem: &Umem,
    mut put: impl FnMut(&mut dyn FnMut(&mut [Frame]) -> usize),
) {
    let mut cutter = Cutter::new(shape, head);
    for _ in 0..shape.segments() {
        put(&mut |frames| {
            let rooms = frames.iter_mut().map(|frame| umem.data_mut(frame));
            cutter.next(&mut payload, rooms).unwrap_or(0)
        });
    }
}

/// Frames that the segments of a packet take at most.
pub(in crate::path) fn frames_for(shape: &GsoHead) -> usize {
    shape.segments() * shape.longest().div_ceil(DATA_CAPACITY)
}

impl UplinkQueue {
    /// Sends packet `n`, which is whole and to be segmented: by the lane for such packets, or in segments.
    #[inline(never)]
    pub(super) fn take_large(&mut self, n: usize, batch: &Batch, pool: &mut FramePool) -> Handed {
        let umem = pool.umem().clone();
        let shape = match batch.shape(n, &umem) {
            Ok(shape) => shape,
            Err(reason) => return Handed::Refused(reason),
        };
        if shape.longest() > self.capabilities.max_frame {
            return Handed::Refused(DropReason::TooLong);
        }
        let head = batch.jobs[n].head_bytes(&batch.staging, &umem);
        if !self.lane_takes(&shape, head) {
            return self.take_segments(n, shape, batch, pool);
        }
        let sent = match &batch.jobs[n].packet {
            Some(packet) => self.send_by_lane(&shape, packet.slices(&umem), pool),
            None => self.send_by_lane(&shape, batch.staged_slices(n), pool),
        };
        match sent {
            Ok(()) => Handed::Taken,
            Err(Refused::Full) => self.keep(n, batch, pool),
            Err(Refused::LinkDown) => {
                self.stats.send_drops.add(DropReason::LinkDown, 1);
                Handed::Taken
            }
            Err(Refused::Unfit) => self.take_segments(n, shape, batch, pool),
        }
    }

    /// Keeps packet `n` until the kernel has room for it.
    fn keep(&mut self, n: usize, batch: &Batch, pool: &mut FramePool) -> Handed {
        let frames = (batch.jobs[n].len as usize).div_ceil(DATA_CAPACITY);
        if !self.has_room(frames) {
            return Handed::Refused(DropReason::UplinkFull);
        }
        match batch.copy_frames(n, pool) {
            Some(packet) => {
                self.kept.push(packet);
                Handed::Taken
            }
            None => Handed::Refused(DropReason::NoFrame),
        }
    }

    /// Sends packet `n` in segments: all of them or none.
    fn take_segments(
        &mut self,
        n: usize,
        shape: GsoHead,
        batch: &Batch,
        pool: &mut FramePool,
    ) -> Handed {
        let umem = pool.umem().clone();
        if !self.has_room(frames_for(&shape)) {
            return Handed::Refused(DropReason::UplinkFull);
        }
        if pool.len() < frames_for(&shape) {
            return Handed::Refused(DropReason::NoFrame);
        }
        batch.each_segment(n, shape, &umem, |write| {
            if let Some(segment) = in_frames(&shape, write, pool) {
                self.send_long(segment);
            }
        });
        self.count_cut(&shape);
        Handed::Taken
    }

    /// Puts the segments of a packet, for which there are enough free frames, into the outbox.
    pub(in crate::path) fn cut(&mut self, shape: &GsoHead, packet: &Packet, pool: &mut FramePool) {
        let umem = pool.umem().clone();
        let payload = Slices::new(packet.slices(&umem).skip(1));
        each_segment(*shape, packet.head(&umem), payload, &umem, |write| {
            if let Some(segment) = in_frames(shape, write, pool) {
                self.push_out(segment);
            }
        });
        self.count_cut(shape);
    }
}

/// A segment in frames out of `pool`. `None`: there are too few free ones.
fn in_frames(
    shape: &GsoHead,
    write: &mut dyn FnMut(&mut [Frame]) -> usize,
    pool: &mut FramePool,
) -> Option<Packet> {
    let mut frames = NewFrames::take(shape.longest(), pool)?;
    let len = write(&mut frames.frames);
    frames.into_packet(len as u32, Offload::default(), pool)
}

impl<H: Hypervisor> Queue<H> {
    /// Puts packet `n` into the backlog in segments, of which each waits, or is dropped and counted, by itself.
    #[inline(never)]
    pub(super) fn take_segments(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        turn: &mut Turn<'_>,
        pass: Pass,
    ) -> Handed {
        if pass == Pass::First && (self.rx.barrier == turn.number || !batch.jobs[n].is_whole()) {
            return self.defer(turn);
        }
        self.close_all(slot, batch, turn);
        let umem = turn.pool.umem().clone();
        let shape = match batch.shape(n, &umem) {
            Ok(shape) => shape,
            Err(reason) => return Handed::Refused(reason),
        };
        // Every segment is made in the same frames, and copied into the backlog from there.
        let Some(NewFrames { mut frames, .. }) = NewFrames::take(shape.longest(), turn.pool) else {
            return Handed::Refused(DropReason::NoFrame);
        };
        batch.each_segment(n, shape, &umem, |write| {
            let len = write(&mut frames);
            let too_long = self.limits.is_too_long(len as u32, None);
            let refused = match too_long {
                true => Some(DropReason::TooLong),
                false => self.rx.refuses(len as u32),
            };
            match refused.or_else(|| self.cannot_wait(len as u32, turn.pool)) {
                Some(reason) => self.stats.rx_drops.add(reason, 1),
                None => {
                    let backlog = &mut self.rx.backlog;
                    let mut entry = backlog.append(len as u32, SEGMENT, turn.now, turn.pool);
                    let mut left = len;
                    for frame in &frames {
                        let here = left.min(DATA_CAPACITY);
                        entry.write(&umem.data(frame)[..here]);
                        left -= here;
                    }
                    self.list(slot, turn.waiting);
                }
            }
        });
        turn.pool.extend(frames);
        self.stats.rx_cut_packets.add(1);
        Handed::Taken
    }
}
