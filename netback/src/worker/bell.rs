//! Waking a thread that may be asleep, without a system call when it is not.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// One sleeper's bell. The sleeper says when it is about to sleep; only then does ringing cost a write.
#[derive(Debug)]
pub struct Bell {
    eventfd: OwnedFd,
    asleep: AtomicBool,
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
        let asleep = AtomicBool::new(false);
        Ok(Self { eventfd, asleep })
    }

    /// After something was put where the owner will look: wake it if it sleeps (or is about to).
    pub fn ring(&self) {
        // Pairs with the fence in `before_sleep`: either we see `asleep`, or the owner's look after it sees what was put.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.write();
        }
    }

    /// The owner will look once more and then sleep on the descriptor.
    pub fn before_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake, or found something at its last look; empties the descriptor if it was written.
    pub fn awake(&self) {
        if !self.asleep.swap(false, Ordering::Relaxed) {
            self.drain();
        }
    }

    #[allow(unsafe_code)] // write(2) on a descriptor that is not a file.
    fn write(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. The only failure is a counter at its limit, which is readable as well.
        unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    #[allow(unsafe_code)] // read(2) on a descriptor that is not a file.
    fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes. EAGAIN (nothing to drain yet) is fine: the next sleep ends at once.
        unsafe {
            libc::read(
                self.eventfd.as_raw_fd(),
                count.as_mut_ptr().cast(),
                count.len(),
            )
        };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
