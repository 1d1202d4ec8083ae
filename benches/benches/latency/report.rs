//! Medians of pairs, as JSON and as a table.
use crate::measure::{Case, Pair, Stream, Work};
use crate::net::{Core, Joint, SENDER};
use benches::cost::Cost;
use benches::median::median;
use serde::Serialize;
use std::fmt;

/// The round trip of 99 in 100 beside a stream is to be at most this many times as long as without.
const AIM: f64 = 2.0;

/// All of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kernel release.
    pub kernel: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The machine's load average of one minute as the bench began. Everything that runs beside the bench is in the round trips.
    pub load: f64,
    /// Nanoseconds a call, a hypercall, an operation, where copies are charged.
    pub charged: &'static str,
    /// Microseconds that a worker without work polls before it sleeps.
    pub poll_us: u32,
    /// Pairs behind each row's medians.
    pub pairs: u16,
    /// Seconds of pings in each half of a pair.
    pub seconds: u32,
    /// A row a joint and case.
    pub rows: Vec<Row>,
}

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Pings of guests that have no part in the stream, whose stacks share a core with the stream's. The aim is for these and the next.
    Neighbour,
    /// The same, with the stacks of the pings apart from the stream's, on the worker's core.
    Apart,
    /// The pinging guest is one of the stream's ends.
    SameGuest,
    /// The stream goes by nothing that is measured.
    Control,
}

impl Kind {
    /// The kind of the case's rows.
    pub fn of(case: Case) -> Self {
        match case {
            Case { from: SENDER, .. } => Self::SameGuest,
            Case {
                stream: Stream::WithinGuest,
                ..
            } => Self::Control,
            Case {
                neighbours: Core::Worker,
                ..
            } => Self::Apart,
            _ => Self::Neighbour,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Neighbour => "neighbour",
            Self::Apart => "apart",
            Self::SameGuest => "same guest",
            Self::Control => "control",
        }
    }
}

/// Medians of one case on one network. Round trips are in microseconds; JSON has null for one that too many lost pings made infinite.
#[derive(Debug, Serialize)]
pub struct Row {
    joint: Joint,
    kind: Kind,
    ping: String,
    /// Whether the stacks of the pings are on the worker's core, apart from the stream's.
    apart: bool,
    stream: Stream,
    stream_mbit_per_s: f64,
    quiet_p50_us: f64,
    quiet_p99_us: f64,
    beside_p50_us: f64,
    beside_p99_us: f64,
    /// The median of the pairs' ratios of p99.
    ratio: f64,
    /// The least and the largest of the pairs' ratios.
    ratio_range: [f64; 2],
    /// How late 99 of 100 requests were sent at most, quiet and beside: how long the kernel kept the stacks' core from the thread that sends
    /// them, and from the netfronts that an answer needs.
    late_p99_us: [f64; 2],
    /// Pings that no answer came for, quiet and beside, over all pairs.
    lost: [usize; 2],
    /// Pings sent, quiet and beside, over all pairs.
    sent: [usize; 2],
    /// Of netback's worker beside the stream: the part of the time that it ran, that it waited for its core, and the microseconds that a turn
    /// with work took, what it polled in between included. 0 where there is none.
    worker_ran: f64,
    worker_waited: f64,
    worker_turn_us: f64,
}

impl Report {
    /// Without rows.
    pub fn new(pairs: u16, seconds: u32, poll_us: u32) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim_end().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            load: load
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_default(),
            charged: Cost::Charged.copy_cost(),
            poll_us,
            pairs,
            seconds,
            rows: Vec::new(),
        }
    }
}

impl Row {
    /// Medians of `pairs`.
    pub fn new(joint: Joint, case: Case, pairs: &[Pair]) -> Self {
        let median = |value: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
        let work =
            |value: fn(&Work) -> f64| median(&|pair| pair.beside.work.as_ref().map_or(0.0, value));
        let ratios = || pairs.iter().map(Pair::ratio);
        let sum = |value: &dyn Fn(&Pair) -> usize| pairs.iter().map(value).sum();
        Self {
            joint,
            kind: Kind::of(case),
            ping: format!("{} <-> {}", case.from, case.to),
            apart: case.neighbours == Core::Worker,
            stream: case.stream,
            stream_mbit_per_s: median(&|pair| pair.mbit_per_s),
            quiet_p50_us: median(&|pair| pair.quiet.pinged.within(50)),
            quiet_p99_us: median(&|pair| pair.quiet.pinged.within(99)),
            beside_p50_us: median(&|pair| pair.beside.pinged.within(50)),
            beside_p99_us: median(&|pair| pair.beside.pinged.within(99)),
            ratio: median(&Pair::ratio),
            ratio_range: [
                ratios().fold(f64::INFINITY, f64::min),
                ratios().fold(0.0, f64::max),
            ],
            late_p99_us: [
                median(&|pair| pair.quiet.pinged.late_within(99)),
                median(&|pair| pair.beside.pinged.late_within(99)),
            ],
            lost: [
                sum(&|pair| pair.quiet.pinged.lost()),
                sum(&|pair| pair.beside.pinged.lost()),
            ],
            sent: [
                sum(&|pair| pair.quiet.pinged.sent),
                sum(&|pair| pair.beside.pinged.sent),
            ],
            worker_ran: work(|work| work.ran),
            worker_waited: work(|work| work.waited),
            worker_turn_us: work(|work| work.turn_us),
        }
    }

    /// Whether the aim is met, where there is one.
    fn verdict(&self) -> &'static str {
        match (self.joint, self.kind) {
            (Joint::KernelBridge, _) | (_, Kind::SameGuest | Kind::Control) => "",
            _ if self.ratio <= AIM => "met",
            _ => "missed",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Linux {}, {} cores, load {:.1}; {} pairs, {} s of pings in each half; workers poll {} us; charged: {} ns a call, hypercall, operation",
            self.kernel,
            self.cores,
            self.load,
            self.pairs,
            self.seconds,
            self.poll_us,
            self.charged
        )?;
        writeln!(
            f,
            "{:<16} {:<10} {:<19} {:<14} {:>6} {:>7} {:>7} {:>7} {:>7} {:>6} {:>13} {:>6} {:>7} {:>7} {:>9} {:>5} {:>6} {:>7}",
            "joint",
            "row",
            "ping",
            "stream",
            "Mbit/s",
            "p50 us",
            "beside",
            "p99 us",
            "beside",
            "ratio",
            "range",
            "aim",
            "late us",
            "beside",
            "lost",
            "ran",
            "waited",
            "turn us"
        )?;
        self.rows.iter().try_for_each(|row| row.fmt(f))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, most] = self.ratio_range;
        writeln!(
            f,
            "{:<16} {:<10} {:<19} {:<14} {:>6.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>6.2} {:>13} {:>6} {:>7.0} {:>7.0} {:>9} {:>4.0}% {:>5.0}% {:>7.0}",
            self.joint.name(),
            self.kind.name(),
            self.ping,
            self.stream.name(),
            self.stream_mbit_per_s,
            self.quiet_p50_us,
            self.beside_p50_us,
            self.quiet_p99_us,
            self.beside_p99_us,
            self.ratio,
            format!("{least:.2}-{most:.2}"),
            self.verdict(),
            self.late_p99_us[0],
            self.late_p99_us[1],
            format!("{}+{}", self.lost[0], self.lost[1]),
            self.worker_ran * 100.0,
            self.worker_waited * 100.0,
            self.worker_turn_us,
        )
    }
}
