//! `cargo xtask xen`: builds the rig and becomes it.

use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use xtask::build;

/// Becomes the rig: its exit status is ours.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let rig = build::rig()?;
    let error = Command::new(&rig).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", rig.display()))
}
