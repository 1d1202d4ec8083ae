//! One pair: the bare sender, then the path.
use anyhow::Result;
use benches::live::{Path, Rig};
use benches::usage::Usage;
use lab::interrupt;
use netback::observe::counters::DropCounts;
use netback::observe::status::Status;
use std::time::{Duration, Instant};

/// How long the bare sender sends.
const BARE: Duration = Duration::from_millis(150);
/// How long a path flows before it is looked at.
const WARM_UP: Duration = Duration::from_millis(80);
/// How long it is looked at.
const WINDOW: Duration = Duration::from_millis(350);
/// From the end of a load until backlogs are empty and everybody sleeps.
const REST: Duration = Duration::from_millis(20);

/// What a thread did, and what it used for it.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Packets that reached the end.
    pub packets: u64,
    /// Time on the clock.
    pub elapsed: Duration,
    /// Of the thread.
    pub usage: Usage,
}

impl Work {
    /// CPU time, nanoseconds a packet.
    pub fn cost(&self) -> f64 {
        self.usage.ran.as_nanos() as f64 / self.packets.max(1) as f64
    }

    /// Packets a second.
    pub fn rate(&self) -> f64 {
        self.packets as f64 / self.elapsed.as_secs_f64()
    }

    /// Part of the time that it was ready to run and did not.
    pub fn waited(&self) -> f64 {
        self.usage.waited.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// A pair.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// The bare sender's thread.
    pub bare: Work,
    /// The daemon's worker.
    pub path: Work,
    /// Packets that the daemon dropped, by whatever name.
    pub dropped: u64,
    /// Packets a grant-copy call.
    pub packets_per_copy: f64,
    /// Sleeps of the worker.
    pub sleeps: u64,
}

impl Pair {
    /// CPU time of the worker, nanoseconds a packet that it took in, dropped ones too. These were not copied to a guest.
    pub fn handled_cost(&self) -> f64 {
        self.path.usage.ran.as_nanos() as f64 / (self.path.packets + self.dropped).max(1) as f64
    }
}

/// Measure one, a little more than half a second long.
pub fn pair(rig: &mut Rig, path: Path, size: usize) -> Result<Pair> {
    let bare = bare(rig, size)?;
    rig.send(path, size)?;
    interrupt::sleep(WARM_UP)?;
    let before = Moment::now(rig, path)?;
    interrupt::sleep(WINDOW)?;
    let after = Moment::now(rig, path)?;
    rig.stop(path)?;
    interrupt::sleep(REST)?;
    Ok(Pair {
        bare,
        path: Work {
            packets: after.delivered - before.delivered,
            elapsed: after.at - before.at,
            usage: after.usage - before.usage,
        },
        dropped: after.dropped() - before.dropped(),
        packets_per_copy: (after.copied().1 - before.copied().1) as f64
            / (after.copied().0 - before.copied().0).max(1) as f64,
        sleeps: after.sleeps() - before.sleeps(),
    })
}

fn bare(rig: &Rig, size: usize) -> Result<Work> {
    let (station, frame) = rig.bare(size);
    station.send(&frame);
    interrupt::sleep(BARE)?;
    let sent = station.stop()?;
    Ok(Work {
        packets: sent.packets as u64,
        elapsed: sent.elapsed,
        usage: sent.usage,
    })
}

/// Everything that counts, at one time.
struct Moment {
    at: Instant,
    usage: Usage,
    delivered: u64,
    status: Status,
}

impl Moment {
    fn now(rig: &Rig, path: Path) -> Result<Self> {
        let status = rig.status()?;
        Ok(Self {
            at: Instant::now(),
            usage: rig.worker().usage()?,
            delivered: rig.delivered(&status, path)?,
            status,
        })
    }

    fn dropped(&self) -> u64 {
        let wire = self.status.uplinks.iter().flat_map(|it| &it.queues);
        let guests = self.status.vifs.iter().flat_map(|it| &it.queues);
        let sum = |drops: &DropCounts| drops.values().sum::<u64>();
        wire.map(|queue| sum(&queue.counts.recv_drops) + sum(&queue.counts.send_drops))
            .chain(guests.map(|queue| sum(&queue.counts.tx_drops) + sum(&queue.counts.rx_drops)))
            .sum()
    }

    /// Grant-copy calls, and packets in them.
    fn copied(&self) -> (u64, u64) {
        let workers = self.status.workers.iter();
        workers.fold((0, 0), |(calls, packets), worker| {
            (
                calls + worker.counts.copy_calls,
                packets + worker.counts.copy_packets,
            )
        })
    }

    fn sleeps(&self) -> u64 {
        self.status
            .workers
            .iter()
            .map(|worker| worker.counts.sleeps)
            .sum()
    }
}
