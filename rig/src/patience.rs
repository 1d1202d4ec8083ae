//! How long to wait for an emulated machine. While a busy host has no processor for it nothing can happen in it, so that time does not
//! count.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A wait that has a limit.
pub struct Patience {
    limit: Duration,
    start: Instant,
    /// The emulator's threads, in /proc.
    threads: PathBuf,
    /// How long the emulator had been kept from running before the wait began.
    before: Duration,
}

impl Patience {
    /// Wait for the emulator `pid` from now on.
    pub fn begin(pid: u32, limit: Duration) -> Self {
        let threads = PathBuf::from(format!("/proc/{pid}/task"));
        Self {
            limit,
            start: Instant::now(),
            before: kept_waiting(&threads),
            threads,
        }
    }

    /// Whether it has lasted longer than its limit.
    pub fn is_over(&self) -> bool {
        let waiting = kept_waiting(&self.threads).saturating_sub(self.before);
        self.start.elapsed().saturating_sub(waiting) > self.limit
    }
}

/// How long the thread that was kept waiting longest has waited for a processor in all its life.
fn kept_waiting(threads: &Path) -> Duration {
    let Ok(threads) = fs::read_dir(threads) else {
        return Duration::ZERO;
    };
    let of_thread = |thread: fs::DirEntry| {
        // Nanoseconds that it ran, nanoseconds that it waited to run, how often it ran.
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    };
    let longest = threads.flatten().filter_map(of_thread).max();
    Duration::from_nanos(longest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_the_time_is_up_and_nobody_was_kept_waiting() {
        // There is no such process.
        assert!(Patience::begin(u32::MAX, Duration::ZERO).is_over());
        assert!(!Patience::begin(u32::MAX, Duration::from_secs(600)).is_over());
    }

    #[test]
    fn the_time_that_a_process_was_kept_waiting_is_counted() {
        let threads = PathBuf::from("/proc/self/task");
        let before = kept_waiting(&threads);
        assert!(before > Duration::ZERO && before < Duration::from_secs(600));
    }
}
