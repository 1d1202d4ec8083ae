//! The program `netback` in a lab's driver domain, beside or instead of the lab's own daemon.
use anyhow::{Context, Result};
use lab::{Lab, programs};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `program` with `arguments` in the driver domain, the simulator's devices before the real ones. Killed with our thread.
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

/// Run it to its end.
pub fn output(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    command(lab, "netback", arguments)?
        .output()
        .context("cannot start netback")
}

/// `netback run` on `config`, in a build that dies at `point` (see `netback::crash`); the config is the lab's own file.
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

/// Pages of memory that a process holds, as /proc/<pid>/statm says, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("statm"))?;
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .context("statm has no second field")?
        .parse()?;
    Ok(pages * 4096)
}
