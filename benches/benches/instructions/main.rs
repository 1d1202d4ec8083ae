//! Instructions of our own a packet, by path, size and stage, counted by callgrind. docs/benchmarks.md says what is counted.
mod callgrind;
mod daemon;
mod guest;
mod limits;
mod report;
mod rig;
#[path = "../../../xsk-bridge/tests/support/tcp.rs"]
mod tcp;
mod wire;

use anyhow::{Context, Result, bail};
use benches::live;
use clap::{Parser, ValueEnum};
use daemon::Daemon;
use report::{Report, Row};
use rig::Path;

/// Counts instructions a packet: of a worker by itself, and of the daemon's worker under steady load. Needs valgrind, and root for the
/// daemon.
#[derive(Debug, Parser)]
#[command(name = "instructions")]
struct Options {
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Show every function that takes at least one instruction a packet, in the place of the stages.
    #[arg(long)]
    functions: bool,
    /// Count a worker by itself, and fail where a path takes more instructions than its limit; with another compiler than the limits' own
    /// only a warning is printed.
    #[arg(long)]
    check: bool,
    /// Count a worker by itself, and make what was counted, and 2 % on top, the limits.
    #[arg(long, conflicts_with = "check")]
    write_limits: bool,
    /// Count one path of a worker by itself.
    #[arg(long, value_enum)]
    path: Option<Path>,
    /// Count the worker of the real daemon, and no worker by itself.
    #[arg(long, conflicts_with_all = ["check", "write_limits", "path"])]
    daemon: bool,
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
        println!("{}", serde_json::to_string(&rig::run(path, size)?)?);
        return Ok(());
    }
    let mut report = Report::new()?;
    if !options.daemon {
        report.rows = count_worker(options.path)?;
    }
    if !(options.check || options.write_limits || options.path.is_some()) {
        report.daemon = count_daemon()?;
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.tables(options.functions)),
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

/// Counts a worker by itself, on all paths or on one.
fn count_worker(only: Option<Path>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let paths = Path::value_variants().iter().copied();
    for path in paths.filter(|path| only.is_none_or(|only| only == *path)) {
        for &size in path.sizes() {
            eprintln!("instructions: {}, {size} B", path.name());
            let count = callgrind::count(path, size)
                .with_context(|| format!("{}, {size} B", path.name()))?;
            rows.push(Row::new(path.name(), size, &count));
        }
    }
    Ok(rows)
}

/// Counts the daemon's worker.
fn count_daemon() -> Result<Vec<Row>> {
    live::build_programs()?;
    let mut daemon = Daemon::start()?;
    let mut rows = Vec::new();
    for path in live::Path::ALL {
        for size in daemon::SIZES {
            eprintln!("instructions: {}, {size} B, the daemon", path.name());
            let count = daemon.count(path, size);
            let count = count.with_context(|| format!("{}, {size} B", path.name()))?;
            rows.push(Row::new(path.name(), size, &count));
        }
    }
    Ok(rows)
}
