//! `rig-agent`: what the Xen rig runs in each domain, and at the peer beside them.
//!
//! `serve PORT` executes commands for the host; the others are probes whose timing or content no stock tool reports.

mod echo;
mod probe;
mod serve;

use std::io;
use std::process::ExitCode;

const USAGE: &str = "usage: rig-agent serve PORT
       rig-agent send ADDRESS:PORT HZ SECONDS
       rig-agent receive PORT SECONDS
       rig-agent echo PORT
       rig-agent sweep ADDRESS:PORT FIRST LAST STEP";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rig-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[&str]) -> io::Result<()> {
    match *arguments {
        ["serve", port] => serve::run(number(port)?),
        ["send", address, hz, seconds] => probe::send(address, number(hz)?, number(seconds)?),
        ["receive", port, seconds] => probe::receive(number(port)?, number(seconds)?),
        ["echo", port] => echo::answer(number(port)?),
        ["sweep", address, first, last, step] => {
            echo::sweep(address, number(first)?, number(last)?, number(step)?)
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, USAGE)),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{text} is not a number\n{USAGE}"),
        )
    })
}
