//! The Debian package in a driver domain that systemd runs: upgraded under a guest's TCP stream, and removed without a trace.

use super::Case;
use super::document::{self, GUEST, REMOVE, UPGRADE};
use super::host_port;
use super::traffic::{ping_both_families, serve_iperf};
use super::unnoticed::Before;
use crate::domain;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::thread;
use xtask::{build, deb};

/// As udev names the NIC under test in the driver domain.
pub const NIC: &str = "enp0s0";
/// What is of netback on the driver domain's disk and in its memory file systems; packages lie in /root, logs are nobody's.
const TRACES: &str = "find / -xdev \\( -path /proc -o -path /root -o -path /var/log \\) -prune -o -iname '*netback*' -print; \
                      find /run /sys/fs/bpf -iname '*netback*'";
/// In the driver domain: what the NIC and the disk were like before the package came.
const NIC_BEFORE: &str = "/run/rig-nic";
const TRACES_BEFORE: &str = "/run/rig-traces";

/// Times the service is killed: more often than systemd takes by default (five times in ten seconds) before it gives a unit up.
const KILLS: u32 = 6;
/// systemd's measure of what a service could do, of at most 100.
const EXPOSURE: u32 = 30;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("unit/hardened", hardened),
        Case::new("unit/killed-again-and-again", killed),
    ]
}

/// systemd finds nothing wrong with the unit, and little that the service may do beyond its work.
fn hardened(machine: &Machine) -> Result<String> {
    document::walk(machine, GUEST)?;
    let verify = "systemd-analyze verify --man=no netback.service 2>&1";
    let said = machine.must(Place::DriverDomain, verify)?;
    ensure!(said.trim().is_empty(), "systemd-analyze verify: {said}");
    let security = format!(
        "systemd-analyze security --no-pager --threshold={EXPOSURE} netback.service | tail -n 1"
    );
    let said = machine.must(Place::DriverDomain, &format!("set -o pipefail; {security}"))?;
    Ok(said.trim().trim_start_matches(['→', '-', '>', ' ']).into())
}

/// Each time systemd starts it again, and the guest has its network.
fn killed(machine: &Machine) -> Result<String> {
    document::walk(machine, GUEST)?;
    let rounds = format!(
        "for n in $(seq {KILLS}); do kill -9 $(systemctl show -p MainPID --value netback); \
         for m in $(seq 600); do netback status >/dev/null 2>&1 && break; sleep 0.05; done; done; \
         systemctl show -p NRestarts --value netback"
    );
    let restarts = machine.must(Place::DriverDomain, &rounds)?;
    let restarts: u32 = restarts.trim().parse().context("systemd counts restarts")?;
    ensure!(restarts >= KILLS, "systemd started it {restarts} times");
    // The pages that the killed ones had granted came back, so that the last one has its own; the package gives room for many more.
    let pages = "grep /dev/xen/gntalloc /proc/$(systemctl show -p MainPID --value netback)/maps";
    machine
        .must(Place::DriverDomain, pages)
        .context("no page is granted")?;
    let limit = machine.must(
        Place::DriverDomain,
        "cat /sys/module/xen_gntalloc/parameters/limit",
    )?;
    let packaged = include_str!("../../../packaging/modprobe.conf");
    ensure!(
        packaged.contains(&format!("xen-gntalloc limit={}\n", limit.trim())),
        "gntalloc's limit is {limit}"
    );
    let ping = ping_both_families(machine, Place::Guest(1), Place::Peer)?;
    Ok(format!(
        "killed {KILLS} times in a row, served again each time; {ping}"
    ))
}

/// All that a user can see of how the NIC is set. Its queueing discipline is the kernel's, given to it when it first came up.
fn nic_state() -> String {
    format!(
        "cat /sys/class/net/{NIC}/flags; ip -details link show dev {NIC} | sed 's/qdisc [a-z_]* //'; ethtool -l {NIC}; ethtool -k {NIC}; bpftool net show dev {NIC}"
    )
}

/// The package and its successor, built anew where their sources are newer.
pub fn packages() -> Result<Vec<PathBuf>> {
    let target = build::target_dir()?;
    let revisions = [1, 2].into_iter();
    revisions
        .map(|revision| deb::package(revision, &target.join(format!("rig-package-{revision}"))))
        .collect()
}

/// Bring package and successor into the driver domain, and note what it was like without.
pub fn deliver(machine: &Machine) -> Result<()> {
    machine.must(
        Place::DriverDomain,
        &format!(
            "({}) > {NIC_BEFORE} 2>&1; ({TRACES}) > {TRACES_BEFORE}",
            nic_state()
        ),
    )?;
    for package in packages()? {
        let name = package.file_name().context("a package has a name")?;
        let destination = format!("/root/{}", name.to_string_lossy());
        machine.copy(Place::DriverDomain, &package, &destination)?;
    }
    Ok(())
}

/// The document's restart and upgrade, while a guest's TCP stream runs and the host port has its address by DHCP.
pub fn upgrade(machine: &Machine) -> Result<String> {
    document::walk(machine, UPGRADE - 1)?;
    host_port::with_lease(machine, &host_port::NETWORKD, |lease| {
        upgrade_under_tcp(machine, lease)
    })
}

fn upgrade_under_tcp(machine: &Machine, lease: &str) -> Result<String> {
    // What other cases did to its vif has been logged.
    machine.must(Place::Guest(1), domain::MARK_LOG)?;
    let before = Before::note(machine, NIC)?;
    let host_port = host_port::Before::note(machine)?;
    let process = main_pid(machine)?;
    serve_iperf(machine, Place::Peer)?;
    let guest = Place::Guest(1);
    let stream = "iperf3 -J -c 10.9.0.1 -b 5M -t 600 > /run/stream.json & echo $! > /run/stream; sleep 2; wait";
    let (walked, overlapped) = thread::scope(|scope| {
        let running = scope.spawn(|| machine.run(guest, stream));
        let walked = machine
            .must(guest, "sleep 4")
            .and_then(|_| document::walk(machine, UPGRADE));
        let overlapped = !running.is_finished();
        // The stream's last seconds are those that count; iperf3 reports when it is interrupted.
        machine.must(guest, "sleep 4; kill -INT $(cat /run/stream)")?;
        running
            .join()
            .expect("a thread that runs a command does not panic")?;
        anyhow::Ok((walked, overlapped))
    })?;
    let walked = walked?;
    ensure!(overlapped, "the stream ended before the upgrade");
    let report = machine.must(guest, "cat /run/stream.json")?;
    let (seconds, bytes) = stream_after(&report)?;
    ensure!(main_pid(machine)? != process, "no new process serves");
    let version = machine.must(Place::DriverDomain, "dpkg-query -W -f '${Version}' netback")?;
    ensure!(version.ends_with("-2"), "{version} is installed");
    before.must_be_now(machine, guest)?;
    host_port.must_be_now(machine)?;
    Ok(format!(
        "{walked}; a TCP stream of {seconds:.0} s went on ({:.1} MB in its last 3 s), nothing changed in xenstore nor on the host port with its lease of {lease}, guest's log silent",
        bytes / 1e6
    ))
}

/// How long iperf3's stream was, and the bytes of its last three whole seconds, all of which must have carried.
fn stream_after(report: &str) -> Result<(f64, f64)> {
    let report: Value = serde_json::from_str(report).context("iperf3 printed no JSON")?;
    // It is ended by a signal, and says so.
    let error = report["error"].as_str().unwrap_or_default();
    ensure!(
        error.is_empty() || error.contains("interrupt"),
        "the stream broke: {error}"
    );
    let sums: Vec<(f64, f64)> = report["intervals"]
        .as_array()
        .context("iperf3 reports no intervals")?
        .iter()
        .filter_map(|interval| {
            let sum = &interval["sum"];
            Some((sum["seconds"].as_f64()?, sum["bytes"].as_f64()?))
        })
        .collect();
    let whole: Vec<f64> = sums
        .iter()
        .filter(|(seconds, _)| *seconds > 0.9)
        .map(|(_, bytes)| *bytes)
        .collect();
    let last = whole
        .len()
        .checked_sub(3)
        .map(|from| &whole[from..])
        .context("the stream was shorter than 3 s")?;
    ensure!(
        last.iter().all(|bytes| *bytes > 0.0),
        "the stream stood still at its end: {last:?} bytes a second"
    );
    Ok((
        sums.iter().map(|(seconds, _)| seconds).sum(),
        last.iter().sum(),
    ))
}

/// The document's removal: afterwards the NIC and the disk are as before the package came.
pub fn remove(machine: &Machine) -> Result<String> {
    document::walk(machine, UPGRADE)?;
    let files = machine.must(Place::DriverDomain, "dpkg -L netback | wc -l")?;
    let walked = document::walk(machine, REMOVE)?;
    let differs = |state: &str, before: &str| {
        machine
            .run(
                Place::DriverDomain,
                &format!("({state}) 2>&1 | diff {before} -"),
            )
            .map(|outcome| String::from_utf8_lossy(&outcome.stdout).trim().to_owned())
    };
    let nic = differs(&nic_state(), NIC_BEFORE)?;
    ensure!(nic.is_empty(), "the NIC is not as it was: {nic}");
    let traces = differs(TRACES, TRACES_BEFORE)?;
    ensure!(traces.is_empty(), "files are left: {traces}");
    Ok(format!(
        "{walked}; the NIC is as it was, and of {} files none is left",
        files.trim()
    ))
}

fn main_pid(machine: &Machine) -> Result<String> {
    machine.must(
        Place::DriverDomain,
        "systemctl show -p MainPID --value netback",
    )
}

#[cfg(test)]
mod tests {
    use super::stream_after;

    #[test]
    fn a_stream_that_stood_still_at_its_end_is_no_stream() {
        let report = |bytes: &[u32], error: &str| {
            let intervals: Vec<_> = bytes
                .iter()
                .map(|bytes| serde_json::json!({ "sum": { "seconds": 1.0, "bytes": bytes } }))
                .collect();
            serde_json::json!({ "intervals": intervals, "error": error }).to_string()
        };
        let interrupted = "interrupt - the client has terminated";
        assert_eq!(
            stream_after(&report(&[9, 0, 1, 2, 3], interrupted)).unwrap(),
            (5.0, 6.0)
        );
        assert!(stream_after(&report(&[9, 9, 9, 9, 0], interrupted)).is_err());
        assert!(stream_after(&report(&[9, 9], interrupted)).is_err());
        assert!(stream_after(&report(&[9, 9, 9], "broken pipe")).is_err());
    }
}
