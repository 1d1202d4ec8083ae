//! Messages from control, between turns: queues and uplinks come and go.
use super::Worker;
use super::messages::{FromWorker, ToWorker};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::fabric::Fabric;
use crate::path::lane::Lane;
use crate::path::ports::Destination;
use crate::path::uplink::UplinkQueue;
use crate::queue::setup::QueueSetup;
use crate::queue::{Queue, Remains};
use crate::vif::id::QueueId;
use std::os::fd::BorrowedFd;
use xsk_bridge::announce::ANNOUNCEMENT;
use xsk_bridge::packet::{Offload, Packet};
use xsk_bridge::switch::PortId;

impl<H: Hypervisor> Worker<H> {
    /// Do what control asked for. False: it asked for nothing.
    pub(crate) fn read_messages(&mut self) -> bool {
        self.post_replies();
        let mut worked = false;
        while let Some(message) = self.inbox.pop() {
            worked = true;
            match message {
                ToWorker::AddQueue(setup) => self.add_queue(*setup),
                ToWorker::RemoveQueue(id) => {
                    let remains = self.slot_of(id).and_then(|slot| self.remove_queue(slot));
                    self.reply(FromWorker::Removed { id, remains });
                }
                ToWorker::Kick(id) => self.kick(id),
                ToWorker::SetPort(port, place) => self.fabric.ports.set(port, place),
                ToWorker::AddUplink {
                    port_id,
                    index,
                    standby,
                    queue,
                    bridge,
                    device,
                    large,
                    stats,
                } => {
                    let lane = large.map(Lane::new);
                    let mut uplink = UplinkQueue::new(port_id, queue, bridge, device, lane, stats);
                    (uplink.index, uplink.standby) = (index, standby);
                    self.add_uplink(uplink);
                }
                ToWorker::SetLane(index, queue, terms) => {
                    let mut uplinks = self.fabric.uplinks.iter_mut().flatten();
                    let uplink =
                        uplinks.find(|uplink| (uplink.index, uplink.queue) == (index, queue));
                    uplink.into_iter().for_each(|uplink| uplink.set_lane(terms));
                }
                ToWorker::SetMtu(index, mtu) => self.set_mtu(index, mtu),
                ToWorker::SetFilter(port_id, filter) => {
                    let queues = self.fabric.queues.iter_mut().flatten();
                    for queue in queues.filter(|queue| queue.port_id == port_id) {
                        queue.filter.clone_from(&filter);
                    }
                }
                ToWorker::SwitchUplink(port_id, index) => self.switch_uplink(port_id, index),
                ToWorker::Announce(port_id, frames) => self.announce(port_id, &frames),
                ToWorker::Stop => self.stopping = true,
            }
        }
        worked
    }

    fn add_uplink(&mut self, mut uplink: UplinkQueue) {
        let port_id = uplink.port_id;
        let slot = free_slot(&mut self.fabric.uplinks);
        self.watch_device(slot, uplink.device.fd());
        uplink.begin(&mut self.fabric.pool, self.fabric.now);
        self.fabric.uplinks[usize::from(slot)] = Some(uplink);
        self.send_by_first(port_id);
    }

    /// Of the queues of the device that carries the port's frames, a worker sends by the first: the one whose number is the worker's
    /// own, where there is one.
    fn send_by_first(&mut self, port_id: PortId) {
        let Fabric { uplinks, ports, .. } = &mut self.fabric;
        let carries = |uplink: &UplinkQueue| uplink.port_id == port_id && !uplink.standby;
        let first = uplinks
            .iter()
            .position(|uplink| uplink.as_ref().is_some_and(carries));
        match first {
            Some(slot) => ports.add(port_id, 0, Destination::Uplink(slot as u16)),
            None => ports.remove(port_id, 0),
        }
    }

    /// Has frames from a device end a sleep. Without that they wait for the next turn, which a warning is worth.
    fn watch_device(&mut self, slot: u16, fd: Option<BorrowedFd<'_>>) {
        let Some(fd) = fd else { return };
        if let Err(error) = self.sleeper.watch(uplink_token(slot), fd) {
            tracing::warn!("a device cannot be waited for, frames from it may come late: {error}");
        }
    }

    fn add_queue(&mut self, setup: QueueSetup<H>) {
        let id = setup.id;
        match Queue::new(setup) {
            Ok(queue) => {
                let slot = free_slot(&mut self.fabric.queues);
                self.event_ports.set(queue.events.tx_port, Some(slot));
                self.event_ports.set(queue.events.rx_port, Some(slot));
                self.fabric
                    .ports
                    .add(queue.port_id, queue.id.queue, Destination::Queue(slot));
                self.fabric.queues[usize::from(slot)] = Some(queue);
                self.reserve_lists();
                // Whatever the guest put into its rings before is found without an event.
                self.activate(slot);
                self.touch(slot);
            }
            Err((remains, reason)) => self.reply(FromWorker::Rogue {
                id,
                reason,
                remains,
            }),
        }
        self.count_queues();
    }

    /// The turn's lists take every queue without growing.
    fn reserve_lists(&mut self) {
        let queues = self.fabric.queues.len();
        for list in [
            &mut self.active,
            &mut self.touched,
            &mut self.fabric.waiting,
        ] {
            list.reserve(queues.saturating_sub(list.len()));
        }
    }

    fn slot_of(&self, id: QueueId) -> Option<u16> {
        let at = |queue: &Option<Queue<H>>| queue.as_ref().is_some_and(|queue| queue.id == id);
        self.fabric
            .queues
            .iter()
            .position(at)
            .map(|slot| slot as u16)
    }

    /// Take a queue out of the loop; no answer is owed at this point of a turn.
    pub(crate) fn remove_queue(&mut self, slot: u16) -> Option<Remains<H>> {
        let mut queue = self.fabric.queues[usize::from(slot)].take()?;
        self.fabric.ports.remove(queue.port_id, queue.id.queue);
        self.event_ports.set(queue.events.tx_port, None);
        self.event_ports.set(queue.events.rx_port, None);
        for list in [
            &mut self.active,
            &mut self.touched,
            &mut self.fabric.waiting,
        ] {
            list.retain(|&other| other != slot);
        }
        let waited = queue.rx.backlog.clear(&mut self.fabric.pool);
        queue.stats.rx_drops.add(DropReason::PortGone, waited);
        queue.show();
        self.count_queues();
        Some(queue.into_remains())
    }

    /// Looks at a queue's rings as if an event had come, and notifies its guest as if its rings asked for that.
    fn kick(&mut self, id: QueueId) {
        let Some(slot) = self.slot_of(id) else {
            return;
        };
        self.activate(slot);
        self.touch(slot);
        if let Some(queue) = &mut self.fabric.queues[usize::from(slot)] {
            (queue.events.notify_tx, queue.events.notify_rx) = (true, true);
        }
    }

    /// The turn is over: queues that broke the protocol go at once, and control is told why.
    pub(crate) fn expel_rogues(&mut self) {
        for slot in 0..self.fabric.queues.len() as u16 {
            let rogue = self.fabric.queues[usize::from(slot)]
                .as_ref()
                .and_then(|queue| Some((queue.id, queue.rogue?)));
            if let Some((id, reason)) = rogue
                && let Some(remains) = self.remove_queue(slot)
            {
                self.reply(FromWorker::Rogue {
                    id,
                    reason,
                    remains,
                });
            }
        }
    }

    /// Has the device with this index carry the port's frames; what the others receive is dropped.
    fn switch_uplink(&mut self, port_id: PortId, index: u32) {
        let uplinks = self.fabric.uplinks.iter_mut().flatten();
        for uplink in uplinks.filter(|uplink| uplink.port_id == port_id) {
            uplink.standby = uplink.index != index;
        }
        self.send_by_first(port_id);
    }

    /// Sends frames by the device that carries the port's frames.
    fn announce(&mut self, port_id: PortId, frames: &[[u8; ANNOUNCEMENT]]) {
        let Fabric { uplinks, pool, .. } = &mut self.fabric;
        let mut uplinks = uplinks.iter_mut().flatten();
        let active = uplinks.find(|uplink| uplink.port_id == port_id && !uplink.standby);
        let Some(uplink) = active else { return };
        for bytes in frames {
            if !uplink.has_room(1) {
                break;
            }
            let Some(mut frame) = pool.take() else { break };
            pool.umem().data_mut(&mut frame)[..ANNOUNCEMENT].copy_from_slice(bytes);
            uplink.send(Packet::new(frame, ANNOUNCEMENT as u32, Offload::default()));
        }
    }

    /// Gives every queue of a device on this worker the MTU that the device has now.
    fn set_mtu(&mut self, index: u32, mtu: u32) {
        let Fabric { uplinks, pool, .. } = &mut self.fabric;
        for uplink in uplinks.iter_mut().flatten() {
            if uplink.index == index {
                uplink.set_mtu(mtu, pool);
            }
        }
    }

    /// Tell control; where its queue is full the message waits here.
    pub(crate) fn reply(&mut self, message: FromWorker<H>) {
        self.replies.push_back(message);
        self.post_replies();
    }

    fn post_replies(&mut self) {
        let mut posted = false;
        while let Some(message) = self.replies.pop_front() {
            if let Err(message) = self.outbox.push(message) {
                self.replies.push_front(message);
                break;
            }
            posted = true;
        }
        if posted {
            self.control.wake();
        }
    }

    fn count_queues(&self) {
        self.stats
            .queues
            .set(self.fabric.queues.iter().flatten().count() as u64);
    }
}

/// The token by which the sleeper knows the device in `slot`.
fn uplink_token(slot: u16) -> u64 {
    super::sleep::FIRST_UPLINK + u64::from(slot)
}

/// A free place in a slab, which grows by one where there is none.
fn free_slot<T>(slab: &mut Vec<Option<T>>) -> u16 {
    let slot = slab.iter().position(Option::is_none).unwrap_or_else(|| {
        slab.push(None);
        slab.len() - 1
    });
    u16::try_from(slot).expect("control serves fewer than 65 536 queues")
}
