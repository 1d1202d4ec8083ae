//! Child processes: without stdin, ended with us, and within a time.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A command that reads nothing, keeps its output off our stdout, and is ended when we are or when `limit` is over.
///
/// setpriv(1) and timeout(1) do the ending: both are in packages that Debian calls essential. timeout(1) gives the command a
/// process group of its own and ends the whole of it, so that a hanging test takes no guest or daemon with it into the next step.
pub fn limited(program: impl AsRef<OsStr>, limit: Duration) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"])
        .arg(format!("{}s", limit.as_secs()))
        .arg(program);
    command.stdin(Stdio::null());
    command
}

/// Exit status of timeout(1) when the time was over.
pub const TIMED_OUT: i32 = 124;

/// The cargo that runs us, or the one in PATH.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// Run to the end, all output to stderr; one line of error when it fails.
pub fn must_succeed(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| {
            format!(
                "{what}: cannot start {}",
                command.get_program().to_string_lossy()
            )
        })?;
    if !status.success() {
        bail!("{what} failed ({status}); its own message is above");
    }
    Ok(())
}
