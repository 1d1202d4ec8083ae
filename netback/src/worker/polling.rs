//! How long a worker without work polls before it sleeps: as long as that pays.
use std::time::{Duration, Instant};

/// How many sleeps in a row that no polling would have spared end it. One is the pause between two bursts.
const PATIENCE: u32 = 2;

/// Polling spares a sleep and its waking, and costs the core: it pays where work comes back sooner than `limit`. Where it does not
/// (a ping a second, a domain that shares its core with the guests it waits for) the worker sleeps at once, until a sleep turns
/// out so short that polling would have bridged it.
pub(crate) struct Polling {
    limit: Duration,
    idle_since: Option<Instant>,
    asleep_since: Option<Instant>,
    /// Sleeps in a row that were longer than the limit.
    long_sleeps: u32,
}

impl Polling {
    /// Poll for at most `limit`; zero never polls.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            idle_since: None,
            asleep_since: None,
            long_sleeps: 0,
        }
    }

    /// There was work in this turn.
    pub fn worked(&mut self) {
        self.idle_since = None;
    }

    /// Whether to look again rather than sleep. Where no sleep is to be spared, not even after work: a turn in vain costs what a
    /// sleep does.
    pub fn goes_on(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.long_sleeps < PATIENCE && now.saturating_duration_since(since) < self.limit
    }

    /// The worker is about to sleep, or to find that it cannot, which is a sleep of no time. `now` may be when its last turn began: that
    /// makes a sleep seem longer by a turn at most.
    pub fn sleeps(&mut self, now: Instant) {
        self.asleep_since = Some(now);
    }

    /// A turn begins. The clock is read once a turn, for on some domains it is a system call (the clocksource `xen`).
    pub fn woke(&mut self, now: Instant) {
        let Some(since) = self.asleep_since.take() else {
            return;
        };
        self.idle_since = None;
        if now.saturating_duration_since(since) <= self.limit {
            self.long_sleeps = 0;
        } else {
            self.long_sleeps = (self.long_sleeps + 1).min(PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);
    const LONG: Duration = Duration::from_millis(10);

    #[test]
    fn it_polls_for_the_limit_and_anew_after_work() {
        let (mut polling, start) = (Polling::new(LIMIT), Instant::now());
        assert!(polling.goes_on(start));
        assert!(polling.goes_on(start + LIMIT / 2));
        polling.worked();
        assert!(polling.goes_on(start + LIMIT));
        assert!(polling.goes_on(start + LIMIT + LIMIT / 2));
        assert!(!polling.goes_on(start + 2 * LIMIT));
    }

    #[test]
    fn long_sleeps_end_it_and_a_short_one_brings_it_back() {
        let (mut polling, mut now) = (Polling::new(LIMIT), Instant::now());
        let mut after = |polling: &mut Polling, sleep| {
            polling.sleeps(now);
            now += sleep;
            polling.woke(now);
            polling.goes_on(now)
        };
        assert!(after(&mut polling, LONG), "a pause between two bursts");
        assert!(!after(&mut polling, LONG));
        polling.worked();
        assert!(!after(&mut polling, LONG));
        assert!(after(&mut polling, LIMIT / 2));
    }

    #[test]
    fn zero_never_polls() {
        let mut polling = Polling::new(Duration::ZERO);
        let now = Instant::now();
        polling.sleeps(now);
        polling.woke(now);
        assert!(!polling.goes_on(now));
    }
}
