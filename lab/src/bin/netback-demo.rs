//! The demo; `cargo xtask demo` builds and starts it.
use clap::Parser;
use demo_options::Options;
use lab::demo::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("netback-demo: not everything was as it should be, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("netback-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
