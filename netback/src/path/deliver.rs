//! The fourth stage: packets reach guests' pages in one copy call a turn, backlogs are drained, and responses are written.
use super::batch::{Batch, Placed};
use super::fabric::live;
use crate::bounds::{BACKLOG_QUANTUM, PACKET_COST, SUSPICION};
use crate::copy::runs::{InPages, InPieces};
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::queue::Queue;
use crate::worker::Worker;
use ring::packet::{Fatal, Fragment};
use std::mem;
use std::time::Instant;
use xsk_bridge::frame::FramePool;
use xsk_bridge::packet::Offload;

impl<H: Hypervisor> Worker<H> {
    /// Drains backlogs into what guests have posted, issues the copies, responds. False: there was nothing to do.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn deliver(&mut self) -> bool {
        self.drain_backlogs();
        if self.batch.placed.is_empty() {
            return false;
        }
        self.count_copies(self.batch.rx.len(), self.batch.placed.len());
        self.batch.rx.run(&*self.grants);
        crash_point!("delivered");
        self.respond();
        crash_point!("rx-responses");
        for &slot in &self.touched {
            if let Some(queue) = &mut self.fabric.queues[usize::from(slot)] {
                queue.events.notify_rx |= queue.rx.publish();
                crash_point!("rx-published");
            }
        }
        true
    }

    /// Drains every backlog, in each turn from a different one on.
    fn drain_backlogs(&mut self) {
        let count = self.fabric.waiting.len();
        for n in 0..count {
            let slot = self.fabric.waiting[(self.turn_number as usize + n) % count];
            let fabric = &mut self.fabric;
            let Some(queue) = live(&mut fabric.queues, slot) else {
                continue;
            };
            let placed = self.batch.placed.len();
            queue.drop_expired(fabric.now, &mut fabric.pool);
            let (batch, pool) = (&mut self.batch, &mut fabric.pool);
            if let Err(fatal) = queue.drain(slot, batch, pool, fabric.now) {
                queue.rogue = Some(fatal);
            }
            if self.batch.placed.len() > placed {
                self.touch(slot);
            }
        }
        let queues = &mut self.fabric.queues;
        self.fabric.waiting.retain(|&slot| {
            let queue = queues[usize::from(slot)].as_mut();
            queue.is_some_and(|queue| {
                queue.rx.listed = !queue.rx.backlog.is_empty();
                queue.rx.listed
            })
        });
    }

    /// Writes the responses of all placed packets.
    #[inline(never)] // A profile tells the stages apart.
    fn respond(&mut self) {
        let mut placed = mem::take(&mut self.batch.placed);
        for run in placed.chunk_by(|a, b| a.queue == b.queue) {
            let Some(queue) = &mut self.fabric.queues[usize::from(run[0].queue)] else {
                continue;
            };
            let (mut packets, mut bytes, mut gso) = (0, 0, 0);
            for placed in run {
                let done = match placed.mirrored {
                    false => queue.rx.respond(placed, &self.batch.rx),
                    true => {
                        let slots = self.batch.fragments_of(placed.sender);
                        queue.rx.respond_mirrored(placed, slots, &self.batch.rx)
                    }
                };
                if done {
                    packets += 1;
                    bytes += u64::from(placed.len);
                    gso += u64::from(placed.offload.gso.is_some());
                } else {
                    queue.stats.rx_errors.add(1);
                    queue.stats.rx_drops.add(DropReason::CopyFailed, 1);
                    self.batch.blame(placed);
                }
            }
            if packets > 0 {
                queue.stats.rx_packets.add(packets);
                queue.stats.rx_bytes.add(bytes);
                queue.stats.rx_gso_packets.add(gso);
            }
        }
        if !self.batch.rx.all_succeeded() {
            for placed in &placed {
                if !self.batch.rx.succeeded(placed.spans[1]) {
                    self.suspect(placed);
                }
            }
        }
        placed.clear();
        self.batch.placed = placed;
    }

    /// Has the packets of two guests go by our own memory for a while. A copy from the one's page to the other's failed, and Xen does not say
    /// on which side; a copy from or to our memory fails on one side only.
    #[cold]
    fn suspect(&mut self, placed: &Placed) {
        let until = Some(self.fabric.now + SUSPICION);
        if let Some(receiver) = &mut self.fabric.queues[usize::from(placed.queue)] {
            receiver.rx.suspected_until = until;
        }
        let Some(n) = placed.sender else { return };
        if let Some(slot) = self.batch.sender_of(n)
            && let Some(sender) = &mut self.fabric.queues[usize::from(slot)]
        {
            sender.tx.suspected_until = until;
        }
    }
}

impl Batch {
    /// The fragments of a packet whose payload comes from its sender's pages.
    fn fragments_of(&self, sender: Option<u16>) -> &[Fragment] {
        let job = sender.map(|n| &self.jobs[usize::from(n)]);
        job.map_or(&[][..], |job| job.fragments.of(&self.fragments))
    }

    /// Answers ERROR to the slots of a sender whose pages could not be copied to a receiver's.
    #[cold]
    fn blame(&mut self, placed: &Placed) {
        let Some(n) = placed.sender else { return };
        let job = &mut self.jobs[usize::from(n)];
        for (position, _) in self.rx.failures(placed.spans[1]) {
            job.fail_at(position, &self.fragments);
        }
    }
}

impl<H: Hypervisor> Queue<H> {
    /// Drops packets that have waited for too long, from the oldest on.
    fn drop_expired(&mut self, now: Instant, pool: &mut FramePool) {
        let expired = self.rx.backlog.drop_expired(now, pool);
        if expired > 0 {
            self.stats.rx_drops.add(DropReason::BacklogExpired, expired);
        }
    }

    /// Places packets of the backlog, oldest first, for as long as the guest has posted enough and the turn has room.
    fn drain(
        &mut self,
        slot: u16,
        batch: &mut Batch,
        pool: &mut FramePool,
        now: Instant,
    ) -> Result<(), Fatal> {
        let (bucket, sharers) = (&self.limits.rx, self.limits.queues);
        let credit = self
            .rx
            .pacing
            .credit(bucket, sharers, now, &self.stats.rx_paced);
        let Some(credit) = credit else {
            return Ok(());
        };
        let (mut budget, mut placed) = (BACKLOG_QUANTUM as isize, 0);
        while budget > 0
            && placed < credit
            && let Some((len, offload)) = self.rx.backlog.front()
            && batch.can_place()
            && self.rx.has_posted(len, &offload)?
        {
            let first = batch.pieces.len();
            if !self
                .rx
                .backlog
                .pop_into(&mut batch.staging, &mut batch.pieces, pool)
            {
                break;
            }
            self.take_for_staged(slot, first, len, offload, batch);
            budget -= (len as usize).max(PACKET_COST) as isize;
            placed += len as usize;
        }
        if credit != usize::MAX {
            self.limits.rx.take(placed, now);
        }
        Ok(())
    }

    /// Places a packet of `len` bytes in pieces of staging memory, from the one at `pieces` on. `Ok(false)`: it has to wait.
    pub(super) fn place_staged(
        &mut self,
        slot: u16,
        pieces: usize,
        len: u32,
        offload: Offload,
        batch: &mut Batch,
    ) -> Result<bool, Fatal> {
        let now = self.rx.backlog.is_empty() && batch.can_place();
        if !now || !self.rx.has_posted(len, &offload)? {
            return Ok(false);
        }
        self.take_for_staged(slot, pieces, len, offload, batch);
        Ok(true)
    }

    /// Takes posted requests for a packet in staging memory, and plans its copies.
    fn take_for_staged(
        &mut self,
        slot: u16,
        pieces: usize,
        len: u32,
        offload: Offload,
        batch: &mut Batch,
    ) {
        self.rx.take(len, &offload);
        let dest = InPages {
            domid: self.domid,
            grefs: self.rx.pages(),
        };
        let pieces = InPieces::from(&batch.staging, &batch.pieces[pieces..], 0);
        let span = batch.rx.copy(pieces, dest, 0..len as usize);
        batch.placed.push(Placed {
            queue: slot,
            sender: None,
            spans: [span, Default::default()],
            len,
            offload,
            mirrored: false,
        });
    }
}
