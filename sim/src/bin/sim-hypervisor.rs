//! `sim-hypervisor DIR`: the simulated hypervisor, its sockets in DIR.
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(dir), None) = (arguments.next(), arguments.next()) else {
        eprintln!("sim-hypervisor: usage: sim-hypervisor DIR");
        return ExitCode::from(2);
    };
    match sim::hypervisor::Hypervisor::listen(Path::new(&dir))
        .and_then(sim::hypervisor::Hypervisor::run)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sim-hypervisor: {e}");
            ExitCode::FAILURE
        }
    }
}
