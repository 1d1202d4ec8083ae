//! Our backend in the driver domain: the release binary, a configuration, and the process.

use super::machine::Machine;
use super::place::Place;
use crate::{build, command};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

const CONFIGURATION: &str = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"pnic\"\n";
/// How long a start may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Build it for release, copy it into the driver domain, and start it.
pub fn install(machine: &Machine) -> Result<()> {
    eprintln!("xen: building netback and starting it in the driver domain");
    let mut cargo = Command::new(command::cargo());
    cargo
        .args(["build", "--quiet", "--release", "-p", "netback"])
        .current_dir(build::workspace());
    command::must_succeed(&mut cargo, "building netback")?;
    let binary = build::target_dir()?.join("release/netback");
    machine.copy(Place::DriverDomain, &binary, "/rig/bin/netback")?;
    machine.must(Place::DriverDomain, "netback --version 2>&1").context(
        "netback does not run in Debian 12's image; built on a host with a newer C library, it needs one as old as the image's (2.36)",
    )?;
    machine.must(Place::DriverDomain, "mkdir -p /etc/netback")?;
    machine.write(
        Place::DriverDomain,
        "/etc/netback/netback.toml",
        CONFIGURATION,
    )?;
    start(machine)
}

/// Start it, detached, and wait until it says that it serves.
pub fn start(machine: &Machine) -> Result<()> {
    machine.must(
        Place::DriverDomain,
        "setsid netback run </dev/null >>/var/log/netback.log 2>&1 & echo $! > /run/netback.pid",
    )?;
    let start = Instant::now();
    loop {
        let outcome = machine.run(
            Place::DriverDomain,
            "netback status >/dev/null && kill -0 $(cat /run/netback.pid)",
        )?;
        if outcome.status == 0 {
            return Ok(());
        }
        let alive = machine
            .run(Place::DriverDomain, "kill -0 $(cat /run/netback.pid)")?
            .status
            == 0;
        if !alive || start.elapsed() > PATIENCE {
            bail!(
                "netback does not serve in the driver domain; it said: {}",
                log(machine)?.trim()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What it has logged so far.
pub fn log(machine: &Machine) -> Result<String> {
    machine.must(Place::DriverDomain, "cat /var/log/netback.log")
}
