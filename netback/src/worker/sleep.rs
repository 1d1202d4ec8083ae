//! Waiting for any of a worker's descriptors: io_uring, or epoll where the kernel has that disabled.
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Token of the event channels' descriptor.
pub(crate) const EVENTS: u64 = 0;
/// Token of the worker's own waker.
pub(crate) const WAKER: u64 = 1;
/// Token of the first device; the others follow.
pub(crate) const FIRST_UPLINK: u64 = 2;

/// Completion entries beyond what any worker watches.
const ENTRIES: u32 = 256;

/// What a worker sleeps on. Which descriptor ended the sleep does not matter: the next turn looks at everything.
pub(crate) struct Sleeper {
    watched: Vec<Watched>,
    kind: Kind,
}

struct Watched {
    token: u64,
    /// A duplicate, so that the kernel never polls a number that has become another descriptor's.
    fd: OwnedFd,
    /// The kernel has been asked to poll it, and has not answered.
    polled: bool,
}

enum Kind {
    Uring(Box<IoUring>),
    Epoll(OwnedFd),
}

impl Sleeper {
    /// A sleeper that watches nothing yet.
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

    /// A sleeper that uses epoll, whatever io_uring can do.
    ///
    /// # Errors
    /// What epoll_create1(2) says.
    pub fn with_epoll() -> io::Result<Self> {
        Ok(Self {
            watched: Vec::new(),
            kind: Kind::Epoll(epoll::create(epoll::CreateFlags::CLOEXEC)?),
        })
    }

    /// Wakes for `fd` when it is readable, for as long as the sleeper is used.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated, or not be polled.
    pub fn watch(&mut self, token: u64, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.try_clone_to_owned()?;
        if let Kind::Epoll(epoll) = &self.kind {
            epoll::add(epoll, &fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        self.watched.push(Watched {
            token,
            fd,
            polled: false,
        });
        Ok(())
    }

    /// Sleep until a watched descriptor is readable or `timeout` is over. Errors end the sleep: the next turn looks at everything anyway.
    pub fn sleep(&mut self, timeout: Option<Duration>) {
        match &mut self.kind {
            Kind::Epoll(epoll) => epoll_wait(epoll, timeout),
            Kind::Uring(ring) => {
                for watched in self.watched.iter_mut().filter(|watched| !watched.polled) {
                    let poll = opcode::PollAdd::new(
                        types::Fd(watched.fd.as_raw_fd()),
                        libc::POLLIN as u32,
                    );
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

fn epoll_wait(epoll: &OwnedFd, timeout: Option<Duration>) {
    // Rounded up: a sleep that ends too early would spin.
    let timeout = timeout.map(|timeout| rustix::event::Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut events = [MaybeUninit::uninit(); 1];
    let _ = epoll::wait(epoll, &mut events[..], timeout.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::wake::Waker;
    use std::os::fd::AsFd;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(600);

    fn both() -> [Sleeper; 2] {
        [Sleeper::new().unwrap(), Sleeper::with_epoll().unwrap()]
    }

    #[test]
    fn a_waker_ends_the_sleep_again_and_again() {
        for mut sleeper in both() {
            let waker = Waker::new().unwrap();
            sleeper.watch(WAKER, waker.as_fd()).unwrap();
            let start = Instant::now();
            for _ in 0..3 {
                waker.before_sleep();
                waker.wake();
                sleeper.sleep(Some(LONG));
                waker.awake();
            }
            assert!(start.elapsed() < LONG);
            waker.before_sleep();
            sleeper.sleep(Some(Duration::from_millis(1)));
        }
    }
}
