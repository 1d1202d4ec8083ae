//! What a toolstack and a guest do to a vif in its life: each time the network is there again, and xl neither waits nor complains.

use super::Case;
use super::keys;
use super::traffic::ping_both_families;
use crate::domain;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};

const GUEST: Place = Place::Guest(1);
const OTHER: Place = Place::Guest(2);
/// How long the network may take to be back.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("network-attach-detach", attach_detach),
        Case::new("netfront-reload-under-traffic", reload),
        Case::new("guest-reboot", reboot),
        Case::new("guest-destroy-create", |machine| destroy_create(machine, 2)),
        Case::new("save-restore", save_restore),
        Case::new("vif-keys", keys::in_force).ours_only().long(),
    ]
}

/// Of machines with one guest.
pub fn with_one_guest() -> Vec<Case> {
    vec![
        Case::new("network-attach-detach", attach_detach),
        Case::new("guest-destroy-create", |machine| destroy_create(machine, 1)),
    ]
}

/// What says nothing where nothing is wrong.
const SILENT: [&str; 4] = ["create", "destroy", "network-attach", "network-detach"];

/// A command of xl that must succeed without a complaint; how long it took.
pub fn xl(machine: &Machine, arguments: &str) -> Result<String> {
    let start = Instant::now();
    let outcome = machine.run(Place::Dom0, &format!("xl {arguments} 2>&1"))?;
    let said = String::from_utf8_lossy(&outcome.stdout).trim().to_owned();
    let verb = arguments.split(' ').next().unwrap_or_default();
    let complains = if SILENT.contains(&verb) {
        !said.is_empty()
    } else {
        complains(&said)
    };
    if outcome.status != 0 || complains {
        bail!(
            "xl {arguments} ended with {} and says: {said}",
            outcome.status
        );
    }
    Ok(format!("{verb} {:.1} s", start.elapsed().as_secs_f64()))
}

/// Whether a line of what libxl said is about something that went wrong.
pub fn complains(said: &str) -> bool {
    let words = ["error", "timed out", "unable", "failed"];
    said.lines()
        .any(|line| words.iter().any(|word| line.contains(word)))
}

/// Wait until `guest` reaches the peer again, then demand that it does without loss.
pub fn network_is_back(machine: &Machine, guest: Place) -> Result<()> {
    let patience = machine.patience(PATIENCE);
    loop {
        // The agent is gone for a moment in some cases.
        let reached = machine.run(guest, "ping -q -c 1 -W 2 10.9.0.1");
        if reached.is_ok_and(|outcome| outcome.status == 0) {
            return ping_both_families(machine, guest, Place::Peer).map(drop);
        }
        ensure!(!patience.is_over(), "{guest} does not reach the peer");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A second vif comes, carries and goes; the first one is not touched.
fn attach_detach(machine: &Machine) -> Result<String> {
    const MAC: &str = "00:16:3e:09:00:e0";
    let attach = xl(
        machine,
        &format!(
            "network-attach {GUEST} {}",
            domain::attached_vif(machine, MAC)
        ),
    )?;
    // xl returns when the backend is ready; the guest's device comes a little later.
    let configure = format!(
        "find() {{ for i in /sys/class/net/eth*; do [ \"$(cat $i/address 2>/dev/null)\" = {MAC} ] && n=${{i##*/}} && return; done; false; }}; \
         until find; do sleep 0.1; done; \
         ip link set $n up; ip addr add 10.9.0.60/24 dev $n; sleep 1; ping -q -c 5 -i 0.3 -W 3 -I $n 10.9.0.1"
    );
    let said = machine.run(GUEST, &configure)?.stdout;
    // Detached before it is judged: a second port with this MAC would spoil the next attempt.
    let detach = xl(machine, &format!("network-detach {GUEST} {MAC}"))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        said.contains(" 0% packet loss"),
        "the second vif: {}",
        said.trim()
    );
    remark(machine, GUEST)?;
    network_is_back(machine, GUEST)?;
    Ok(format!("{attach}, {detach}"))
}

/// The module goes and comes while a flood of pings runs.
fn reload(machine: &Machine) -> Result<String> {
    domain::reload_netfront(machine, GUEST, "")?;
    network_is_back(machine, GUEST)?;
    remark(machine, GUEST)?;
    Ok(String::from(
        "the module was removed and inserted under a flood of pings",
    ))
}

/// What the kernel logs while its vif goes and comes is no complaint.
pub fn remark(machine: &Machine, guest: Place) -> Result<()> {
    machine.must(guest, domain::MARK_LOG).map(drop)
}

fn reboot(machine: &Machine) -> Result<String> {
    let boot = machine.must(OTHER, "cat /proc/sys/kernel/random/boot_id")?;
    let (start, patience) = (Instant::now(), machine.patience(PATIENCE * 2));
    // The answer may be lost with the guest.
    let _ = machine.run(
        OTHER,
        "setsid bash -c 'sleep 0.5; echo b > /proc/sysrq-trigger' </dev/null >/dev/null 2>&1 &",
    );
    loop {
        let now = machine.must(OTHER, "cat /proc/sys/kernel/random/boot_id");
        if now.is_ok_and(|now| now != boot) {
            break;
        }
        ensure!(
            !patience.is_over(),
            "the guest did not come back from its reboot"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    remark(machine, OTHER)?;
    network_is_back(machine, OTHER)?;
    Ok(format!(
        "up again after {:.0} s",
        start.elapsed().as_secs_f64()
    ))
}

fn destroy_create(machine: &Machine, number: u8) -> Result<String> {
    let guest = Place::Guest(number);
    let destroy = xl(machine, &format!("destroy {guest}"))?;
    domain::start_guest(machine, number)?;
    network_is_back(machine, guest)?;
    Ok(destroy)
}

/// Saved to dom0's disk and restored: to the guest its vif is disconnected and connected again.
fn save_restore(machine: &Machine) -> Result<String> {
    let boot = machine.must(OTHER, "cat /proc/sys/kernel/random/boot_id")?;
    let save = xl(machine, &format!("save {OTHER} /var/lib/xen/{OTHER}.save"))?;
    let restore = xl(machine, &format!("restore /var/lib/xen/{OTHER}.save"))?;
    machine.must(Place::Dom0, &format!("rm /var/lib/xen/{OTHER}.save"))?;
    machine.await_agent(OTHER)?;
    ensure!(
        machine.must(OTHER, "cat /proc/sys/kernel/random/boot_id")? == boot,
        "the guest was booted anew, not restored"
    );
    remark(machine, OTHER)?;
    network_is_back(machine, OTHER)?;
    Ok(format!("{save}, {restore}"))
}
