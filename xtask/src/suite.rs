//! `cargo xtask test`: every check in named steps, the failures of all of them, one sum.

use crate::tally::{Reader, Tally};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use xtask::command::{TIMED_OUT, cargo, limited};
use xtask::tool::Tool;
use xtask::{build, host, packages};

/// Judges licences and sources of the crates that are built in; deny.toml has the rules.
const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "^0.20",
};

/// Which steps to run.
#[derive(Args)]
pub struct Options {
    /// Leave this step out (may be given several times).
    #[arg(long, value_name = "STEP")]
    skip: Vec<Step>,
    /// Run this step only (may be given several times).
    #[arg(long, value_name = "STEP", conflicts_with = "skip")]
    only: Vec<Step>,
}

/// A named step, in the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting, as rustfmt has it.
    Fmt,
    /// Lints of every crate, target and feature; a warning fails.
    Clippy,
    /// The crates' documentation; a warning fails.
    Doc,
    /// Licences, versions and sources of what is built in, and advisories where their database can be reached (cargo-deny).
    Deny,
    /// Unit and property tests of every crate.
    Unit,
    /// Every interleaving of the ring's notification protocol (loom).
    Loom,
    /// Instructions a packet of a worker, by path, against their limits (callgrind).
    Instructions,
    /// The daemon with simulated guests in network namespaces.
    Integration,
    /// The Debian package, judged by lintian.
    Package,
    /// The daemon in a driver domain of real Xen, under emulation.
    Xen,
}

/// Integration tests share two cores with the guests they start: one at a time.
const ONE_AT_A_TIME: &[&str] = &["--", "--test-threads=1"];

impl Step {
    fn name(self) -> String {
        self.to_possible_value()
            .expect("no step is hidden")
            .get_name()
            .to_string()
    }

    /// Far beyond what the step takes on two loaded cores from an empty target directory; a step that hangs fails.
    fn limit(self) -> Duration {
        let minutes = match self {
            Step::Fmt => 2,
            Step::Clippy
            | Step::Doc
            | Step::Deny
            | Step::Unit
            | Step::Loom
            | Step::Instructions => 20,
            Step::Integration | Step::Package => 25,
            Step::Xen => 40,
        };
        Duration::from_secs(minutes * 60)
    }

    /// The commands of the step, run in this order until one fails.
    fn commands(self) -> Result<Vec<Command>> {
        let cargo = |args: &[&str]| {
            let mut command = limited(cargo(), self.limit());
            command.args(args).current_dir(build::workspace());
            command
        };
        Ok(match self {
            Step::Fmt => vec![cargo(&["fmt", "--all", "--check"])],
            Step::Clippy => vec![cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--",
                "-D",
                "warnings",
            ])],
            Step::Doc => {
                let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
                doc.env("RUSTDOCFLAGS", "-D warnings");
                vec![doc]
            }
            Step::Deny => deny(self.limit())?,
            Step::Unit => vec![cargo(&[
                "test",
                "--workspace",
                "--exclude",
                "tests",
                "--exclude",
                "benches",
                "--no-fail-fast",
            ])],
            Step::Loom => {
                let mut loom = cargo(&[
                    "test",
                    "-p",
                    "netif-ring",
                    "--release",
                    "--test",
                    "loom",
                    "--no-fail-fast",
                ]);
                loom.env("RUSTFLAGS", "--cfg loom")
                    .env("CARGO_TARGET_DIR", build::target_dir()?.join("loom"));
                vec![loom]
            }
            Step::Instructions => vec![cargo(&[
                "bench",
                "-p",
                "benches",
                "--bench",
                "instructions",
                "--",
                "--check",
            ])],
            Step::Integration => {
                let mut test = cargo(&["test", "-p", "tests", "--no-fail-fast"]);
                test.args(ONE_AT_A_TIME);
                vec![test]
            }
            Step::Package => {
                let mut package = limited(std::env::current_exe()?, self.limit());
                package
                    .args(["deb", "--lint"])
                    .current_dir(build::workspace());
                vec![package]
            }
            Step::Xen => {
                let mut xen = limited(std::env::current_exe()?, self.limit());
                xen.args(["xen", "test", "--json"])
                    .current_dir(build::workspace());
                vec![xen]
            }
        })
    }
}

/// cargo-deny's checks. Advisories are left out, and it is said, where their database cannot be fetched.
fn deny(limit: Duration) -> Result<Vec<Command>> {
    let tool = CARGO_DENY.path()?;
    let mut fetch = limited(&tool, Duration::from_secs(120));
    fetch.args(["fetch", "db"]).current_dir(build::workspace());
    let fetched = fetch.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let mut check = limited(&tool, limit);
    check.args([
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]);
    match fetched.success() {
        true => drop(check.arg("advisories")),
        false => println!("advisories are not checked: their database cannot be fetched"),
    }
    check.current_dir(build::workspace());
    Ok(vec![check])
}

/// `cargo xtask soak`: the rounds of kill and restart that the suite makes few of, `rounds` of them.
pub fn soak(rounds: u32) -> Result<ExitCode> {
    host::require_root("the soak test")?;
    packages::ensure(&[packages::BUILD, packages::LAB])?;
    build::for_tests()?;
    let mut test = limited(cargo(), Duration::from_secs(u64::from(rounds) * 30 + 600));
    test.args([
        "test",
        "-p",
        "tests",
        "--test",
        "lifecycle",
        "--",
        "rounds_",
    ])
    .env("NETBACK_TEST_ROUNDS", rounds.to_string())
    .current_dir(build::workspace());
    let (tally, ok) = tests(&mut test)?;
    println!("{tally}");
    Ok(ExitCode::from(u8::from(!ok || tally.passed == 0)))
}

/// Run the chosen steps; the closing line is the sum, and a failure anywhere is exit status 1.
pub fn run(options: &Options) -> Result<ExitCode> {
    host::require_root("the test suite")?;
    packages::ensure(&[
        packages::BUILD,
        packages::LAB,
        packages::CHECKING,
        packages::COUNTING,
    ])?;
    let chosen: Vec<Step> = Step::value_variants()
        .iter()
        .copied()
        .filter(|step| {
            !options.skip.contains(step) && (options.only.is_empty() || options.only.contains(step))
        })
        .collect();
    let started = Instant::now();
    if chosen.len() > 1 && chosen.contains(&Step::Xen) {
        std::thread::spawn(build_disks);
    }
    let results: Vec<(Step, Tally, Duration)> = chosen.into_iter().map(timed).collect();
    Ok(report(&results, started.elapsed()))
}

/// Builds the disks of the machines of [`Step::Xen`] beside the steps before it: at first that is minutes of downloads, which take little
/// processor time. Whatever fails here is tried again by the step, which reports it.
fn build_disks() {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    for release in ["trixie", "bookworm"] {
        let mut build = limited(&program, Step::Xen.limit());
        build.args(["xen", "build", "--release", release]);
        let _ = build.current_dir(build::workspace()).status();
    }
}

fn timed(step: Step) -> (Step, Tally, Duration) {
    println!("== {}", step.name());
    let started = Instant::now();
    let tally = perform(step).unwrap_or_else(|error| {
        println!("{}: {error:#}", step.name());
        Tally::check(false)
    });
    println!(
        "== {}: {tally} in {:.0} s",
        step.name(),
        started.elapsed().as_secs_f64()
    );
    (step, tally, started.elapsed())
}

/// One line a step, one for each failed test, then the sum and nothing after it.
fn report(results: &[(Step, Tally, Duration)], took: Duration) -> ExitCode {
    let mut sum = Tally::default();
    println!("\nsteps, {:.0} s in all:", took.as_secs_f64());
    for (step, tally, took) in results {
        println!(
            "  {:<12} {:>6.0} s  {tally}",
            step.name(),
            took.as_secs_f64()
        );
        sum += tally.clone();
    }
    for (step, tally, _) in results {
        for failure in &tally.failures {
            println!("FAILED {}: {failure}", step.name());
        }
    }
    println!("{sum}");
    ExitCode::from(u8::from(sum.failed > 0))
}

fn perform(step: Step) -> Result<Tally> {
    if step == Step::Integration {
        build::for_tests()?;
    }
    let mut sum = Tally::default();
    for mut command in step.commands()? {
        let (tally, ok) = if step == Step::Xen {
            cases(&mut command)?
        } else {
            tests(&mut command)?
        };
        let none_failed = tally.failed == 0;
        sum += tally;
        // A command that fails without a failed test (it did not compile, it was out of time) is a failure of its own.
        if !ok && none_failed {
            sum += Tally::check(false);
        }
        if !ok {
            return Ok(sum);
        }
    }
    // fmt, clippy, doc, deny and instructions have no tests to count: the step itself is the check.
    if sum == Tally::default() {
        sum = Tally::check(true);
    }
    Ok(sum)
}

/// Run, pass the output on, and count the summary lines in it.
fn tests(command: &mut Command) -> Result<(Tally, bool)> {
    let mut reader = Reader::default();
    let ok = each_line(command, |line| {
        println!("{line}");
        reader.see(line);
    })?;
    Ok((reader.sum(), ok))
}

/// Run `xen test --json` and count its cases: a list of `case`, `passed`, `detail`, `seconds`.
fn cases(command: &mut Command) -> Result<(Tally, bool)> {
    let mut output = String::new();
    let ok = each_line(command, |line| output.push_str(line))?;
    let list: Vec<serde_json::Value> = match serde_json::from_str(&output) {
        Ok(list) => list,
        Err(_) if !ok => return Ok((Tally::default(), ok)),
        Err(error) => return Err(error).context("xen test printed no list of cases"),
    };
    let mut sum = Tally::default();
    for case in &list {
        let passed = case["passed"].as_bool() == Some(true);
        let verdict = if passed { "ok" } else { "FAILED" };
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        println!(
            "xen {} ... {verdict} ({:.0} s) {}",
            text("case"),
            case["seconds"].as_f64().unwrap_or_default(),
            text("detail")
        );
        sum += match passed {
            true => Tally::check(true),
            false => Tally::failure(text("case"), text("detail")),
        };
    }
    Ok((sum, ok))
}

/// Start `command` and hand on each line of its stdout; stderr passes straight through. True when it succeeded.
fn each_line(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    for line in output.split(b'\n') {
        see(&String::from_utf8_lossy(&line?));
    }
    let status = child.wait()?;
    if status.code() == Some(TIMED_OUT) {
        println!("out of time: {command:?}");
    }
    Ok(status.success())
}
