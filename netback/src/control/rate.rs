//! A limit on what a guest can make us do: a number of times at once, then once in each interval.
use std::time::{Duration, Instant};

/// A bucket of permissions that fills over time.
#[derive(Debug, Clone)]
pub struct Rate {
    burst: u32,
    interval: Duration,
    left: u32,
    /// When the last permission was put in.
    filled: Instant,
}
impl Rate {
    /// Allows `burst` permissions at once, and one more each `interval`.
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            left: burst,
            filled: now,
        }
    }

    /// Takes a permission. The error, where there is none, is when there will be one.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.filled);
        let gained =
            (passed.as_nanos() / self.interval.as_nanos().max(1)).min(self.burst.into()) as u32;
        if gained > 0 {
            self.left = (self.left + gained).min(self.burst);
            self.filled = if self.left == self.burst {
                now
            } else {
                self.filled + self.interval * gained
            };
        }
        if self.left == 0 {
            return Err(self.filled + self.interval);
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_never_more_saved_up_than_a_burst() {
        let start = Instant::now();
        let step = Duration::from_millis(100);
        let mut rate = Rate::new(3, step, start);
        let taken = |rate: &mut Rate, at: Duration| {
            (0..10).filter(|_| rate.take(start + at).is_ok()).count()
        };
        assert_eq!(taken(&mut rate, Duration::ZERO), 3);
        assert_eq!(rate.take(start), Err(start + step));
        assert_eq!(taken(&mut rate, step), 1);
        assert_eq!(taken(&mut rate, step * 2 - Duration::from_millis(1)), 0);
        assert_eq!(taken(&mut rate, step * 2), 1);
        assert_eq!(taken(&mut rate, step * 1000), 3);
    }
}
