//! Whole paths: simulated guests, the real daemon and AF_XDP on veth. Packets a second, and the CPU time of the daemon's worker a
//! packet in cycles, beside a bare xsk-rs sender's in the same minute: docs/benchmarks.md says how to read it.
mod measure;
mod report;

use anyhow::{Context, Result};
use benches::cost::Cost;
use benches::live::{self, Path, Rig};
use benches::place::cycles_per_ns;
use clap::Parser;
use lab::daemon::StartOptions;
use lab::interrupt;
use report::{Report, Row};

/// Ethernet frames without their check sequence.
const SIZES: [usize; 3] = [64, 512, 1500];

/// Guest to AF_XDP on veth, AF_XDP to guest, guest to guest. Needs root and less than three minutes.
#[derive(Debug, Parser)]
#[command(name = "paths")]
struct Options {
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Pairs of bare sender and path that each figure is the median of.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// cargo bench says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    interrupt::install();
    live::build_programs()?;
    let mut report = Report::new(cycles_per_ns());
    for cost in Cost::ALL {
        report.rows.extend(measure_all(cost, options.pairs)?);
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

fn measure_all(cost: Cost, pairs: u16) -> Result<Vec<Row>> {
    let rate = cycles_per_ns();
    let mut rig = Rig::start(&StartOptions {
        copy_cost: cost.copy_cost(),
        ..StartOptions::default()
    })?;
    let mut rows = Vec::new();
    for path in Path::ALL {
        for bytes in SIZES {
            eprintln!("paths: {}, {bytes} B, {}", path.name(), cost.name());
            let pairs = (0..pairs)
                .map(|_| measure::pair(&mut rig, path, bytes))
                .collect::<Result<Vec<_>>>()
                .with_context(|| rig.last_words())?;
            rows.push(Row::new(path, bytes, cost, &pairs, rate));
        }
    }
    Ok(rows)
}
