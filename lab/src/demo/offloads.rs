//! The demo's third part: TCP between real stacks, with segmentation offload in the guests and without, while grant copies are free and
//! while they cost what they cost on Xen.
use super::measure::{self, Server};
use super::wire::Wire;
use super::{config, kernel, progress, xdp_mode};
use crate::daemon::COPY_COST;
use crate::{Host, Lab};
use anyhow::{Context, Result};
use demo_options::Options;
use serde::Serialize;
use std::time::Duration;

/// Seconds of the stream whose frames are looked at one by one.
const LOOK_SECONDS: u32 = 1;
/// Pings for each second of a stream, one a millisecond: fewer than fit.
const PINGS: u32 = 500;
const PING_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes that copy operations are counted for.
const UNIT: f64 = 65_536.0;

/// A way that packets take.
struct Way {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    /// TCP streams at once.
    streams: u32,
    /// More keys of the bridge.
    bridge: &'static str,
    /// Grant copies of an ACK on its way back.
    ack_operations: f64,
    /// How many times as fast offloads are to make it, charged.
    aim: Option<f64>,
}

const WAYS: [Way; 5] = [
    Way {
        name: "guest to guest",
        from: "guest-a",
        to: "guest-b",
        streams: 1,
        bridge: "",
        ack_operations: 2.0,
        aim: Some(6.0),
    },
    Way {
        name: "to a guest",
        from: "outside",
        to: "guest-a",
        streams: 1,
        bridge: "",
        ack_operations: 1.0,
        aim: Some(2.0),
    },
    Way {
        name: "to a guest, 8 streams",
        from: "outside",
        to: "guest-a",
        streams: 8,
        bridge: "",
        ack_operations: 1.0,
        aim: None,
    },
    Way {
        name: "to the wire",
        from: "guest-a",
        to: "outside",
        streams: 1,
        bridge: "",
        ack_operations: 1.0,
        aim: Some(2.0),
    },
    Way {
        name: "to the wire, cut by netback",
        from: "guest-a",
        to: "outside",
        streams: 1,
        bridge: "bulk = \"off\"\n",
        ack_operations: 1.0,
        aim: None,
    },
];

/// What one way is worth.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The way that packets take.
    pub path: String,
    /// Whether grant copies cost anything beyond the memcpy.
    pub charged: bool,
    /// TCP with offloads.
    pub on_mbit_per_s: f64,
    /// TCP without.
    pub off_mbit_per_s: f64,
    /// The first by the second.
    pub ratio: f64,
    /// Grant copies for 64 KiB received with offloads, those of ACKs left out.
    pub copy_operations_per_64k: f64,
    /// Grant copies of the ACKs for 64 KiB.
    pub ack_operations_per_64k: f64,
    /// The round trip that 99 of 100 pings stay within, one a millisecond, with nothing beside them.
    pub ping_p99_us: f64,
    /// The same beside TCP with offloads.
    pub ping_p99_beside_us: f64,
    /// The second by the first.
    pub ping_p99_ratio: f64,
    /// Frames longer than the MTU that the receiver saw, large packets that its own stack would have cut not counted.
    pub over_mtu_on_wire: u64,
    /// Wrong checksums that sender and receiver counted.
    pub checksum_errors: u64,
}

/// The whole of `--offloads --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Each way, with free copies and with charged ones.
    pub paths: Vec<Row>,
    /// Kernel release.
    pub kernel: String,
    /// native or generic.
    pub xdp_mode: String,
}

impl Report {
    /// Every figure that is not as it must be: everything flowed, and nobody saw a wrong frame.
    fn faults(&self) -> Vec<String> {
        self.paths.iter().flat_map(Row::faults).collect()
    }
}

impl Row {
    fn faults(&self) -> Vec<String> {
        let name = format!(
            "{}{}",
            self.path,
            if self.charged { ", charged" } else { "" }
        );
        let rates = [(self.on_mbit_per_s, "on"), (self.off_mbit_per_s, "off")];
        let still = rates.into_iter().filter(|(rate, _)| *rate <= 0.0);
        let mut faults: Vec<String> = still
            .map(|(rate, state)| {
                format!("{name}: {rate} Mbit/s of TCP with offloads {state} (must be more than 0)")
            })
            .collect();
        let counts = [
            (self.over_mtu_on_wire, "frames longer than the MTU"),
            (self.checksum_errors, "checksum errors"),
        ];
        let wrong = counts.into_iter().filter(|(count, _)| *count != 0);
        faults.extend(wrong.map(|(count, what)| format!("{name}: {count} {what} (must be 0)")));
        faults
    }
}

/// Measures and prints. Returns the figures that are not as they must be, a line each.
pub fn demonstrate(options: &Options) -> Result<Vec<String>> {
    let report = run(options)?;
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report),
    }
    Ok(report.faults())
}

fn run(options: &Options) -> Result<Report> {
    let (mut paths, mut mode) = (Vec::new(), String::new());
    for charged in [false, true] {
        let cost = if charged { COPY_COST } else { "" };
        let mut rates = Vec::new();
        for (state, arguments) in [("on", &[][..]), ("off", &["--no-gso"][..])] {
            progress(&format!(
                "offloads {state}, grant copies {}",
                if charged { "charged" } else { "free" }
            ));
            let mut lab = super::build(options, arguments, cost)?;
            let ways = measure_ways(&mut lab, options, arguments.is_empty())?;
            rates.push(ways);
            mode = xdp_mode(&lab.daemon()?.status()?);
        }
        let (off, on) = (rates.pop(), rates.pop());
        let pairs = on.into_iter().flatten().zip(off.into_iter().flatten());
        paths.extend(WAYS.iter().zip(pairs).map(|(way, (on, off))| Row {
            path: way.name.into(),
            charged,
            on_mbit_per_s: round(on.mbit_per_s),
            off_mbit_per_s: round(off.mbit_per_s),
            ratio: round(on.mbit_per_s / off.mbit_per_s),
            copy_operations_per_64k: round(on.operations),
            ack_operations_per_64k: round(on.ack_operations),
            ping_p99_us: round(on.pinged.quiet_us),
            ping_p99_beside_us: round(on.pinged.beside_us),
            ping_p99_ratio: round(on.pinged.beside_us / on.pinged.quiet_us),
            over_mtu_on_wire: on.over_mtu + off.over_mtu,
            checksum_errors: on.checksum_errors + off.checksum_errors,
        }));
    }
    Ok(Report {
        paths,
        kernel: kernel(),
        xdp_mode: mode,
    })
}

/// One way, one state of the offloads.
struct Measured {
    mbit_per_s: f64,
    operations: f64,
    ack_operations: f64,
    pinged: Pinged,
    over_mtu: u64,
    checksum_errors: u64,
}

/// Measures every way, and where offloads are `on` looks at its frames and its latency too.
fn measure_ways(lab: &mut Lab, options: &Options, on: bool) -> Result<Vec<Measured>> {
    let mut measured = Vec::with_capacity(WAYS.len());
    let mut bridge = "";
    for way in &WAYS {
        if way.bridge != bridge {
            bridge = way.bridge;
            let config = config(lab, options, bridge);
            lab.daemon()?.restart_with(&config)?;
        }
        let numbers = measure_way(lab, way, options.seconds, on);
        measured.push(numbers.with_context(|| way.name.to_owned())?);
    }
    Ok(measured)
}

fn measure_way(lab: &Lab, way: &Way, seconds: u32, on: bool) -> Result<Measured> {
    let host = |name: &str| lab.host(name).with_context(|| format!("no host {name}"));
    let (from, to) = (host(way.from)?, host(way.to)?);
    measure::wait_reachable(from, &to.ipv4)?;
    let errors = checksum_errors(from)? + checksum_errors(to)?;
    let (mut over_mtu, mut pinged) = (0, Pinged::default());
    if on {
        let wire = Wire::watch(to)?;
        measure::tcp(from, to, LOOK_SECONDS)?;
        over_mtu = wire.over_mtu();
        pinged = Pinged::measure(from, to, way.streams, seconds)?;
        // What these left under way is not to be counted with the stream.
        std::thread::sleep(Duration::from_millis(100));
    }
    let [acks] = measure::tcp_counters(to, ["OutSegs"])?;
    let copies = lab.driver_counts()?.copy_operations;
    let stream = measure::streams(from, to, seconds, way.streams)?;
    let copies = (lab.driver_counts()?.copy_operations - copies) as f64;
    let [acks_after] = measure::tcp_counters(to, ["OutSegs"])?;
    let ack_operations = (acks_after - acks) as f64 * way.ack_operations;
    let units = stream.bytes / UNIT;
    Ok(Measured {
        mbit_per_s: stream.mbit_per_s,
        operations: (copies - ack_operations) / units,
        ack_operations: ack_operations / units,
        pinged,
        over_mtu,
        checksum_errors: checksum_errors(from)? + checksum_errors(to)? - errors,
    })
}

/// The round trips that 99 of 100 pings stay within.
#[derive(Debug, Clone, Copy, Default)]
struct Pinged {
    quiet_us: f64,
    beside_us: f64,
}

impl Pinged {
    /// With nothing beside the pings, and beside as many streams in the same direction.
    fn measure(from: &Host, to: &Host, streams: u32, seconds: u32) -> Result<Self> {
        let count = PINGS * seconds;
        let quiet = measure::ping(from, &to.ipv4, count, PING_INTERVAL)?;
        let (time, streams) = (seconds.to_string(), streams.to_string());
        let _server = Server::start(to)?;
        let mut bulk = measure::start_iperf3(from, &to.ipv4, &["-t", &time, "-P", &streams])?;
        // Connections are made, and windows open.
        std::thread::sleep(Duration::from_millis(300));
        let beside = measure::ping(from, &to.ipv4, count, PING_INTERVAL)?;
        measure::finish_iperf3(&mut bulk)?;
        Ok(Self {
            quiet_us: quiet.p99_us,
            beside_us: beside.p99_us,
        })
    }
}

fn checksum_errors(host: &Host) -> Result<u64> {
    let [errors] = measure::tcp_counters(host, ["InCsumErrors"])?;
    Ok(errors)
}

/// Two decimals tell a ratio of 1.96 from one of 2.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn print(report: &Report) {
    println!(
        "{:<28} {:<8} {:>10} {:>10} {:>6} {:>5} {:>12} {:>8} {:>8} {:>8} {:>6} {:>8} {:>9}",
        "path",
        "copies",
        "on Mbit/s",
        "off Mbit/s",
        "ratio",
        "aim",
        "copies/64 KB",
        "of ACKs",
        "ping p99",
        "beside",
        "ratio",
        "over MTU",
        "checksums"
    );
    for row in &report.paths {
        let way = WAYS.iter().find(|way| way.name == row.path);
        let aim = way.and_then(|way| way.aim).filter(|_| row.charged);
        println!(
            "{:<28} {:<8} {:>10.0} {:>10.0} {:>6.2} {:>5} {:>12.1} {:>8.1} {:>8.0} {:>8.0} {:>6.1} {:>8} {:>9}",
            row.path,
            if row.charged { "charged" } else { "free" },
            row.on_mbit_per_s,
            row.off_mbit_per_s,
            row.ratio,
            aim.map_or(String::new(), |aim| format!("{aim:.0}")),
            row.copy_operations_per_64k,
            row.ack_operations_per_64k,
            row.ping_p99_us,
            row.ping_p99_beside_us,
            row.ping_p99_ratio,
            row.over_mtu_on_wire,
            row.checksum_errors
        );
    }
    println!(
        "ACKs are packets of their own, whatever is offloaded; Linux {}, XDP {}",
        report.kernel, report.xdp_mode
    );
}
