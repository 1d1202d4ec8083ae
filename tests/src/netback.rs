//! The program `netback` in a lab's driver domain, beside or instead of the lab's own daemon.
use anyhow::{Context, Result};
use lab::{Lab, programs};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Makes a command that runs `program` in the driver domain with the simulated devices. It is killed when the calling thread ends.
pub fn command(lab: &Lab, program: &str, arguments: &[&str]) -> Result<Command> {
    command_under(lab, &[], program, arguments)
}

/// As [`command`], started by `wrapper`, a program with its arguments such as setpriv(1).
pub fn command_under(
    lab: &Lab,
    wrapper: &[&str],
    program: &str,
    arguments: &[&str],
) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "ip",
        "netns",
        "exec",
        lab.driver_namespace().name(),
        "env",
    ]);
    command.arg(format!(
        "LD_PRELOAD={}",
        programs::path("libsim_preload.so")?.display()
    ));
    command.arg(format!("SIM_DIR={}", lab.directory().path().display()));
    command.arg(format!("SIM_DOMID={}", lab.driver_domain().id().0));
    command
        .args(wrapper)
        .arg(programs::path(program)?)
        .args(arguments)
        .stdin(Stdio::null());
    Ok(command)
}

/// Runs `netback` with `arguments` until it ends.
pub fn output(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    command(lab, "netback", arguments)?
        .output()
        .context("cannot start netback")
}

/// Starts `netback run` with `config` in a build that dies at `point` (see `netback::crash`).
pub fn start_to_crash(lab: &Lab, config: &str, point: &str) -> Result<Child> {
    start_crashing(lab, config, &[("NETBACK_CRASH_AT", point)])
}

/// As [`start_to_crash`], with the environment that says where and how the build with crash points dies.
pub fn start_crashing(lab: &Lab, config: &str, environment: &[(&str, &str)]) -> Result<Child> {
    let path = lab.directory().file("netback.toml");
    std::fs::write(&path, config)?;
    let path = path.to_str().context("the lab's directory is not UTF-8")?;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(lab.directory().file("netback.log"))?;
    let mut command = command(lab, "netback-crash-points", &["run", "--config", path])?;
    command
        .envs(environment.iter().copied())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().context("cannot start netback-crash-points")
}

/// Returns the resident memory of a process in bytes (`/proc/<pid>/statm`).
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("statm"))?;
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .context("statm has no second field")?
        .parse()?;
    Ok(pages * 4096)
}
