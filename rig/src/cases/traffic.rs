//! Frames in both directions and between guests: all of them, unchanged, and nobody complains.

use super::Case;
use super::xenstore::Snapshot;
use crate::kernel::Generation;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The guest with Debian's stock kernel and the one with the backports kernel, as `super::BOOTS` has them.
pub const GUESTS: [(Place, Generation); 2] = [
    (Place::Guest(1), Generation::Stock),
    (Place::Guest(2), Generation::Backports),
];

/// Step between the frame lengths of a sample; prime, so that every alignment is met.
const SAMPLE: u16 = 13;

/// With both guests.
pub fn full() -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, kernel) in GUESTS {
        let name = |what: &str| format!("{what}/{}", kernel.name());
        cases.push(Case::new(name("ping"), move |machine| {
            ping_both_families(machine, guest, Place::Peer)
        }));
        cases.push(Case::new(name("tcp-to-peer"), move |machine| {
            tcp(machine, guest, Place::Peer, false)
        }));
        cases.push(Case::new(name("tcp-from-peer"), move |machine| {
            tcp(machine, guest, Place::Peer, true)
        }));
        cases.push(Case::new(name("udp64-to-peer"), move |machine| {
            udp64(machine, guest, false)
        }));
        cases.push(Case::new(name("udp64-from-peer"), move |machine| {
            udp64(machine, guest, true)
        }));
        cases.push(Case::new(name("frames-60-to-1514"), move |machine| {
            // Every length with one netfront; a sample, which costs a tenth, elsewhere.
            let step = if kernel == Generation::Stock {
                1
            } else {
                SAMPLE
            };
            frames(machine, guest, Place::Peer, step)
        }));
    }
    let (one, other) = (Place::Guest(1), Place::Guest(2));
    cases.push(Case::new("guest-to-guest/ping", move |machine| {
        ping_both_families(machine, one, other)
    }));
    cases.push(Case::new("guest-to-guest/tcp", move |machine| {
        let there = tcp(machine, one, other, false)?;
        let back = tcp(machine, one, other, true)?;
        Ok(format!("stock to backports {there}; back {back}"))
    }));
    cases.push(Case::new("guest-to-guest/frames", move |machine| {
        frames(machine, one, other, SAMPLE)
    }));
    for (guest, kernel) in GUESTS {
        cases.push(Case::new(
            format!("quiet/{}", kernel.name()),
            move |machine| quiet(machine, guest),
        ));
    }
    cases
}

/// With one guest: does this NIC carry at all?
pub fn short() -> Vec<Case> {
    with_one_guest(SAMPLE)
}

/// The same with frames of every length.
pub fn every_length() -> Vec<Case> {
    with_one_guest(1)
}

fn with_one_guest(step: u16) -> Vec<Case> {
    let guest = Place::Guest(1);
    vec![
        Case::new("ping", move |machine| {
            ping_both_families(machine, guest, Place::Peer)
        }),
        Case::new("tcp-to-peer", move |machine| {
            tcp(machine, guest, Place::Peer, false)
        }),
        Case::new("tcp-from-peer", move |machine| {
            tcp(machine, guest, Place::Peer, true)
        }),
        Case::new("frames-60-to-1514", move |machine| {
            frames(machine, guest, Place::Peer, step)
        }),
        Case::new("quiet", move |machine| quiet(machine, guest)),
    ]
}

/// The driver sends and receives without a copy: what the other cases of that machine are about.
pub fn without_copies() -> Case {
    let check = |machine: &Machine| {
        let said = machine.must(Place::DriverDomain, "netback status --json")?;
        let status: Value = serde_json::from_str(&said)?;
        let uplink = &status["uplinks"][0];
        ensure!(uplink["zero_copy"] == true, "the uplink is {uplink}");
        machine
            .must(Place::DriverDomain, "uname -r")
            .map(|kernel| format!("Linux {}", kernel.trim()))
    };
    Case::new("zero-copy", check).ours_only()
}

/// The uplink becomes the second NIC by a reload, which the guest does not notice.
pub fn second_nic() -> Case {
    Case::new("reload", |machine| {
        let before = Snapshot::take(machine)?;
        machine.must(Place::DriverDomain, CHANGE_UPLINK)?;
        let changed = Snapshot::take(machine)?.since(&before);
        ensure!(changed.is_empty(), "xenstore changed: {changed:?}");
        let said = machine.must(Place::DriverDomain, "netback status --json")?;
        let status: Value = serde_json::from_str(&said)?;
        ensure!(
            status["vifs"][0]["service"] == "served",
            "the guest is not served: {status}"
        );
        Ok(format!(
            "served by way of the second NIC, XDP {}",
            status["uplinks"][0]["xdp_mode"].as_str().unwrap_or("?")
        ))
    })
}

const CHANGE_UPLINK: &str = r#"sed -i 's/"pnic"/"pnic2"/' /etc/netback/netback.toml; kill -HUP $(cat /run/netback.pid)
for n in $(seq 600); do netback status 2>/dev/null | grep -q '^uplink *pnic2 ' && exit 0; sleep 0.05; done
tail -n 5 /var/log/netback.log; exit 1"#;

/// Pings over IPv4 and IPv6, none lost.
pub fn ping_both_families(machine: &Machine, from: Place, to: Place) -> Result<String> {
    let four = ping(machine, from, &format!("10.9.0.{}", to.tested()))?;
    let six = ping(machine, from, &format!("fd09::{}", to.tested()))?;
    Ok(format!("no loss; IPv4 {four} ms, IPv6 {six} ms"))
}

/// 40 pings; the average round trip in milliseconds.
fn ping(machine: &Machine, from: Place, address: &str) -> Result<String> {
    // One before it counts: neighbours are resolved, and a port that has just come up has settled.
    machine.run(from, &format!("ping -q -c 3 -i 0.3 {address}"))?;
    let outcome = machine.run(from, &format!("ping -q -i 0.05 -c 40 -W 3 {address}"))?;
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    ensure!(
        said.contains(" 0% packet loss"),
        "{from} to {address}: {}",
        said.trim()
    );
    let average = said.lines().last().and_then(|line| line.split('/').nth(4));
    Ok(average.unwrap_or("?").to_owned())
}

/// Start a server that ends with its only client; it listens when this returns.
pub fn serve_iperf(machine: &Machine, at: Place) -> Result<()> {
    serve_iperf_at(machine, at, 5201)
}

/// Start a server as [`serve_iperf`] does, at another port than iperf3's own.
pub fn serve_iperf_at(machine: &Machine, at: Place, port: u16) -> Result<()> {
    // -D: it outlives the command that starts it, and listens a little after that has ended.
    machine.must(
        at,
        &format!(
            "iperf3 -s -1 -D -p {port} 2>&1; {}",
            await_listener("-t", port)
        ),
    )?;
    Ok(())
}

/// Shell: wait until something listens on `port` (`-t` TCP, `-u` UDP); what is sent before is refused.
pub fn await_listener(protocol: &str, port: u16) -> String {
    format!(
        "for n in $(seq 200); do ss -Hln {protocol} sport = {port} | grep -q . && exit 0; sleep 0.05; done; exit 1"
    )
}

/// The end of iperf3's report.
pub(crate) fn iperf(machine: &Machine, from: Place, to: Place, arguments: &str) -> Result<Value> {
    serve_iperf(machine, to)?;
    let client = format!(
        "iperf3 -J -c 10.9.0.{} --connect-timeout 5000 {arguments}",
        to.tested()
    );
    let said = machine.run(from, &client)?.stdout;
    let report: Value = serde_json::from_slice(&said).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3 from {from} to {to}: {error}");
    }
    Ok(report["end"].clone())
}

/// 16 MB of TCP from `from` to `to`, or back.
fn tcp(machine: &Machine, from: Place, to: Place, back: bool) -> Result<String> {
    let end = iperf(machine, from, to, if back { "-n 16M -R" } else { "-n 16M" })?;
    let bytes = |side: &str| end[side]["bytes"].as_u64().unwrap_or(0);
    let (sent, received) = (bytes("sum_sent"), bytes("sum_received"));
    // iperf3 stops counting what arrives once all is sent: what was on its way then (socket buffers) is missing.
    ensure!(
        sent >= 16 << 20 && received >= 8 << 20,
        "{sent} bytes were sent, {received} arrived"
    );
    let rate = end["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap_or(0.0)
        / 1e6;
    let resent = end["sum_sent"]["retransmits"].as_u64().unwrap_or(0);
    Ok(format!("{rate:.0} Mbit/s, {resent} segments sent again"))
}

/// 1000 datagrams of 64 B a second, a rate at which kernel netback loses none in this machine.
fn udp64(machine: &Machine, guest: Place, back: bool) -> Result<String> {
    // A receiver that waits for a processor loses nothing: its socket holds all.
    machine.must(guest, "echo 8000000 > /proc/sys/net/core/rmem_default")?;
    let end = iperf(
        machine,
        guest,
        Place::Peer,
        &format!("-u -l 64 -b 512k -k 1000{}", if back { " -R" } else { "" }),
    )?;
    let count = |key: &str| {
        end["sum"][key]
            .as_u64()
            .with_context(|| format!("iperf3 reports no {key}"))
    };
    let (packets, lost) = (count("packets")?, count("lost_packets")?);
    ensure!(packets >= 1000, "only {packets} datagrams were sent");
    ensure!(lost == 0, "{lost} of {packets} datagrams lost");
    Ok(format!("{packets} datagrams, none lost"))
}

/// A datagram in a frame of every `step`th length from 60 to 1514 B there and back, every byte compared.
fn frames(machine: &Machine, from: Place, to: Place, step: u16) -> Result<String> {
    // The echo server may be left from an earlier case; then this one ends at once.
    machine.must(
        to,
        &format!(
            "setsid {} echo 5400 </dev/null >/dev/null 2>&1 & {}",
            machine.agent(to),
            await_listener("-u", 5400)
        ),
    )?;
    // 42 B are Ethernet, IPv4 and UDP headers.
    let said = machine.must(
        from,
        &format!(
            "{} sweep 10.9.0.{}:5400 18 1472 {step}",
            machine.agent(from),
            to.tested()
        ),
    )?;
    let report: Value = serde_json::from_str(&said).context("the sweep printed no JSON")?;
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let (missing, wrong) = (list("missing"), list("wrong"));
    ensure!(
        wrong.is_empty(),
        "payloads of {wrong:?} B came back changed"
    );
    ensure!(
        missing.is_empty(),
        "payloads of {missing:?} B did not come back"
    );
    Ok(format!("{} lengths, all unchanged", report["asked"]))
}

/// The guest's kernel has logged nothing since it was up, and no stack has met a wrong checksum.
fn quiet(machine: &Machine, guest: Place) -> Result<String> {
    let said = complaints(machine, guest)?;
    ensure!(said.is_empty(), "{guest}'s kernel says: {said}");
    for place in [guest, Place::Peer] {
        no_wrong_checksum(machine, place)?;
    }
    Ok(String::from("kernel log silent, no wrong checksum"))
}

/// Demands that the stack has met no wrong checksum since it was up.
pub fn no_wrong_checksum(machine: &Machine, place: Place) -> Result<()> {
    let counters = machine.must(place, "nstat -asz | grep -i csumerr")?;
    let wrong = counters
        .lines()
        .find(|line| line.split_whitespace().nth(1) != Some("0"));
    ensure!(
        wrong.is_none(),
        "wrong checksums at {place}: {}",
        wrong.unwrap_or_default()
    );
    Ok(())
}

/// What the guest's kernel has logged since the guest was up (`domain::start_guest` leaves the mark), one line each.
pub fn complaints(machine: &Machine, guest: Place) -> Result<String> {
    let log = machine.must(guest, "dmesg | tail -n +$(($(cat /run/dmesg.mark) + 1))")?;
    // These come at their own time, whatever the network does.
    let own = ["random: crng init done", "clocksource: "];
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !own.iter().any(|text| line.contains(text)))
        .collect();
    Ok(lines.join("; "))
}
