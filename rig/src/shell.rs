//! Host commands: one line of error that holds what the command itself said.

use anyhow::{Context, Result, bail};
use std::process::{Command, Output, Stdio};

/// Run to the end and return its stdout; fails with its stderr unless it succeeded.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let reason = String::from_utf8_lossy(&stderr);
        bail!("{name} failed ({status}): {}", reason.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// `output` of a bash script (pipefail, errexit) with `arguments` as $1, $2, ...
pub fn bash(script: &str, arguments: &[&std::ffi::OsStr]) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "bash"]);
    output(command.args(arguments))
}
