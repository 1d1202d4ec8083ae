//! Between workers: packets for a port that lives elsewhere, and frames on their way home.
use super::wake::Waker;
use crate::bounds::{HOMEBOUND, PARCELS};
use crossbeam_queue::ArrayQueue;
use std::io;
use std::sync::Arc;
use xsk_bridge::frame::{Frame, FramePool};
use xsk_bridge::packet::Packet;
use xsk_bridge::switch::PortId;

/// What serves the port that a packet is sent to. The two kinds wait apart, so that a full device stops nothing between guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParcelFor {
    /// A guest's queue.
    Queue,
    /// A device.
    Uplink,
}

/// A packet for a port that another worker serves.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub packet: Packet,
    pub port: PortId,
    /// Hash of its flow, by which a guest's queue was chosen.
    pub hash: u32,
}

/// One way between two workers.
#[derive(Debug)]
struct Lane {
    for_queues: ArrayQueue<Parcel>,
    for_uplinks: ArrayQueue<Parcel>,
    home: ArrayQueue<Frame>,
}

impl Lane {
    fn parcels(&self, kind: ParcelFor) -> &ArrayQueue<Parcel> {
        match kind {
            ParcelFor::Queue => &self.for_queues,
            ParcelFor::Uplink => &self.for_uplinks,
        }
    }
}

/// A worker's end of the queues between workers.
#[derive(Debug)]
pub struct MeshEnd {
    index: usize,
    /// By worker; nobody's own is ever used.
    outgoing: Vec<Arc<Lane>>,
    incoming: Vec<Arc<Lane>>,
    wakers: Vec<Arc<Waker>>,
    /// Frames of each worker's packets that came here and are not paid back. Frames are alike, so any will do.
    owed: Vec<usize>,
    /// Frames sent away less those that came home.
    away: i64,
    /// Workers to wake at the end of the turn, a bit each.
    wake: u128,
}

/// The ends of the queues between `workers` workers (at most 128), in order of their index.
///
/// # Errors
/// No eventfd.
pub fn mesh(workers: u8) -> io::Result<Vec<MeshEnd>> {
    assert!(workers <= 128, "at most 128 workers");
    let count = usize::from(workers);
    let wakers = (0..count)
        .map(|_| Waker::new().map(Arc::new))
        .collect::<io::Result<Vec<_>>>()?;
    let lane = || {
        Arc::new(Lane {
            for_queues: ArrayQueue::new(PARCELS),
            for_uplinks: ArrayQueue::new(PARCELS),
            home: ArrayQueue::new(HOMEBOUND),
        })
    };
    let lanes: Vec<Vec<_>> = (0..count)
        .map(|_| (0..count).map(|_| lane()).collect())
        .collect();
    let end = |index: usize| MeshEnd {
        index,
        outgoing: lanes[index].clone(),
        incoming: lanes.iter().map(|from| from[index].clone()).collect(),
        wakers: wakers.clone(),
        owed: vec![0; count],
        away: 0,
        wake: 0,
    };
    Ok((0..count).map(end).collect())
}

impl MeshEnd {
    /// The waker of this end's worker.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.wakers[self.index]
    }

    /// Packets of this kind that `worker` can still be sent.
    #[inline]
    pub(crate) fn room(&self, worker: u8, kind: ParcelFor) -> usize {
        let parcels = self.outgoing[usize::from(worker)].parcels(kind);
        parcels.capacity() - parcels.len()
    }

    /// Sends `parcel` to `worker`.
    ///
    /// # Errors
    /// The packet, where the queue is full.
    pub(crate) fn post(
        &mut self,
        worker: u8,
        kind: ParcelFor,
        parcel: Parcel,
    ) -> Result<(), Packet> {
        let frames = parcel.packet.frame_count();
        self.outgoing[usize::from(worker)]
            .parcels(kind)
            .push(parcel)
            .map_err(|parcel| parcel.packet)?;
        self.away += frames as i64;
        self.wake |= 1 << worker;
        Ok(())
    }

    /// The next packet of this kind from `worker`.
    pub(crate) fn take(&mut self, worker: usize, kind: ParcelFor) -> Option<Parcel> {
        let parcel = self.incoming[worker].parcels(kind).pop()?;
        self.owed[worker] += parcel.packet.frame_count();
        Some(parcel)
    }

    /// Workers in the mesh.
    pub(crate) fn workers(&self) -> usize {
        self.outgoing.len()
    }

    /// Take in the frames that came home.
    pub(crate) fn collect_frames(&mut self, pool: &mut FramePool) {
        for lane in &self.incoming {
            while let Some(frame) = lane.home.pop() {
                pool.give(frame);
                self.away -= 1;
            }
        }
    }

    /// Send home what is owed, as far as `pool` keeps `reserve` frames, and wake everybody who was sent something.
    pub(crate) fn settle(&mut self, pool: &mut FramePool, reserve: usize) {
        for (worker, owed) in self.owed.iter_mut().enumerate() {
            while *owed > 0 && pool.len() > reserve {
                let Some(frame) = pool.take() else { break };
                if let Err(frame) = self.outgoing[worker].home.push(frame) {
                    pool.give(frame);
                    break;
                }
                *owed -= 1;
                self.wake |= 1 << worker;
            }
        }
        while self.wake != 0 {
            let worker = self.wake.trailing_zeros();
            self.wake &= self.wake - 1;
            self.wakers[worker as usize].wake();
        }
    }

    /// Nothing has come in; what is for devices does not count where they `hold` it.
    pub(crate) fn is_empty(&self, hold: bool) -> bool {
        self.incoming.iter().all(|lane| {
            lane.for_queues.is_empty()
                && (hold || lane.for_uplinks.is_empty())
                && lane.home.is_empty()
        })
    }

    /// Frames of ours that are elsewhere less others' frames that are here. The sum over all workers is what is in the queues between
    /// them.
    pub(crate) fn travelling(&self) -> i64 {
        self.away - self.owed.iter().sum::<usize>() as i64
    }
}
