//! Whole paths: simulated guests, the real daemon and AF_XDP on veth. Packets a second, and the CPU time of the daemon's worker a
//! packet in cycles, beside a bare xsk-rs sender's in the same minute: docs/benchmarks.md says how to read it.
mod cost;
mod measure;
mod report;

use anyhow::{Context, Result, ensure};
use benches::live::{self, Path, Rig};
use benches::place::cycles_per_ns;
use clap::Parser;
use cost::Cost;
use lab::interrupt;
use report::{Report, Row};
use std::process::{Command, Stdio};

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
    /// Measure at this cost alone and print rows of JSON: the environment of a process cannot be changed safely, so each cost has its own.
    #[arg(long, hide = true)]
    only: Option<Cost>,
    /// cargo bench says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(cost) = options.only {
        let rows = measure_all(cost, options.pairs)?;
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    live::build_programs()?;
    let mut report = Report::new(cycles_per_ns());
    for cost in [Cost::Free, Cost::Charged] {
        report.rows.extend(measure_apart(cost, options.pairs)?);
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

/// In a process with `cost` in its environment, which the daemon inherits.
fn measure_apart(cost: Cost, pairs: u16) -> Result<Vec<Row>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--only", cost.name(), "--pairs", &pairs.to_string()])
        .env("SIM_COPY_COST", cost.environment())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        cost.name(),
        output.status
    );
    serde_json::from_slice(&output.stdout).context("the measuring process printed no rows")
}

fn measure_all(cost: Cost, pairs: u16) -> Result<Vec<Row>> {
    interrupt::install();
    let rate = cycles_per_ns();
    let mut rig = Rig::start(&[])?;
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
