//! The command `netback`.
use clap::Parser;
use netback::cli::{Cli, execute, usage};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // `--help` and `--version` are no mistakes.
        Err(shown) if shown.exit_code() == 0 => shown.exit(),
        Err(error) => return refused(&usage::refusal(&error)),
    };
    let filter = match std::env::var("NETBACK_LOG") {
        Ok(wanted) => match EnvFilter::try_new(&wanted) {
            Ok(filter) => filter,
            Err(error) => {
                return refused(&format!("NETBACK_LOG={wanted}: {error}"));
            }
        },
        Err(_) => EnvFilter::new("info"),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    // journald puts the time before each line itself.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init()
    } else {
        log.init()
    }
    match execute(cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("netback: {}", failure.line());
            ExitCode::from(failure.status())
        }
    }
}

/// Ends a command that was typed wrongly.
fn refused(line: &str) -> ExitCode {
    eprintln!("netback: {line}");
    ExitCode::from(2)
}
