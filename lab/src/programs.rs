//! What the lab needs of the host, and where our own programs are.
use super::process::is_installed;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nstat", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
];

/// One line where a lab cannot be made here.
pub fn check_host() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root: run it as root");
    }
    if let Some((program, package)) = PROGRAMS.iter().find(|(program, _)| !is_installed(program)) {
        bail!("{program} is not in PATH: apt-get install {package}");
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        bail!("there is no /dev/net/tun: modprobe tun");
    }
    Ok(())
}

/// Where one of our own programs is: beside the running one, or above it (tests run in `target/<profile>/deps`).
pub fn path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let candidates = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name));
    match candidates.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{name} is not built: cargo build -p netback -p sim -p sim-preload -p lab"),
    }
}
