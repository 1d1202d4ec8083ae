//! What comes in from elsewhere than a Tx ring: the wire, and other workers.
use super::Worker;
use super::batch::TURN_RECEIVED;
use super::fabric::Origin;
use super::flow;
use super::ports::Hop;
use crate::hypervisor::Hypervisor;
use std::mem;
use xsk_bridge::frame::{DATA_CAPACITY, Umem};
use xsk_bridge::packet::Packet;
use xsk_bridge::switch::{Recent, Verdict};

/// Most packets taken from one other worker in one turn.
const PARCEL_QUOTA: usize = 64;

impl<H: Hypervisor> Worker<H> {
    /// Receive from every uplink and send each frame where the switch says. False: there was nothing.
    pub(crate) fn receive(&mut self) -> bool {
        let mut received = mem::take(&mut self.batch.received);
        let mut worked = false;
        for slot in 0..self.fabric.wires.len() {
            let Some(wire) = &mut self.fabric.wires[slot] else {
                continue;
            };
            let got = wire.receive(&mut self.fabric.pool, &mut received, TURN_RECEIVED);
            if got.packets == 0 {
                continue;
            }
            worked = true;
            let (stats, mut bridge, port) = (wire.stats.clone(), wire.bridge.clone(), wire.port_id);
            let mut recent = Recent::default();
            for packet in received.drain(..) {
                let (head, len) = (head(&self.fabric.umem, &packet), packet.len as usize);
                let result = match recent.decide(&mut bridge, port, head, self.seconds) {
                    Verdict::Unicast(to) => {
                        let hash = if self.fabric.ports.has_queues(to) {
                            flow::hash(head, len)
                        } else {
                            0
                        };
                        match self.fabric.ports.hop(to, hash) {
                            Hop::Queue(receiver) => self.hand_over(packet, receiver),
                            _ => self.fabric.send(to, packet, hash),
                        }
                    }
                    Verdict::Flood(flood) => {
                        let hash = flow::hash(head, len);
                        let ports = bridge.flood(flood);
                        self.fabric.flood(ports, packet, Origin { port, hash })
                    }
                    Verdict::Drop(reason) => Err(self.fabric.free(packet, reason.into())),
                };
                if let Err(reason) = result {
                    stats.recv_drops.add(reason, 1);
                }
            }
        }
        self.batch.received = received;
        worked
    }

    /// Take in what other workers sent here. False: there was nothing.
    pub(crate) fn unpack_parcels(&mut self) -> bool {
        let mut worked = false;
        for worker in 0..self.fabric.mesh.workers() {
            for _ in 0..PARCEL_QUOTA {
                // What cannot be sent on yet waits where its sender sees it.
                if self
                    .fabric
                    .wires
                    .iter()
                    .flatten()
                    .any(|wire| wire.is_full())
                {
                    break;
                }
                let Some(parcel) = self.fabric.mesh.take(worker) else {
                    break;
                };
                worked = true;
                if let Err(reason) = self.fabric.arrive(parcel) {
                    self.stats.drops.add(reason, 1);
                }
            }
        }
        worked
    }
}

/// The first bytes of `packet`, as many as its first frame holds.
fn head<'a>(umem: &'a Umem, packet: &'a Packet) -> &'a [u8] {
    let first = packet.frames.first();
    first.map_or(&[], |frame| {
        &umem.data(frame)[..DATA_CAPACITY.min(packet.len as usize)]
    })
}
