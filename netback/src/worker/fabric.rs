//! Everything a packet can go to from this worker, and the last look at it before it does.
use super::mailbox::{MeshEnd, Parcel};
use super::ports::{Hop, Ports};
use super::wire::Wire;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::queue::Queue;
use std::time::Instant;
use xsk_bridge::frame::{DATA_CAPACITY, FramePool, Umem};
use xsk_bridge::packet::{Checksum, Packet};
use xsk_bridge::switch::PortId;

/// Copies made for floods in one turn; more are not made, so that a storm costs a bounded part of it.
pub(crate) const FLOOD_COPIES: usize = 512;

/// The queues and uplinks of a worker, its neighbours, and its frames.
pub(crate) struct Fabric<H: Hypervisor> {
    /// By slot.
    pub queues: Vec<Option<Queue<H>>>,
    /// By slot.
    pub wires: Vec<Option<Wire>>,
    pub ports: Ports,
    pub mesh: MeshEnd,
    pub umem: Umem,
    pub pool: FramePool,
    /// Queues with a backlog.
    pub waiting: Vec<u16>,
    /// When the turn began.
    pub now: Instant,
    flood_copies: usize,
}

/// Where a packet comes from, to be left out of a flood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub port: PortId,
    /// Hash of the flow.
    pub hash: u32,
}

impl<H: Hypervisor> Fabric<H> {
    pub fn new(ports: Ports, mesh: MeshEnd, umem: Umem, pool: FramePool) -> Self {
        let (queues, wires, waiting) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            queues,
            wires,
            ports,
            mesh,
            umem,
            pool,
            waiting,
            now: Instant::now(),
            flood_copies: 0,
        }
    }

    /// A turn begins.
    pub fn begin(&mut self) {
        self.now = Instant::now();
        self.flood_copies = 0;
        self.mesh.collect_frames(&mut self.pool);
        for wire in self.wires.iter_mut().flatten() {
            wire.begin(&mut self.pool);
        }
    }

    /// Send `packet` to `port`. An error is to be counted by whoever sent it; what the receiver refuses is counted there.
    #[inline]
    pub fn send(&mut self, port: PortId, packet: Packet, hash: u32) -> Result<(), DropReason> {
        match self.ports.hop(port, hash) {
            Hop::Queue(slot) => self.send_to_queue(slot, packet),
            Hop::Wire(slot) => self.send_to_wire(slot, packet),
            Hop::Worker(worker) => self
                .mesh
                .post(worker, Parcel { packet, port, hash })
                .map_err(|packet| self.free(packet, DropReason::MailboxFull)),
            Hop::Nowhere => Err(self.free(packet, DropReason::PortGone)),
        }
    }

    /// Take in a packet that another worker sent here; it goes no further than this worker.
    pub fn arrive(&mut self, parcel: Parcel) -> Result<(), DropReason> {
        match self.ports.hop(parcel.port, parcel.hash) {
            Hop::Queue(slot) => self.send_to_queue(slot, parcel.packet),
            Hop::Wire(slot) => self.send_to_wire(slot, parcel.packet),
            Hop::Worker(_) | Hop::Nowhere => Err(self.free(parcel.packet, DropReason::PortGone)),
        }
    }

    /// Sends `packet` to each of `ports` but its origin. An error where it went nowhere.
    pub fn flood(
        &mut self,
        ports: &[PortId],
        packet: Packet,
        origin: Origin,
    ) -> Result<(), DropReason> {
        let mut last = None;
        let mut sent = Err(DropReason::NoPort);
        for &port in ports.iter().filter(|&&port| port != origin.port) {
            // The packet itself goes to the last port, copies to those before it.
            if let Some(port) = last.replace(port) {
                let copied = self
                    .clone_packet(&packet)
                    .and_then(|copy| self.send(port, copy, origin.hash));
                sent = sent.or(copied);
            }
        }
        match last {
            Some(port) => self.send(port, packet, origin.hash).or(sent),
            None => Err(self.free(packet, DropReason::NoPort)),
        }
    }

    /// Give the packet's frames back.
    #[inline(never)]
    pub fn free(&mut self, packet: Packet, reason: DropReason) -> DropReason {
        self.pool.extend(packet.frames);
        reason
    }

    #[inline]
    fn send_to_wire(&mut self, slot: u16, mut packet: Packet) -> Result<(), DropReason> {
        let Some(wire) = &mut self.wires[usize::from(slot)] else {
            return Err(self.free(packet, DropReason::PortGone));
        };
        if let Err(reason) = wire.admit(&mut packet, &self.umem) {
            return Err(self.free(packet, reason));
        }
        wire.send(packet);
        Ok(())
    }

    /// Put `packet` behind what waits for a queue of ours, if the guest can take it.
    #[inline]
    pub fn send_to_queue(&mut self, slot: u16, mut packet: Packet) -> Result<(), DropReason> {
        let Some(queue) = live(&mut self.queues, slot) else {
            return Err(self.free(packet, DropReason::PortGone));
        };
        match queue.admit(&mut packet, &self.umem) {
            Ok(()) => queue.wait(packet, slot, self.now, &mut self.waiting),
            Err(reason) => drop(self.free(packet, reason)),
        }
        Ok(())
    }

    fn clone_packet(&mut self, packet: &Packet) -> Result<Packet, DropReason> {
        if self.flood_copies == FLOOD_COPIES || self.pool.len() < packet.frames.len() {
            return Err(DropReason::NoFrame);
        }
        self.flood_copies += 1;
        let mut copy = Packet {
            frames: Default::default(),
            len: packet.len,
            offload: packet.offload,
        };
        let mut left = packet.len as usize;
        for frame in &packet.frames {
            let Some(mut to) = self.pool.take() else {
                break;
            };
            let len = left.min(DATA_CAPACITY);
            self.umem.data_mut(&mut to)[..len].copy_from_slice(&self.umem.data(frame)[..len]);
            copy.frames.push(to);
            left -= len;
        }
        Ok(copy)
    }
}

/// The queue in `slot`, unless it broke the protocol.
#[inline]
pub(crate) fn live<H: Hypervisor>(
    queues: &mut [Option<Queue<H>>],
    slot: u16,
) -> Option<&mut Queue<H>> {
    queues[usize::from(slot)]
        .as_mut()
        .filter(|queue| queue.rogue.is_none())
}

impl<H: Hypervisor> Queue<H> {
    /// Whether the guest can take `packet`, and its backlog has room; what the guest cannot complete itself is completed. What it cannot
    /// take is counted.
    #[inline]
    pub fn admit(&mut self, packet: &mut Packet, umem: &Umem) -> Result<(), DropReason> {
        let result = self.prepare(packet, umem);
        if let Err(reason) = result {
            self.stats.rx_drops.add(reason, 1);
        }
        result
    }

    /// Put an admitted packet, for the queue in `slot`, behind what waits already.
    #[inline]
    pub fn wait(&mut self, packet: Packet, slot: u16, now: Instant, waiting: &mut Vec<u16>) {
        self.rx.backlog.push(packet, now);
        if !self.rx.listed {
            self.rx.listed = true;
            waiting.push(slot);
        }
    }

    #[inline]
    fn prepare(&mut self, packet: &mut Packet, umem: &Umem) -> Result<(), DropReason> {
        if let Some(reason) = self.rx.refuses(packet.len, &packet.offload) {
            return Err(reason);
        }
        let Some(first) = packet.frames.first() else {
            return Err(DropReason::Runt);
        };
        let head = &umem.data(first)[..DATA_CAPACITY.min(packet.len as usize)];
        if !self.wants(head) {
            return Err(DropReason::MulticastFiltered);
        }
        if packet.offload.checksum == Checksum::Blank && !self.rx.takes_blank(head, packet.len) {
            packet
                .complete_checksum(umem)
                .map_err(|_| DropReason::ChecksumImpossible)?;
            self.stats.checksums_completed.add(1);
        }
        match self.rx.backlog.has_room(packet) {
            true => Ok(()),
            false => Err(DropReason::BacklogFull),
        }
    }

    /// Whether its filter lets a packet with this head through.
    #[inline]
    pub fn wants(&self, head: &[u8]) -> bool {
        head.first_chunk::<6>()
            .is_none_or(|destination| self.multicast.admits(*destination))
    }
}
