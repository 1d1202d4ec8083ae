//! Event channels: which queues have work, when their ports are unmasked, and whom to notify.
//!
//! An event makes its queue active: its rings are looked at every turn, and its ports stay masked, so that events without end reach
//! nobody. A queue that was empty for a while, or whose worker wants to sleep, is put to rest: its rings are armed,
//! looked at once more, and its ports unmasked. An event that came meanwhile is delivered then, so none is lost.
use super::Worker;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use std::time::{Duration, Instant};
use xen::event::{EventChannels, Port};

/// Ports read in one turn; more wait in the kernel.
const TURN_EVENTS: usize = 64;
/// While there is work events are looked for this often, and every turn without work: the active queues need none.
const LOOK_EVERY: Duration = Duration::from_micros(10);
/// Turns without work after which an active queue is put to rest.
const REST_AFTER: u32 = 256;

/// The worker's side of its event channels.
pub(crate) struct EventPorts {
    /// Slot of the queue behind each local port.
    slots: Vec<Option<u16>>,
    pending: Vec<Port>,
    /// To be unmasked at the end of the turn.
    unmask: Vec<Port>,
    /// To be unmasked later, and when.
    delayed: Vec<(Instant, Port)>,
    looked: Instant,
}

impl EventPorts {
    pub fn new(now: Instant) -> Self {
        let room = 2 * TURN_EVENTS;
        Self {
            slots: Vec::new(),
            pending: vec![Port(0); TURN_EVENTS],
            unmask: Vec::with_capacity(room),
            delayed: Vec::with_capacity(room),
            looked: now,
        }
    }

    /// Makes events on `port` those of the queue in `slot`, or of nobody.
    pub fn set(&mut self, port: Port, slot: Option<u16>) {
        let at = port.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at] = slot;
        // Each queue has two ports at most in each list.
        let room = 2 * self.slots.iter().flatten().count();
        self.unmask.reserve(room);
        self.delayed.reserve(room);
        self.delayed.retain(|&(_, delayed)| delayed != port);
    }

    /// When the next port is to be unmasked.
    pub fn next_unmask(&self) -> Option<Instant> {
        self.delayed.iter().map(|&(at, _)| at).min()
    }
}

impl<H: Hypervisor> Worker<H> {
    /// Read pending ports and make their queues active. False: there was nothing.
    pub(crate) fn take_events(&mut self) -> bool {
        let now = self.fabric.now;
        if self.busy && now.saturating_duration_since(self.event_ports.looked) < LOOK_EVERY {
            return false;
        }
        self.event_ports.looked = now;
        self.unmask_delayed(now);
        let count = self
            .events
            .pending(&mut self.event_ports.pending)
            .unwrap_or(0)
            .min(TURN_EVENTS);
        for n in 0..count {
            let port = self.event_ports.pending[n];
            let slot = self
                .event_ports
                .slots
                .get(port.0 as usize)
                .copied()
                .flatten();
            let queue = slot.and_then(|slot| self.fabric.queues[usize::from(slot)].as_mut());
            // The port of a queue that is gone stays masked until control unbinds it.
            let (Some(slot), Some(queue)) = (slot, queue) else {
                continue;
            };
            queue.stats.events.add(1);
            queue.events.masked_tx |= queue.events.tx_port == port;
            queue.events.masked_rx |= queue.events.rx_port == port;
            self.activate(slot);
        }
        // An event is no work by itself: a worker that gets nothing else may sleep.
        false
    }

    /// Look at the rings of the queue in `slot` every turn.
    pub(crate) fn activate(&mut self, slot: u16) {
        let Some(queue) = &mut self.fabric.queues[usize::from(slot)] else {
            return;
        };
        queue.events.idle_turns = 0;
        if !queue.events.active {
            queue.events.active = true;
            self.active.push(slot);
        }
    }

    /// The turn ends: put those to rest that had nothing for a while.
    pub(crate) fn rest_idle(&mut self) {
        for queue in self
            .fabric
            .queues
            .iter_mut()
            .flatten()
            .filter(|queue| queue.events.active)
        {
            queue.events.idle_turns += 1;
        }
        if self
            .active
            .iter()
            .any(|&slot| self.idle_turns(slot) > REST_AFTER)
        {
            self.rest(REST_AFTER);
        }
    }

    fn idle_turns(&self, slot: u16) -> u32 {
        self.fabric.queues[usize::from(slot)]
            .as_ref()
            .map_or(u32::MAX, |queue| queue.events.idle_turns)
    }

    /// Put to rest the active queues that were idle for more than `turns` turns: arm, look once more, unmask. True: all of them rest.
    pub(crate) fn rest(&mut self, turns: u32) -> bool {
        let mut active = std::mem::take(&mut self.active);
        let mut all = true;
        active.retain(|&slot| {
            let stays = self.idle_turns(slot) <= turns || !self.rest_queue(slot);
            all &= !stays;
            stays
        });
        self.active = active;
        self.unmask();
        all
    }

    /// Puts one queue to rest. False: it has work, or must be dropped.
    fn rest_queue(&mut self, slot: u16) -> bool {
        let Some(queue) = &mut self.fabric.queues[usize::from(slot)] else {
            return true;
        };
        if queue.rogue.is_some() || queue.events.held {
            return false;
        }
        match queue.arm(self.fabric.now) {
            Ok(false) => {}
            Ok(true) => return false,
            Err(fatal) => {
                queue.rogue = Some(fatal);
                return false;
            }
        }
        queue.show();
        let events = &mut queue.events;
        events.active = false;
        let until = self.fabric.now + events.penalty();
        let ports = [
            (events.tx_port, std::mem::take(&mut events.masked_tx)),
            (events.rx_port, std::mem::take(&mut events.masked_rx)),
        ];
        let same = events.tx_port == events.rx_port;
        for (port, _) in ports
            .into_iter()
            .filter(|&(_, masked)| masked)
            .take(if same { 1 } else { 2 })
        {
            if until > self.fabric.now {
                self.event_ports.delayed.push((until, port));
            } else {
                self.event_ports.unmask.push(port);
            }
        }
        true
    }

    fn unmask_delayed(&mut self, now: Instant) {
        let EventPorts {
            delayed, unmask, ..
        } = &mut self.event_ports;
        delayed.retain(|&(at, port)| {
            let due = at <= now;
            if due {
                unmask.push(port);
            }
            !due
        });
        self.unmask();
    }

    fn unmask(&mut self) {
        if self.event_ports.unmask.is_empty() {
            return;
        }
        crash_point!("unmasked");
        // A port that was closed meanwhile is refused, which is as good.
        let _ = self.events.unmask(&self.event_ports.unmask);
        self.event_ports.unmask.clear();
    }

    /// Notify the guests that asked for it, each channel once.
    pub(crate) fn notify(&mut self) {
        for n in 0..self.touched.len() {
            let slot = usize::from(self.touched[n]);
            let Some(queue) = &mut self.fabric.queues[slot] else {
                continue;
            };
            let events = &mut queue.events;
            let tx = std::mem::take(&mut events.notify_tx);
            let rx = std::mem::take(&mut events.notify_rx);
            let same = events.tx_port == events.rx_port;
            let ports = [
                (tx || (same && rx), events.tx_port),
                (rx && !same, events.rx_port),
            ];
            for (_, port) in ports.into_iter().filter(|&(wanted, _)| wanted) {
                // A channel whose other end is gone is refused: the guest is on its way out.
                let _ = self.events.notify(port);
                queue.stats.notifications.add(1);
                crash_point!("notified");
            }
        }
    }
}
