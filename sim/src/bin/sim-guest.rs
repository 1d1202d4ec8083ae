//! One simulated guest.
use clap::Parser;
use sim::guest::{Guest, options::Options};
use sim::namespace;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim-guest {}: {error:#}", options.name);
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> anyhow::Result<()> {
    if let Some(name) = &options.netns {
        namespace::enter(name)?;
    }
    let guest = Guest::start(options)?;
    // Whoever started us waits for this line.
    println!("{}", guest.domid());
    guest.run()
}
