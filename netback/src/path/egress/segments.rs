//! Packets that are cut into segments for a receiver that does not segment them itself.
use super::{Handed, Pass};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Batch;
use crate::path::egress::queue::Turn;
use crate::path::uplink::UplinkQueue;
use crate::queue::Queue;
use xsk_bridge::device::packet_socket::Refused;
use xsk_bridge::frame::{DATA_CAPACITY, FramePool, Umem};
use xsk_bridge::offload::segment::{Cutter, GsoHead, Slices};
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

    /// Cuts packet `n`, which is whole. `put` is called for each segment, with a function that writes the segment and returns its length.
    fn each_segment(
        &self,
        n: usize,
        shape: GsoHead,
        umem: &Umem,
        mut put: impl FnMut(&mut dyn FnMut(&mut [u8]) -> usize),
    ) {
        let job = &self.jobs[n];
        let mut cutter = Cutter::new(shape, job.head_bytes(&self.staging, umem));
        match &job.packet {
            Some(packet) => {
                let mut payload = Slices::new(packet.slices(umem).skip(1));
                for _ in 0..shape.segments() {
                    put(&mut |room| cutter.next(&mut payload, [room]).unwrap_or(0));
                }
            }
            None => {
                let behind = job.behind.of(&self.pieces).iter();
                let mut payload = Slices::new(behind.map(|&piece| self.staging.bytes(piece)));
                for _ in 0..shape.segments() {
                    put(&mut |room| cutter.next(&mut payload, [room]).unwrap_or(0));
                }
            }
        }
    }
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
        if !self.has_room(shape.segments()) {
            return Handed::Refused(DropReason::UplinkFull);
        }
        if pool.len() < shape.segments() {
            return Handed::Refused(DropReason::NoFrame);
        }
        batch.each_segment(n, shape, &umem, |write| {
            if let Some(mut frame) = pool.take() {
                let len = write(umem.data_mut(&mut frame));
                self.send(Packet::new(frame, len as u32, Offload::default()));
            }
        });
        self.count_cut(&shape);
        Handed::Taken
    }
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
        // Every segment is made in one frame, and copied into the backlog from there.
        let Some(mut frame) = turn.pool.take() else {
            return Handed::Refused(DropReason::NoFrame);
        };
        batch.each_segment(n, shape, &umem, |write| {
            let len = write(umem.data_mut(&mut frame));
            let segment = &umem.data(&frame)[..len];
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
                    entry.write(segment);
                    self.list(slot, turn.waiting);
                }
            }
        });
        turn.pool.give(frame);
        self.stats.rx_cut_packets.add(1);
        Handed::Taken
    }
}
