//! The end of a turn for senders: what became of each packet is counted, and every chain is answered in ring order.
use super::batch::{Batch, Source};
use super::job::{Job, Outcome};
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::{DropReason, Drops};
use crate::queue::Queue;
use crate::worker::Worker;
use ring::wire::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};
use xsk_bridge::frame::FramePool;

impl<H: Hypervisor> Worker<H> {
    /// Counts what became of each burst, answers the chains of guests, and publishes the answers.
    #[inline(never)] // A profile tells the stages apart.
    pub(crate) fn answer(&mut self) {
        let Batch { bursts, jobs, .. } = &mut self.batch;
        let fabric = &mut self.fabric;
        for burst in bursts.iter() {
            let jobs = &mut jobs[burst.jobs.clone()];
            match burst.source {
                Source::Queue(slot) => {
                    if let Some(queue) = &mut fabric.queues[usize::from(slot)] {
                        queue.answer(jobs);
                    }
                }
                Source::Uplink(slot) => {
                    if let Some(uplink) = &fabric.uplinks[usize::from(slot)] {
                        count_drops(jobs, &uplink.stats.recv_drops);
                    }
                    free(jobs, &mut fabric.pool);
                }
                Source::Worker => {
                    count_drops(jobs, &self.stats.drops);
                    free(jobs, &mut fabric.pool);
                }
            }
        }
        crash_point!("tx-responses");
        for &slot in &self.touched {
            if let Some(queue) = &mut fabric.queues[usize::from(slot)] {
                queue.events.notify_tx |= queue.tx.publish();
                crash_point!("tx-published");
            }
        }
    }
}

impl<H: Hypervisor> Queue<H> {
    /// Answers consecutive chains of the Tx ring, and counts them.
    fn answer(&mut self, jobs: &[Job]) {
        let (mut packets, mut bytes, mut gso) = (0, 0, 0);
        for job in jobs {
            let status = match job.outcome {
                Outcome::Sent => {
                    packets += 1;
                    bytes += u64::from(job.len);
                    gso += u64::from(job.offload.gso.is_some());
                    NETIF_RSP_OKAY
                }
                Outcome::Answered(status) => status,
                Outcome::CopyFailed => {
                    self.stats.tx_drops.add(DropReason::CopyFailed, 1);
                    NETIF_RSP_OKAY
                }
                Outcome::Dropped(reason) => {
                    self.stats.tx_drops.add(reason, 1);
                    NETIF_RSP_DROPPED
                }
                Outcome::Pending => {
                    debug_assert!(false, "a packet was forgotten");
                    NETIF_RSP_DROPPED
                }
            };
            if job.fixup {
                self.stats.checksum_fixups.add(1);
            }
            match job.errors {
                0 => self.tx.answer(job.slots, |_| status),
                errors => {
                    self.stats.tx_errors.add(errors.count_ones().into());
                    self.tx
                        .answer(job.slots, |slot| match errors >> job.data_slot(slot) & 1 {
                            0 => status,
                            _ => NETIF_RSP_ERROR,
                        });
                }
            }
        }
        if packets > 0 {
            self.stats.tx_packets.add(packets);
            self.stats.tx_bytes.add(bytes);
            self.stats.tx_gso_packets.add(gso);
        }
    }
}

/// Counts the packets of a burst that went nowhere.
fn count_drops(jobs: &[Job], drops: &Drops) {
    for job in jobs {
        if let Outcome::Dropped(reason) = job.outcome {
            drops.add(reason, 1);
        }
    }
}

/// Gives back the frames of packets that were copied out of them.
fn free(jobs: &mut [Job], pool: &mut FramePool) {
    for packet in jobs.iter_mut().filter_map(|job| job.packet.take()) {
        pool.recycle(packet);
    }
}
