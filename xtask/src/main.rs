//! The project's own commands. `cargo xtask demo` and `cargo xtask test` are the two a newcomer needs.

mod demo;
mod suite;
mod tally;
mod xen;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::{Command, ExitCode};
use xtask::command::{cargo, must_succeed};
use xtask::{build, deb};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Two simulated guests and an outside host talk through the daemon; figures at the end.
    ///
    /// `cargo xtask demo --help` has its options (--json, --hold, --restart, --offloads).
    #[command(disable_help_flag = true)]
    Demo {
        /// The demo's options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Every check and test there is; the last line is `N passed, N failed`.
    Test(suite::Options),
    /// Guests killed and started again under load, many times over.
    Soak {
        /// How many times.
        #[arg(long, default_value_t = 50)]
        rounds: u32,
    },
    /// Manual pages and shell completions, in target/release/dist.
    Dist,
    /// The Debian package; its path is printed.
    Deb {
        /// Have lintian judge the package: an error or a warning fails.
        #[arg(long, conflicts_with = "args")]
        lint: bool,
        /// Passed on to cargo-deb, for example `--deb-revision 2`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The pictures in docs/ that show figures, drawn anew of what the documents say.
    Figures,
    /// Real Xen under emulation: up, run, log, down, test, compare.
    #[command(disable_help_flag = true)]
    Xen {
        /// Passed on to the rig.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn figures() -> Result<ExitCode> {
    let mut draw = Command::new(cargo());
    draw.args(["run", "--profile", "xtask", "-p", "figures", "docs"])
        .current_dir(build::workspace());
    must_succeed(&mut draw, "drawing the figures")?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Demo { args } => demo::run(&args),
        Task::Test(options) => suite::run(&options),
        Task::Soak { rounds } => suite::soak(rounds),
        Task::Dist => deb::run_dist(),
        Task::Deb { lint: true, .. } => deb::lint(),
        Task::Deb { args, .. } => deb::run_deb(&args),
        Task::Figures => figures(),
        Task::Xen { args } => xen::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(2)
    })
}
