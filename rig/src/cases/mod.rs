//! `cargo xtask xen test`: what a stock guest notices of the backend, case by case; one boot of the machine serves many.

mod boots;
mod doctor;
mod document;
mod host_port;
mod keys;
mod kinds;
mod lifecycle;
mod offloads;
mod package;
mod queues;
mod residue;
mod restart;
mod traffic;
mod unnoticed;
mod xenstore;

pub(crate) use traffic::iperf;

use crate::cache::Cache;
use crate::image::Image;
use crate::kind::Wanted;
use crate::machine::Machine;
use crate::netback;
use crate::network::Network;
use crate::options::{Backend, Options};
use anyhow::{Context, Result};
use boots::Boot;
use clap::Args;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// `xen test`.
#[derive(Args)]
pub struct Request {
    #[command(flatten)]
    wanted: Wanted,
    /// What serves the guests' vifs; with `kernel` the cases show what the reference does.
    #[arg(long, default_value = "netback")]
    backend: Backend,
    /// One JSON list on stdout: case, passed, detail, seconds.
    #[arg(long)]
    json: bool,
    /// Only cases whose name contains this (may be given several times).
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// The long ones too.
    #[arg(long)]
    all: bool,
    /// Use the machine that is up as --instance and leave it up; its NIC, backend and guests decide what can run.
    #[arg(long)]
    running: bool,
    /// Print the names of the cases and run none.
    #[arg(long)]
    list: bool,
}

type Work = Box<dyn Fn(&Machine) -> Result<String>>;

/// One question and how it is answered: a detail worth printing, or why not.
struct Case {
    name: String,
    /// Asks for something that only our backend does.
    ours_only: bool,
    /// Too long for every day.
    long: bool,
    work: Work,
}

impl Case {
    fn new(name: impl Into<String>, work: impl Fn(&Machine) -> Result<String> + 'static) -> Self {
        Self {
            name: name.into(),
            ours_only: false,
            long: false,
            work: Box::new(work),
        }
    }

    fn ours_only(self) -> Self {
        Self {
            ours_only: true,
            ..self
        }
    }

    fn long(self) -> Self {
        Self { long: true, ..self }
    }
}

/// How one case went.
struct Verdict {
    case: String,
    outcome: Result<String>,
    seconds: f64,
}

/// Machines emulated at a time. Each is one thread that is never idle for long.
const LANES: usize = 2;

/// Instances the tests take, beyond those a person would number.
const INSTANCES: std::ops::RangeInclusive<u8> = 200..=249;

/// Make of a machine whose backend is the package what it is once the guest of docs/driver-domain.md is online.
pub fn set_up(machine: &Machine) -> Result<()> {
    document::walk(machine, document::GUEST).map(drop)
}

impl Request {
    fn wants(&self, case: &Case, backend: Backend) -> bool {
        let named = self.only.iter().any(|part| case.name.contains(part));
        let chosen = if self.only.is_empty() {
            self.all || !case.long
        } else {
            named
        };
        chosen && (backend != Backend::Kernel || !case.ours_only)
    }

    /// The machines that may be started.
    fn boots(&self) -> Vec<Boot> {
        // A case that is named may be of any.
        Boot::fitting(self.wanted, self.all || self.list || !self.only.is_empty())
    }

    /// Run, report; exit status 1 when a case failed.
    pub fn run(&self, cache: &Cache, instance: u8) -> Result<ExitCode> {
        if self.list {
            for boot in self.boots() {
                for case in boot.cases()? {
                    println!("{}", case.name);
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut verdicts = Vec::new();
        if self.running {
            let machine = Machine::running(cache, instance)?;
            self.run_on(&machine, Boot::of(&machine), &mut verdicts)?;
        } else {
            self.run_all(cache, &mut verdicts)?;
        }
        self.report(&verdicts)
    }

    /// Every machine that a case wants, `LANES` at a time; the verdicts in the order of `boots::BOOTS`.
    fn run_all(&self, cache: &Cache, verdicts: &mut Vec<Verdict>) -> Result<()> {
        if self.backend == Backend::Netback {
            // Not while an emulated machine waits for it.
            netback::build()?;
        }
        let mut wanted = Vec::new();
        for boot in self.boots() {
            // With `--backend package` there is that machine alone.
            let possible = boot.packaged || self.backend != Backend::Package;
            let mut cases = boot.cases()?.into_iter();
            if possible && cases.any(|case| self.wants(&case, self.backend)) {
                wanted.push(boot);
            }
        }
        if wanted.iter().any(|boot| boot.packaged) {
            // Nor for these.
            package::packages()?;
        }
        let mut images: Vec<Image> = Vec::new();
        for boot in &wanted {
            if !images.iter().any(|image| image.serves(boot.kind)) {
                images.push(Image::build(cache, boot.kind)?);
            }
        }
        let next = AtomicUsize::new(0);
        let lane = |instance: u8| -> Result<Vec<(usize, Vec<Verdict>)>> {
            let mut done = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(boot) = wanted.get(n).copied() else {
                    return Ok(done);
                };
                let image = images.iter().find(|image| image.serves(boot.kind));
                let image = image.expect("an image of each wanted kind was built");
                done.push((n, self.run_boot(image, cache, instance, boot)?));
            }
        };
        let instances = Network::free(INSTANCES, LANES)?;
        let mut done = std::thread::scope(|scope| {
            let lanes: Vec<_> = instances
                .iter()
                .map(|instance| scope.spawn(|| lane(*instance)))
                .collect();
            let joined = lanes.into_iter().map(|lane| {
                lane.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect::<Result<Vec<_>>>()
        })?
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
        done.sort_by_key(|(n, _)| *n);
        verdicts.extend(done.into_iter().flat_map(|(_, verdicts)| verdicts));
        Ok(())
    }

    /// One machine from its boot to its end.
    fn run_boot(
        &self,
        image: &Image,
        cache: &Cache,
        instance: u8,
        boot: Boot,
    ) -> Result<Vec<Verdict>> {
        let options = Options {
            wanted: boot.kind.into(),
            nic: boot.nic,
            second_nic: boot.second_nic.map(|(_, nic)| nic),
            backend: if boot.packaged {
                Backend::Package
            } else {
                self.backend
            },
            guests: u8::try_from(boot.kernels.len())?,
            guest_kernel: boot.kernels.to_vec(),
            driver_kernel: boot.driver_kernel,
            // Virtual time: a machine that does much else changes no outcome.
            icount: true,
            patient: true,
        };
        let mut verdicts = Vec::new();
        self.boot_and_run(image, cache, instance, boot, options, &mut verdicts)?;
        Machine::stop(cache, instance)?;
        Ok(verdicts)
    }

    /// The boot is a case of its own: where it fails the others are not asked.
    fn boot_and_run(
        &self,
        image: &Image,
        cache: &Cache,
        instance: u8,
        boot: Boot,
        options: Options,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<()> {
        let name = format!("{}/boot", boot.name);
        let mut machine = None;
        let bring_up = || {
            let (booted, attempt) = super::boot(image, cache, instance, &options)?;
            machine = Some(booted);
            Ok(format!("up (attempt {attempt}): {}", boot.kind))
        };
        verdicts.push(judge(name, bring_up));
        if let (Some(machine), true) = (
            machine,
            verdicts.last().is_some_and(|last| last.outcome.is_ok()),
        ) {
            self.run_on(&machine, boot, verdicts)?;
        }
        Ok(())
    }

    fn run_on(&self, machine: &Machine, boot: Boot, verdicts: &mut Vec<Verdict>) -> Result<()> {
        for case in boot.cases()? {
            if self.wants(&case, machine.options.backend) {
                verdicts.push(judge(case.name, || (case.work)(machine)));
            }
        }
        Ok(())
    }

    fn report(&self, verdicts: &[Verdict]) -> Result<ExitCode> {
        let passed = |verdict: &Verdict| verdict.outcome.is_ok();
        if self.json {
            let list: Vec<_> = verdicts
                .iter()
                .map(|verdict| {
                    serde_json::json!({
                        "case": verdict.case,
                        "passed": passed(verdict),
                        "detail": detail(&verdict.outcome),
                        "seconds": (verdict.seconds * 10.0).round() / 10.0,
                    })
                })
                .collect();
            println!(
                "{}",
                serde_json::to_string_pretty(&list).context("a list of cases is JSON")?
            );
        } else {
            for verdict in verdicts {
                println!("{}", line(verdict));
            }
        }
        Ok(ExitCode::from(u8::from(!verdicts.iter().all(passed))))
    }
}

fn judge(case: String, work: impl FnOnce() -> Result<String>) -> Verdict {
    let start = Instant::now();
    let outcome = work();
    let verdict = Verdict {
        case,
        outcome,
        seconds: start.elapsed().as_secs_f64(),
    };
    // Progress, for whoever waits; the report is on stdout at the end.
    eprintln!("xen: {}", line(&verdict));
    verdict
}

fn line(verdict: &Verdict) -> String {
    let word = if verdict.outcome.is_ok() {
        "ok    "
    } else {
        "FAILED"
    };
    format!(
        "{word} {:<28} {:>5.1} s  {}",
        verdict.case,
        verdict.seconds,
        detail(&verdict.outcome)
    )
}

fn detail(outcome: &Result<String>) -> String {
    match outcome {
        Ok(detail) => detail.clone(),
        Err(error) => format!("{error:#}"),
    }
}
