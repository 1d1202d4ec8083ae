//! Signals, as bytes on a pipe that the control thread polls.
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: the daemon ends, and guests stay connected.
    Stop,
    /// SIGHUP: the configuration is read anew.
    Reload,
}

/// The reading ends of the pipes that signals are written to.
#[derive(Debug)]
pub struct Signals {
    stop: UnixStream,
    reload: UnixStream,
    /// An epoll descriptor, readable when either pipe is.
    both: rustix::fd::OwnedFd,
}

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP from now on.
    pub fn catch() -> io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let (stop, reload) = (pipe(&[SIGTERM, SIGINT])?, pipe(&[SIGHUP])?);
        let both = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?;
        for end in [&stop, &reload] {
            let data = rustix::event::epoll::EventData::new_u64(0);
            rustix::event::epoll::add(&both, end, data, rustix::event::epoll::EventFlags::IN)?;
        }
        Ok(Self { stop, reload, both })
    }

    /// Returns the signals that came since the last call, each kind once.
    pub fn take(&self) -> Vec<Signal> {
        let came = [(&self.stop, Signal::Stop), (&self.reload, Signal::Reload)];
        came.into_iter()
            .filter_map(|(end, signal)| drain(end).then_some(signal))
            .collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }
}

fn pipe(signals: &[i32]) -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for &signal in signals {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// Empties the pipe. Returns whether anything was in it.
fn drain(mut end: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut some = false;
    while matches!(end.read(&mut bytes), Ok(1..)) {
        some = true;
    }
    some
}
