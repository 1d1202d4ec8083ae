//! Real Xen under QEMU's software emulation, for what only real Xen can show: `cargo xtask xen`.
//!
//! Xen, dom0, a driver domain with a passed-through NIC and guests, all from Debian's packages. Nothing is installed on the host but
//! QEMU and small tools; what is built lies in a cache outside the checkout, and what runs lies in one network namespace an instance.

mod agent;
mod bootdisk;
mod cache;
mod cases;
mod compare;
mod debian;
mod disks;
mod document;
mod domain;
mod emulator;
mod hypervisor;
mod image;
mod kernel;
mod kind;
mod machine;
mod netback;
mod network;
mod options;
mod os;
mod patience;
mod place;
mod record;
mod shell;
mod system;

use agent::Stream;
use anyhow::Result;
use cache::Cache;
use clap::{Parser, Subcommand};
use image::Image;
use kind::{Kind, Wanted};
use machine::{Lifetime, Machine};
use options::{Backend, Options};
use place::Place;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use xtask::host;

/// Real Xen under emulation.
#[derive(Parser)]
#[command(
    name = "cargo xtask xen",
    bin_name = "cargo xtask xen",
    max_term_width = 80
)]
struct Cli {
    /// Which of several machines side by side.
    #[arg(long, global = true, default_value_t = 0)]
    instance: u8,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Download packages and build the disks, without starting anything.
    Build(Wanted),
    /// Boot Xen, dom0, the driver domain and the guests.
    Up(Options),
    /// Execute a command by bash in a domain or at the peer; its exit status is ours.
    Run {
        /// dom0, driver-domain, guest, guest2, ..., peer
        place: Place,
        /// Feed our stdin to it.
        #[arg(long)]
        stdin: bool,
        /// Joined by spaces.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Copy a file into a domain.
    Copy {
        /// dom0, driver-domain, guest, guest2, ...
        place: Place,
        /// On the host.
        file: PathBuf,
        /// In the domain.
        destination: String,
    },
    /// Print the console of a domain; Xen's and dom0's without one.
    Log {
        /// driver-domain, guest, guest2, ...
        #[arg(default_value = "dom0")]
        place: Place,
    },
    /// Boot machines of its own and ask them, case by case, what a guest notices of the backend.
    Test(cases::Request),
    /// Kernel netback with a bridge and ours side by side: rates, and the driver domain's processor time.
    Compare(compare::Request),
    /// Record what stock netfronts say and send, into tests/recordings.
    Record,
    /// End the machine; nothing of it stays but its logs in the cache.
    Down,
}

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("xen: {error:#}");
        ExitCode::from(2)
    })
}

fn run(cli: Cli) -> Result<ExitCode> {
    host::require_root("the Xen rig")?;
    let cache = Cache::open()?;
    match cli.command {
        Task::Build(wanted) => {
            let kind = wanted.or(Kind::DEFAULT);
            Image::build(&cache, kind)?;
            emulator::words(&cache, kind)?;
        }
        Task::Up(options) => up(&cache, cli.instance, options)?,
        Task::Run {
            place,
            stdin,
            command,
        } => {
            let machine = Machine::running(&cache, cli.instance)?;
            return run_command(&machine, place, stdin, &command.join(" "));
        }
        Task::Copy {
            place,
            file,
            destination,
        } => {
            Machine::running(&cache, cli.instance)?.copy(place, &file, &destination)?;
        }
        Task::Log { place } => log(&Machine::running(&cache, cli.instance)?, place)?,
        Task::Test(request) => return request.run(&cache, cli.instance),
        Task::Compare(request) => return request.run(&cache, cli.instance),
        Task::Record => record::run(&cache, cli.instance)?,
        Task::Down => Machine::stop(&cache, cli.instance)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(cache: &Cache, instance: u8, options: Options) -> Result<()> {
    let image = Image::build(cache, options.kind())?;
    if options.backend == Backend::Netback {
        // Not while an emulated machine waits for it.
        netback::build()?;
    }
    let machine = Machine::start(&image, cache, instance, options, Lifetime::UntilDown)?;
    populate(&machine)?;
    if machine.options.backend == Backend::Package {
        cases::set_up(&machine)?;
    }
    eprintln!("xen: up; try `cargo xtask xen --instance {instance} run guest ping -c 3 10.9.0.1`");
    Ok(())
}

/// libxl gives each of its steps a time of its own, which emulation on a busy host can overrun before anything of ours runs.
const BOOT_ATTEMPTS: u32 = 3;

/// A machine that ends with us, and what runs on it; which attempt it was. One that cannot be booted is ended by the caller.
fn boot(image: &Image, cache: &Cache, instance: u8, options: &Options) -> Result<(Machine, u32)> {
    let mut attempt = 1;
    loop {
        let start = || {
            let machine =
                Machine::start(image, cache, instance, options.clone(), Lifetime::OfCaller)?;
            populate(&machine)?;
            Ok(machine)
        };
        match start() {
            Ok(machine) => return Ok((machine, attempt)),
            Err(error) if attempt < BOOT_ATTEMPTS => {
                eprintln!("xen: trying again, for the boot failed: {error:#}");
                Machine::stop(cache, instance)?;
            }
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}

/// Reads into memory what dom0 or the driver domain runs while the tools' clock is ticking.
const WARM: &str = "find /bin/ /sbin/ /usr/bin /usr/sbin /usr/lib/xen-* /usr/lib/x86_64-linux-gnu /etc /rig -xdev -type f -exec cat {} + > /dev/null";

/// Boot what runs on dom0.
fn populate(machine: &Machine) -> Result<()> {
    if machine.options.backend == Backend::Package {
        // docs/driver-domain.md says how its domains are made.
        return Ok(());
    }
    // Where idle time passes at once, a disk that the host is slow to read costs minutes of the tools' patience.
    let warm = |place| -> Result<()> {
        if machine.options.icount && !machine.options.patient {
            machine.must(place, WARM)?;
        }
        Ok(())
    };
    warm(Place::Dom0)?;
    domain::start_driver_domain(machine)?;
    warm(Place::DriverDomain)?;
    if machine.options.backend == Backend::Netback {
        netback::install(machine)?;
    }
    for number in 1..=machine.options.guests {
        domain::start_guest(machine, number)?;
    }
    Ok(())
}

fn run_command(machine: &Machine, place: Place, stdin: bool, command: &str) -> Result<ExitCode> {
    let status = if place == Place::Peer {
        let outcome = machine.run(place, command)?;
        io::stdout().write_all(&outcome.stdout)?;
        io::stderr().write_all(&outcome.stderr)?;
        outcome.status
    } else {
        let mut input: Box<dyn Read> = if stdin {
            Box::new(io::stdin())
        } else {
            Box::new(io::empty())
        };
        // A reader of ours that is gone does not change what the command did.
        machine.execute(place, command, &mut input, |stream, bytes| {
            drop(match stream {
                Stream::Stdout => io::stdout()
                    .write_all(bytes)
                    .and_then(|()| io::stdout().flush()),
                Stream::Stderr => io::stderr().write_all(bytes),
            })
        })?
    };
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

fn log(machine: &Machine, place: Place) -> Result<()> {
    if place == Place::Dom0 {
        io::copy(
            &mut std::fs::File::open(machine.console())?,
            &mut io::stdout(),
        )?;
        return Ok(());
    }
    print!(
        "{}",
        machine.must(Place::Dom0, &format!("cat /var/log/xen/guest-{place}.log"))?
    );
    Ok(())
}
