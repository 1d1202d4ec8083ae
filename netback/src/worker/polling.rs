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
    /// Sleeps in a row that were longer than the limit.
    long_sleeps: u32,
}

impl Polling {
    /// Poll for at most `limit`; zero never polls.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            idle_since: None,
            long_sleeps: 0,
        }
    }

    /// There was work in this turn.
    pub fn worked(&mut self) {
        self.idle_since = None;
    }

    /// There was none; whether to look again rather than sleep.
    pub fn goes_on(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.long_sleeps < PATIENCE && now.saturating_duration_since(since) < self.limit
    }

    /// The worker slept for `slept`, or found that it could not, which is a sleep of no time.
    pub fn slept(&mut self, slept: Duration) {
        self.idle_since = None;
        if slept <= self.limit {
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
        let (mut polling, now) = (Polling::new(LIMIT), Instant::now());
        polling.slept(LONG);
        assert!(polling.goes_on(now), "a pause between two bursts");
        polling.slept(LONG);
        assert!(!polling.goes_on(now));
        polling.slept(LONG);
        assert!(!polling.goes_on(now));
        polling.slept(LIMIT / 2);
        assert!(polling.goes_on(now));
    }

    #[test]
    fn zero_never_polls() {
        let mut polling = Polling::new(Duration::ZERO);
        polling.slept(Duration::ZERO);
        assert!(!polling.goes_on(Instant::now()));
    }
}
