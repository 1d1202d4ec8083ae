//! Waking a thread that may be asleep, without a system call when it is not.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// One sleeper's bell. The sleeper says when it is about to sleep; only then does ringing cost a write.
#[derive(Debug)]
pub struct Bell {
    eventfd: OwnedFd,
    asleep: AtomicBool,
    /// The owner's alone: writes that ringers have taken upon themselves and that were not read yet.
    owed: AtomicU64,
}

impl Bell {
    /// A bell whose owner is awake.
    #[allow(unsafe_code)] // eventfd(2) has no safe wrapper in std.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            eventfd,
            asleep: AtomicBool::new(false),
            owed: AtomicU64::new(0),
        })
    }

    /// After something was put where the owner will look: wake it if it sleeps (or is about to).
    pub fn ring(&self) {
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
        let rung = u64::from(!self.asleep.swap(false, Ordering::Relaxed));
        let owed = self.owed.load(Ordering::Relaxed) + rung;
        if owed > 0 {
            self.owed
                .store(owed.saturating_sub(self.drain()), Ordering::Relaxed);
        }
    }

    #[allow(unsafe_code)] // write(2) on a descriptor that is not a file.
    fn write(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. The only failure is a counter at its limit, which is readable as well.
        unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Writes read; 0 where there was none yet (EAGAIN leaves the count as it is).
    #[allow(unsafe_code)] // read(2) on a descriptor that is not a file.
    fn drain(&self) -> u64 {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes.
        unsafe {
            libc::read(
                self.eventfd.as_raw_fd(),
                count.as_mut_ptr().cast(),
                count.len(),
            )
        };
        u64::from_ne_bytes(count)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Whether a sleep on the bell would end at once.
    fn is_readable(bell: &Bell) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn ringing_wakes_a_sleeper_and_costs_nothing_else() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!is_readable(&bell), "its owner was awake");
        bell.before_sleep();
        bell.ring();
        bell.ring();
        assert!(is_readable(&bell));
        bell.awake();
        assert!(!is_readable(&bell));
        bell.before_sleep();
        bell.awake();
        assert!(!is_readable(&bell));
    }

    /// `ringers` have taken the flag, one a sleep, and write only after the owner woke by itself.
    fn late(ringers: u64) {
        let bell = Bell::new().unwrap();
        for _ in 0..ringers {
            bell.before_sleep();
            assert!(bell.asleep.swap(false, Ordering::Relaxed));
            bell.awake();
        }
        for written in 1..=ringers {
            bell.write();
            bell.before_sleep();
            assert!(is_readable(&bell), "{written} of {ringers}");
            bell.awake();
            bell.before_sleep();
            assert!(!is_readable(&bell), "sleeps end at once from here on");
            bell.awake();
        }
        assert_eq!(bell.owed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_ringer_that_is_late_ends_one_sleep() {
        late(1);
        late(2);
    }
}
