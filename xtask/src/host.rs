//! What the machine must allow before anything is started.

use anyhow::{Result, bail};
use std::fs;

/// Fails with one line unless the effective user is root: namespaces, AF_XDP and BPF need it.
pub fn require_root(what: &str) -> Result<()> {
    // The owner of our own entry in /proc is the effective user.
    let status = fs::read_to_string("/proc/self/status")?;
    if effective_uid(&status) == Some(0) {
        return Ok(());
    }
    bail!(
        "{what} needs root (network namespaces, AF_XDP, BPF): run it as root, for example with `sudo -E env PATH=\"$PATH\"`"
    );
}

/// Whether a program of this name can be started by it.
pub fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Second number of the `Uid:` line of /proc/self/status (proc(5): real, effective, saved, filesystem).
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::effective_uid;

    #[test]
    fn reads_the_effective_uid_not_the_real_one() {
        assert_eq!(
            effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n"),
            Some(0)
        );
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }
}
