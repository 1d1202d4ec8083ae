//! The first stage: packets come in, from Tx rings, from devices and from other workers.
use super::batch::Source;
use super::fabric::live;
use super::job::Job;
use super::ports::Destination;
use crate::bounds::{
    HOLD, LANE_PARCELS, PACKET_COST, QUEUE_QUANTUM, TURN_BYTES, TURN_CHAINS, TURN_PARCELS,
    TURN_RECEIVED,
};
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::worker::Worker;
use crate::worker::mailbox::ParcelFor;
use ring::packet::{Chain, TxPacket};
use xsk_bridge::frame::DATA_CAPACITY;

/// What a turn may still take out of Tx rings.
struct Budget {
    chains: usize,
    bytes: isize,
}

impl Budget {
    fn is_used_up(&self) -> bool {
        self.chains == 0 || self.bytes <= 0
    }

    fn spend(&mut self, cost: usize) {
        self.chains -= 1;
        self.bytes -= cost as isize;
    }
}

/// Why no more chains were taken from a queue.
#[derive(PartialEq, Eq)]
enum Ended {
    /// The queue's share, the room where its packets go, or its ring was used up.
    Queue,
    /// The turn's budget was used up.
    Turn,
}

impl<H: Hypervisor> Worker<H> {
    /// Takes chains out of the Tx rings by deficit round robin: each queue's share is in bytes, and a turn begins where the last one's
    /// budget ended.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn collect(&mut self) {
        let mut budget = Budget {
            chains: TURN_CHAINS,
            bytes: TURN_BYTES as isize,
        };
        let count = self.active.len();
        for _ in 0..count {
            self.rotation %= count;
            let slot = self.active[self.rotation];
            let first = self.batch.jobs.len();
            let ended = self.collect_from(slot, &mut budget);
            self.batch.end_burst(Source::Queue(slot), first);
            if self.batch.jobs.len() > first {
                self.touch(slot);
            }
            if ended == Ended::Turn {
                break;
            }
            self.rotation += 1;
        }
        if budget.chains < TURN_CHAINS {
            crash_point!("consumed");
        }
    }

    fn collect_from(&mut self, slot: u16, budget: &mut Budget) -> Ended {
        let allowance = self.allowance(slot);
        let now = self.fabric.now;
        let Some(queue) = live(&mut self.fabric.queues, slot) else {
            return Ended::Queue;
        };
        // Until the ring says otherwise there may be more than can be taken now.
        queue.events.held = true;
        // What is more than the guest's rate stays in its ring.
        let (bucket, sharers) = (&queue.limits.tx, queue.limits.queues);
        let credit = queue
            .tx
            .pacing
            .credit(bucket, sharers, now, &queue.stats.tx_paced);
        let Some(credit) = credit else {
            return Ended::Queue;
        };
        if queue.tx.deficit <= 0 {
            queue.tx.deficit += QUEUE_QUANTUM as isize;
        }
        let (last, mut frames, mut sent) = (queue.tx.last, 0, 0);
        let direct = queue.tx.suspected_until.is_none_or(|until| until <= now);
        let mut room = TxPacket::default();
        let ended = loop {
            if budget.is_used_up() || !self.batch.takes_chain() {
                break Ended::Turn;
            }
            if frames >= allowance || queue.tx.deficit <= 0 || sent >= credit {
                break Ended::Queue;
            }
            let cost = match queue.tx.next(&mut room) {
                Ok(Some(Chain::Packet(packet))) => {
                    self.batch.push_chain(packet, queue.domid, direct);
                    frames += frames_of(packet);
                    sent += usize::from(packet.size);
                    usize::from(packet.size).max(PACKET_COST)
                }
                Ok(Some(other)) => {
                    let status = queue.answer_for(&other);
                    self.batch
                        .jobs
                        .push(Job::answer_only(other.slots(), status));
                    PACKET_COST
                }
                Ok(None) => {
                    queue.events.held = false;
                    queue.tx.deficit = 0;
                    break Ended::Queue;
                }
                Err(fatal) => {
                    queue.rogue = Some(fatal);
                    break Ended::Queue;
                }
            };
            queue.tx.deficit -= cost as isize;
            budget.spend(cost);
        };
        if credit != usize::MAX {
            queue.limits.tx.take(sent, now);
        }
        if let Some(Destination::Uplink(uplink)) = last
            && let Some(uplink) = &mut self.fabric.uplinks[usize::from(uplink)]
        {
            uplink.claim(frames);
        }
        ended
    }

    /// How many frames a queue may consume in view of where its last packets went. A destination that stays full holds its senders for
    /// [`HOLD`] only: they may have packets for others.
    fn allowance(&mut self, slot: u16) -> usize {
        let Some(queue) = &mut self.fabric.queues[usize::from(slot)] else {
            return 0;
        };
        let room = match queue.tx.last {
            Some(Destination::Uplink(uplink)) => self.fabric.uplinks[usize::from(uplink)]
                .as_ref()
                .map_or(TURN_CHAINS, |uplink| uplink.allowance()),
            Some(Destination::QueueOf(worker)) => self.fabric.mesh.room(worker, ParcelFor::Queue),
            Some(Destination::UplinkOf(worker)) => self.fabric.mesh.room(worker, ParcelFor::Uplink),
            _ => TURN_CHAINS,
        };
        if room > 0 {
            queue.tx.held_since = None;
            return room;
        }
        let since = *queue.tx.held_since.get_or_insert(self.fabric.now);
        match self.fabric.now.saturating_duration_since(since) < HOLD {
            true => 0,
            false => TURN_CHAINS,
        }
    }

    /// Fetches heads, and all of small packets: the first copy call.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn fetch_heads(&mut self) {
        let jobs = self.batch.jobs.len();
        self.count_copies(self.batch.heads.len(), jobs);
        self.batch.heads.run(&*self.grants);
        crash_point!("fetched-heads");
    }

    /// Receives frames from every device.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn receive(&mut self) {
        let count = self.fabric.uplinks.len();
        for n in 0..count {
            // A different device first each turn, for the turn may have no room for all.
            let slot = (self.turn_number as usize + n) % count;
            let Some(uplink) = &mut self.fabric.uplinks[slot] else {
                continue;
            };
            if !self.batch.takes_received() {
                break;
            }
            let (batch, pool) = (&mut self.batch, &mut self.fabric.pool);
            let first = batch.jobs.len();
            if uplink.receive(pool, &mut batch.received, TURN_RECEIVED) > 0 {
                batch
                    .jobs
                    .extend(batch.received.drain(..).map(Job::in_frames));
                batch.end_burst(Source::Uplink(slot as u16), first);
            }
        }
    }

    /// Takes in what other workers sent here. A full device holds what is for devices, for [`HOLD`] at most, and nothing else.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn take_parcels(&mut self) {
        let now = self.fabric.now;
        let mut uplinks = self.fabric.uplinks.iter().flatten();
        let holds = uplinks.any(|uplink| uplink.holds(now));
        let first = self.batch.jobs.len();
        let workers = self.fabric.mesh.workers();
        for n in 0..workers {
            let worker = (self.turn_number as usize + n) % workers;
            for kind in [ParcelFor::Queue, ParcelFor::Uplink] {
                if kind == ParcelFor::Uplink && holds {
                    continue;
                }
                for _ in 0..LANE_PARCELS {
                    if self.batch.jobs.len() - first == TURN_PARCELS {
                        break;
                    }
                    let Some(parcel) = self.fabric.mesh.take(worker, kind) else {
                        break;
                    };
                    let mut job = Job::in_frames(parcel.packet);
                    let destination = self.fabric.ports.destination(parcel.port, parcel.hash);
                    // A packet crosses to one other worker at most: where the port has moved on meanwhile, it is dropped.
                    job.destination = match destination.is_elsewhere() {
                        true => Destination::Nowhere,
                        false => destination,
                    };
                    self.batch.jobs.push(job);
                }
            }
        }
        self.batch.end_burst(Source::Worker, first);
    }
}

/// Most bytes of headers of a segment: Ethernet with two tags, IPv6, TCP with all options.
const HEADERS: usize = 14 + 8 + 40 + 60;

/// Frames that a device needs for a packet: those of its length, or those of each of its segments.
#[inline]
fn frames_of(packet: &TxPacket) -> usize {
    match packet.gso {
        // Nearly all packets: a comparison costs less than a division.
        None if usize::from(packet.size) <= DATA_CAPACITY => 1,
        None => usize::from(packet.size).div_ceil(DATA_CAPACITY),
        Some(gso) => {
            let segment = usize::from(gso.size.min(packet.size)) + HEADERS;
            packet.size.div_ceil(gso.size) as usize * segment.div_ceil(DATA_CAPACITY)
        }
    }
}
