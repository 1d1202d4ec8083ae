//! The second stage: the switch says where each packet goes.
use super::batch::Source;
use super::flow;
use super::job::{Job, Outcome};
use super::ports::{Destination, Ports};
use crate::copy::staging::Staging;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::worker::Worker;
use std::ops::Range;
use xsk_bridge::frame::Umem;
use xsk_bridge::switch::{BridgeView, PortId, Recent, Verdict};

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
        self.check_heads(jobs.clone());
        let context = Context {
            ports: &self.fabric.ports,
            staging: &self.batch.staging,
            umem: self.fabric.pool.umem(),
            seconds: self.seconds,
        };
        let Some(queue) = &mut self.fabric.queues[usize::from(slot)] else {
            return;
        };
        let jobs = &mut self.batch.jobs[jobs];
        decide(jobs, &mut queue.bridge, queue.port_id, &context);
        let leaves = |job: &&Job| job.destination.can_be_full();
        queue.tx.last = jobs.iter().rev().find(leaves).map(|job| job.destination);
    }

    fn decide_from_uplink(&mut self, slot: u16, jobs: Range<usize>) {
        let context = Context {
            ports: &self.fabric.ports,
            staging: &self.batch.staging,
            umem: self.fabric.pool.umem(),
            seconds: self.seconds,
        };
        let Some(uplink) = &mut self.fabric.uplinks[usize::from(slot)] else {
            return;
        };
        let jobs = &mut self.batch.jobs[jobs];
        decide(jobs, &mut uplink.bridge, uplink.port_id, &context);
    }

    /// Drops packets whose heads could not be fetched, and those that ask for a segmentation that cannot be.
    fn check_heads(&mut self, jobs: Range<usize>) {
        let batch = &mut self.batch;
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
            }
        }
    }
}

/// Asks the switch about the packets of one burst that came in by `ingress`.
fn decide(jobs: &mut [Job], bridge: &mut BridgeView, ingress: PortId, context: &Context<'_>) {
    let mut recent = Recent::default();
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
