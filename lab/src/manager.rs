//! A stand-in for systemd: keeps the descriptors that the daemon hands it (sd_notify(3), FDSTORE=1), and starts the next one with
//! them (sd_listen_fds(3)).
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Numbers below this one are not used for descriptors on their way to a child, so that none is in another's place.
const FREE: i32 = 100;
/// Runs the words behind the first one, with the redirections that the first one is, as the process that the descriptors are for.
const SCRIPT: &str = "eval \"exec $1\"; shift; LISTEN_PID=$$ exec \"$@\"";

/// A descriptor and its FDNAME.
type Kept = (String, OwnedFd);

/// The manager; it lets go of everything when it is dropped.
pub struct Manager {
    path: PathBuf,
    socket: Arc<UnixDatagram>,
    kept: Arc<Mutex<Vec<Kept>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    /// Listens at `path`.
    pub fn start(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let (socket, kept) = (Arc::new(socket), Arc::<Mutex<Vec<Kept>>>::default());
        let ended = Arc::<AtomicBool>::default();
        let (ears, mind, end) = (socket.clone(), kept.clone(), ended.clone());
        let listen = move || {
            loop {
                let mut fds = [PollFd::new(&*ears, PollFlags::IN)];
                let polled = poll(&mut fds, None);
                if polled.is_err() || end.load(Ordering::SeqCst) {
                    break;
                }
                take_in(&ears, &mind);
            }
        };
        Ok(Self {
            path: path.into(),
            thread: Some(std::thread::spawn(listen)),
            socket,
            kept,
            ended,
        })
    }

    /// The names of what it keeps, in order.
    pub fn names(&self) -> Vec<String> {
        take_in(&self.socket, &self.kept);
        let kept = self.kept.lock().expect("nothing panics with it locked");
        kept.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What makes `program` begin with the descriptors, behind the words of a command that execs what follows; and the descriptors,
    /// which have to live until it has begun.
    pub fn hand_over(&self) -> Result<(Vec<OsString>, Vec<OwnedFd>)> {
        take_in(&self.socket, &self.kept);
        let kept = self.kept.lock().expect("nothing panics with it locked");
        let mut handed = Vec::with_capacity(kept.len());
        let (mut redirections, mut names) = (String::new(), Vec::new());
        for (number, (name, fd)) in kept.iter().enumerate() {
            let fd = fcntl_dupfd_cloexec(fd, FREE)?;
            fcntl_setfd(&fd, FdFlags::empty())?;
            let there = fd.as_raw_fd();
            redirections += &format!("{}<&{there} {there}<&- ", number + 3);
            names.push(name.as_str());
            handed.push(fd);
        }
        let socket = format!("NOTIFY_SOCKET={}", self.path.display());
        let mut words = vec!["env".to_owned(), socket];
        if !handed.is_empty() {
            words.push(format!("LISTEN_FDS={}", handed.len()));
            words.push(format!("LISTEN_FDNAMES={}", names.join(":")));
        }
        words.extend(["bash", "-c", SCRIPT, "bash"].map(str::to_owned));
        words.push(redirections);
        Ok((words.into_iter().map(OsString::from).collect(), handed))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The next one listens at the same place.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes in every message that has come.
fn take_in(socket: &UnixDatagram, kept: &Mutex<Vec<Kept>>) {
    let mut kept = kept.lock().expect("nothing panics with it locked");
    loop {
        let (mut text, mut space) = (
            [0; 4096],
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))],
        );
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(socket.as_fd(), &mut parts, &mut ancillary, flags) {
            Ok(message) => message.bytes,
            Err(_) => return,
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let text = String::from_utf8_lossy(&text[..received]).into_owned();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FDNAME=").unwrap_or("stored");
        if value("FDSTOREREMOVE=") == Some("1") {
            kept.retain(|(other, _)| other != name);
        } else if value("FDSTORE=") == Some("1") {
            kept.extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
        }
    }
}
