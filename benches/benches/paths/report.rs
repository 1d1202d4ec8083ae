//! Medians of pairs, as JSON and as a table.
use super::measure::Pair;
use benches::cost::Cost;
use benches::live::Path;
use benches::median::median;
use serde::Serialize;
use std::fmt;

/// A pair of which either half waited longer for a core than this part of its time says little.
const MAX_WAIT: f64 = 0.05;

/// All of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kernel release.
    pub kernel: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Cycles of the time stamp counter in a nanosecond; cycles are CPU time by this rate.
    pub cycles_per_ns: f64,
    /// SIM_COPY_COST of charged rows: nanoseconds a call, a hypercall, an operation.
    pub charged: &'static str,
    /// A row a path, size and cost.
    pub rows: Vec<Row>,
}

/// Medians of one path with one size at one cost.
#[derive(Debug, Serialize)]
pub struct Row {
    path: Path,
    bytes: usize,
    copies: Cost,
    packets_per_s: f64,
    /// The worker's whole CPU time.
    cycles_per_packet: f64,
    /// The bare sender's, in the same pairs.
    bare_cycles_per_packet: f64,
    /// The worker's beyond the bare sender's where the path ends in AF_XDP; elsewhere the worker sends nothing, and all of it.
    own_cycles_per_packet: f64,
    /// The same a packet that the worker took in, dropped ones too: where packets were dropped, one delivered costs more than this
    /// and less than the above.
    own_cycles_per_packet_taken: f64,
    dropped_percent: f64,
    packets_per_copy_call: f64,
    packets_per_sleep: f64,
    /// Pairs behind the medians.
    pairs: usize,
    /// No pair was quiet (see `MAX_WAIT`): all of them are in the medians.
    noisy: bool,
}

impl Report {
    /// Without rows.
    pub fn new(cycles_per_ns: f64) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            kernel: release.trim_end().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            cycles_per_ns,
            charged: Cost::Charged.copy_cost(),
            rows: Vec::new(),
        }
    }
}

impl Row {
    /// Medians of those `pairs` that were quiet, or of all where none was.
    pub fn new(path: Path, bytes: usize, copies: Cost, pairs: &[Pair], cycles_per_ns: f64) -> Self {
        let quiet = |pair: &&Pair| pair.bare.waited() <= MAX_WAIT && pair.path.waited() <= MAX_WAIT;
        let mut kept: Vec<&Pair> = pairs.iter().filter(quiet).collect();
        let noisy = kept.is_empty();
        if noisy {
            kept = pairs.iter().collect();
        }
        let median =
            |value: &dyn Fn(&Pair) -> f64| median(kept.iter().map(|pair| value(pair)).collect());
        // What of the bare sender's cost is in the worker's.
        let in_it = |pair: &Pair| match path {
            Path::GuestToWire => pair.bare.cost(),
            Path::WireToGuest | Path::GuestToGuest => 0.0,
        };
        Self {
            path,
            bytes,
            copies,
            packets_per_s: median(&|pair| pair.path.rate()),
            cycles_per_packet: cycles_per_ns * median(&|pair| pair.path.cost()),
            bare_cycles_per_packet: cycles_per_ns * median(&|pair| pair.bare.cost()),
            own_cycles_per_packet: cycles_per_ns * median(&|pair| pair.path.cost() - in_it(pair)),
            own_cycles_per_packet_taken: cycles_per_ns
                * median(&|pair| pair.handled_cost() - in_it(pair)),
            dropped_percent: median(&|pair| {
                100.0 * pair.dropped as f64 / (pair.dropped + pair.path.packets).max(1) as f64
            }),
            packets_per_copy_call: median(&|pair| pair.packets_per_copy),
            packets_per_sleep: median(&|pair| pair.path.packets as f64 / pair.sleeps.max(1) as f64),
            pairs: kept.len(),
            noisy,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Linux {}, {} cores, {:.2} cycles a ns; charged: {} ns a call, hypercall, operation",
            self.kernel, self.cores, self.cycles_per_ns, self.charged
        )?;
        writeln!(
            f,
            "{:<16} {:>5} {:<8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>10} {:>6}",
            "path",
            "bytes",
            "copies",
            "kpkt/s",
            "cycles",
            "bare",
            "own",
            "taken",
            "dropped",
            "pkt/copy",
            "pkt/sleep",
            "pairs"
        )?;
        self.rows.iter().try_for_each(|row| row.fmt(f))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16} {:>5} {:<8} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>8.1}% {:>9.0} {:>10.0} {:>5}{}",
            self.path.name(),
            self.bytes,
            self.copies.name(),
            self.packets_per_s / 1e3,
            self.cycles_per_packet,
            self.bare_cycles_per_packet,
            self.own_cycles_per_packet,
            self.own_cycles_per_packet_taken,
            self.dropped_percent,
            self.packets_per_copy_call,
            self.packets_per_sleep,
            self.pairs,
            if self.noisy { "!" } else { "" }
        )
    }
}
