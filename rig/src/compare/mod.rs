//! `cargo xtask xen compare`: kernel netback with a bridge, and ours, side by side in instruction-counted time.
//!
//! Same Xen, kernels, guests and NIC; each backend is booted and measured twice, or as often as `--boots` says. Takes two instances, the
//! one given and the next.

mod baseline;
mod host_port;
mod report;
mod work;

use crate::cache::Cache;
use crate::image::Image;
use crate::kernel::Generation;
use crate::kind::{DriverType, Kind, value_name};
use crate::machine::Machine;
use crate::netback;
use crate::options::{Backend, Nic, Options};
use anyhow::{Context, Result, ensure};
use baseline::Baseline;
use clap::{Args, ValueEnum};
use report::{Report, Row, Shown};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::ScopedJoinHandle;
use work::{Sample, Work, works};

/// Where the backends are that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// In dom0, which has the NIC.
    Dom0,
    /// In a driver domain, to which the NIC is passed through.
    DriverDomain,
    /// Both. One table has all four set-ups; its processor time is that of dom0 and driver domain together, with what the peer takes in
    /// dom0. A table of each place follows.
    Both,
}

/// `xen compare`.
#[derive(Args)]
pub struct Request {
    /// One JSON list on stdout: work, direction, kernel_rate, netback_rate, rate_unit, kernel_cpu_us_per_packet,
    /// netback_cpu_us_per_packet, repeat_spread_percent. With `--baseline both` an object of three lists: `dom0` and `driver_domain` with
    /// these keys, and `set_ups` with work, direction, rate_unit, rate and cpu_us_per_packet. In the last two each set-up has a figure:
    /// kernel_in_dom0, kernel_in_driver_domain, netback_in_dom0 and netback_in_driver_domain.
    #[arg(long)]
    json: bool,
    /// Draw the first table as well.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Only works whose name and direction contain this (may be given several times).
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// TCP with so many streams at a time as well, beside one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=128))]
    streams: u8,
    /// Kernel that both guests boot.
    #[arg(long, default_value = "stock")]
    guest_kernel: Generation,
    /// Where the two backends are.
    #[arg(long, value_name = "PLACE", default_value = "driver-domain")]
    baseline: Place,
    /// Fresh boots of each backend.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    boots: u32,
    /// The kernel of the domain with the NIC. With `latest` its igb sends and receives without a copy; before Linux 6.14 it does not.
    #[arg(long, default_value = "stock")]
    driver_kernel: Generation,
    /// Virtual seconds that each work is measured for.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

impl Request {
    /// Boot, measure, report.
    pub fn run(&self, cache: &Cache, instance: u8) -> Result<ExitCode> {
        let works = self.works()?;
        let image = Image::build(cache, Kind::DEBIAN_12)?;
        // Not while an emulated machine waits for it.
        netback::build()?;
        let compare = |driver| self.compare(&image, cache, instance, driver, &works);
        match self.baseline {
            Place::Dom0 => self.show(&compare(DriverType::Dom0)?)?,
            Place::DriverDomain => self.show(&compare(DriverType::Pv)?)?,
            Place::Both => self.show(&Baseline {
                dom0: compare(DriverType::Dom0)?,
                driver_domain: compare(DriverType::Pv)?,
            })?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints what was measured before it is drawn: a picture that fails loses no measurement.
    fn show(&self, measured: &impl Shown) -> Result<()> {
        match self.json {
            true => println!("{:#}", measured.json()),
            false => print!("{}", measured.text()),
        }
        if let Some(file) = &self.plot {
            std::fs::write(file, measured.svg()?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Both backends in such a domain.
    fn compare(
        &self,
        image: &Image,
        cache: &Cache,
        instance: u8,
        driver: DriverType,
        works: &[Work],
    ) -> Result<Report> {
        let mut samples = [Vec::new(), Vec::new()];
        for boot in 1..=self.boots {
            eprintln!("xen: boot {boot} of {}", self.boots);
            // Side by side: what the host does meanwhile is in no figure.
            let measure = |backend, instance| {
                let measured = self.measure(image, cache, instance, (driver, backend), works);
                Machine::stop(cache, instance)?;
                measured
            };
            let next = instance
                .checked_add(1)
                .context("--instance: one more is needed")?;
            let measured = std::thread::scope(|scope| {
                let kernel = scope.spawn(|| measure(Backend::Kernel, instance));
                let netback = measure(Backend::Netback, next);
                [joined(kernel), netback]
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
        Ok(Report(works.iter().enumerate().map(row).collect()))
    }

    /// What is to be measured. A request that would come to nothing is refused, for machines take minutes to boot.
    fn works(&self) -> Result<Vec<Work>> {
        let mut works = works(self.streams);
        // In dom0 the bridge of this name is the management network's; the table of both has one row for one work.
        works.retain(|work| self.baseline == Place::DriverDomain || !work.ends_at_the_backend());
        let name = |work: &Work| format!("{} {}", work.name(), work.direction());
        let names: Vec<String> = works.iter().map(name).collect();
        works.retain(|work| {
            self.only.is_empty() || self.only.iter().any(|part| name(work).contains(part))
        });
        ensure!(
            !works.is_empty(),
            "--only {} leaves no work with --baseline {}; there are: {}",
            self.only.join(" --only "),
            value_name(self.baseline),
            names.join("; ")
        );
        Ok(works)
    }

    /// All works on one fresh machine.
    fn measure(
        &self,
        image: &Image,
        cache: &Cache,
        instance: u8,
        (driver, backend): (DriverType, Backend),
        works: &[Work],
    ) -> Result<Vec<Sample>> {
        let options = Options {
            wanted: kind(driver).into(),
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
                sample.arrived.rate,
                work.unit(),
                report::PER_PACKET(&sample)
            );
            samples.push(sample);
        }
        Ok(samples)
    }
}

/// What a thread returned. Its panic goes on in the caller.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let panic = |panic| std::panic::resume_unwind(panic);
    thread.join().unwrap_or_else(panic)
}

/// The published figures are this machine's, all of them.
fn kind(driver: DriverType) -> Kind {
    Kind {
        driver,
        ..Kind::DEBIAN_12
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        request: Request,
    }

    fn works(arguments: &str) -> Result<Vec<String>> {
        let words = ["compare"].into_iter().chain(arguments.split_whitespace());
        let works = Cli::try_parse_from(words)?.request.works()?;
        Ok(works.iter().map(Work::direction).collect())
    }

    #[test]
    fn what_would_come_to_nothing_is_refused() {
        let refusal = |arguments: &str| works(arguments).unwrap_err().to_string();
        assert!(works("--plot F.svg").is_ok());
        assert!(works("--plot F.svg --baseline dom0").is_ok());
        assert!(works("--plot F.svg --baseline both").is_ok());
        let apart = ["guest to driver-domain", "driver-domain to guest"];
        assert_eq!(works("--only driver-domain").unwrap(), apart);
        for baseline in ["dom0", "both"] {
            let refusal = refusal(&format!("--only driver-domain --baseline {baseline}"));
            assert!(refusal.contains("ping guest to peer"), "{refusal}");
            assert!(!refusal.contains("to driver-domain"), "{refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
        assert!(refusal("--only pong").contains("TCP guest to driver-domain"));
    }
}
