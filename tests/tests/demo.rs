//! The demo as a user meets it.
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tests::wait_for;

/// A demo that is kept up; killed when dropped.
struct Held {
    demo: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Held {
    fn start() -> Result<Self> {
        let mut demo = Command::new(lab::programs::path("netback-demo")?)
            .arg("--hold")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = demo.stdout.take().context("the demo has no stdout")?;
        let lines = BufReader::new(output).lines();
        Ok(Self { demo, lines })
    }

    /// Reads on until a line has `words` in it. Returns the line.
    fn line(&mut self, words: &str) -> Result<String> {
        for line in self.lines.by_ref() {
            let line = line?;
            if line.contains(words) {
                return Ok(line);
            }
        }
        bail!("the demo ended without a line that has {words:?}")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.demo.kill();
        let _ = self.demo.wait();
    }
}

/// Runs a line that the demo says is to be typed; what follows a `#` is for the reader.
fn typed(line: &str) -> Result<bool> {
    let words = line.split(" #").next().unwrap_or(line);
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().context("an empty line")?);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command.status()?.success())
}

/// Every way of a large packet, with offloads and without: everything flows, nobody sees a wrong frame, and copies are few.
#[test]
fn the_demo_of_offloads_finds_no_fault_and_few_copies() -> Result<()> {
    let demo = lab::programs::path("netback-demo")?;
    let output = Command::new(demo)
        .args(["--offloads", "--json", "--seconds", "1"])
        .stdin(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let paths = report["paths"].as_array().context("no paths")?;
    ensure!(paths.len() == 10, "{report:#}");
    // From outside, how many segments come together is the machine's business.
    let sent_by_guests = |path: &&Value| {
        let name = path["path"].as_str().unwrap_or_default();
        name == "guest to guest" || name == "to the wire"
    };
    let copies: Vec<f64> = paths
        .iter()
        .filter(sent_by_guests)
        .filter_map(|path| path["copy_operations_per_64k"].as_f64())
        .collect();
    ensure!(copies.len() == 4, "{report:#}");
    ensure!(copies.iter().all(|&copies| copies <= 26.0), "{report:#}");
    Ok(())
}

#[test]
fn a_held_demo_goes_on_after_a_kill_of_the_daemon() -> Result<()> {
    let mut held = Held::start()?;
    let ping = held
        .line("# guest-a to guest-b")?
        .replace(" ping ", " ping -q -c 1 -W 2 ");
    wait_for("a ping is answered", || typed(&ping))?;
    let mut kill = held.line("kill -9 ")?;
    for _ in 0..3 {
        ensure!(typed(&kill)?, "{kill}");
        let revived = held.line("The daemon ended (signal: 9 (SIGKILL))")?;
        let (_, again) = revived.split_once("kill -9 ").context("no new daemon")?;
        kill = format!("kill -9 {again}");
        wait_for("a ping is answered", || typed(&ping))?;
    }
    let pid = i32::try_from(held.demo.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no pid")?, Signal::INT)?;
    let status = held.demo.wait()?;
    ensure!(status.success(), "Ctrl-C ends it: {status}");
    Ok(())
}
