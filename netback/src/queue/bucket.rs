//! A token bucket that several workers take from without a lock.
//!
//! The bucket is one word: the time at which it would be full if nobody took any more. Taking bytes moves that time on by what they
//! last at the bucket's rate, and what the bucket holds is how far the time is from being a whole bucket ahead. There is nothing to
//! refill, so no timer runs for a bucket that is full, and a bucket is exact at any rate however rarely it is looked at.
use crate::observe::counters::Counter;
use crate::vif::bandwidth::Bandwidth;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Binary digits of a nanosecond that a byte's time is counted in: at 100 Gbit/s a byte lasts 0.08 ns, and at a byte in ten seconds, the
/// least, its time just fits 64 bits.
const FRACTION: u32 = 30;
/// How much an empty bucket gathers before it is taken from again, in nanoseconds: at most a thousand wake-ups a second.
const GATHER: u64 = 1_000_000;
/// The longest wait for an empty bucket: its rate may have changed by then.
const LONGEST_WAIT: u64 = 100_000_000;

/// The bucket of one direction of a vif, shared by its queues. Counters only: nothing else is published through its words, so every
/// access is relaxed.
#[derive(Debug)]
pub struct TokenBucket {
    /// When nanoseconds begin to count.
    epoch: Instant,
    /// When the bucket is full, in nanoseconds.
    full_at: AtomicU64,
    /// What a byte lasts, in nanoseconds with [`FRACTION`]; 0: no limit.
    byte: AtomicU64,
    /// What a full bucket lasts, in nanoseconds.
    depth: AtomicU64,
}

impl TokenBucket {
    /// A full bucket of this rate, or no limit.
    pub fn new(rate: Option<Bandwidth>, now: Instant) -> Self {
        let bucket = Self {
            epoch: now,
            full_at: AtomicU64::new(0),
            byte: AtomicU64::new(0),
            depth: AtomicU64::new(0),
        };
        bucket.set(rate, now);
        bucket
    }

    /// Fills the bucket and changes its rate.
    pub fn set(&self, rate: Option<Bandwidth>, now: Instant) {
        let byte = rate.map_or(0, |rate| {
            let window = u128::from(rate.window) * 1000;
            let byte = (window << FRACTION) / u128::from(rate.bytes);
            u64::try_from(byte).unwrap_or(u64::MAX).max(1)
        });
        let depth = rate.map_or(0, |rate| u64::from(rate.window) * 1000);
        self.full_at.store(self.nanoseconds(now), Relaxed);
        self.depth.store(depth, Relaxed);
        self.byte.store(byte, Relaxed);
    }

    /// Whether there is a limit at all.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.byte.load(Relaxed) != 0
    }

    /// How many bytes one of `sharers` may take now, at least one; the error is when to ask again. Whoever may take a byte may take a whole
    /// packet: the bucket then owes what it did not hold, and has no room until that is gathered.
    pub fn room(&self, sharers: usize, now: Instant) -> Result<usize, Instant> {
        let byte = self.byte.load(Relaxed);
        if byte == 0 {
            return Ok(usize::MAX);
        }
        let (full_at, depth) = (self.full_at.load(Relaxed), self.depth.load(Relaxed));
        let missing = full_at.saturating_sub(self.nanoseconds(now));
        if missing >= depth {
            let wait = (missing - depth).saturating_add(depth.min(GATHER));
            return Err(now + Duration::from_nanos(wait.min(LONGEST_WAIT)));
        }
        let bytes = (u128::from(depth - missing) << FRACTION) / u128::from(byte);
        let share = usize::try_from(bytes).unwrap_or(usize::MAX) / sharers.max(1);
        Ok(share.max(1))
    }

    /// Takes bytes out, as many as were sent.
    pub fn take(&self, bytes: usize, now: Instant) {
        let now = self.nanoseconds(now);
        let lasts = (bytes as u128 * u128::from(self.byte.load(Relaxed))) >> FRACTION;
        let lasts = u64::try_from(lasts).unwrap_or(u64::MAX);
        let taken = |full_at: u64| Some(full_at.max(now).saturating_add(lasts));
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, taken);
    }

    /// Bytes that last for `time` at the bucket's rate; `None` where there is no limit.
    pub fn bytes_in(&self, time: Duration) -> Option<usize> {
        let byte = self.byte.load(Relaxed);
        let bytes = (time.as_nanos() << FRACTION).checked_div(byte.into())?;
        Some(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

/// How one queue takes from a bucket: once the bucket was empty, the queue takes nothing for a while.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    until: Option<Instant>,
}

impl Pacing {
    /// Bytes that the queue, one of `sharers`, may move now; `None`: the queue has to wait, which is counted once.
    #[inline]
    pub fn credit(
        &mut self,
        bucket: &TokenBucket,
        sharers: usize,
        now: Instant,
        waits: &Counter,
    ) -> Option<usize> {
        if bucket.is_limited() {
            return self.limited_credit(bucket, sharers, now, waits);
        }
        self.until = None;
        Some(usize::MAX)
    }

    fn limited_credit(
        &mut self,
        bucket: &TokenBucket,
        sharers: usize,
        now: Instant,
        waits: &Counter,
    ) -> Option<usize> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        let room = bucket.room(sharers, now);
        self.until = room.err();
        if room.is_err() {
            waits.add(1);
        }
        room.ok()
    }

    /// How long the queue still has to wait; `None`: not at all.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.until?.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Takes packets of `len` bytes for as long as `time`, as often as the bucket allows; how many bytes that were.
    fn taken(bucket: &TokenBucket, len: usize, start: Instant, time: Duration) -> u64 {
        let (mut now, mut sum) = (start, 0);
        while now < start + time {
            match bucket.room(1, now) {
                Ok(room) => {
                    let packets = room.div_ceil(len);
                    bucket.take(packets * len, now);
                    sum += (packets * len) as u64;
                }
                Err(later) => {
                    assert!(later > now);
                    now = later;
                }
            }
        }
        sum
    }

    #[test]
    fn without_a_limit_everything_may_be_taken() {
        let now = Instant::now();
        let bucket = TokenBucket::new(None, now);
        assert!(!bucket.is_limited());
        bucket.take(1 << 40, now);
        assert_eq!(
            (bucket.room(1, now), bucket.bytes_in(SECOND)),
            (Ok(usize::MAX), None)
        );
    }

    #[test]
    fn a_full_bucket_holds_a_window_and_no_more_however_long_it_waits() {
        let now = Instant::now();
        let bucket = TokenBucket::new(Bandwidth::from_text("1MB/s@20ms"), now);
        for later in [0, 1, 1000] {
            let now = now + SECOND * later;
            assert_eq!(bucket.room(1, now), Ok(20_000));
            assert_eq!(bucket.room(4, now), Ok(5_000));
            bucket.take(20_000, now);
            let gathered = now + Duration::from_millis(1);
            assert_eq!(bucket.room(1, now), Err(gathered));
            assert_eq!(bucket.room(1, gathered), Ok(1_000));
        }
        assert_eq!(bucket.bytes_in(SECOND), Some(1_000_000));
    }

    #[test]
    fn a_packet_longer_than_the_bucket_passes_and_is_paid_for_by_waiting() {
        let now = Instant::now();
        let bucket = TokenBucket::new(Bandwidth::from_text("1MB/s@1ms"), now);
        assert_eq!(bucket.room(1, now), Ok(1_000));
        bucket.take(65_000, now);
        let paid = now + Duration::from_millis(65);
        assert_eq!(bucket.room(1, now), Err(paid));
        assert!(bucket.room(1, paid - Duration::from_micros(1_001)).is_err());
        assert_eq!(bucket.room(1, paid), Ok(1_000));
    }

    #[test]
    fn a_new_rate_counts_at_once_and_forgets_debts() {
        let now = Instant::now();
        let bucket = TokenBucket::new(Bandwidth::from_text("1B/s@1s"), now);
        bucket.take(65_000, now);
        // Somebody who waits for such a bucket looks again before it has paid.
        assert_eq!(bucket.room(1, now), Err(now + Duration::from_millis(100)));
        bucket.set(Bandwidth::from_text("10Mb/s"), now);
        assert_eq!(bucket.room(1, now), Ok(62_500));
        bucket.set(None, now);
        assert_eq!(bucket.room(1, now), Ok(usize::MAX));
    }

    #[test]
    fn several_threads_take_no_more_than_the_rate() {
        let start = Instant::now();
        let bucket = TokenBucket::new(Bandwidth::from_text("100MB/s"), start);
        let sums: Vec<u64> = std::thread::scope(|scope| {
            let taker = || scope.spawn(|| taken(&bucket, 1514, start, SECOND));
            [taker(), taker(), taker()]
                .map(|taker| taker.join().unwrap())
                .into()
        });
        // Each may see the whole bucket once more than there is, before it finds that others were faster.
        let most = 105_000_000 + 3 * 5_000_000;
        let sum: u64 = sums.iter().sum();
        assert!((100_000_000..=most).contains(&sum), "{sums:?}");
    }

    proptest! {
        /// Over ten seconds a bucket gives its rate and one bucketful, give or take a packet, whatever the rate, window and packets.
        #[test]
        fn exact_over_time(bytes in 1_000u64..10_000_000_000, window in 1_000u32..1_000_000, len in 60usize..65_536) {
            let rate = Bandwidth { bytes, window };
            let start = Instant::now();
            let bucket = TokenBucket::new(Some(rate), start);
            let sum = taken(&bucket, len, start, 10 * SECOND);
            let expected = rate.a_second() * 10;
            let slack = bytes + len as u64 + expected / 10_000;
            // The last wait is at most LONGEST_WAIT long.
            prop_assert!(sum <= expected + slack, "{sum} of {expected}");
            prop_assert!(sum + slack + rate.a_second() / 10 >= expected, "{sum} of {expected}");
        }
    }
}
