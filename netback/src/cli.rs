//! The command line: what a user can type, and what each command does.
use crate::config::{self, Config};
use crate::control::socket::{self, Request};
use crate::daemon::{self, Failure};
use crate::doctor::{View, examine};
use crate::observe::status::Status;
use crate::observe::table::explanation;
use crate::vif::id::VifId;
use clap::{Parser, Subcommand};
use serde_json::Value;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long guests may take to be disconnected.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A Xen network backend and switch in user space.
#[derive(Debug, Parser)]
#[command(
    name = "netback",
    version,
    long_about = "A Xen network backend and switch in user space.\n\n\
        netback runs in a driver domain in place of the kernel's xen-netback and bridge: it serves the virtual network \
        interfaces (vifs) of other domains and switches their frames to the network card by AF_XDP. Write a configuration, \
        start `netback run` as root, and guests whose configuration says backend=<this domain> are online.\n\n\
        Stopping or killing it does not disconnect anybody: guests' connections wait for the next `netback run`.",
    after_long_help = "Examples:\n  \
        netback run --check                       say whether /etc/netback/netback.toml is right\n  \
        netback doctor                            say what stands in the way on this machine\n  \
        netback run                               serve guests, in the foreground\n  \
        netback status                            every vif and uplink, counters, drops by reason\n  \
        netback status --json | jq .vifs\n  \
        netback disconnect 3/0                    let vif 0 of domain 3 go\n  \
        netback uninstall eth0                    give the network card back to the kernel\n\n\
        Exit status: 0 done, 1 failed at run time, 2 wrong input or environment; one line on stderr says what and what to do."
)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Control socket of the running netback, where it is not the configuration's.
    #[arg(long, global = true, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve guests, in the foreground, until SIGTERM or SIGINT.
    ///
    /// Vifs that an earlier netback served are taken over as they are: their guests notice nothing. SIGHUP reads the
    /// configuration anew: new bridges and uplinks are made, [vif] counts for guests that connect from then on, vifs that were
    /// refused are tried again, and what only a restart can change is named in the log.
    #[command(after_long_help = RUN_HELP)]
    Run {
        /// Only say whether the configuration is right.
        #[arg(long)]
        check: bool,
    },
    /// Show every vif and uplink: states, queues, rings, backlog, counters, drops by reason.
    ///
    /// Counters that are zero are left out; a ring is shown as req_prod/req_cons/rsp_prod.
    Status {
        /// As one JSON object, every counter included.
        #[arg(long)]
        json: bool,
        /// Say what each counter and each reason for a drop means.
        #[arg(long, conflicts_with = "json")]
        explain: bool,
    },
    /// Say what on this machine stands in netback's way, one line each with its cure.
    ///
    /// Exit status: 0 nothing, 1 warnings, 2 errors.
    Doctor {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Disconnect guests: their vifs are closed, and connect anew when their drivers do.
    Disconnect {
        /// The vif, as `netback status` names it: DOMID/DEVID.
        #[arg(required_unless_present = "all")]
        vif: Option<String>,
        /// Every vif.
        #[arg(long, conflicts_with = "vif")]
        all: bool,
    },
    /// Take netback's program off a network card and put the card back as it was.
    ///
    /// netback leaves them there when it ends, so that the next one goes on without a gap. Stop netback first.
    Uninstall {
        /// The interface; without it, every uplink of the configuration.
        interface: Option<String>,
    },
    /// List the points at which NETBACK_CRASH_AT can kill the daemon.
    #[cfg(feature = "crash-points")]
    CrashPoints,
}

const RUN_HELP: &str = "The configuration, with every field (only [[bridge]] name is required):\n\n  \
    [[bridge]]                              # one or several; guests of different bridges never see each other\n  \
    name = \"xenbr0\"                         # what a guest's vif=['bridge=xenbr0'] names\n  \
    uplink = \"eth0\"                         # network card behind it; without one, guests reach only each other\n  \
    xdp = \"auto\"                            # or \"native\", \"generic\"\n  \
    [daemon]\n  \
    run_dir = \"/run/netback\"                # on tmpfs: carries live vifs over a restart\n  \
    control_socket = \"/run/netback/control\"\n  \
    bpf_dir = \"/sys/fs/bpf/netback\"         # on bpffs: keeps the card's program over a restart\n  \
    [workers]\n  \
    count = 2                               # threads; one a core by default\n  \
    pin = true                              # worker n runs on core n\n  \
    poll_us = 50                            # how long an idle worker polls, at most, before it sleeps\n  \
    [vif]\n  \
    max_queues = 2                          # offered to each guest; one a worker by default\n  \
    backlog_bytes = 524288                  # what waits for a guest that posts no buffers,\n  \
    backlog_ms = 10000                      # and for how long\n  \
    [umem]\n  \
    frames = 16384                          # packet memory, in frames of 4096 bytes; by default what workers and uplinks need";

/// Carry out what was typed; the exit status.
pub fn execute(cli: Cli) -> Result<u8, Failure> {
    match &cli.command {
        Command::Run { check: true } => {
            let config = Config::load(&cli.config)?;
            say(&format!(
                "{}: {} bridges, nothing wrong",
                cli.config.display(),
                config.bridges.len()
            ))?;
        }
        Command::Run { check: false } => daemon::run(&cli.config)?,
        Command::Status { explain: true, .. } => say(explanation().trim_end())?,
        Command::Status { json, .. } => status(&cli, *json)?,
        Command::Doctor { json } => return doctor(&cli, *json),
        Command::Disconnect { vif, .. } => disconnect(&cli, vif.clone())?,
        Command::Uninstall { interface } => uninstall(&cli, interface.clone())?,
        #[cfg(feature = "crash-points")]
        Command::CrashPoints => say(&crate::crash::POINTS.join("\n"))?,
    }
    Ok(0)
}

/// What was found on this machine.
fn doctor(cli: &Cli, json: bool) -> Result<u8, Failure> {
    let report = examine(&View::of_this_machine(&cli.config));
    let text = if json {
        serde_json::to_string(&report).map_err(|error| Failure::Runtime(error.to_string()))?
    } else {
        report.to_string().trim_end().to_owned()
    };
    say(&text)?;
    Ok(report.exit_status())
}

/// Print to stdout; a reader that has gone is no failure of ours.
fn say(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

fn ask(cli: &Cli, request: &Request) -> Result<Value, Failure> {
    let path = match &cli.control {
        Some(path) => path.clone(),
        None => Config::load(&cli.config)?.daemon.control_socket,
    };
    // What the daemon refuses is what was typed.
    socket::ask(&path, request)
        .map_err(Failure::Runtime)?
        .map_err(Failure::Input)
}

fn read_status(cli: &Cli) -> Result<Status, Failure> {
    let answer = ask(cli, &Request::Status)?;
    serde_json::from_value(answer).map_err(|error| {
        Failure::Runtime(format!(
            "the running netback is of another version ({error}): try --json, or restart it"
        ))
    })
}

fn status(cli: &Cli, json: bool) -> Result<(), Failure> {
    if json {
        return say(&ask(cli, &Request::Status)?.to_string());
    }
    say(read_status(cli)?.to_string().trim_end())
}

fn disconnect(cli: &Cli, vif: Option<String>) -> Result<(), Failure> {
    if let Some(name) = &vif {
        name.parse::<VifId>().map_err(Failure::Input)?;
    }
    let answer = ask(cli, &Request::Disconnect { vif })?;
    let asked: Vec<String> =
        serde_json::from_value(answer["disconnected"].clone()).unwrap_or_default();
    let deadline = Instant::now() + DISCONNECT_PATIENCE;
    loop {
        let status = read_status(cli)?;
        let left = status.vifs.iter().filter(|vif| {
            asked.contains(&vif.vif) && vif.service == "closing" && !vif.queues.is_empty()
        });
        let left: Vec<&str> = left.map(|vif| &*vif.vif).collect();
        if left.is_empty() {
            return say(&format!(
                "disconnected: {}",
                if asked.is_empty() {
                    "no vif".into()
                } else {
                    asked.join(", ")
                }
            ));
        }
        if Instant::now() > deadline {
            return Err(Failure::Runtime(format!(
                "still connected after 10 s: {}; see `netback status`",
                left.join(", ")
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn uninstall(cli: &Cli, interface: Option<String>) -> Result<(), Failure> {
    let config = Config::load(&cli.config)?;
    if socket::ask(&config.daemon.control_socket, &Request::Status).is_ok() {
        return Err(Failure::Input(
            "netback is running: stop it first (systemctl stop netback)".into(),
        ));
    }
    let all = || {
        config
            .bridges
            .iter()
            .filter_map(|bridge| bridge.uplink.clone())
            .collect()
    };
    let interfaces: Vec<String> = interface.map_or_else(all, |interface| vec![interface]);
    if interfaces.is_empty() {
        return Err(Failure::Input(format!(
            "{} names no uplink: say which interface",
            cli.config.display()
        )));
    }
    for interface in interfaces {
        if daemon::uninstall(&config, &interface)? {
            say(&format!(
                "{interface}: netback's program is off, settings are as before"
            ))?;
        } else {
            say(&format!("{interface}: there was nothing of netback's"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_its_example_configuration_is_right() {
        Cli::command().debug_assert();
        let toml: String = RUN_HELP
            .lines()
            .skip(2)
            .map(|line| format!("{}\n", line.trim_start()))
            .collect();
        let config = Config::parse("help".as_ref(), &toml).unwrap();
        assert_eq!(config.vif.max_queues, Some(2));
    }

    #[test]
    fn disconnect_wants_one_vif_or_all() {
        assert!(Cli::try_parse_from(["netback", "disconnect"]).is_err());
        assert!(Cli::try_parse_from(["netback", "disconnect", "--all", "3/0"]).is_err());
        assert!(Cli::try_parse_from(["netback", "disconnect", "3/0", "--config", "/x"]).is_ok());
    }
}
