//! The second stage: the switch says where each packet goes.
use super::batch::{Batch, Source};
use super::flow;
use super::job::{Job, Outcome};
use super::ports::{Destination, Ports};
use crate::copy::staging::Staging;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::worker::Worker;
use std::ops::Range;
use xsk_bridge::frame::{FramePool, Umem};
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::{BridgeView, PortId, Recent, Ruling, Verdict};

/// What a decision looks at beside the packet and its source.
struct Context<'a> {
    ports: &'a Ports,
    staging: &'a Staging,
    umem: &'a Umem,
    /// The switch's clock.
    seconds: u32,
}

impl<H: Hypervisor> Worker<H> {
    /// Decides every burst but those of other workers, which have been decided there.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn decide(&mut self) {
        for n in 0..self.batch.bursts.len() {
            let burst = self.batch.bursts[n].clone();
            match burst.source {
                Source::Queue(slot) => self.decide_from_queue(slot, burst.jobs),
                Source::Uplink(slot) => self.decide_from_uplink(slot, burst.jobs),
                Source::Worker => {}
            }
        }
    }

    fn decide_from_queue(&mut self, slot: u16, jobs: Range<usize>) {
        self.check_heads(slot, jobs.clone());
        let (batch, fabric) = (&mut self.batch, &mut self.fabric);
        let Some(queue) = &mut fabric.queues[usize::from(slot)] else {
            return;
        };
        if let Some(filter) = &queue.filter {
            batch.filter(jobs.clone(), filter, fabric.pool.umem());
        }
        if queue.bridge.has_rules() {
            let by_rules = ByRules {
                batch,
                bridge: &mut queue.bridge,
                ports: &fabric.ports,
                pool: &mut fabric.pool,
                seconds: self.seconds,
            };
            by_rules.decide(jobs.clone(), queue.port_id);
        } else {
            let context = Context {
                ports: &fabric.ports,
                staging: &batch.staging,
                umem: fabric.pool.umem(),
                seconds: self.seconds,
            };
            let jobs = &mut batch.jobs[jobs.clone()];
            decide(jobs, &mut queue.bridge, queue.port_id, &context);
        }
        let jobs = &self.batch.jobs[jobs];
        let leaves = |job: &&Job| job.destination.can_be_full();
        queue.tx.last = jobs.iter().rev().find(leaves).map(|job| job.destination);
    }

    fn decide_from_uplink(&mut self, slot: u16, jobs: Range<usize>) {
        let (batch, fabric) = (&mut self.batch, &mut self.fabric);
        let Some(uplink) = &mut fabric.uplinks[usize::from(slot)] else {
            return;
        };
        if uplink.bridge.has_rules() {
            let by_rules = ByRules {
                batch,
                bridge: &mut uplink.bridge,
                ports: &fabric.ports,
                pool: &mut fabric.pool,
                seconds: self.seconds,
            };
            return by_rules.decide(jobs, uplink.port_id);
        }
        let context = Context {
            ports: &fabric.ports,
            staging: &batch.staging,
            umem: fabric.pool.umem(),
            seconds: self.seconds,
        };
        let jobs = &mut batch.jobs[jobs];
        decide(jobs, &mut uplink.bridge, uplink.port_id, &context);
    }

    /// Drops packets whose heads could not be fetched, those that ask for a segmentation that cannot be, and those that are longer than
    /// the vif's MTU.
    fn check_heads(&mut self, slot: u16, jobs: Range<usize>) {
        let batch = &mut self.batch;
        let Some(queue) = &self.fabric.queues[usize::from(slot)] else {
            return;
        };
        let longest = queue.limits.longest();
        for job in &mut batch.jobs[jobs] {
            if job.outcome != Outcome::Pending {
                continue;
            }
            if !batch.heads.succeeded(job.fetches[0]) {
                for (position, _) in batch.heads.failures(job.fetches[0]) {
                    job.fail_at(position, &batch.fragments);
                }
                job.outcome = Outcome::CopyFailed;
                job.destination = Destination::Nowhere;
            } else if let Some(gso) = job.offload.gso
                && !job.judge(gso, batch.staging.bytes_mut(job.head))
            {
                job.drop_for(DropReason::GsoRefused);
                job.destination = Destination::Nowhere;
            } else if job.len > longest && queue.limits.is_too_long(job.len, job.offload.gso) {
                job.drop_for(DropReason::TooLong);
                job.destination = Destination::Nowhere;
            }
        }
    }
}

/// Asks the switch about the packets of one burst that came in by `ingress`.
fn decide(jobs: &mut [Job], bridge: &mut BridgeView, ingress: PortId, context: &Context<'_>) {
    let mut recent = Recent::<Verdict>::default();
    // Consecutive packets mostly go where the one before them went.
    let mut last = (PortId(0), Destination::Nowhere);
    for job in jobs
        .iter_mut()
        .filter(|job| job.destination == Destination::Undecided)
    {
        let head = job.head_bytes(context.staging, context.umem);
        match recent.decide(bridge, ingress, head, context.seconds) {
            Verdict::Unicast(port) if port == last.0 => job.destination = last.1,
            Verdict::Unicast(port) => match context.ports.only_destination(port) {
                Some(destination) => {
                    job.destination = destination;
                    job.port = port;
                    if !destination.is_elsewhere() {
                        last = (port, destination);
                    }
                }
                None => {
                    let hash = flow::hash(head, job.len as usize);
                    job.destination = context.ports.destination(port, hash);
                    (job.port, job.hash) = (port, hash);
                }
            },
            Verdict::Flood(flood) => {
                job.hash = flow::hash(head, job.len as usize);
                job.destination = Destination::Flood(flood);
            }
            Verdict::Drop(reason) => {
                job.drop_for(reason.into());
                job.destination = Destination::Nowhere;
            }
        }
        if job.destination == Destination::Nowhere {
            job.drop_for(DropReason::PortGone);
        }
    }
}

impl Batch {
    /// Drops what a guest may not send.
    #[inline(never)]
    fn filter(&mut self, jobs: Range<usize>, filter: &Filter, umem: &Umem) {
        for job in &mut self.jobs[jobs] {
            if job.destination != Destination::Undecided {
                continue;
            }
            if let Err(broken) = filter.judge(job.head_bytes(&self.staging, umem)) {
                job.drop_for(broken.into());
                job.destination = Destination::Nowhere;
            }
        }
    }
}

/// What decides the packets of a burst where ports have rules. Consecutive packets with the same addresses and tag are ruled on once; the
/// tag of each is changed.
struct ByRules<'a> {
    batch: &'a mut Batch,
    bridge: &'a mut BridgeView,
    ports: &'a Ports,
    pool: &'a mut FramePool,
    seconds: u32,
}

impl ByRules<'_> {
    #[inline(never)]
    fn decide(self, jobs: Range<usize>, ingress: PortId) {
        let mut recent = Recent::<Ruling>::default();
        for n in jobs {
            let job = &mut self.batch.jobs[n];
            if job.destination != Destination::Undecided {
                continue;
            }
            let head = job.head_bytes(&self.batch.staging, self.pool.umem());
            let ruling = recent.decide(self.bridge, ingress, head, self.seconds);
            let only = match ruling.verdict {
                Verdict::Unicast(port) => self.ports.only_destination(port),
                _ => None,
            };
            if only.is_none() {
                job.hash = flow::hash(head, job.len as usize);
            }
            let hash = job.hash;
            let (destination, reason) = match ruling.verdict {
                Verdict::Flood(flood) => {
                    self.batch.vlans.push((n as u16, ruling.vlan));
                    (Destination::Flood(flood), DropReason::PortGone)
                }
                Verdict::Drop(reason) => (Destination::Nowhere, reason.into()),
                Verdict::Unicast(port) => {
                    job.port = port;
                    match self.batch.retag(n, ruling.retag, self.pool) {
                        Ok(()) => (
                            only.unwrap_or_else(|| self.ports.destination(port, hash)),
                            DropReason::PortGone,
                        ),
                        Err(reason) => (Destination::Nowhere, reason),
                    }
                }
            };
            let job = &mut self.batch.jobs[n];
            job.destination = destination;
            if destination == Destination::Nowhere {
                job.drop_for(reason);
            }
        }
    }
}
