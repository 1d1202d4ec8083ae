//! The command `netback`.
use clap::Parser;
use netback::cli::{Cli, execute};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("NETBACK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
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
