//! The way into guests' pages: straight from the sender's, or from frames, in one copy call a turn.
use super::Worker;
use super::batch::slot_of;
use super::bounce::Piece;
use super::fabric::live;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::queue::Queue;
use crate::queue::copy::{InFragments, InFrames, InPages, Span};
use crate::queue::rx::Placed;
use std::mem;
use xsk_bridge::frame::DATA_CAPACITY;
use xsk_bridge::packet::{Checksum, Packet};

/// Most packets put on one queue's Rx ring out of its backlog in one turn.
const BACKLOG_QUOTA: usize = 64;

/// Whose packet is placed.
struct Source {
    /// The Tx job whose pages hold what is not in frames.
    sender: Option<u16>,
    /// Where its first bytes are, if in a bounce buffer already.
    bounced: Option<Piece>,
    /// Bytes that are there, or in frames.
    fetched: usize,
}

impl Source {
    /// All of `packet` is in its frames.
    fn frames_of(packet: &Packet) -> Self {
        Self {
            sender: None,
            bounced: None,
            fetched: packet.len as usize,
        }
    }
}

impl<H: Hypervisor> Worker<H> {
    /// Bring packet `n` of the batch into pages that a queue of ours has posted: what was fetched out of the private copy, the rest page to page.
    /// False: it has to go by the backlog.
    pub(crate) fn place(&mut self, n: usize, receiver: u16) -> bool {
        let job = &self.batch.jobs[n];
        let (whole, len, offload) = (job.fetched == job.len as usize, job.len, job.packet.offload);
        let direct = self.fabric.queues[usize::from(job.queue)]
            .as_ref()
            .is_some_and(|queue| queue.tx.direct);
        let head = &self.fabric.umem.data(&job.packet.frames[0])[..job.fetched.min(DATA_CAPACITY)];
        let Some(queue) = live(&mut self.fabric.queues, receiver) else {
            return false;
        };
        let blank = offload.checksum == Checksum::Blank && !queue.rx.takes_blank(head, len);
        let clear =
            queue.rx.is_clear(self.turn_number) && !self.batch.flooded && self.batch.can_place();
        if !clear
            || blank
            || !(whole || direct)
            || queue.rx.refuses(len, &offload).is_some()
            || !queue.wants(head)
        {
            queue.rx.barrier = self.turn_number;
            return false;
        }
        match queue.rx.take(len, &offload) {
            Ok(true) => {
                let job = &mut self.batch.jobs[n];
                let source = Source {
                    sender: (!whole).then_some(n as u16),
                    bounced: job.bounced,
                    fetched: job.fetched,
                };
                self.batch.frames_missing -= mem::take(&mut job.frames_missing);
                let packet = job.take_packet();
                self.plan(receiver, packet, source);
                self.account(n, Ok(()));
                true
            }
            Ok(false) => {
                queue.rx.barrier = self.turn_number;
                false
            }
            Err(fatal) => {
                queue.rogue = Some(fatal);
                false
            }
        }
    }

    /// Bring a packet from the wire into pages that a queue of ours has posted, behind what waits for them.
    pub(crate) fn hand_over(
        &mut self,
        mut packet: Packet,
        receiver: u16,
    ) -> Result<(), DropReason> {
        let clear = |queue: &&mut Queue<H>| queue.rx.is_clear(self.turn_number);
        let queue = live(&mut self.fabric.queues, receiver).filter(clear);
        let Some(queue) = queue.filter(|_| self.batch.can_place()) else {
            return self.fabric.send_to_queue(receiver, packet);
        };
        if let Err(reason) = queue.admit(&mut packet, &self.fabric.umem) {
            self.fabric.free(packet, reason);
            return Ok(());
        }
        match queue.rx.take(packet.len, &packet.offload) {
            Ok(true) => {
                let source = Source::frames_of(&packet);
                self.plan(receiver, packet, source);
                return Ok(());
            }
            Ok(false) => {}
            // It goes with the queue.
            Err(fatal) => queue.rogue = Some(fatal),
        }
        queue.wait(packet, receiver, self.fabric.now, &mut self.fabric.waiting);
        Ok(())
    }

    /// Plan the copies of a packet whose pages were taken.
    fn plan(&mut self, receiver: u16, packet: Packet, source: Source) {
        let Some(queue) = &self.fabric.queues[usize::from(receiver)] else {
            return;
        };
        let dest = || InPages {
            domid: queue.domid,
            grefs: queue.rx.pages(),
        };
        let (len, batch) = (packet.len as usize, &mut self.batch);
        let bounced = source
            .bounced
            .or_else(|| batch.hold(&packet, &self.fabric.umem));
        let from_us = match bounced {
            Some(piece) => batch.rx.copy(piece, dest(), 0..source.fetched),
            None => {
                let frames = InFrames(&packet.frames);
                batch.rx.copy(frames, dest(), 0..source.fetched)
            }
        };
        let from_pages = match source.sender {
            Some(n) => {
                let job = &batch.jobs[usize::from(n)];
                let fragments = InFragments::new(job.domid, job.fragments(&batch.fragments));
                batch.rx.copy(fragments, dest(), source.fetched..len)
            }
            None => Span::default(),
        };
        let spans = [from_us, from_pages];
        batch.placed.push(Placed {
            queue: receiver,
            sender: source.sender,
            spans,
            packet,
        });
        self.touch(receiver);
    }

    /// Drain backlogs into what guests have posted, issue the copies, respond. False: there was nothing to do.
    pub(crate) fn deliver(&mut self) -> bool {
        self.drain_backlogs();
        if self.batch.placed.is_empty() {
            return false;
        }
        self.count_copies(self.batch.rx.len(), self.batch.placed.len());
        self.batch.rx.run(&*self.grants);
        crash_point!("delivered");
        let mut placed = mem::take(&mut self.batch.placed);
        for placed in placed.drain(..) {
            self.respond(placed);
        }
        self.batch.placed = placed;
        crash_point!("rx-responses");
        for &slot in &self.touched {
            if let Some(queue) = &mut self.fabric.queues[usize::from(slot)] {
                queue.events.notify_rx |= queue.rx.publish();
                crash_point!("rx-published");
            }
        }
        true
    }

    /// Every queue with a backlog, a different one first each turn.
    fn drain_backlogs(&mut self) {
        let count = self.fabric.waiting.len();
        for n in 0..count {
            self.drain_backlog(self.fabric.waiting[(self.rotation + n) % count]);
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

    fn drain_backlog(&mut self, slot: u16) {
        self.drop_expired(slot);
        for _ in 0..BACKLOG_QUOTA {
            let Some(queue) = live(&mut self.fabric.queues, slot) else {
                return;
            };
            let Some((len, offload)) = queue
                .rx
                .backlog
                .front()
                .map(|packet| (packet.len, packet.offload))
            else {
                return;
            };
            if !self.batch.can_place() {
                return;
            }
            match queue.rx.take(len, &offload) {
                Ok(true) => {
                    let Some(packet) = queue.rx.backlog.pop() else {
                        return;
                    };
                    let source = Source::frames_of(&packet);
                    self.plan(slot, packet, source);
                }
                Ok(false) => return,
                Err(fatal) => {
                    queue.rogue = Some(fatal);
                    return;
                }
            }
        }
    }

    /// Drop what waited for too long; those behind it are younger.
    fn drop_expired(&mut self, slot: u16) {
        let Some(queue) = live(&mut self.fabric.queues, slot) else {
            return;
        };
        while let Some(expired) = queue.rx.backlog.pop_expired(self.fabric.now) {
            queue.stats.rx_drops.add(DropReason::BacklogExpired, 1);
            self.fabric.pool.extend(expired.frames);
        }
    }

    /// Write the responses of one packet and give its frames back.
    fn respond(&mut self, placed: Placed) {
        let Some(queue) = &mut self.fabric.queues[usize::from(placed.queue)] else {
            return;
        };
        if queue.rx.respond(&placed, &self.batch.rx) {
            queue.stats.rx_packets.add(1);
            queue.stats.rx_bytes.add(placed.packet.len.into());
        } else {
            queue.stats.rx_errors.add(1);
            queue.stats.rx_drops.add(DropReason::CopyFailed, 1);
            self.blame_sender(&placed);
        }
        self.fabric.pool.extend(placed.packet.frames);
    }

    /// A copy page to page failed: which side's fault it was Xen does not say, so the sender's slot is answered ERROR too.
    fn blame_sender(&mut self, placed: &Placed) {
        let Some(n) = placed.sender else { return };
        let job = &self.batch.jobs[usize::from(n)];
        let answer = &mut self.batch.answers[usize::from(job.answer)].1;
        for (position, _) in self.batch.rx.failures(placed.spans[1]) {
            answer.fail(slot_of(job.fragments(&self.batch.fragments), position));
        }
        if answer.errors != 0
            && let Some(sender) = &mut self.fabric.queues[usize::from(job.queue)]
        {
            sender
                .stats
                .tx_errors
                .add(answer.errors.count_ones().into());
            sender.tx.direct = false;
        }
    }
}
