//! `kill -9` of the backend under traffic, and another one started: what a guest notices.

use super::Case;
use super::traffic::{ping_both_families, serve_iperf};
use super::unnoticed::Before;
use crate::machine::Machine;
use crate::netback;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::thread;

const GUEST: Place = Place::Guest(1);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("restart/under-tcp", under_tcp).ours_only(),
        Case::new("restart/second-daemon-refused", second_daemon).ours_only(),
    ]
}

/// An iperf3 stream and a 1 kHz probe each way, the backend killed and started in the middle.
fn under_tcp(machine: &Machine) -> Result<String> {
    let before = Before::note(machine, "pnic")?;
    serve_iperf(machine, Place::Peer)?;
    let (stream, out, back) = thread::scope(|scope| {
        // By the domains' clocks: the backend is killed 3 s into the 6 s of the probes.
        let stream = scope.spawn(|| machine.run(GUEST, "iperf3 -J -c 10.9.0.1 -b 20M -t 10"));
        let out = scope.spawn(|| probe(machine, GUEST, Place::Peer));
        let back = scope.spawn(|| probe(machine, Place::Peer, GUEST));
        let restarted = netback::kill_and_start(machine, 3);
        let overlapped = !stream.is_finished() && !out.is_finished() && !back.is_finished();
        let join = "a thread that runs a command does not panic";
        let stream = stream.join().expect(join);
        let (out, back) = (out.join().expect(join), back.join().expect(join));
        restarted?;
        ensure!(
            overlapped,
            "the traffic ended before the backend was up again"
        );
        Ok((stream?, out?, back?))
    })?;
    let report: Value = serde_json::from_slice(&stream.stdout).context("iperf3 printed no JSON")?;
    ensure!(
        report["error"].is_null(),
        "the stream broke: {}",
        report["error"]
    );
    let after = bytes_at_the_end(&report);
    ensure!(after > 0.0, "the stream stood still after the restart");
    before.must_be_now(machine, GUEST)?;
    Ok(format!(
        "outage {:.0} ms to the peer, {:.0} ms from it (1 kHz probe); {:.1} MB in the stream's last 3 s; nothing changed in xenstore",
        gap(&out)?,
        gap(&back)?,
        after / 1e6
    ))
}

/// 6 s of numbered datagrams at 1 kHz; what the receiver reports.
fn probe(machine: &Machine, from: Place, to: Place) -> Result<Value> {
    let receive = format!("{} receive 5300 6", machine.agent(to));
    let send = format!(
        "sleep 1; {} send 10.9.0.{}:5300 1000 7",
        machine.agent(from),
        to.tested()
    );
    let said = thread::scope(|scope| {
        let receiver = scope.spawn(|| machine.must(to, &receive));
        machine.must(from, &send)?;
        receiver
            .join()
            .expect("a thread that runs a command does not panic")
    })?;
    serde_json::from_str(&said).context("the probe printed no JSON")
}

/// The longest time without a datagram, milliseconds; fails when the stream never came back or brought datagrams twice.
fn gap(report: &Value) -> Result<f64> {
    let field = |key: &str| {
        report[key]
            .as_f64()
            .with_context(|| format!("the probe reports no {key}"))
    };
    let (gap, end) = (field("longest_gap_ms")?, field("silence_at_end_ms")?);
    ensure!(end < 3000.0, "no datagram arrived in the last {end:.0} ms");
    Ok(gap)
}

/// Bytes of iperf3's last three intervals.
fn bytes_at_the_end(report: &Value) -> f64 {
    let intervals = report["intervals"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    intervals
        .iter()
        .rev()
        .take(3)
        .filter_map(|interval| interval["sum"]["bytes"].as_f64())
        .sum()
}

/// A second daemon on the same vifs ends with one line, and the first goes on.
fn second_daemon(machine: &Machine) -> Result<String> {
    let outcome = machine.run(Place::DriverDomain, "timeout 30 netback run")?;
    let said = String::from_utf8_lossy(&outcome.stderr).trim().to_owned();
    ensure!(
        outcome.status == 2,
        "exit status {} and not 2: {said}",
        outcome.status
    );
    ensure!(said.lines().count() == 1, "more than one line: {said}");
    ping_both_families(machine, GUEST, Place::Peer)?;
    Ok(said)
}
