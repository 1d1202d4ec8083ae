//! `cargo xtask xen compare`: kernel netback with a bridge, and ours, side by side in instruction-counted time.
//!
//! Same Xen, kernels, guests and NIC; each backend is booted and measured twice. Takes two instances, the one given and the next.

mod report;
mod work;

use crate::cache::Cache;
use crate::image::Image;
use crate::kernel::Generation;
use crate::kind::{Kind, value_name};
use crate::machine::Machine;
use crate::netback;
use crate::options::{Backend, Nic, Options};
use anyhow::{Context, Result};
use clap::Args;
use report::{Report, Row};
use std::path::PathBuf;
use std::process::ExitCode;
use work::{Sample, Work, works};

/// Fresh boots of each backend.
const BOOTS: usize = 2;

/// `xen compare`.
#[derive(Args)]
pub struct Request {
    /// One JSON list on stdout: work, direction, kernel_rate, netback_rate, rate_unit, kernel_cpu_us_per_packet,
    /// netback_cpu_us_per_packet, repeat_spread_percent.
    #[arg(long)]
    json: bool,
    /// Draw it as well.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Only works whose name and direction contain this (may be given several times).
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// TCP with so many streams at a time as well, beside one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=128))]
    streams: u8,
    /// The guests' kernel.
    #[arg(long, default_value = "stock")]
    guest_kernel: Generation,
    /// The driver domain's kernel. With `latest` its igb sends and receives without a copy; before Linux 6.14 it does not.
    #[arg(long, default_value = "stock")]
    driver_kernel: Generation,
    /// Virtual seconds that each work is measured for.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

impl Request {
    /// Boot, measure, report.
    pub fn run(&self, cache: &Cache, instance: u8) -> Result<ExitCode> {
        let image = Image::build(cache, Kind::DEBIAN_12)?;
        // Not while an emulated machine waits for it.
        netback::build()?;
        let mut works = works(self.streams);
        works.retain(|work| self.wants(work));
        let mut samples = [Vec::new(), Vec::new()];
        for boot in 1..=BOOTS {
            eprintln!("xen: boot {boot} of {BOOTS}");
            // Side by side: what the host does meanwhile is in no figure.
            let measure = |backend, instance| {
                let measured = self.measure(&image, cache, instance, backend, &works);
                Machine::stop(cache, instance)?;
                measured
            };
            let next = instance
                .checked_add(1)
                .context("--instance: one more is needed")?;
            let measured = std::thread::scope(|scope| {
                let kernel = scope.spawn(|| measure(Backend::Kernel, instance));
                let netback = measure(Backend::Netback, next);
                let panic = |panic| std::panic::resume_unwind(panic);
                [kernel.join().unwrap_or_else(panic), netback]
            });
            for (samples, measured) in samples.iter_mut().zip(measured) {
                samples.push(measured?);
            }
        }
        let [kernel, netback] = samples;
        let row = |(n, work): (usize, &Work)| Row {
            work: work.name(),
            direction: work.direction(),
            unit: work.unit(),
            kernel: kernel.iter().map(|boot| boot[n]).collect(),
            netback: netback.iter().map(|boot| boot[n]).collect(),
        };
        let report = Report(works.iter().enumerate().map(row).collect());
        if let Some(file) = &self.plot {
            let picture = figures::performance::draw(&report.picture())?;
            std::fs::write(file, picture)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        match self.json {
            true => println!("{:#}", report.json()),
            false => print!("{}", report.table()),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn wants(&self, work: &Work) -> bool {
        let name = format!("{} {}", work.name(), work.direction());
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }

    /// All works on one fresh machine.
    fn measure(
        &self,
        image: &Image,
        cache: &Cache,
        instance: u8,
        backend: Backend,
        works: &[Work],
    ) -> Result<Vec<Sample>> {
        let options = Options {
            // The published figures are this machine's, all of them.
            wanted: Kind::DEBIAN_12.into(),
            nic: Nic::Igb,
            second_nic: None,
            backend,
            guests: 2,
            guest_kernel: vec![self.guest_kernel],
            driver_kernel: self.driver_kernel,
            icount: true,
            // Waiting takes no time of the host's: what is idle passes at once.
            patient: false,
        };
        let (machine, _) = super::boot(image, cache, instance, &options)?;
        let mut samples = Vec::new();
        for work in works {
            let sample = work
                .measure(&machine, self.seconds)
                .with_context(|| format!("{} {}", work.name(), work.direction()))?;
            eprintln!(
                "xen: {}, {} {}: {:.4} {}, {:.2} us a packet",
                value_name(backend),
                work.name(),
                work.direction(),
                sample.rate,
                work.unit(),
                sample.cpu_us_per_packet
            );
            samples.push(sample);
        }
        Ok(samples)
    }
}
