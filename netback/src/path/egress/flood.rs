//! Packets for several ports of a bridge.
use super::queue::Turn;
use super::{Handed, Pass};
use crate::bounds::FLOOD_COST;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Source;
use crate::path::fabric::live;
use crate::path::job::Outcome;
use crate::path::ports::Destination;
use crate::worker::Worker;
use crate::worker::mailbox::ParcelFor;
use ring::wire::NETIF_RSP_DROPPED;
use std::mem;
use xsk_bridge::packet::{Checksum, Offload};
use xsk_bridge::switch::tag::Retag;
use xsk_bridge::switch::{Flood, PortId, Receiver};

/// What became of the copies of a flooded packet.
#[derive(Debug, Default)]
struct Copies {
    /// A receiver took a copy.
    taken: bool,
    /// A receiver refused its copy, which was counted.
    refused: bool,
}

impl<H: Hypervisor> Worker<H> {
    /// Hands packet `n` to every port that its bridge floods it to, devices first, which must not lose to the copies for guests. The copies
    /// count for the port that the packet came in by, and those beyond that port's share of the turn are dropped.
    pub(super) fn flood(&mut self, n: usize, flood: Flood, pass: Pass) {
        if self.batch.jobs[n].outcome != Outcome::Pending {
            return;
        }
        let first = pass == Pass::First;
        if first && (!self.batch.jobs[n].is_whole() || !self.batch.deferred.is_empty()) {
            self.batch.settle(n, Handed::Deferred);
            self.defer_all();
            return;
        }
        let Some(ingress) = self.find_receivers(n, flood) else {
            return self.batch.jobs[n].drop_for(DropReason::PortGone);
        };
        let Offload { checksum, gso } = self.batch.jobs[n].offload;
        if checksum == Checksum::Blank && gso.is_none() {
            // One copy serves all, so what one receiver cannot complete is complete for all.
            let completed = self.batch.complete_checksum(n, self.fabric.pool.umem());
            if completed.is_err() {
                return self.batch.jobs[n].drop_for(DropReason::ChecksumImpossible);
            }
        }
        let mut receivers = mem::take(&mut self.batch.receivers);
        let mut copies = Copies::default();
        for uplinks in [true, false] {
            self.flood_over(n, ingress, uplinks, &mut receivers, &mut copies);
        }
        receivers.clear();
        self.batch.receivers = receivers;
        let job = &mut self.batch.jobs[n];
        job.outcome = match (copies.taken, copies.refused) {
            (true, _) => Outcome::Sent,
            // Each copy has been counted.
            (false, true) => Outcome::Answered(NETIF_RSP_DROPPED),
            (false, false) => Outcome::Dropped(DropReason::NoPort),
        };
    }

    /// Hands packet `n` to those of `receivers` that are uplinks, or to those that are not, and takes them off the list: first as the
    /// packet is, then with its tag as the others have it.
    fn flood_over(
        &mut self,
        n: usize,
        ingress: PortId,
        uplinks: bool,
        receivers: &mut Vec<Receiver>,
        copies: &mut Copies,
    ) {
        // Without a tag, with one, and as it came: a third look finds nobody left.
        for _ in 0..3 {
            let (vlan, mut next) = (self.batch.vlan_of(n), Retag::Keep);
            receivers.retain(|receiver| {
                let job = &self.batch.jobs[n];
                let destination = self.fabric.ports.destination(receiver.port, job.hash);
                if is_uplink(destination) != uplinks {
                    return true;
                }
                let retag = vlan.retag(receiver.form);
                if retag != Retag::Keep {
                    next = retag;
                    return true;
                }
                match self.flood_to(destination, receiver.port, ingress, n) {
                    Handed::Refused(reason) => {
                        self.count_copy_dropped(n, reason);
                        copies.refused = true;
                    }
                    _ => copies.taken = true,
                }
                false
            });
            if next == Retag::Keep {
                return;
            }
            if let Err(reason) = self.batch.retag(n, next, &mut self.fabric.pool) {
                self.count_copy_dropped(n, reason);
                copies.refused = true;
                return;
            }
            self.batch.set_vlan(n, vlan.after(next));
        }
    }

    /// Counts a copy of packet `n` that a receiver did not take, where the packet came in.
    fn count_copy_dropped(&self, n: usize, reason: DropReason) {
        let mut bursts = self.batch.bursts.iter();
        let source = bursts.find(|burst| burst.jobs.contains(&n));
        match source.map(|burst| burst.source) {
            Some(Source::Queue(slot)) => {
                if let Some(queue) = &self.fabric.queues[usize::from(slot)] {
                    queue.stats.tx_drops.add(reason, 1);
                }
            }
            Some(Source::Uplink(slot)) => {
                if let Some(uplink) = &self.fabric.uplinks[usize::from(slot)] {
                    uplink.stats.recv_drops.add(reason, 1);
                }
            }
            Some(Source::Worker) | None => {}
        }
    }

    /// The port that packet `n` came in by; the ports that such a flood goes to are put into the batch.
    fn find_receivers(&mut self, n: usize, flood: Flood) -> Option<PortId> {
        let (batch, fabric) = (&mut self.batch, &mut self.fabric);
        let mut bursts = batch.bursts.iter();
        let burst = bursts.find(|burst| burst.jobs.contains(&n))?;
        let (ingress, bridge) = match burst.source {
            Source::Queue(slot) => {
                let queue = fabric.queues[usize::from(slot)].as_mut()?;
                (queue.port_id, &mut queue.bridge)
            }
            Source::Uplink(slot) => {
                let uplink = fabric.uplinks[usize::from(slot)].as_mut()?;
                (uplink.port_id, &mut uplink.bridge)
            }
            // What other workers send has one port to go to.
            Source::Worker => return None,
        };
        bridge.receivers(flood, ingress, batch.vlan_of(n), &mut batch.receivers);
        Some(ingress)
    }

    /// Hands a copy of packet `n` to one of the ports it is flooded to.
    fn flood_to(
        &mut self,
        destination: Destination,
        port: PortId,
        ingress: PortId,
        n: usize,
    ) -> Handed {
        if !is_uplink(destination) {
            let cost = (self.batch.jobs[n].len as usize).max(FLOOD_COST);
            let left = self.fabric.flood_budget(ingress, self.turn_number);
            if *left < cost {
                return Handed::Refused(DropReason::FloodLimit);
            }
            *left -= cost;
        }
        let (batch, fabric) = (&mut self.batch, &mut self.fabric);
        match destination {
            Destination::Queue(slot) => self.flood_to_queue(slot, n),
            Destination::Uplink(slot) => match &mut fabric.uplinks[usize::from(slot)] {
                Some(uplink) => uplink.take_copy(n, batch, &mut fabric.pool),
                None => Handed::Refused(DropReason::PortGone),
            },
            Destination::QueueOf(worker) => {
                fabric.post_copy(worker, ParcelFor::Queue, port, n, batch)
            }
            Destination::UplinkOf(worker) => {
                fabric.post_copy(worker, ParcelFor::Uplink, port, n, batch)
            }
            _ => Handed::Refused(DropReason::PortGone),
        }
    }

    fn flood_to_queue(&mut self, slot: u16, n: usize) -> Handed {
        let fabric = &mut self.fabric;
        let mut turn = Turn {
            number: self.turn_number,
            now: fabric.now,
            pool: &mut fabric.pool,
            waiting: &mut fabric.waiting,
        };
        let Some(queue) = live(&mut fabric.queues, slot) else {
            return Handed::Refused(DropReason::PortGone);
        };
        let placed = self.batch.placed.len();
        let handed = queue.take_in(slot, n, &mut self.batch, &mut turn, Pass::Second);
        if self.batch.placed.len() > placed {
            self.touch(slot);
        }
        handed
    }

    /// Defers all later packets of this turn, so that none overtakes a flood that was deferred.
    fn defer_all(&mut self) {
        let (turn, fabric) = (self.turn_number, &mut self.fabric);
        for queue in fabric.queues.iter_mut().flatten() {
            queue.rx.barrier = turn;
        }
        for uplink in fabric.uplinks.iter_mut().flatten() {
            uplink.barrier = turn;
        }
        fabric.barriers.fill(turn);
    }
}

fn is_uplink(destination: Destination) -> bool {
    matches!(
        destination,
        Destination::Uplink(_) | Destination::UplinkOf(_)
    )
}
