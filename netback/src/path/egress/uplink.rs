//! Packets towards a device that this worker serves.
use super::{Handed, Pass};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Batch;
use crate::path::uplink::UplinkQueue;
use crate::worker::Worker;
use std::ops::Range;
use xsk_bridge::frame::{DATA_CAPACITY, Frame, FramePool};
use xsk_bridge::offload::checksum;
use xsk_bridge::packet::{Checksum, Packet};

impl<H: Hypervisor> Worker<H> {
    /// Hands consecutive packets to the device in `slot`.
    pub(super) fn hand_to_uplink(&mut self, slot: u16, jobs: Range<usize>, pass: Pass) {
        let (batch, fabric) = (&mut self.batch, &mut self.fabric);
        let Some(uplink) = &mut fabric.uplinks[usize::from(slot)] else {
            for job in &mut batch.jobs[jobs] {
                job.drop_for(DropReason::PortGone);
            }
            return;
        };
        for n in jobs {
            let handed = uplink.take_in(n, batch, &mut fabric.pool, self.turn_number, pass);
            batch.settle(n, handed);
        }
    }
}

impl UplinkQueue {
    /// Sends packet `n` of the batch, now or when there is room.
    #[inline]
    fn take_in(
        &mut self,
        n: usize,
        batch: &mut Batch,
        pool: &mut FramePool,
        turn: u64,
        pass: Pass,
    ) -> Handed {
        let job = &batch.jobs[n];
        if let Some(reason) = self.refuses(job.len, &job.offload) {
            return Handed::Refused(reason);
        }
        if pass == Pass::First && (self.barrier == turn || !job.is_whole()) {
            self.barrier = turn;
            return Handed::Deferred;
        }
        if job.offload.gso.is_some() {
            return match self.capabilities.gso {
                true => self.take_whole(batch.take_packet(n, pool)),
                false => self.take_large(n, batch, pool),
            };
        }
        if job.len as usize > DATA_CAPACITY {
            let packet = batch.take_packet(n, pool);
            return self.take_long(packet, batch, n, pool);
        }
        match batch.take_frame(n, pool) {
            Some(frame) => self.finish(frame, batch, n, pool),
            None => Handed::Refused(DropReason::NoFrame),
        }
    }

    /// Sends a copy of packet `n`, which is whole, as part of a flood.
    pub(super) fn take_copy(&mut self, n: usize, batch: &Batch, pool: &mut FramePool) -> Handed {
        let job = &batch.jobs[n];
        if let Some(reason) = self.refuses(job.len, &job.offload) {
            return Handed::Refused(reason);
        }
        if job.offload.gso.is_some() {
            return match self.capabilities.gso {
                true => self.take_whole(batch.copy_frames(n, pool)),
                false => self.take_large(n, batch, pool),
            };
        }
        if job.len as usize > DATA_CAPACITY {
            return self.take_long(batch.copy_frames(n, pool), batch, n, pool);
        }
        match batch.copy_frame(n, pool) {
            Some(frame) => self.finish(frame, batch, n, pool),
            None => Handed::Refused(DropReason::NoFrame),
        }
    }

    /// Sends `packet`, which is packet `n` of the batch in several frames. `None`: there were too few free frames for it.
    #[inline(never)]
    fn take_long(
        &mut self,
        packet: Option<Packet>,
        batch: &Batch,
        n: usize,
        pool: &mut FramePool,
    ) -> Handed {
        let Some(mut packet) = packet else {
            return Handed::Refused(DropReason::NoFrame);
        };
        packet.offload = batch.jobs[n].offload;
        if !self.capabilities.blank_checksum && packet.complete_checksum(pool.umem()).is_err() {
            pool.recycle(packet);
            return Handed::Refused(DropReason::ChecksumImpossible);
        }
        self.send_long(packet);
        Handed::Taken
    }

    /// Sends a packet that the device has segmented. `None`: there were too few free frames for it.
    fn take_whole(&mut self, packet: Option<Packet>) -> Handed {
        match packet {
            Some(packet) => {
                self.send(packet);
                Handed::Taken
            }
            None => Handed::Refused(DropReason::NoFrame),
        }
    }

    #[inline]
    fn finish(
        &mut self,
        mut frame: Frame,
        batch: &Batch,
        n: usize,
        pool: &mut FramePool,
    ) -> Handed {
        let job = &batch.jobs[n];
        if job.offload.checksum == Checksum::Blank && !self.capabilities.blank_checksum {
            let data = &mut pool.umem().data_mut(&mut frame)[..job.len as usize];
            if checksum::complete(data, std::iter::empty()).is_err() {
                pool.give(frame);
                return Handed::Refused(DropReason::ChecksumImpossible);
            }
        }
        self.send(Packet::new(frame, job.len, job.offload));
        Handed::Taken
    }
}
