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

/// Seconds after which a stream ends by itself. It is ended when all is switched, however long a busy host takes for that.
const LONGEST: u32 = 300;

/// How iperf3's error begins where the client was told to end.
const ENDED: &str = "interrupt - the client has terminated";

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
                    "iperf3 -J -c {address} -p {port} --bidir -b {RATE} --connect-timeout 5000 -t {LONGEST}"
                );
                scope.spawn(move || machine.run(guest, &client))
            })
            .collect();
        let switched = switch_all(machine, guest);
        let under_traffic = clients.iter().all(|client| !client.is_finished());
        machine.run(guest, "pkill -INT -x iperf3")?;
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

/// Bytes that a client's two streams carried. Neither broke, and neither stood still for two intervals in a row: on a busy host one may
/// be empty.
fn carried(report: &Value) -> Result<u64> {
    let error = &report["error"];
    let ended = error.as_str().is_some_and(|error| error.starts_with(ENDED));
    ensure!(ended, "the stream broke: {error}");
    let intervals = report["intervals"]
        .as_array()
        .context("iperf3 reports no intervals")?;
    // The last one was cut short.
    let whole = &intervals[..intervals.len().saturating_sub(1)];
    // A second lies between two switches.
    ensure!(
        whole.len() >= 2 * SWITCHES.len(),
        "{} whole intervals",
        whole.len()
    );
    let bytes = |interval: &Value| -> Result<[u64; 2]> {
        let streams = interval["streams"].as_array().context("no streams")?;
        let [one, other] = streams.as_slice() else {
            bail!("{} streams", streams.len());
        };
        Ok([one, other].map(|stream| stream["bytes"].as_u64().unwrap_or(0)))
    };
    let bytes: Vec<[u64; 2]> = whole.iter().map(bytes).collect::<Result<_>>()?;
    for (n, two) in bytes.windows(2).enumerate() {
        ensure!(
            (0..2).all(|stream| two[0][stream] + two[1][stream] > 0),
            "a stream carried nothing in the seconds {n} and {}: {two:?}",
            n + 1
        );
    }
    Ok(bytes.iter().flatten().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(error: &str, bytes: &[[u64; 2]]) -> Value {
        let interval =
            |[one, other]: &[u64; 2]| json!({"streams": [{"bytes": one}, {"bytes": other}]});
        json!({"error": error, "intervals": bytes.iter().map(interval).collect::<Vec<_>>()})
    }

    #[test]
    fn a_stream_may_stand_still_for_one_interval_and_not_for_two() {
        let mut bytes = vec![[3, 4]; 10];
        // The last interval does not count.
        bytes[9] = [0, 0];
        bytes[8] = [0, 4];
        bytes[5] = [0, 0];
        assert_eq!(carried(&report(ENDED, &bytes)).unwrap(), 7 * 7 + 4);
        bytes[4] = [3, 0];
        let refusal = carried(&report(ENDED, &bytes)).unwrap_err().to_string();
        assert!(refusal.contains("seconds 4 and 5"), "{refusal}");
        assert!(carried(&report(ENDED, &[[3, 4]; 4])).is_err());
        assert!(carried(&report("the server has terminated", &[[3, 4]; 10])).is_err());
    }
}
