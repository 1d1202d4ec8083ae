//! A worker's turn: the life of its packets, from the rings and the wire to the rings and the wire.
use super::Worker;
use super::batch::{TURN_CHAINS, Way, slot_of};
use super::fabric::{Origin, live};
use super::flow;
use super::ports::Hop;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::queue::tx::Exit;
use ring::packet::{Chain, TxPacket};
use ring::wire::NETIF_RSP_DROPPED;
use xsk_bridge::frame::DATA_CAPACITY;
use xsk_bridge::packet::{MAX_FRAMES, Packet};
use xsk_bridge::switch::{Flood, Recent, Verdict};

/// Most chains taken from one queue in one turn, so that none starves the others.
pub(crate) const QUEUE_QUOTA: usize = 64;

/// The two calls that bring packets out of guests' pages.
#[derive(Clone, Copy)]
enum Call {
    Heads,
    Tails,
}

impl<H: Hypervisor> Worker<H> {
    /// Move everything that can be moved now. False: there was nothing.
    pub(crate) fn turn(&mut self) -> bool {
        self.begin();
        let mut worked = self.read_messages() | self.take_events() | self.unpack_parcels();

        self.collect();
        self.fetch_heads();
        self.decide();
        self.fetch_tails();
        self.forward();
        worked |= !self.batch.answers.is_empty();

        worked |= self.receive();
        worked |= self.deliver();
        // Sent before it is answered: what dies in between is sent twice rather than never.
        self.send();
        self.answer();
        self.notify();

        self.end(worked);
        worked
    }

    /// Take chains out of the Tx rings, bounded a queue and a turn, a different queue first each turn.
    fn collect(&mut self) {
        self.rotation = self.rotation.wrapping_add(1);
        let count = self.active.len();
        for n in 0..count {
            let slot = self.active[(self.rotation + n) % count];
            let taken = self.collect_from(slot);
            if taken > 0 {
                self.touch(slot);
            }
        }
        if !self.batch.answers.is_empty() {
            crash_point!("consumed");
        }
    }

    /// How many chains were taken from one queue.
    fn collect_from(&mut self, slot: u16) -> usize {
        let allowance = self.allowance(slot).min(QUEUE_QUOTA);
        let Some(queue) = live(&mut self.fabric.queues, slot) else {
            return 0;
        };
        let mut taken = 0;
        let mut room = TxPacket::default();
        // Until the ring says otherwise there may be more than we are able to take.
        queue.events.held = true;
        while taken < allowance && self.batch.answers.len() < TURN_CHAINS {
            // The longest packet must find its frames beside those of the batch.
            if self.fabric.pool.len() < self.batch.frames_missing + MAX_FRAMES {
                break;
            }
            match queue.tx.next(&mut room) {
                Ok(Some(Chain::Packet(packet))) => {
                    if packet.checksum_fixup {
                        queue.stats.checksum_fixups.add(1);
                    }
                    self.batch
                        .admit(slot, queue.domid, packet, &mut self.fabric.pool)
                }
                Ok(Some(other)) => self.batch.answers.push((slot, queue.answer_for(&other))),
                Ok(None) => {
                    queue.events.held = false;
                    break;
                }
                Err(fatal) => {
                    queue.rogue = Some(fatal);
                    break;
                }
            }
            taken += 1;
        }
        let exit = if taken > 0 {
            queue.tx.exit.take()
        } else {
            None
        };
        if let Some(Exit::Wire(wire)) = exit
            && let Some(wire) = &mut self.fabric.wires[usize::from(wire)]
        {
            wire.claim(taken);
        }
        taken
    }

    /// How many packets a queue may consume in view of where it sent the last ones.
    fn allowance(&self, slot: u16) -> usize {
        let Some(queue) = &self.fabric.queues[usize::from(slot)] else {
            return 0;
        };
        match queue.tx.exit {
            None => QUEUE_QUOTA,
            Some(Exit::Worker(worker)) => self.fabric.mesh.room(worker),
            Some(Exit::Wire(wire)) => {
                let wire = &self.fabric.wires[usize::from(wire)];
                wire.as_ref().map_or(QUEUE_QUOTA, |wire| wire.allowance())
            }
        }
    }

    /// First copy call: all of small packets, the heads of others.
    fn fetch_heads(&mut self) {
        self.count_copies(self.batch.heads.len(), self.batch.jobs.len());
        self.batch.heads.run(&*self.grants);
        crash_point!("fetched-heads");
    }

    /// Ask the switch about each packet, and plan the rest of its way.
    fn decide(&mut self) {
        let mut recent = Recent::default();
        for n in 0..self.batch.jobs.len() {
            let job = &mut self.batch.jobs[n];
            if !self.batch.heads.succeeded(job.head) {
                self.fail(n, Call::Heads);
                continue;
            }
            job.unload(self.batch.bounce.as_ref(), &self.fabric.umem);
            match self.ask_switch(n, &mut recent) {
                Hop::Queue(receiver) if self.place(n, receiver) => {}
                _ => self.batch.plan_tail(n, &mut self.fabric.pool),
            }
        }
    }

    /// The switch's verdict on one packet, by its private copy, and the next step that follows from it where that is one.
    #[inline]
    fn ask_switch(&mut self, n: usize, recent: &mut Recent) -> Hop {
        let job = &mut self.batch.jobs[n];
        let Some(queue) = &mut self.fabric.queues[usize::from(job.queue)] else {
            return Hop::Nowhere;
        };
        let head = &self.fabric.umem.data(&job.packet.frames[0])[..job.fetched.min(DATA_CAPACITY)];
        match recent.decide(&mut queue.bridge, queue.port_id, head, self.seconds) {
            Verdict::Unicast(port) => {
                job.way = Way::Port(port);
                // Only where there is a choice is the flow looked at.
                if self.fabric.ports.has_queues(port) {
                    job.hash = flow::hash(head, job.len as usize);
                }
                let hop = self.fabric.ports.hop(port, job.hash);
                if let Some(exit) = Exit::of(hop) {
                    queue.tx.exit = Some(exit);
                }
                return hop;
            }
            Verdict::Flood(flood) => {
                job.way = Way::Flood(flood);
                job.hash = flow::hash(head, job.len as usize);
                self.batch.flooded = true;
            }
            Verdict::Drop(reason) => self.discard(n, reason.into()),
        }
        Hop::Nowhere
    }

    /// Second copy call: the rest of those that go on in frames.
    fn fetch_tails(&mut self) {
        if self.batch.tails.len() > 0 {
            let packets = self
                .batch
                .jobs
                .iter()
                .filter(|job| job.tail.is_some())
                .count();
            self.count_copies(self.batch.tails.len(), packets);
            self.batch.tails.run(&*self.grants);
        }
        crash_point!("fetched");
    }

    /// Send what is complete in frames on its way.
    fn forward(&mut self) {
        for n in 0..self.batch.jobs.len() {
            let job = &mut self.batch.jobs[n];
            if job.way == Way::Done {
                continue;
            }
            if job
                .tail
                .is_some_and(|tail| !self.batch.tails.succeeded(tail))
            {
                self.fail(n, Call::Tails);
                continue;
            }
            let (way, hash, sender) = (job.way, job.hash, job.queue);
            let packet = job.take_packet();
            let result = match way {
                Way::Port(port) => self.fabric.send(port, packet, hash),
                Way::Flood(flood) => self.flood(flood, sender, packet, hash),
                Way::Done => continue,
            };
            self.account(n, result);
        }
        crash_point!("forwarded");
    }

    /// Sends a queue's packet to the ports of its bridge that such a flood goes to.
    fn flood(
        &mut self,
        flood: Flood,
        sender: u16,
        packet: Packet,
        hash: u32,
    ) -> Result<(), DropReason> {
        let Some(queue) = &mut self.fabric.queues[usize::from(sender)] else {
            return Err(self.fabric.free(packet, DropReason::PortGone));
        };
        let (ports, port) = (queue.bridge.flood(flood).clone(), queue.port_id);
        self.fabric.flood(&ports, packet, Origin { port, hash })
    }

    /// Count a packet as sent on, or as dropped.
    #[inline]
    pub(crate) fn account(&mut self, n: usize, result: Result<(), DropReason>) {
        let job = &self.batch.jobs[n];
        let Some(queue) = &self.fabric.queues[usize::from(job.queue)] else {
            return;
        };
        match result {
            Ok(()) => {
                queue.stats.tx_packets.add(1);
                queue.stats.tx_bytes.add(job.len.into());
            }
            Err(reason) => {
                queue.stats.tx_drops.add(reason, 1);
                self.batch.answers[usize::from(job.answer)].1.status = NETIF_RSP_DROPPED;
            }
        }
    }

    /// Drop a packet of the batch for `reason`.
    pub(crate) fn discard(&mut self, n: usize, reason: DropReason) {
        self.release(n);
        self.account(n, Err(reason));
    }

    /// Drop a packet of the batch whose copies failed: ERROR for the slots they were of, OKAY for the others.
    fn fail(&mut self, n: usize, call: Call) {
        let batch = &mut self.batch;
        let job = &batch.jobs[n];
        let answer = &mut batch.answers[usize::from(job.answer)].1;
        let (plan, span) = match call {
            Call::Heads => (&batch.heads, job.head),
            Call::Tails => (&batch.tails, job.tail.unwrap_or_default()),
        };
        for (position, _) in plan.failures(span) {
            answer.fail(slot_of(job.fragments(&batch.fragments), position));
        }
        if let Some(queue) = &self.fabric.queues[usize::from(job.queue)] {
            queue.stats.tx_drops.add(DropReason::CopyFailed, 1);
            queue.stats.tx_errors.add(answer.errors.count_ones().into());
        }
        self.release(n);
    }

    /// Give back the frames of a packet that goes no further.
    fn release(&mut self, n: usize) {
        let job = &mut self.batch.jobs[n];
        self.batch.frames_missing -= job.frames_missing;
        job.frames_missing = 0;
        let packet = job.take_packet();
        job.way = Way::Done;
        self.fabric.pool.extend(packet.frames);
    }

    /// Answer what every queue's chains came to, in their order, and publish it.
    fn answer(&mut self) {
        for &(slot, answer) in &self.batch.answers {
            if let Some(queue) = &mut self.fabric.queues[usize::from(slot)] {
                queue.tx.answer(answer);
            }
        }
        crash_point!("tx-responses");
        for &slot in &self.touched {
            if let Some(queue) = &mut self.fabric.queues[usize::from(slot)] {
                queue.events.notify_tx |= queue.tx.publish();
                crash_point!("tx-published");
            }
        }
    }
}
