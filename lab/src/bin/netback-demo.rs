//! The demo; `cargo xtask demo` builds and starts it.
use clap::Parser;
use demo_options::Options;
use lab::demo::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("demo failed: {}", faults.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
