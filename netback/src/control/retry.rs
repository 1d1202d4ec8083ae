//! When something that fails for a while is tried again: after a pause that doubles with each failure, up to a longest one.
use std::time::{Duration, Instant};

/// The pauses between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    /// The pause after the first failure.
    pub first: Duration,
    /// The pause after many failures.
    pub longest: Duration,
}

/// Attempts that failed, and the next one.
#[derive(Debug, Clone, Default)]
pub struct Retry {
    pause: Option<Duration>,
    due: Option<Instant>,
}

impl Retry {
    /// Schedules the next attempt after one that failed.
    pub fn failed(&mut self, pauses: Pauses, now: Instant) {
        let pause = self
            .pause
            .map_or(pauses.first, |pause| pause * 2)
            .min(pauses.longest);
        *self = Self {
            pause: Some(pause),
            due: Some(now + pause),
        };
    }

    /// When the next attempt is due; `None` where none is scheduled.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns whether the scheduled attempt is due, which then counts as begun.
    pub fn begin(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let second = Duration::from_secs(1);
        let pauses = Pauses {
            first: second,
            longest: second * 3,
        };
        let start = Instant::now();
        let mut retry = Retry::default();
        assert_eq!((retry.due(), retry.begin(start)), (None, false));
        for seconds in [1, 2, 3, 3] {
            retry.failed(pauses, start);
            let due = start + second * seconds;
            assert_eq!(retry.due(), Some(due));
            assert!(!retry.begin(due - Duration::from_millis(1)));
            assert!(retry.begin(due) && !retry.begin(due));
        }
        retry = Retry::default();
        retry.failed(pauses, start);
        assert_eq!(retry.due(), Some(start + second));
    }
}
