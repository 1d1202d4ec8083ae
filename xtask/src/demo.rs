//! `cargo xtask demo`: packages, build, then the demo itself, which has stdout for itself.

use anyhow::{Context, Result};
use clap::Parser;
use demo_options::Options;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use xtask::{build, host, packages};

/// Becomes the demo: its exit status is ours, and Ctrl-C reaches it. A wrong argument ends here, before anything is built.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let name = String::from("cargo xtask demo");
    Options::parse_from(std::iter::once(&name).chain(args));
    host::require_root("the demo")?;
    packages::ensure(&[packages::BUILD, packages::LAB])?;
    let demo = build::release()?.join("netback-demo");
    let error = Command::new(&demo).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}
