//! `cargo xtask dist` and `cargo xtask deb`: manual pages, completions, and the Debian package.

mod changelog;
mod copyright;

use crate::build::{self, Turn};
use crate::command::{cargo, must_succeed};
use crate::packages;
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// What makes the package; its version is the one that the metadata in netback/Cargo.toml is written for.
const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "^3",
};
/// The Debian revision where none is asked for, which is cargo-deb's.
const REVISION: &str = "1";

/// Manual pages and completions, made by netback's own command line, and the package's changelogs and copyright file, in
/// `target/release/dist`.
fn dist(_turn: &Turn, revision: &str) -> Result<PathBuf> {
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
    let metadata = metadata()?;
    let netback = metadata["packages"].as_array().into_iter().flatten();
    let netback = netback.clone().find(|package| package["name"] == "netback");
    let netback = netback.context("cargo metadata has no package netback")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = changelog::entry(
        &format!("{}-{revision}", text(&netback["version"])),
        &text(&netback["metadata"]["deb"]["maintainer"]),
    )?;
    std::fs::write(directory.join("changelog.Debian"), entry)?;
    let source = |file: &str| build::workspace().join(file);
    std::fs::copy(source("CHANGELOG.md"), directory.join("changelog"))?;
    let ours = std::fs::read_to_string(source("packaging/copyright"))?;
    std::fs::write(
        directory.join("copyright"),
        copyright::complete(&ours, &metadata)?,
    )?;
    // Debian wants these compressed, and the same bytes from the same source.
    let mut gzip = Command::new("gzip");
    gzip.args(["--no-name", "--best", "--recursive", "man"])
        .args(["changelog", "changelog.Debian"])
        .current_dir(&directory);
    must_succeed(&mut gzip, "compressing manual pages and changelogs")?;
    Ok(directory)
}

/// What cargo knows of the packages that netback is built from on this machine.
fn metadata() -> Result<Value> {
    let version = Command::new("rustc").arg("-vV").output();
    let version = String::from_utf8(version.context("cannot start rustc")?.stdout)?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names no host")?;
    let output = Command::new(cargo())
        .args(["metadata", "--format-version=1", "--filter-platform", host])
        .current_dir(build::workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// `cargo xtask dist`.
pub fn run_dist() -> Result<ExitCode> {
    packages::ensure(&[packages::BUILD])?;
    println!("{}", dist(&Turn::take()?, REVISION)?.display());
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
    let tool = CARGO_DEB.path()?;
    dist(turn, revision(args))?;
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

/// The Debian revision that `args` ask cargo-deb for.
fn revision(args: &[String]) -> &str {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--deb-revision" {
            return args.next().map_or(REVISION, String::as_str);
        }
        if let Some(revision) = arg.strip_prefix("--deb-revision=") {
            return revision;
        }
    }
    REVISION
}

/// Makes the package and has lintian(1) judge it: every error and every warning fails.
pub fn lint() -> Result<ExitCode> {
    packages::ensure(&[packages::CHECKING])?;
    let package = package(1, &build::target_dir()?.join("lint-package"))?;
    let mut lintian = Command::new("lintian");
    // Left out is the bug that asks Debian for a package, which is for Debian's own archive. `--allow-root`: all of this needs root.
    lintian
        .args(["--allow-root", "--fail-on", "error,warning"])
        .args(["--suppress-tags", "initial-upload-closes-no-bugs"])
        .arg(&package);
    let status = lintian.status().context("cannot start lintian")?;
    ensure!(
        status.success(),
        "lintian found fault with {}",
        package.display()
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_revision_is_the_one_that_cargo_deb_is_given() {
        let revision = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            super::revision(&args).to_owned()
        };
        assert_eq!(revision("--output x"), "1");
        assert_eq!(revision("--deb-revision 2 --output x"), "2");
        assert_eq!(revision("--deb-revision=3~bpo"), "3~bpo");
    }
}
