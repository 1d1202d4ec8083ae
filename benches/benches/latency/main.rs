//! Pings at 1 kHz with nothing beside them and beside a saturating stream, through the real daemon and, for comparison, through the kernel's
//! bridge on the same cores: docs/benchmarks.md says how to read it.
mod measure;
mod net;
mod report;

use anyhow::{Context, Result};
use benches::live;
use clap::Parser;
use lab::demo::measure::wait_reachable;
use lab::interrupt;
use measure::Case;
use net::{Joint, Net};
use report::{Kind, Report, Row};

/// The round trip of a ping beside a saturating stream, and without. Needs root, two cores and about a quarter of an hour.
#[derive(Debug, Parser)]
#[command(name = "latency")]
struct Options {
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Pairs of quiet pings and pings beside a stream that each figure is the median of.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// Seconds of pings in each half of a pair.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50))]
    seconds: u32,
    /// Microseconds that netback's worker polls without work before it sleeps.
    #[arg(long, default_value_t = 50)]
    poll_us: u32,
    /// Only this network; may be given several times.
    #[arg(long)]
    joint: Vec<Joint>,
    /// Only rows of this kind; may be given several times.
    #[arg(long)]
    kind: Vec<Kind>,
    /// cargo bench says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    interrupt::install();
    live::build_programs()?;
    let mut report = Report::new(options.pairs, options.seconds, options.poll_us);
    let joints = Joint::ALL.into_iter();
    for joint in joints.filter(|joint| is_asked_for(&options.joint, joint)) {
        report.rows.extend(measure_joint(joint, &options)?);
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

/// Whether `one` is among `asked`; without any, each is asked for.
fn is_asked_for<T: PartialEq>(asked: &[T], one: &T) -> bool {
    asked.is_empty() || asked.contains(one)
}

fn measure_joint(joint: Joint, options: &Options) -> Result<Vec<Row>> {
    let mut net = Net::start(joint, options.poll_us)?;
    let cases = Case::ALL.into_iter();
    let cases = cases.filter(|case| is_asked_for(&options.kind, &Kind::of(*case)));
    let rows = cases.map(|case| {
        let Case {
            from, to, stream, ..
        } = case;
        eprintln!(
            "latency: {}, {from} <-> {to} beside {}",
            joint.name(),
            stream.name()
        );
        net.move_neighbours(case.neighbours)?;
        wait_reachable(net.host(from)?, &net.host(to)?.ipv4)?;
        let pairs = (0..options.pairs)
            .map(|_| measure::pair(&net, case, options.seconds))
            .collect::<Result<Vec<_>>>()
            .with_context(|| net.last_words())?;
        Ok(Row::new(joint, case, &pairs))
    });
    rows.collect()
}
