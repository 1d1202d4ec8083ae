//! The rights of the process, its directories, and other programs that serve vifs.

use super::Finding;
use super::view::{Backend, View};
use crate::config::Config;
use std::path::Path;

/// Capabilities that binding AF_XDP sockets and loading a program take, by their bit (linux/capability.h).
const CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF")];
/// Bit of CAP_SYS_ADMIN, which stands for CAP_BPF too.
const SYS_ADMIN: u32 = 21;
/// Bit of CAP_IPC_LOCK, which lifts the limit on locked memory.
const IPC_LOCK: u32 = 14;

pub(super) fn check(view: &View, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let effective = capabilities(view);
    findings.extend(effective.and_then(missing_capabilities));
    if let Some(config) = config {
        let may_lock = effective.is_some_and(|set| set >> IPC_LOCK & 1 == 1);
        if !may_lock {
            findings.extend(locked_memory(view, config));
        }
        findings.extend(run_dir(view, &config.daemon.run_dir));
        findings.extend(bpf_dir(view, &config.daemon.bpf_dir));
    }
    findings.extend(others(view));
    findings
}

/// The `CapEff:` line of /proc/self/status.
fn capabilities(view: &View) -> Option<u64> {
    let status = view.read("/proc/self/status")?;
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

fn missing_capabilities(effective: u64) -> Option<Finding> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    let stands_in = |bit: u32| bit == 39 && has(SYS_ADMIN);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| !has(*bit) && !stands_in(*bit))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let what = format!("this process lacks {}", missing.join(", "));
    Some(Finding::error(
        "capabilities",
        what,
        "ask as root: `netback doctor`, and start the daemon by its unit",
    ))
}

/// AF_XDP locks the packet memory, and RLIMIT_MEMLOCK holds for whoever lacks CAP_IPC_LOCK.
fn locked_memory(view: &View, config: &Config) -> Option<Finding> {
    let limits = view.read("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let wanted = u64::from(config.frames()) * 4096;
    if limit >= wanted {
        return None;
    }
    let what = format!(
        "{limit} bytes may be locked, the packet memory of {} frames takes {wanted}",
        config.frames()
    );
    let cure = "`ulimit -l unlimited`; or LimitMEMLOCK=infinity in the unit";
    Some(Finding::error("memlock", what, cure))
}

/// The files that carry live vifs over a restart must outlive the process, and must not be older than the machine's last boot.
fn run_dir(view: &View, run_dir: &Path) -> Option<Finding> {
    let kind = view.file_system(run_dir)?;
    if kind == "tmpfs" || kind == "ramfs" {
        return None;
    }
    let what = format!(
        "daemon.run_dir {} is on {kind}: every packet would dirty a disk's pages",
        run_dir.display()
    );
    let cure = format!(
        "the default is right: `sed -i '/^ *run_dir *=/d' {} && systemctl restart netback`",
        view.config.display()
    );
    Some(Finding::warning("run-dir", what, cure))
}

fn bpf_dir(view: &View, bpf_dir: &Path) -> Option<Finding> {
    if view.file_system(bpf_dir).as_deref() == Some("bpf") {
        return None;
    }
    let what = format!(
        "daemon.bpf_dir {} is on no BPF file system: the NIC's program cannot outlive a restart",
        bpf_dir.display()
    );
    Some(Finding::error(
        "bpffs",
        what,
        "`mount -t bpf bpf /sys/fs/bpf`",
    ))
}

fn others(view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    let network = |pid: &str| view.link(format!("/proc/{pid}/ns/net"));
    let own = network("self");
    // A daemon whose namespace cannot be read counts as one of this namespace.
    let is_beside_us = |pid: &str| network(pid).is_none_or(|theirs| Some(theirs) == own);
    let daemons: Vec<String> = view
        .processes("netback")
        .into_iter()
        .filter(|(_, arguments)| arguments.iter().any(|argument| argument == "run"))
        .filter(|(pid, _)| is_beside_us(pid))
        .map(|(pid, _)| pid)
        .collect();
    match daemons.as_slice() {
        [] => findings.extend(nobody_serves(view)),
        [_] => {}
        several => {
            let what = format!(
                "netback runs {} times, as processes {}",
                several.len(),
                several.join(", ")
            );
            let cure = "end those that systemctl status netback does not name";
            findings.push(Finding::warning("running-twice", what, cure));
        }
    }
    findings.extend(devd(view));
    findings
}

/// Vifs that wait while no netback runs.
fn nobody_serves(view: &View) -> Option<Finding> {
    let vifs: Vec<String> = view.backends.iter().flatten().map(Backend::name).collect();
    if vifs.is_empty() {
        return None;
    }
    let what = format!("vif {} waits and netback does not run", vifs.join(", "));
    Some(Finding::error(
        "not-running",
        what,
        "`systemctl start netback`; systemctl status netback says why it ended",
    ))
}

/// `xl devd` runs the script of each vif, which netback replaces by its own before devd looks.
fn devd(view: &View) -> Option<Finding> {
    let devd = view.processes("xl");
    devd.iter()
        .find(|(_, arguments)| arguments.iter().any(|a| a == "devd"))?;
    let what = "xl devd runs beside netback: it finds netback's own script at each vif, and leaves vifs to netback";
    Some(Finding::info("devd", what, ""))
}
