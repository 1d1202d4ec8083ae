//! Around the turn: its beginning and end, and when a worker without work sleeps.
use super::Worker;
use super::messages::FromWorker;
use crate::bounds::BACKLOG_RESERVE;
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::time::Duration;

/// Turns between two showings of the levels in `status` while there is work.
const SHOW_EVERY: u64 = 64;
/// How long to sleep where something is awaited that no event tells of: room in an uplink, frames from it.
const UNTOLD: Duration = Duration::from_millis(1);
/// How often the Rx ring of a frontend that never tells of posted requests is looked at while packets wait for it.
const RX_POLL: Duration = Duration::from_millis(1);

impl<H: Hypervisor> Worker<H> {
    /// Turns until told to stop.
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

    /// Sleeps until there may be work, unless there is some.
    fn sleep(&mut self) {
        self.waker.before_sleep();
        if self.may_sleep() {
            self.stats.sleeps.add(1);
            self.show();
            let timeout = self.timeout();
            self.sleeper.sleep(timeout);
        }
        self.waker.awake();
    }

    /// Asks everybody who can bring work to wake the worker, and looks once more: true where nobody has any.
    pub(crate) fn may_sleep(&mut self) -> bool {
        let resting = self.rest(0);
        // Backlogs wait for requests, whether their queues are active or at rest.
        let posted = self.arm_backlogs();
        // After a turn with work more of the same may be there already.
        let held = !self.busy && self.active.iter().all(|&slot| self.is_held(slot));
        let now = self.fabric.now;
        let mut uplinks = self.fabric.uplinks.iter().flatten();
        let hold = uplinks.any(|uplink| uplink.holds(now));
        let quiet = self.inbox.is_empty() && self.fabric.mesh.is_empty(hold);
        let busy = self.busy;
        let pending = self
            .fabric
            .uplinks
            .iter_mut()
            .flatten()
            .any(|uplink| uplink.device.pending() || (busy && uplink.waits()));
        self.polling.sleeps(now);
        (resting || held) && !posted && quiet && !pending
    }

    /// Asks every guest with a backlog for an event once it has posted enough for the oldest packet. True: one of them has already.
    fn arm_backlogs(&mut self) -> bool {
        let fabric = &mut self.fabric;
        let mut posted = false;
        for &slot in &fabric.waiting {
            let Some(queue) = &mut fabric.queues[usize::from(slot)] else {
                continue;
            };
            // Its packets wait for time to pass, whatever the guest has posted.
            if queue.rx.pacing.wait(fabric.now).is_some() {
                continue;
            }
            match queue.rx.arm() {
                Ok(there) => posted |= there,
                Err(fatal) => {
                    queue.rogue = Some(fatal);
                    posted = true;
                }
            }
        }
        posted
    }

    /// Whether the requests of the queue in `slot` wait for something that takes a while.
    fn is_held(&self, slot: u16) -> bool {
        self.fabric.queues[usize::from(slot)]
            .as_ref()
            .is_some_and(|queue| queue.events.held && queue.rogue.is_none())
    }

    /// How long to sleep for the requests of the active queue in `slot`: until its guest's rate allows more, unless the queue, whose
    /// events are masked, has packets that wait for the guest.
    fn held_for(&self, slot: u16) -> Duration {
        let queue = self.fabric.queues[usize::from(slot)].as_ref();
        let paced = queue.filter(|queue| queue.rx.backlog.is_empty());
        let wait = paced.and_then(|queue| queue.tx.pacing.wait(self.fabric.now));
        wait.unwrap_or(UNTOLD)
    }

    /// The longest sleep that misses nothing no event tells of.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let now = self.fabric.now;
        let held = self.active.iter().map(|&slot| self.held_for(slot));
        let untold = !self.replies.is_empty()
            || self
                .fabric
                .uplinks
                .iter()
                .flatten()
                .any(|uplink| uplink.waits() || uplink.starves(&self.fabric.pool));
        let unmask = self
            .event_ports
            .next_unmask()
            .map(|at| at.saturating_duration_since(now));
        let waiting = self
            .fabric
            .waiting
            .iter()
            .filter_map(|&slot| self.fabric.queues[usize::from(slot)].as_ref());
        let backlogs = waiting.filter_map(|queue| {
            let expires = queue.rx.backlog.expires(now);
            match queue.rx.pacing.wait(now) {
                Some(wait) => Some(expires.map_or(wait, |expires| expires.min(wait))),
                None if queue.rx.must_be_polled() => Some(RX_POLL),
                None => expires,
            }
        });
        // Never zero: what is due already is done by the next turn, after a moment.
        backlogs
            .chain(unmask)
            .chain(held)
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

    /// Has the kernel send what devices were given.
    pub(crate) fn send(&mut self) {
        for uplink in self.fabric.uplinks.iter_mut().flatten() {
            uplink.flush(&mut self.fabric.pool);
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
        self.fabric
            .mesh
            .settle(&mut self.fabric.pool, BACKLOG_RESERVE);
        self.rest_idle();
        self.busy = worked;
        self.stats.turns.add(1);
        self.stats.busy_turns.add(worked.into());
        if worked && self.turn_number.is_multiple_of(SHOW_EVERY) {
            self.show();
        }
    }

    /// Writes the levels that `status` shows.
    fn show(&self) {
        let queues = self.fabric.queues.iter().flatten();
        let backlogs: usize = queues.clone().map(|queue| queue.rx.backlog.frames()).sum();
        let uplinks = self.fabric.uplinks.iter().flatten();
        let outboxes: usize = uplinks.clone().map(|uplink| uplink.frames()).sum();
        let staging = self.batch.staging.frames();
        self.stats.frames_free.set(self.fabric.pool.len() as u64);
        self.stats
            .frames_backlog
            .set((backlogs + outboxes + staging) as u64);
        self.stats
            .frames_travelling
            .set(self.fabric.mesh.travelling() as u64);
        queues.for_each(|queue| queue.show());
        uplinks.for_each(|uplink| uplink.show());
    }
}

/// Keeps the calling thread on `core`; where the kernel refuses, it runs anywhere.
pub(super) fn pin(core: usize) {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
        let _ = sched_setaffinity(None, &set);
    }
}
