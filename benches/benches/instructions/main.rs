//! Instructions of our own a packet, by path, size and stage, counted by callgrind: docs/benchmarks.md says what is counted.
mod callgrind;
mod guest;
mod limits;
mod report;
mod rig;
#[path = "../../../xsk-bridge/tests/support/tcp.rs"]
mod tcp;
mod wire;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use report::{Report, Row};
use rig::Path;

/// Counts instructions a packet. Needs valgrind.
#[derive(Debug, Parser)]
#[command(name = "instructions")]
struct Options {
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Show every function that takes at least one instruction a packet, beside the stages.
    #[arg(long)]
    functions: bool,
    /// Fail where a path takes more instructions than its limit; with another compiler than the limits' own only a warning is printed.
    #[arg(long)]
    check: bool,
    /// Make what was counted, and 2 % on top, the limits.
    #[arg(long, conflicts_with = "check")]
    write_limits: bool,
    /// Count one path alone.
    #[arg(long, value_enum)]
    path: Option<Path>,
    /// With this path and `--size`, turn the worker instead of counting: what callgrind is run on.
    #[arg(long, value_enum, requires = "size", hide = true)]
    turn: Option<Path>,
    #[arg(long, hide = true)]
    size: Option<usize>,
    /// cargo bench says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let (Some(path), Some(size)) = (options.turn, options.size) {
        println!("{}", rig::run(path, size)?);
        return Ok(());
    }
    let mut report = Report::new()?;
    let paths = Path::value_variants().iter().copied();
    for path in paths.filter(|path| options.path.is_none_or(|only| only == *path)) {
        for &size in path.sizes() {
            eprintln!("instructions: {}, {size} B", path.name());
            let count = callgrind::count(path, size)
                .with_context(|| format!("{}, {size} B", path.name()))?;
            report.rows.push(Row::new(path, size, &count));
        }
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.table(options.functions)),
    }
    if options.write_limits {
        limits::write(&report)?;
    }
    if options.check && !limits::check(&report)? {
        bail!(
            "a path takes more instructions than its limit, {}",
            limits::FILE
        );
    }
    Ok(())
}
