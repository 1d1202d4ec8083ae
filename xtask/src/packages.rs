//! Debian packages that a command needs: only those missing are installed, without a question.

use crate::build::Turn;
use crate::command::must_succeed;
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// To build libbpf and libxdp, which xsk-rs carries.
pub const BUILD: &[&str] = &[
    "gcc",
    "libc6-dev",
    "make",
    "pkg-config",
    "clang",
    "libclang-dev",
    "m4",
    "libelf-dev",
    "zlib1g-dev",
];

/// To run guests in namespaces and stock tools in them.
pub const LAB: &[&str] = &[
    "iproute2",
    "iputils-ping",
    "iputils-arping",
    "iperf3",
    "ethtool",
    "procps",
    "isc-dhcp-client",
    "dnsmasq-base",
];

/// To build a Debian package.
pub const PACKAGING: &[&str] = &["dpkg-dev"];

/// To judge the package and to show its manual pages.
pub const CHECKING: &[&str] = &["dpkg-dev", "groff-base", "lintian"];

/// To count instructions.
pub const COUNTING: &[&str] = &["strace", "valgrind"];

/// Install those of `lists` that are missing. Progress goes to stderr; nothing is asked.
pub fn ensure(lists: &[&[&str]]) -> Result<()> {
    let wanted: Vec<&str> = lists.concat();
    let Some(listing) = installed() else {
        eprintln!(
            "xtask: no dpkg here, so nothing is installed; needed are the equivalents of: {}",
            wanted.join(" ")
        );
        return Ok(());
    };
    let lacking = missing(&wanted, &listing);
    if lacking.is_empty() {
        return Ok(());
    }
    crate::host::require_root(&format!("installing {}", lacking.join(" ")))?;
    // Two apt-get at once: the second fails at the lock of the package lists. What the first installed need not be installed again.
    let _turn = Turn::take()?;
    let missing = missing(&wanted, &installed().unwrap_or_default());
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    // Old lists name packages that the mirror has replaced since: refresh once, and only when something is missing.
    must_succeed(apt_get().args(["-q", "update"]), "apt-get update")?;
    let mut install = apt_get();
    install
        .args(["-q", "-y", "--no-install-recommends", "install"])
        .args(&missing);
    if let Err(error) = must_succeed(&mut install, "apt-get install") {
        bail!("{error}; install by hand: {}", missing.join(" "));
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l");
    // Another apt (unattended-upgrades) holds the lock for minutes at most.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// `package status` a line for every package dpkg knows; None where there is no dpkg.
fn installed() -> Option<String> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Those of `wanted` that `listing` does not call installed, each once.
fn missing<'a>(wanted: &[&'a str], listing: &str) -> Vec<&'a str> {
    let have: std::collections::HashSet<&str> = listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    let mut missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|package| !have.contains(package))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn only_what_is_not_installed_is_missing_and_only_once() {
        let listing =
            "make installed\niperf3 config-files\nclang not-installed\niperf3-dbg installed\n";
        assert_eq!(
            missing(&["make", "iperf3", "clang", "m4", "m4"], listing),
            ["clang", "iperf3", "m4"]
        );
        assert!(missing(&["make"], listing).is_empty());
    }
}
