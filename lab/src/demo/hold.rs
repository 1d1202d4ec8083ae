//! `cargo xtask demo --hold`: everything stays up, and what to type to look around.
use super::{hosts, progress};
use crate::{Host, Lab, interrupt};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How often the daemon may end within [`PERIOD`] until the demo gives up: one that cannot start is not started for ever.
const MOST_ENDS: usize = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// Prints what to type, then keeps everything up until Ctrl-C. A daemon that ends is started again at once, as systemd does it.
pub fn run(lab: &mut Lab) -> Result<()> {
    print_commands(lab)?;
    let mut ends: Vec<Instant> = Vec::new();
    while interrupt::sleep(Duration::from_millis(20)).is_ok() {
        let daemon = lab.daemon()?;
        let Some(how) = daemon.revive()? else {
            continue;
        };
        ends.retain(|end| end.elapsed() < PERIOD);
        ends.push(Instant::now());
        if ends.len() > MOST_ENDS {
            bail!("the daemon ends again and again: {}", daemon.log_tail());
        }
        let pid = daemon.process().id();
        println!("The daemon ended ({how}) and was started again: kill -9 {pid}");
    }
    progress("ending");
    Ok(())
}

fn print_commands(lab: &mut Lab) -> Result<()> {
    println!("Everything is up; Ctrl-C ends it. In another terminal, as root:\n");
    let hosts: Vec<&Host> = hosts(lab).collect();
    for (from, to) in hosts.iter().zip(hosts.iter().cycle().skip(1)) {
        let namespace = from.namespace.name();
        println!(
            "  ip netns exec {namespace} ping {}      # {} to {}",
            to.ipv4, from.name, to.name
        );
        println!("  ip netns exec {namespace} ping {}", to.ipv6);
    }
    let daemon = lab.daemon()?;
    println!("  {}", daemon.command_line("status"));
    println!(
        "  kill -9 {}      # the daemon: it is started again, and the pings go on",
        daemon.process().id()
    );
    println!(
        "\nFiles, logs among them: {}",
        lab.directory().path().display()
    );
    Ok(())
}
