//! Conditions that show only over time: guests that take no packets, and continuing drops.
use super::Control;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::{DropReason, Drops, QueueStats};
use crate::vif::id::{QueueId, VifId};
use ring::packet::MAX_DATA_SLOTS;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use xen::store::XenStore;

/// Shortest time between two log lines about the drops of one place.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Reasons for drops that are the switch's normal work and no sign of a fault.
const BY_RULE: [DropReason; 5] = [
    DropReason::Standby,
    DropReason::SamePort,
    DropReason::LinkLocal,
    DropReason::NoPort,
    DropReason::MulticastFiltered,
];

/// What the control thread remembers of the counters that it has read.
#[derive(Debug, Default)]
pub(super) struct Watch {
    stalls: BTreeMap<QueueId, Stall>,
    trails: BTreeMap<Place, Trail>,
}

/// Whether a guest takes the packets of one queue.
#[derive(Debug)]
struct Stall {
    /// Rx slots answered up to the last sample.
    answered: u64,
    /// Packets up to the last sample that the backlog had no room for, or that waited in it for too long.
    lost: u64,
    /// When the guest last took a packet, or had none waiting.
    moved: Instant,
    /// Whether the log says that the guest takes no packets.
    logged: bool,
}

impl Stall {
    /// Reads the queue's counters. Returns a line for the log if the guest has stalled or takes packets again. A guest is stalled after `limit`; `None`: never.
    fn sample(
        &mut self,
        id: QueueId,
        stats: &QueueStats,
        limit: Option<Duration>,
        now: Instant,
    ) -> Option<String> {
        let (answered, lost) = (answered(stats), lost(stats));
        let waits = stats.backlog_packets.get() > 0 || lost != self.lost;
        // A stalled guest hears no floods, so that nothing may wait for it: it has to take a packet, or post room for the longest.
        let idle = match self.logged {
            true => posted(stats) > MAX_DATA_SLOTS as u32,
            false => !waits,
        };
        if answered != self.answered || idle {
            self.moved = now;
        }
        (self.answered, self.lost) = (answered, lost);
        let still = now.saturating_duration_since(self.moved);
        let stalled = limit.is_some_and(|limit| still >= limit);
        if std::mem::replace(&mut self.logged, stalled) == stalled {
            return None;
        }
        let QueueId { vif, queue } = id;
        Some(match stalled {
            true => format!(
                "vif {vif}: the guest takes no packets on queue {queue}, though some wait for it: is it paused or hung?"
            ),
            false => format!("vif {vif}: the guest takes packets on queue {queue} again"),
        })
    }
}

fn answered(stats: &QueueStats) -> u64 {
    stats.rx_packets.get() + stats.rx_errors.get()
}

/// Rx slots that the guest has posted and that are not used; what it says of its ring is not checked, and concerns itself alone.
fn posted(stats: &QueueStats) -> u32 {
    let ring = &stats.rx_ring;
    (ring.req_prod.get() as u32).wrapping_sub(ring.req_cons.get() as u32)
}

fn lost(stats: &QueueStats) -> u64 {
    stats.rx_drops.get(DropReason::BacklogFull) + stats.rx_drops.get(DropReason::BacklogExpired)
}

/// Where packets are dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    FromGuest(VifId),
    ForGuest(VifId),
    FromWire(String),
    ForWire(String),
    FromHost(String),
    ForHost(String),
    BetweenWorkers(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromGuest(vif) => write!(f, "vif {vif}: packets from the guest"),
            Self::ForGuest(vif) => write!(f, "vif {vif}: packets for the guest"),
            Self::FromWire(ifname) => write!(f, "uplink {ifname}: frames from the wire"),
            Self::ForWire(ifname) => write!(f, "uplink {ifname}: frames for the wire"),
            Self::FromHost(ifname) => write!(f, "host port {ifname}: packets from this domain"),
            Self::ForHost(ifname) => write!(f, "host port {ifname}: packets for this domain"),
            Self::BetweenWorkers(worker) => write!(f, "worker {worker}: packets of other workers"),
        }
    }
}

/// Drops of one place, by reason in the order of [`DropReason::ALL`].
type Counts = Vec<u64>;

/// The history of the drops of one place.
#[derive(Debug, Default)]
struct Trail {
    /// The counts at the last sample.
    last: Counts,
    /// The counts up to which drops have been logged.
    logged: Counts,
    /// Whether packets were dropped between the last two samples.
    grew: bool,
    /// When the last line was logged.
    at: Option<Instant>,
}

impl Trail {
    /// Records the present counts. Returns how many packets were dropped, by reason, if drops continue and a line may be logged.
    fn sample(&mut self, counts: Counts, now: Instant) -> Option<String> {
        let began_anew = counts.iter().zip(&self.last).any(|(now, then)| now < then);
        if self.last.is_empty() || began_anew {
            (self.last, self.logged) = (vec![0; counts.len()], vec![0; counts.len()]);
        }
        let grows = counts != self.last;
        let goes_on = grows && std::mem::replace(&mut self.grew, grows);
        if !grows {
            (self.grew, self.logged) = (false, counts.clone());
        }
        self.last = counts;
        let too_early = |at: Instant| now.saturating_duration_since(at) < LOG_INTERVAL;
        if !goes_on || self.at.is_some_and(too_early) {
            return None;
        }
        self.at = Some(now);
        let logged = std::mem::replace(&mut self.logged, self.last.clone());
        let news = self.last.iter().zip(logged).zip(DropReason::ALL);
        let news = news
            .filter(|((now, then), _)| *now > then)
            .map(|((now, then), reason)| format!("{} {}", now - then, reason.name()));
        Some(news.collect::<Vec<_>>().join(", "))
    }
}

/// Sums the drops of several counters, without those in [`BY_RULE`].
fn sum<'a>(drops: impl Iterator<Item = &'a Drops>) -> Counts {
    let mut sums = vec![0; DropReason::ALL.len()];
    for drops in drops {
        for (reason, count) in drops.nonzero() {
            if !BY_RULE.contains(&reason) {
                sums[reason as usize] += count;
            }
        }
    }
    sums
}

impl Watch {
    /// Whether some guest is stalled: counters are then looked at more often, for it is to be heard of once it takes packets.
    pub fn knows_a_stall(&self) -> bool {
        self.stalls.values().any(|stall| stall.logged)
    }

    /// Returns how long the guest of a queue has taken none of its waiting packets, if it counts as stalled.
    pub fn stalled(&self, id: QueueId, now: Instant) -> Option<Duration> {
        let stall = self.stalls.get(&id)?;
        let stalled = now.saturating_duration_since(stall.moved);
        stall.logged.then_some(stalled)
    }

    fn queue(&mut self, id: QueueId, stats: &QueueStats, limit: Option<Duration>, now: Instant) {
        let new = || Stall {
            answered: answered(stats),
            lost: lost(stats),
            moved: now,
            logged: false,
        };
        let stall = self.stalls.entry(id).or_insert_with(new);
        if let Some(line) = stall.sample(id, stats, limit, now) {
            match stall.logged {
                true => warn!("{line}"),
                false => info!("{line}"),
            }
        }
    }

    fn drops<'a>(&mut self, place: Place, drops: impl Iterator<Item = &'a Drops>, now: Instant) {
        let trail = self.trails.entry(place.clone()).or_default();
        if let Some(dropped) = trail.sample(sum(drops), now) {
            warn!(
                "{place} are being dropped: {dropped} (`netback status --explain` says what that means)"
            );
        }
    }
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Samples every watched counter; called every few seconds.
    pub(super) fn watch_counters(&mut self, now: Instant) {
        let limit = self.config.vif.stall_ms;
        let limit = (limit > 0).then(|| Duration::from_millis(limit.into()));
        let Self { watch, vifs, .. } = self;
        for (&vif, state) in vifs.iter() {
            let queues = state.service.iter().flat_map(|service| &service.queues);
            for (number, queue) in queues.clone().enumerate() {
                let queue_id = QueueId {
                    vif,
                    queue: number as u16,
                };
                watch.queue(queue_id, &queue.stats, limit, now);
            }
            let stats = queues.map(|queue| &*queue.stats);
            let sent = stats.clone().map(|stats| &stats.tx_drops);
            watch.drops(Place::FromGuest(vif), sent, now);
            let received = stats.map(|stats| &stats.rx_drops);
            watch.drops(Place::ForGuest(vif), received, now);
        }
        // Floods for a guest that takes nothing would only push out what is for it alone.
        for (vif, state) in vifs.iter() {
            let Some(service) = &state.service else {
                continue;
            };
            let ids = (0..service.queues.len() as u16).map(|queue| QueueId { vif: *vif, queue });
            let deaf = ids.into_iter().any(|id| watch.stalled(id, now).is_some());
            service.bridge.set_deaf(service.port_id, deaf);
        }
        for uplink in &self.uplinks {
            let stats = uplink.queues.iter().map(|queue| &*queue.stats);
            let received = stats.clone().map(|stats| &stats.recv_drops);
            watch.drops(Place::FromWire(uplink.ifname.clone()), received, now);
            let sent = stats.map(|stats| &stats.send_drops);
            watch.drops(Place::ForWire(uplink.ifname.clone()), sent, now);
        }
        for host in &self.hosts {
            let stats = host.queues.iter().map(|queue| &*queue.stats);
            let received = stats.clone().map(|stats| &stats.recv_drops);
            watch.drops(Place::FromHost(host.ifname.clone()), received, now);
            let sent = stats.map(|stats| &stats.send_drops);
            watch.drops(Place::ForHost(host.ifname.clone()), sent, now);
        }
        for (worker, member) in self.pool.0.iter().enumerate() {
            let drops = std::iter::once(&member.stats.drops);
            watch.drops(Place::BetweenWorkers(worker), drops, now);
        }
        watch.stalls.retain(|id, _| {
            let service = vifs.get(&id.vif).and_then(|vif| vif.service.as_ref());
            service.is_some_and(|service| usize::from(id.queue) < service.queues.len())
        });
        watch.trails.retain(|place, _| match place {
            Place::FromGuest(vif) | Place::ForGuest(vif) => vifs.contains_key(vif),
            _ => true,
        });
    }
}
