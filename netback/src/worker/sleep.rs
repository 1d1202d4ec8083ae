//! Waiting for any of a worker's descriptors: io_uring, or epoll where the kernel has that disabled.
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, types};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Token of the event channels' descriptor.
pub(crate) const EVENTS: u64 = 0;
/// Token of the bell's.
pub(crate) const BELL: u64 = 1;
/// Token of the first uplink's; the others follow.
pub(crate) const FIRST_WIRE: u64 = 2;

/// Completion entries beyond what any worker watches.
const ENTRIES: u32 = 256;

/// What a worker sleeps on. Which descriptor ended the sleep does not matter: the next turn looks at everything.
pub(crate) struct Sleeper {
    watched: Vec<Watched>,
    kind: Kind,
}

struct Watched {
    token: u64,
    fd: RawFd,
    /// A poll of it is with the kernel.
    polled: bool,
}

enum Kind {
    Uring(Box<IoUring>),
    Epoll(OwnedFd),
}

impl Sleeper {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// Neither io_uring nor epoll is to be had.
    pub fn new() -> io::Result<Self> {
        match IoUring::new(ENTRIES) {
            // EXT_ARG (Linux 5.11): a timeout with the wait.
            Ok(ring) if ring.params().is_feature_ext_arg() => Ok(Self {
                watched: Vec::new(),
                kind: Kind::Uring(Box::new(ring)),
            }),
            _ => Self::with_epoll(),
        }
    }

    /// The fallback.
    ///
    /// # Errors
    /// What epoll_create1(2) says.
    #[allow(unsafe_code)] // epoll(7) has no wrapper in std.
    pub fn with_epoll() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            watched: Vec::new(),
            kind: Kind::Epoll(epoll),
        })
    }

    /// Wakes for `fd` when it is readable. The descriptor stays open for as long as the sleeper is used.
    pub fn watch(&mut self, token: u64, fd: Option<BorrowedFd<'_>>) {
        let Some(fd) = fd else { return };
        self.watched.push(Watched {
            token,
            fd: fd.as_raw_fd(),
            polled: false,
        });
        if let Kind::Epoll(epoll) = &self.kind {
            epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd.as_raw_fd());
        }
    }

    /// Sleep until a watched descriptor is readable or `timeout` is over. Errors end the sleep: the next turn looks at everything anyway.
    pub fn sleep(&mut self, timeout: Option<Duration>) {
        match &mut self.kind {
            Kind::Epoll(epoll) => epoll_wait(epoll, timeout),
            Kind::Uring(ring) => {
                for watched in self.watched.iter_mut().filter(|watched| !watched.polled) {
                    let poll = opcode::PollAdd::new(types::Fd(watched.fd), libc::POLLIN as u32);
                    watched.polled = push(ring, &poll.build().user_data(watched.token));
                }
                let _ = match timeout {
                    None => ring.submit_and_wait(1),
                    Some(timeout) => {
                        let timeout = Timespec::from(timeout);
                        ring.submitter()
                            .submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
                    }
                };
                reap(ring, &mut self.watched);
            }
        }
    }
}

/// Whether `entry` found room in the submission queue; it is as long as everything watched, so only a bug leaves none.
#[allow(unsafe_code)] // io_uring's submission queue takes entries whose buffers outlive them.
fn push(ring: &mut IoUring, entry: &io_uring::squeue::Entry) -> bool {
    // SAFETY: polls have no buffers, and the descriptor stays open for as long as the sleeper is used (`watch`).
    unsafe { ring.submission().push(entry) }.is_ok()
}

/// Polls are for one event each: those that completed are to be asked for again.
fn reap(ring: &mut IoUring, watched: &mut [Watched]) {
    let ended = |entry: cqueue::Entry| entry.user_data();
    for token in ring.completion().map(ended) {
        if let Some(watched) = watched.iter_mut().find(|watched| watched.token == token) {
            watched.polled = false;
        }
    }
}

#[allow(unsafe_code)] // epoll(7) has no wrapper in std.
fn epoll_ctl(epoll: &OwnedFd, operation: i32, fd: RawFd) {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    // SAFETY: the event outlives the call. It fails only for a descriptor that cannot be polled, which then is never waited for.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &mut event) };
}

#[allow(unsafe_code)] // epoll(7) has no wrapper in std.
fn epoll_wait(epoll: &OwnedFd, timeout: Option<Duration>) {
    // Rounded up: a sleep that ends too early would spin.
    let millis = timeout.map_or(-1, |timeout| {
        timeout.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32
    });
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for the one event asked for.
    unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, millis) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::wake::Bell;
    use std::os::fd::AsFd;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(600);

    fn both() -> [Sleeper; 2] {
        [Sleeper::new().unwrap(), Sleeper::with_epoll().unwrap()]
    }

    #[test]
    fn a_bell_ends_the_sleep_again_and_again() {
        for mut sleeper in both() {
            let bell = Bell::new().unwrap();
            sleeper.watch(BELL, Some(bell.as_fd()));
            let start = Instant::now();
            for _ in 0..3 {
                bell.before_sleep();
                bell.ring();
                sleeper.sleep(Some(LONG));
                bell.awake();
            }
            assert!(start.elapsed() < LONG);
            bell.before_sleep();
            sleeper.sleep(Some(Duration::from_millis(1)));
        }
    }
}
