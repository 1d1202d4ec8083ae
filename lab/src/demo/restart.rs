//! The demo's second part: the daemon is killed under load and started again, and the guests do not notice.
use super::measure::{self, Server};
use super::probe::{Arrivals, Probe};
use super::progress;
use crate::interrupt;
use crate::{Host, Lab};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant};
use xen::store::{StoreError, Transaction, XenStore};

/// Seconds of the TCP stream.
const STREAM_SECONDS: u32 = 5;
/// When in it the daemon is killed.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// When in it connections reset are counted: at its own end iperf3 closes while segments are under way, which resets.
const COUNT_AFTER: Duration = Duration::from_millis(4500);
/// `iperf3 --interval`, so that bytes after the kill can be told.
const INTERVAL: &str = "0.1";

/// A figure for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Directions {
    /// From the guest to the network.
    pub guest_to_outside: Option<f64>,
    /// From the network to the guest.
    pub outside_to_guest: Option<f64>,
}

/// What is shown of the time around the kill: how long before it, how long after it, and in which steps.
const SHOWN: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(10),
];

/// Packets of the probes that arrived within one step of the time around the kill.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// When it begins, from the kill on.
    pub from_ms: i64,
    /// Packets that arrived outside.
    pub guest_to_outside: u64,
    /// Packets that arrived in the guest.
    pub outside_to_guest: u64,
}

/// The whole of `--restart --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// From the kill to the first packet that the peer received from the new daemon; null where there was none.
    pub outage_ms: Directions,
    /// Bytes that the TCP stream carried after the kill.
    pub tcp_bytes_after: u64,
    /// TCP connections reset in guest and peer while the stream ran.
    pub tcp_resets: u64,
    /// Changes of either end's xenbus state.
    pub states_changed: usize,
    /// Probe packets that arrived twice.
    pub duplicates: u64,
    /// Arrivals around the kill; each direction sends a thousand packets a second.
    pub timeline: Vec<Interval>,
    /// Kernel release.
    pub kernel: String,
    /// native or generic.
    pub xdp_mode: String,
}

impl Report {
    /// Every figure that is not as it must be: packets pass again both ways, the stream went on, and no state changed.
    pub fn faults(&self) -> Vec<String> {
        let Directions {
            guest_to_outside,
            outside_to_guest,
        } = self.outage_ms;
        let outages = [
            (guest_to_outside, "guest to network"),
            (outside_to_guest, "network to guest"),
        ];
        let silent = outages.into_iter().filter(|(outage, _)| outage.is_none());
        let mut faults: Vec<String> = silent
            .map(|(_, direction)| format!("{direction}: no packet came through again"))
            .collect();
        if self.tcp_bytes_after == 0 {
            faults.push("0 bytes of TCP after the kill (must be more than 0)".into());
        }
        let counts = [
            (self.tcp_resets, "TCP resets"),
            (self.states_changed as u64, "xenbus states changed"),
        ];
        let wrong = counts.into_iter().filter(|(count, _)| *count != 0);
        faults.extend(wrong.map(|(count, what)| format!("{count} {what} (must be 0)")));
        faults
    }
}

/// Kill and restart the daemon while guest-a streams to the outside.
pub fn run(lab: &mut Lab) -> Result<Report> {
    let guest = &lab.guests[0].host;
    let outside = &lab.outside[0].host;
    measure::wait_reachable(guest, &outside.ipv4)?;
    let resets_before = resets(guest, outside)?;
    let _server = Server::start(outside)?;
    let frontend = lab.guests[0].domid;
    let mut watch = StateWatch::start(lab, frontend)?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let up = Probe::start(guest, outside)?;
    let down = Probe::start(outside, guest)?;
    let mut stream = measure::start_iperf3(
        guest,
        &outside.ipv4,
        &["-t", &STREAM_SECONDS.to_string(), "-i", INTERVAL],
    )?;
    let started = Instant::now();
    interrupt::sleep(KILL_AFTER)?;
    progress("kill -9 of the daemon, and a new one");
    let killed = Instant::now();
    lab.daemon()?.kill_and_restart()?;
    interrupt::sleep(COUNT_AFTER.saturating_sub(started.elapsed()))?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let tcp_resets = resets(guest, outside)? - resets_before;
    lab.daemon()?.check_running()?;
    let stream = measure::finish_iperf3(&mut stream)?;
    let (up, down) = (up.finish()?, down.finish()?);
    let status = lab.daemon()?.status()?;
    progress(&format!(
        "probes lost: {} of {} up, {} of {} down",
        up.lost(),
        up.sent,
        down.lost(),
        down.sent
    ));
    Ok(Report {
        outage_ms: Directions {
            guest_to_outside: outage_ms(&up, killed),
            outside_to_guest: outage_ms(&down, killed),
        },
        tcp_bytes_after: bytes_after(&stream, (killed - started).as_secs_f64()),
        tcp_resets,
        states_changed: watch.changes(lab)?,
        duplicates: up.duplicates() + down.duplicates(),
        timeline: timeline(&up, &down, killed),
        kernel: super::kernel(),
        xdp_mode: super::xdp_mode(&status),
    })
}

fn resets(guest: &Host, outside: &Host) -> Result<u64> {
    Ok(measure::tcp_resets(guest)? + measure::tcp_resets(outside)?)
}

fn outage_ms(arrivals: &Arrivals, killed: Instant) -> Option<f64> {
    arrivals
        .outage(killed)
        .map(|outage| (outage.as_secs_f64() * 1e4).round() / 10.0)
}

fn timeline(up: &Arrivals, down: &Arrivals, killed: Instant) -> Vec<Interval> {
    let [before, _, step] = SHOWN.map(|time| time.as_millis() as i64);
    let both = up
        .histogram(killed, SHOWN)
        .into_iter()
        .zip(down.histogram(killed, SHOWN));
    both.zip(0..)
        .map(|((guest_to_outside, outside_to_guest), n)| Interval {
            from_ms: n * step - before,
            guest_to_outside,
            outside_to_guest,
        })
        .collect()
}

/// Bytes of the intervals that began after the kill; a second is added for what the sender's socket had buffered.
fn bytes_after(report: &Value, killed: f64) -> u64 {
    let intervals = report["intervals"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let sums = intervals.iter().map(|interval| &interval["sum"]);
    let after = sums.filter(|sum| {
        sum["start"]
            .as_f64()
            .is_some_and(|start| start > killed + 1.0)
    });
    after.filter_map(|sum| sum["bytes"].as_u64()).sum()
}

/// Follows both ends' `state` keys.
struct StateWatch {
    paths: [String; 2],
    before: [String; 2],
}

const TOKEN: &str = "restart";

impl StateWatch {
    fn start(lab: &mut Lab, frontend: xen::grant::DomId) -> Result<Self> {
        let backend = lab.driver_domain().id();
        let paths = [
            format!("/local/domain/{backend}/backend/vif/{frontend}/0/state"),
            format!("/local/domain/{frontend}/device/vif/0/state"),
        ];
        let store = lab.toolstack.store();
        for path in &paths {
            store.watch(path, TOKEN)?;
        }
        // A new watch fires once for itself.
        interrupt::wait_for("watches on the states", Duration::from_secs(5), || {
            Ok(!store.events()?.is_empty())
        })?;
        interrupt::sleep(Duration::from_millis(50))?;
        store.events()?;
        let read =
            |path: &String, lab: &mut Lab| lab.toolstack.store().read(Transaction::NONE, path);
        let before = [read(&paths[0], lab)?, read(&paths[1], lab)?];
        Ok(Self { paths, before })
    }

    /// Writes to either key since the start (a value that came back counts too).
    fn changes(&mut self, lab: &mut Lab) -> Result<usize> {
        let store = lab.toolstack.store();
        let fired = store
            .events()?
            .into_iter()
            .filter(|event| event.token == TOKEN)
            .count();
        let mut differ = 0;
        for (path, before) in self.paths.iter().zip(&self.before) {
            let now = match store.read(Transaction::NONE, path) {
                Err(StoreError::Missing(_)) => String::new(),
                other => other.context("reading a state")?,
            };
            differ += usize::from(now != *before);
            store.unwatch(path, TOKEN)?;
        }
        Ok(fired.max(differ))
    }
}

/// The human's table.
pub fn print(report: &Report) {
    let ms = |value: Option<f64>| {
        value.map_or("no packet came through again".into(), |ms| {
            format!("{ms} ms")
        })
    };
    println!(
        "outage, guest to network   {}",
        ms(report.outage_ms.guest_to_outside)
    );
    println!(
        "outage, network to guest   {}",
        ms(report.outage_ms.outside_to_guest)
    );
    println!("TCP bytes after            {}", report.tcp_bytes_after);
    println!("TCP resets                 {}", report.tcp_resets);
    println!("xenbus states changed      {}", report.states_changed);
    println!("probe packets seen twice   {}", report.duplicates);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_figure_and_how_far_off_it_is() {
        let good = Directions {
            guest_to_outside: Some(80.0),
            outside_to_guest: Some(75.5),
        };
        let mut report = Report {
            outage_ms: good,
            tcp_bytes_after: 7,
            tcp_resets: 0,
            states_changed: 0,
            duplicates: 4,
            timeline: Vec::new(),
            kernel: String::new(),
            xdp_mode: String::new(),
        };
        assert!(report.faults().is_empty());
        report.outage_ms.outside_to_guest = None;
        report.tcp_resets = 2;
        assert_eq!(
            report.faults(),
            [
                "network to guest: no packet came through again",
                "2 TCP resets (must be 0)"
            ]
        );
    }

    #[test]
    fn only_whole_intervals_well_after_the_kill_count() {
        let report = serde_json::json!({"intervals": [
            {"sum": {"start": 1.0, "bytes": 5}}, {"sum": {"start": 2.5, "bytes": 7}}, {"sum": {"start": 3.2, "bytes": 11}},
        ]});
        assert_eq!(bytes_after(&report, 2.0), 11);
    }
}
