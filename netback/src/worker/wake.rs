//! Waking a thread that may be asleep, without a system call when it is not.
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Wakes one thread. The thread says when it is about to sleep; only then does waking it cost a write.
#[derive(Debug)]
pub struct Waker {
    eventfd: OwnedFd,
    asleep: AtomicBool,
    /// The owner's alone: writes that other threads have taken upon themselves and that were not read yet.
    owed: AtomicU64,
}

impl Waker {
    /// A waker whose owner is awake.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            eventfd,
            asleep: AtomicBool::new(false),
            owed: AtomicU64::new(0),
        })
    }

    /// After something was put where the owner will look: wake it if it sleeps (or is about to).
    pub fn wake(&self) {
        // Pairs with the fence in `before_sleep`: either we see `asleep`, or the owner's look after it sees what was put.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.write();
        }
    }

    /// The owner will look once more and then sleep on the descriptor; [`Self::awake`] follows, once.
    pub fn before_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake, or found something at its last look; empties the descriptor if it was written. Whoever took the flag
    /// may not have written yet: the next sleep ends at once then, and what was owed is read after it. Forgotten, it would end
    /// every sleep from there on.
    pub fn awake(&self) {
        let woken = u64::from(!self.asleep.swap(false, Ordering::Relaxed));
        let owed = self.owed.load(Ordering::Relaxed) + woken;
        if owed > 0 {
            self.owed
                .store(owed.saturating_sub(self.drain()), Ordering::Relaxed);
        }
    }

    fn write(&self) {
        // The only failure is a counter at its limit, which is readable as well.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    /// How many writes were read; 0 where there was none yet (EAGAIN leaves the count as it is).
    fn drain(&self) -> u64 {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.eventfd, &mut count);
        u64::from_ne_bytes(count)
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Whether a sleep on the waker would end at once.
    fn is_readable(waker: &Waker) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(waker, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn a_sleeper_is_woken_and_nobody_else_pays() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!is_readable(&waker), "its owner was awake");
        waker.before_sleep();
        waker.wake();
        waker.wake();
        assert!(is_readable(&waker));
        waker.awake();
        assert!(!is_readable(&waker));
        waker.before_sleep();
        waker.awake();
        assert!(!is_readable(&waker));
    }

    /// `wakers` have taken the flag, one a sleep, and write only after the owner woke by itself.
    fn late(wakers: u64) {
        let waker = Waker::new().unwrap();
        for _ in 0..wakers {
            waker.before_sleep();
            assert!(waker.asleep.swap(false, Ordering::Relaxed));
            waker.awake();
        }
        for written in 1..=wakers {
            waker.write();
            waker.before_sleep();
            assert!(is_readable(&waker), "{written} of {wakers}");
            waker.awake();
            waker.before_sleep();
            assert!(!is_readable(&waker), "sleeps end at once from here on");
            waker.awake();
        }
        assert_eq!(waker.owed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_waker_that_is_late_ends_one_sleep() {
        late(1);
        late(2);
    }
}
