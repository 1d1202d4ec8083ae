//! What a guest's kernel leaves to others, switched off and on while streams run: the streams go on, and no checksum is wrong.

use super::Case;
use super::traffic::{GUESTS, no_wrong_checksum, serve_iperf_at};
use crate::kernel::Generation;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::thread;

/// The words that ethtool switches by, and the line of `ethtool -k` that tells of each.
const SWITCHES: [(&str, &str); 4] = [
    ("tx", "tx-checksum-ipv6"),
    ("sg", "scatter-gather"),
    ("tso", "tcp-segmentation-offload"),
    ("gro", "generic-receive-offload"),
];

/// Lines of `ethtool -k` that say `on` for what netfront does not let anybody switch.
const ALWAYS: [&str; 2] = ["tx-checksum-ipv4", "rx-checksumming"];

/// Of each stream, in bits a second: processor time is left for the commands that switch.
const RATE: &str = "10M";

/// Seconds of the streams: all switches, off and on, and a second behind each.
const SECONDS: usize = 4 + 2 * 2 * SWITCHES.len();

pub fn cases() -> Vec<Case> {
    let (one, other) = (GUESTS[0].0, GUESTS[1].0);
    let case = |(guest, kernel): (Place, Generation), far| {
        let name = format!("offloads/toggle/{}", kernel.name());
        Case::new(name, move |machine| toggle(machine, guest, far)).long()
    };
    vec![case(GUESTS[0], other), case(GUESTS[1], one)]
}

/// Streams both ways to the peer and to the other guest, over IPv4 and IPv6, while each offload is switched off and on.
fn toggle(machine: &Machine, guest: Place, other: Place) -> Result<String> {
    for line in ALWAYS
        .into_iter()
        .chain(SWITCHES.into_iter().map(|(_, line)| line))
    {
        is(machine, guest, line, "on")?;
    }
    let streams: Vec<(Place, u16, String)> = [Place::Peer, other]
        .into_iter()
        .flat_map(|far| {
            let number = far.tested();
            [
                (far, 5201, format!("10.9.0.{number}")),
                (far, 5202, format!("fd09::{number}")),
            ]
        })
        .collect();
    for (far, port, _) in &streams {
        serve_iperf_at(machine, *far, *port)?;
    }
    let reports = thread::scope(|scope| -> Result<Vec<Value>> {
        let clients: Vec<_> = streams
            .iter()
            .map(|(_, port, address)| {
                let client = format!(
                    "iperf3 -J -c {address} -p {port} --bidir -b {RATE} --connect-timeout 5000 -t {SECONDS}"
                );
                scope.spawn(move || machine.run(guest, &client))
            })
            .collect();
        let switched = switch_all(machine, guest);
        let under_traffic = clients.iter().all(|client| !client.is_finished());
        let mut reports = Vec::new();
        for client in clients {
            let outcome = client
                .join()
                .expect("a thread that runs a command does not panic")?;
            let report = serde_json::from_slice(&outcome.stdout);
            reports.push(report.context("iperf3 printed no JSON")?);
        }
        switched?;
        ensure!(under_traffic, "the streams ended before all was switched");
        Ok(reports)
    })?;
    let mut bytes = 0;
    for ((far, _, address), report) in streams.iter().zip(&reports) {
        bytes += carried(report).with_context(|| format!("with {far} ({address})"))?;
    }
    for place in [guest, other, Place::Peer] {
        no_wrong_checksum(machine, place)?;
    }
    Ok(format!(
        "{} switched off and on under 8 streams, {} MB; no wrong checksum at three ends",
        SWITCHES.map(|(word, _)| word).join(", "),
        bytes / 1_000_000
    ))
}

/// Switches each offload off and on, a second between two switches, by the guest's clock.
fn switch_all(machine: &Machine, guest: Place) -> Result<()> {
    for (word, line) in SWITCHES {
        for state in ["off", "on"] {
            let switch = format!("sleep 1; ethtool -K test0 {word} {state} 2>&1");
            machine.must(guest, &switch)?;
            is(machine, guest, line, state)?;
        }
    }
    machine.must(guest, "sleep 1").map(drop)
}

/// Demands that `ethtool -k` in the guest says of an offload that it is in this state.
fn is(machine: &Machine, guest: Place, line: &str, state: &str) -> Result<()> {
    let said = machine.must(guest, "ethtool -k test0")?;
    let found = said
        .lines()
        .find_map(|said| said.trim().strip_prefix(line)?.strip_prefix(": "));
    match found.and_then(|found| found.split(' ').next()) {
        Some(found) if found == state => Ok(()),
        found => bail!("ethtool says of {line} {found:?} and not {state}"),
    }
}

/// Bytes that a client's two streams carried. Neither broke, and neither stood still for as long as one interval.
fn carried(report: &Value) -> Result<u64> {
    ensure!(
        report["error"].is_null(),
        "the stream broke: {}",
        report["error"]
    );
    let intervals = report["intervals"]
        .as_array()
        .context("iperf3 reports no intervals")?;
    ensure!(intervals.len() >= SECONDS, "{} intervals", intervals.len());
    let mut bytes = 0;
    for (n, interval) in intervals.iter().enumerate().take(SECONDS) {
        let streams = interval["streams"].as_array().context("no streams")?;
        ensure!(streams.len() == 2, "{} streams", streams.len());
        for stream in streams {
            let carried = stream["bytes"].as_u64().unwrap_or(0);
            ensure!(
                carried > 0,
                "a stream carried nothing in second {n}: {streams:?}"
            );
            bytes += carried;
        }
    }
    Ok(bytes)
}
