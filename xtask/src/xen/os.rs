//! The two calls that the standard library does not have: entering a network namespace, and a lock between processes.
#![allow(unsafe_code)] // setns(2) and flock(2)

use anyhow::{Context, Result};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Run `work` on a thread of its own inside the network namespace behind `path`; sockets made there stay in it.
pub fn in_namespace<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace =
        File::open(path).with_context(|| format!("no network namespace {}", path.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            // SAFETY: setns changes only the calling thread, which ends with `work`; the descriptor is open.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(work())
        });
        let outcome = inside.join().expect("work in a namespace does not panic");
        outcome.with_context(|| format!("cannot enter {}", path.display()))
    })
}

/// Wait for the exclusive lock on `path` (made if missing); it is held until the file is dropped.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    // SAFETY: flock takes an open descriptor and no memory of ours.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot lock {}", path.display()));
    }
    Ok(file)
}
