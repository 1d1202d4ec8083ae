//! `cargo xtask xen record`: what the stock netfronts say in xenstore and put into their rings, into tests/recordings.

use crate::cache::Cache;
use crate::domain;
use crate::image::Image;
use crate::kernel::Generation;
use crate::kind::Kind;
use crate::machine::{Lifetime, Machine};
use crate::options::{Backend, Nic, Options};
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use xtask::{build, command};

const GUEST: Place = Place::Guest(1);
/// Where the recorder writes, in the driver domain.
const FILE: &str = "/run/netfront.txt";

/// The commands that a guest runs while it is recorded: they send small datagrams, fragments, and long segment chains over both families. The
/// peer is the recorder's sink, which answers neither ARP nor neighbour discovery.
const TRAFFIC: &str = "ip neigh replace 10.9.0.1 lladdr 02:00:00:00:00:01 dev test0 nud permanent
ip neigh replace fd09::1 lladdr 02:00:00:00:00:01 dev test0 nud permanent
ping -q -c 2 -W 1 10.9.0.1; ping -q -c 2 -W 1 -s 8000 10.9.0.1; ping -6 -q -c 2 -W 1 -s 3000 fd09::1
echo datagram | timeout 2 nc.openbsd -u -w 1 10.9.0.1 9; echo datagram | timeout 2 nc.openbsd -6 -u -w 1 fd09::1 9
for to in 10.9.0.1 fd09::1; do head -c 20000000 /dev/zero | timeout 60 nc.openbsd -N $to 5000 || exit 1; done
cp /bin/bash /run/file; socat -u FILE:/run/file TCP:10.9.0.1:5001";

/// Makes one recording for each kernel.
pub fn run(cache: &Cache, instance: u8) -> Result<()> {
    let image = Image::build(cache, Kind::DEBIAN_12)?;
    let mut cargo = Command::new(command::cargo());
    cargo
        .args([
            "build",
            "--quiet",
            "--release",
            "-p",
            "tests",
            "--bin",
            "recorder",
        ])
        .current_dir(build::workspace());
    command::must_succeed(&mut cargo, "building the recorder")?;
    for generation in Generation::GUESTS {
        let options = Options {
            wanted: Kind::DEBIAN_12.into(),
            nic: Nic::Igb,
            second_nic: None,
            backend: Backend::Netback,
            guests: 1,
            guest_kernel: vec![generation],
            driver_kernel: Generation::Stock,
            icount: true,
            patient: true,
        };
        let machine = Machine::start(&image, cache, instance, options, Lifetime::UntilDown)?;
        let text = record(&machine)
            .with_context(|| format!("instance {instance} is left up to look around"))?;
        Machine::stop(cache, instance)?;
        let directory = build::workspace().join("tests/recordings");
        std::fs::create_dir_all(&directory)?;
        let file = directory.join(format!("netfront-{}.txt", image.kernel(generation).abi));
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("xen: wrote {}", file.display());
    }
    Ok(())
}

/// Has the guest connect and send, its module unloaded and loaded, the guest send again, and the toolstack detach the vif.
fn record(machine: &Machine) -> Result<String> {
    domain::start_driver_domain(machine)?;
    let recorder = build::target_dir()?.join("release/recorder");
    machine.copy(Place::DriverDomain, &recorder, "/rig/bin/recorder")?;
    machine.must(
        Place::DriverDomain,
        &format!("setsid recorder {FILE} </dev/null >/run/recorder.log 2>&1 & echo $! > /run/recorder.pid"),
    )?;
    domain::start_guest(machine, 1)?;
    eprintln!("xen: recording");
    machine.must(GUEST, TRAFFIC)?;
    domain::reload_netfront(machine, GUEST, "")?;
    machine.must(GUEST, TRAFFIC).context("after the reload")?;
    machine.must(
        Place::Dom0,
        &format!("xl network-detach {GUEST} {} 2>&1", domain::tested_mac(1)),
    )?;
    machine.must(
        Place::DriverDomain,
        "for n in $(seq 100); do kill -0 $(cat /run/recorder.pid) 2>/dev/null || exit 0; sleep 0.1; done; exit 1",
    )?;
    ensure!(
        recorder_log(machine)?.is_empty(),
        "the recorder says: {}",
        recorder_log(machine)?
    );
    machine.must(Place::DriverDomain, &format!("cat {FILE}"))
}

fn recorder_log(machine: &Machine) -> Result<String> {
    machine.must(Place::DriverDomain, "cat /run/recorder.log")
}
