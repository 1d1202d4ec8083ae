//! Builds of the product and its companions, and where they end up.

use crate::command::{cargo, must_succeed};
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root: the parent of this crate, as it was when it was built, which `cargo xtask` does where it is called.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// Where cargo puts what it builds (CARGO_TARGET_DIR and cargo's configuration heeded).
pub fn target_dir() -> Result<PathBuf> {
    let output = Command::new(cargo())
        .args(["metadata", "--format-version=1", "--no-deps"])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let directory = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target_directory")?;
    Ok(directory.into())
}

/// The right to build: held by one `cargo xtask` at a time, until it is dropped or its process ends.
///
/// cargo's own locks do not suffice, since some commands need what several builds in a row leave (the package: its manual pages
/// and its daemon), and some put different files under the same name for a while (the daemon with crash points).
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until no other `cargo xtask` on this target directory builds, and says that it waits.
    pub fn take() -> Result<Self> {
        Self::take_in(&target_dir()?)
    }

    fn take_in(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("xtask.lock");
        let lock =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("xtask: waiting for another cargo xtask that builds");
            flock(&lock, FlockOperation::LockExclusive)
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { _lock: lock })
    }
}

/// `cargo build` with `arguments`.
fn build(arguments: &[&str]) -> Result<()> {
    let mut build = Command::new(cargo());
    build.arg("build").args(arguments).current_dir(workspace());
    must_succeed(&mut build, "cargo build")
}

/// Build the daemon, the simulator with its library, and the demo, optimised; the directory they are in.
pub fn release() -> Result<PathBuf> {
    let _turn = Turn::take()?;
    eprintln!("xtask: building netback and the simulator (the first time takes some minutes)");
    let packages = "-p netback -p sim -p sim-preload -p lab";
    let arguments = std::iter::once("--release").chain(packages.split(' '));
    build(&arguments.collect::<Vec<_>>())?;
    Ok(target_dir()?.join("release"))
}

/// Build the daemon that operators get; where it is.
pub fn daemon(_turn: &Turn) -> Result<PathBuf> {
    build(&["--release", "-p", "netback"])?;
    Ok(target_dir()?.join("release/netback"))
}

/// Build the rig as quickly as xtask itself; where it is.
pub fn rig() -> Result<PathBuf> {
    build(&["--profile", "xtask", "-p", "rig"])?;
    Ok(target_dir()?.join("xtask/rig"))
}

/// What the integration tests start, in `target/debug`: first, under a name of its own, a netback that can be made to die at
/// named points; then the one that operators get, the simulator with its library, and the demo.
pub fn for_tests() -> Result<()> {
    let _turn = Turn::take()?;
    build(&["-p", "netback", "--features", "crash-points"])?;
    let directory = target_dir()?.join("debug");
    std::fs::copy(
        directory.join("netback"),
        directory.join("netback-crash-points"),
    )
    .context("cannot put netback-crash-points beside netback")?;
    build(&[
        "-p",
        "netback",
        "-p",
        "sim",
        "-p",
        "sim-preload",
        "-p",
        "lab",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn who_builds_next_waits_for_who_builds() {
        let directory = std::env::temp_dir().join(format!("xtask-turn-{}", std::process::id()));
        let first = Turn::take_in(&directory).unwrap();
        let (told, heard) = mpsc::channel();
        let next = std::thread::spawn({
            let directory = directory.clone();
            move || {
                let turn = Turn::take_in(&directory).unwrap();
                told.send(()).unwrap();
                drop(turn);
            }
        });
        assert!(heard.recv_timeout(Duration::from_millis(300)).is_err());
        drop(first);
        heard.recv().unwrap();
        next.join().unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
