//! `cargo xtask demo`: packages, build, then the demo itself, which has stdout for itself.

use crate::{build, host, packages};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Becomes `netback-demo`: its exit status is ours, and Ctrl-C reaches it.
pub fn run(args: &[String]) -> Result<ExitCode> {
    host::require_root("the demo")?;
    packages::ensure(&[packages::BUILD, packages::LAB])?;
    let demo = build::release()?.join("netback-demo");
    let error = Command::new(&demo).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}
