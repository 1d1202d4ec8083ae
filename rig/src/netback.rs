//! Our backend in the driver domain: the release binary, a configuration, and the process.

use crate::kind::DriverType;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use xtask::build::{self, Turn};

const CONFIGURATION: &str = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"pnic\"\n";
/// In dom0 it serves the vifs too by which the rig reaches the guests: this bridge's uplink leads to dom0's own.
const MANAGEMENT: &str = "\n[[bridge]]\nname = \"management\"\nuplink = \"mgmt1\"\n";
/// What `xl` runs for a vif in dom0.
const VIF_SCRIPT: &str = include_str!("../../packaging/vif-netback");

/// Build it for release; where it is.
pub fn build() -> Result<PathBuf> {
    build::daemon(&Turn::take()?)
}

/// Copy it into the driver domain, and start it.
pub fn install(machine: &Machine) -> Result<()> {
    let binary = build()?;
    eprintln!("xen: starting netback in the driver domain");
    machine.copy(Place::DriverDomain, &binary, "/rig/bin/netback")?;
    machine.must(Place::DriverDomain, "netback --version 2>&1").context(
        "netback does not run in Debian's image; built on a host with a newer C library, it needs one as old as the image's (Debian 12: 2.36)",
    )?;
    machine.must(Place::DriverDomain, "mkdir -p /etc/netback")?;
    if machine.kind().driver == DriverType::Dom0 {
        let script = "/etc/xen/scripts/vif-netback";
        machine.write(Place::Dom0, script, VIF_SCRIPT)?;
        machine.must(Place::Dom0, &format!("chmod 755 {script}"))?;
    }
    configure(machine, "")?;
    start(machine)
}

/// Writes the configuration, with `more` behind what a machine of this kind has.
fn configure(machine: &Machine, more: &str) -> Result<()> {
    let management = match machine.kind().driver {
        DriverType::Dom0 => MANAGEMENT,
        _ => "",
    };
    machine.write(
        Place::DriverDomain,
        "/etc/netback/netback.toml",
        &format!("{CONFIGURATION}{management}{more}"),
    )
}

/// Has netback read a configuration that ends with `more`.
pub fn reconfigure(machine: &Machine, more: &str) -> Result<()> {
    configure(machine, more)?;
    script(machine, RELOAD)
}

/// Start it, detached, and wait until it answers. All by the domain's own clock: with --icount the host's says nothing.
const START: &str = "setsid netback run </dev/null >>/var/log/netback.log 2>&1 & p=$!; echo $p > /run/netback.pid
n=0; until netback status >/dev/null 2>&1; do kill -0 $p && [ $n -lt 600 ] || exit 1; n=$((n+1)); sleep 0.05; done";

/// Has netback read its configuration, and waits until its log says that it has: something for guests has changed, or nothing.
const RELOAD: &str = r#"said() { grep -c '\[vif\]: \|nothing in the configuration' /var/log/netback.log; }
before=$(said); kill -HUP $(cat /run/netback.pid)
n=0; until [ $(said) -gt $before ]; do [ $n -lt 600 ] || exit 1; n=$((n+1)); sleep 0.05; done"#;

/// End it without a chance to do anything about it, and wait until the kernel has taken it apart, as a supervisor does.
const KILL: &str =
    "p=$(cat /run/netback.pid); kill -9 $p; while kill -0 $p 2>/dev/null; do sleep 0.005; done";

/// Start it and wait until it serves.
pub fn start(machine: &Machine) -> Result<()> {
    script(machine, START)
}

/// Kill it after `seconds` and start another one at once.
pub fn kill_and_start(machine: &Machine, seconds: u32) -> Result<()> {
    script(machine, &format!("sleep {seconds}; {KILL}; {START}"))
}

fn script(machine: &Machine, script: &str) -> Result<()> {
    if machine.run(Place::DriverDomain, script)?.status == 0 {
        return Ok(());
    }
    let log = machine.must(Place::DriverDomain, "tail -n 5 /var/log/netback.log")?;
    bail!(
        "netback does not serve in the driver domain; it said: {}",
        log.trim()
    )
}
