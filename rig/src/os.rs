//! Work inside a network namespace, and a lock between threads and processes.

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Runs `work` on a thread of its own inside the network namespace behind `path`; sockets made there stay in it.
pub fn in_namespace<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace =
        File::open(path).with_context(|| format!("no network namespace {}", path.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok::<T, rustix::io::Errno>(work())
        });
        let outcome = inside.join().expect("work in a namespace does not panic");
        outcome.with_context(|| format!("cannot enter {}", path.display()))
    })
}

/// Waits for the exclusive lock on `path` (made if missing), which another thread of this process may hold as well as another process;
/// it is held until the file is dropped.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn a_lock_holds_off_another_thread() {
        let path = std::env::temp_dir().join(format!("rig-lock-{}", std::process::id()));
        let held = lock(&path).unwrap();
        let given_back = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let _lock = lock(&path).unwrap();
                given_back.load(Ordering::SeqCst)
            });
            std::thread::sleep(Duration::from_millis(50));
            given_back.store(true, Ordering::SeqCst);
            drop(held);
            assert!(other.join().unwrap());
        });
        std::fs::remove_file(path).unwrap();
    }
}
