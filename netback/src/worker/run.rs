//! Around the turn: its beginning and end, and when a worker without work sleeps.
use super::Worker;
use super::batch::TURN_CHAINS;
use super::messages::FromWorker;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use std::time::Duration;
use xsk_bridge::packet::MAX_FRAMES;

/// Turns between two showings of the levels in `status` while there is work.
const SHOW_EVERY: u64 = 64;
/// How long to sleep where something is awaited that no event tells of: room in an uplink, frames from it.
const UNTOLD: Duration = Duration::from_millis(1);
/// How often the Rx ring of a frontend that never tells of posted requests is looked at while packets wait for it.
const RX_POLL: Duration = Duration::from_millis(1);
/// Frames kept back when others' are sent home: a full turn's.
const RESERVE: usize = TURN_CHAINS + MAX_FRAMES;

impl<H: Hypervisor> Worker<H> {
    /// Turn until told to stop.
    pub(crate) fn run(&mut self) {
        loop {
            let worked = self.turn();
            if worked {
                self.polling.worked();
            }
            if self.stopping {
                break;
            }
            if !self.polling.goes_on(self.fabric.now) {
                self.sleep();
            } else if !worked {
                std::hint::spin_loop();
            }
        }
        self.reply(FromWorker::Stopped);
    }

    /// Sleep until there may be work, unless there is some.
    fn sleep(&mut self) {
        self.bell.before_sleep();
        let resting = self.rest(0);
        // After a turn with work more of the same may be there already.
        let held = !self.busy && self.active.iter().all(|&slot| self.is_held(slot));
        let quiet = self.inbox.is_empty() && self.fabric.mesh.is_empty();
        let pending = self
            .fabric
            .wires
            .iter_mut()
            .flatten()
            .any(|wire| wire.device.pending() || (self.busy && wire.waits()));
        self.polling.sleeps(self.fabric.now);
        if (resting || held) && quiet && !pending {
            self.stats.sleeps.add(1);
            self.show();
            let timeout = self.timeout();
            self.sleeper.sleep(timeout);
        }
        self.bell.awake();
    }

    /// Its requests wait for something that takes a while.
    fn is_held(&self, slot: u16) -> bool {
        self.fabric.queues[usize::from(slot)]
            .as_ref()
            .is_some_and(|queue| queue.events.held && queue.rogue.is_none())
    }

    /// The longest sleep that misses nothing no event tells of.
    fn timeout(&self) -> Option<Duration> {
        let now = self.fabric.now;
        let untold = !self.active.is_empty()
            || !self.replies.is_empty()
            || self
                .fabric
                .wires
                .iter()
                .flatten()
                .any(|wire| wire.waits() || wire.starves(&self.fabric.pool));
        let unmask = self
            .desk
            .next_unmask()
            .map(|at| at.saturating_duration_since(now));
        let waiting = self
            .fabric
            .waiting
            .iter()
            .filter_map(|&slot| self.fabric.queues[usize::from(slot)].as_ref());
        let backlogs = waiting.filter_map(|queue| {
            if queue.rx.must_be_polled() {
                Some(RX_POLL)
            } else {
                queue.rx.backlog.expires(now)
            }
        });
        // Never zero: what is due already is done by the next turn, after a moment.
        backlogs
            .chain(unmask)
            .chain(untold.then_some(UNTOLD))
            .min()
            .map(|timeout| timeout.max(Duration::from_micros(50)))
    }

    pub(crate) fn begin(&mut self) {
        self.turn_number += 1;
        self.batch.clear();
        self.fabric.begin();
        self.polling.woke(self.fabric.now);
        self.seconds = self
            .fabric
            .now
            .saturating_duration_since(self.started)
            .as_secs() as u32;
    }

    /// Something of the queue in `slot` is to be published, or its guest notified.
    #[inline]
    pub(crate) fn touch(&mut self, slot: u16) {
        let Some(queue) = &mut self.fabric.queues[usize::from(slot)] else {
            return;
        };
        queue.events.worked();
        if !queue.touched {
            queue.touched = true;
            self.touched.push(slot);
        }
    }

    pub(crate) fn count_copies(&self, segments: usize, packets: usize) {
        if segments > 0 {
            self.stats.copy_calls.add(1);
            self.stats.copy_segments.add(segments as u64);
            self.stats.copy_packets.add(packets as u64);
        }
    }

    /// Have the kernel send what uplinks were given.
    pub(crate) fn send(&mut self) {
        for wire in self.fabric.wires.iter_mut().flatten() {
            wire.flush(&mut self.fabric.pool);
        }
        crash_point!("sent");
    }

    pub(crate) fn end(&mut self, worked: bool) {
        for slot in self.touched.drain(..) {
            if let Some(queue) = &mut self.fabric.queues[usize::from(slot)] {
                queue.touched = false;
            }
        }
        self.expel_rogues();
        self.fabric.mesh.settle(&mut self.fabric.pool, RESERVE);
        self.rest_idle();
        self.busy = worked;
        self.stats.turns.add(1);
        self.stats.busy_turns.add(worked.into());
        if worked && self.turn_number.is_multiple_of(SHOW_EVERY) {
            self.show();
        }
    }

    /// Write the levels that `status` shows.
    fn show(&self) {
        let queues = self.fabric.queues.iter().flatten();
        let backlogs: usize = queues.clone().map(|queue| queue.rx.backlog.frames()).sum();
        let outboxes: usize = self
            .fabric
            .wires
            .iter()
            .flatten()
            .map(|wire| wire.frames())
            .sum();
        self.stats.frames_free.set(self.fabric.pool.len() as u64);
        self.stats.frames_backlog.set((backlogs + outboxes) as u64);
        self.stats
            .frames_travelling
            .set(self.fabric.mesh.travelling() as u64);
        queues.for_each(|queue| queue.show());
        self.fabric
            .wires
            .iter()
            .flatten()
            .for_each(|wire| wire.show());
    }
}

/// Keep the calling thread on `core`; where the kernel refuses, it runs anywhere.
#[allow(unsafe_code)] // sched_setaffinity(2) has no wrapper in std.
pub(super) fn pin(core: usize) {
    // SAFETY: an all-zero set is valid, CPU_SET stays inside it, and the kernel only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if core < libc::CPU_SETSIZE as usize {
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
}
