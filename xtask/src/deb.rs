//! `cargo xtask dist` and `cargo xtask deb`: manual pages, completions, and the Debian package.

use crate::build::{self, Turn};
use crate::command::{cargo, must_succeed};
use crate::{host, packages};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The version of cargo-deb that the metadata in netback/Cargo.toml is written for.
const CARGO_DEB: &str = "^3";

/// Manual pages and completions, made by netback's own command line, in `target/release/dist`.
fn dist(_turn: &Turn) -> Result<PathBuf> {
    let directory = build::target_dir()?.join("release/dist");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(directory.join("man"))?;
    let mut example = Command::new(cargo());
    example
        .args([
            "run",
            "--release",
            "-p",
            "netback",
            "--example",
            "dist",
            "--",
        ])
        .arg(&directory)
        .current_dir(build::workspace());
    must_succeed(&mut example, "making manual pages and completions")?;
    // Debian wants manual pages compressed, and the same bytes from the same source.
    let mut gzip = Command::new("gzip");
    gzip.args(["--no-name", "--best", "--recursive"])
        .arg(directory.join("man"));
    must_succeed(&mut gzip, "compressing manual pages")?;
    Ok(directory)
}

/// `cargo xtask dist`.
pub fn run_dist() -> Result<ExitCode> {
    packages::ensure(&[packages::BUILD])?;
    println!("{}", dist(&Turn::take()?)?.display());
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask deb ARGS`: the package's path is all there is on stdout. ARGS go to cargo-deb (`--deb-revision 2`).
pub fn run_deb(args: &[String]) -> Result<ExitCode> {
    ensure_packages()?;
    let turn = Turn::take()?;
    let mut make = maker(&turn, args)?;
    let status = make
        .status()
        .with_context(|| format!("cannot start {make:?}"))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The package with Debian revision `revision`, alone in `directory`, which is emptied before.
pub fn package(revision: u32, directory: &Path) -> Result<PathBuf> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let arguments = [
        "--deb-revision".to_owned(),
        revision.to_string(),
        "--output".to_owned(),
        directory.display().to_string(),
    ];
    ensure_packages()?;
    let turn = Turn::take()?;
    must_succeed(maker(&turn, &arguments)?.stdout(Stdio::null()), "cargo deb")?;
    let tail = format!("-{revision}_");
    let mut files = std::fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|file| file.to_string_lossy().contains(&tail))
        .with_context(|| format!("cargo deb left no package in {}", directory.display()))
}

fn ensure_packages() -> Result<()> {
    packages::ensure(&[packages::BUILD, packages::PACKAGING])
}

/// What makes the package, once all that goes into it is built; the turn is kept until it has run. `args` go to cargo-deb.
fn maker(turn: &Turn, args: &[String]) -> Result<Command> {
    let tool = cargo_deb()?;
    dist(turn)?;
    build::daemon(turn)?;
    eprintln!("xtask: making the package");
    let mut make = Command::new(tool);
    // Left to itself it builds the whole workspace.
    make.args(["-p", "netback", "--quiet", "--no-build", "--strip"])
        .args(args)
        .current_dir(build::workspace())
        .stdin(Stdio::null());
    Ok(make)
}

/// cargo-deb from PATH, or one of our own below the target directory, built on the first use.
fn cargo_deb() -> Result<PathBuf> {
    if host::in_path("cargo-deb") {
        return Ok("cargo-deb".into());
    }
    let root = build::target_dir()?.join("tools");
    let tool = root.join("bin/cargo-deb");
    if !tool.exists() {
        eprintln!("xtask: building cargo-deb (once, some minutes)");
        let mut install = Command::new(cargo());
        install
            .args([
                "install",
                "--locked",
                "cargo-deb",
                "--version",
                CARGO_DEB,
                "--root",
            ])
            .arg(&root);
        must_succeed(&mut install, "cargo install cargo-deb")?;
    }
    Ok(tool)
}
