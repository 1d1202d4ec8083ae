//! Packets towards ports that another worker serves.
use super::{Handed, Pass};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Batch;
use crate::path::fabric::Fabric;
use crate::path::ports::Destination;
use crate::worker::Worker;
use crate::worker::mailbox::{Parcel, ParcelFor};
use std::ops::Range;
use xsk_bridge::packet::Packet;
use xsk_bridge::switch::PortId;

impl<H: Hypervisor> Worker<H> {
    /// Posts consecutive packets to another worker.
    pub(super) fn hand_to_worker(&mut self, worker: u8, jobs: Range<usize>, pass: Pass) {
        for n in jobs {
            let handed = self.post(worker, n, pass);
            self.batch.settle(n, handed);
        }
    }

    fn post(&mut self, worker: u8, n: usize, pass: Pass) -> Handed {
        let (batch, fabric) = (&mut self.batch, &mut self.fabric);
        let job = &batch.jobs[n];
        let kind = match job.destination {
            Destination::UplinkOf(_) => ParcelFor::Uplink,
            _ => ParcelFor::Queue,
        };
        let barrier = &mut fabric.barriers[usize::from(worker)];
        if pass == Pass::First && (*barrier == self.turn_number || !job.is_whole()) {
            *barrier = self.turn_number;
            return Handed::Deferred;
        }
        if fabric.mesh.room(worker, kind) == 0 {
            return Handed::Refused(DropReason::MailboxFull);
        }
        let (port, hash) = (job.port, job.hash);
        match batch.take_packet(n, &mut fabric.pool) {
            Some(packet) => fabric.post(worker, kind, Parcel { packet, port, hash }),
            None => Handed::Refused(DropReason::NoFrame),
        }
    }
}

impl<H: Hypervisor> Fabric<H> {
    /// Posts a copy of packet `n`, which is whole, as part of a flood to `port`.
    pub(super) fn post_copy(
        &mut self,
        worker: u8,
        kind: ParcelFor,
        port: PortId,
        n: usize,
        batch: &Batch,
    ) -> Handed {
        if self.mesh.room(worker, kind) == 0 {
            return Handed::Refused(DropReason::MailboxFull);
        }
        let hash = batch.jobs[n].hash;
        match batch.copy_frames(n, &mut self.pool) {
            Some(packet) => self.post(worker, kind, Parcel { packet, port, hash }),
            None => Handed::Refused(DropReason::NoFrame),
        }
    }

    fn post(&mut self, worker: u8, kind: ParcelFor, parcel: Parcel) -> Handed {
        match self.mesh.post(worker, kind, parcel) {
            Ok(()) => Handed::Taken,
            Err(packet) => self.refuse(packet),
        }
    }

    #[cold]
    fn refuse(&mut self, packet: Packet) -> Handed {
        self.pool.recycle(packet);
        Handed::Refused(DropReason::MailboxFull)
    }
}
