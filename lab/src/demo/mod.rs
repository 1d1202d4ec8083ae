//! `cargo xtask demo`: two guests and an outside talk through the real daemon, on any Linux machine.
pub mod hold;
pub mod measure;
pub mod offloads;
pub mod paths;
pub mod probe;
pub mod restart;
mod wire;

use crate::daemon::{Bridge, Daemon, StartOptions};
use crate::guest::GuestConfig;
use crate::{Host, Lab, interrupt};
use anyhow::Result;
use demo_options::Options;
use serde_json::Value;

/// The bridge that guests ask for, as libxl does.
const BRIDGE: &str = "xenbr0";
/// The uplink's name in the driver domain.
const UPLINK: &str = "eth1";

/// A line for who waits.
fn progress(what: &str) {
    eprintln!("demo: {what}");
}

/// Runs the demo. Returns the figures that are not as they must be, a line each.
pub fn run(options: &Options) -> Result<Vec<String>> {
    interrupt::install();
    if options.offloads {
        return offloads::demonstrate(options);
    }
    progress("starting hypervisor, guests and daemon");
    let mut lab = build(options, &[], "")?;
    if options.hold {
        hold::run(&mut lab)?;
        return Ok(Vec::new());
    }
    let (faults, json) = if options.restart {
        let report = restart::run(&mut lab)?;
        if !options.json {
            restart::print(&report);
        }
        (report.faults(), serde_json::to_string_pretty(&report)?)
    } else {
        if !options.json {
            paths::print_head();
        }
        let report = paths::run(&mut lab, options)?;
        if !options.json {
            let paths::Leaked {
                grants,
                ports,
                frames,
            } = report.leaked;
            println!(
                "left behind: {grants} grants, {ports} event channels, {frames} frames; Linux {}, XDP {}",
                report.kernel, report.xdp_mode
            );
        }
        (report.faults(), serde_json::to_string_pretty(&report)?)
    };
    if options.json {
        println!("{json}");
    }
    Ok(faults)
}

/// Builds a lab: two guests with more `arguments` of `sim-guest`, a host outside, and a daemon with this
/// [`StartOptions::copy_cost`].
fn build(options: &Options, arguments: &[&str], copy_cost: &str) -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.add_outside("outside", UPLINK, options.queues)?;
    for name in ["guest-a", "guest-b"] {
        lab.add_guest(GuestConfig {
            queues: options.queues,
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            ..GuestConfig::new(name)
        })?;
    }
    let config = config(&lab, options, "");
    let options = StartOptions {
        copy_cost,
        ..StartOptions::default()
    };
    lab.start_daemon_with(&config, &options)?;
    lab.connect_guests()?;
    Ok(lab)
}

/// The daemon's configuration, with `more` keys of the bridge.
fn config(lab: &Lab, options: &Options, more: &str) -> String {
    let bridge = Bridge {
        name: BRIDGE.into(),
        uplink: Some(UPLINK.into()),
    };
    Daemon::config(lab.directory(), options.queues, &[bridge], more)
}

/// Guests first, then the outside.
fn hosts(lab: &Lab) -> impl Iterator<Item = &Host> {
    lab.guests
        .iter()
        .map(|guest| &guest.host)
        .chain(lab.outside.iter().map(|outside| &outside.host))
}

/// `uname -r`.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().to_owned()
}

/// The XDP mode of the first uplink in `status`.
fn xdp_mode(status: &Value) -> String {
    status["uplinks"][0]["xdp_mode"]
        .as_str()
        .unwrap_or("unknown")
        .to_owned()
}
