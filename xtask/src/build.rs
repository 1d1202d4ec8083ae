//! Builds of the product and its companions, and where they end up.

use crate::command::{cargo, must_succeed};
use anyhow::{Context, Result};
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

/// Build daemon, simulator and the library that stands between them, optimised; the directory they are in.
pub fn release() -> Result<PathBuf> {
    eprintln!("xtask: building netback and the simulator (the first time takes some minutes)");
    let mut build = Command::new(cargo());
    build
        .args([
            "build",
            "--release",
            "-p",
            "netback",
            "-p",
            "sim",
            "-p",
            "sim-preload",
        ])
        .current_dir(workspace());
    must_succeed(&mut build, "cargo build")?;
    Ok(target_dir()?.join("release"))
}

/// What the integration tests start, in `target/debug`: first, under a name of its own, a netback that can be made to die at
/// named points; then the one that operators get, the simulator, and the library between them.
pub fn for_tests() -> Result<()> {
    let build = |arguments: &[&str]| {
        let mut build = Command::new(cargo());
        build.arg("build").args(arguments).current_dir(workspace());
        must_succeed(&mut build, "cargo build")
    };
    build(&["-p", "netback", "--features", "crash-points"])?;
    let directory = target_dir()?.join("debug");
    std::fs::copy(
        directory.join("netback"),
        directory.join("netback-crash-points"),
    )
    .context("cannot put netback-crash-points beside netback")?;
    build(&["-p", "netback", "-p", "sim", "-p", "sim-preload"])
}
