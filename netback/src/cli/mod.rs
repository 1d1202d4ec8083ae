//! The command line: what a user can type, and what each command does.
pub mod fdb;
pub mod help;
pub mod usage;
pub mod vif;

use crate::config::{self, Config, Daemon};
use crate::control::socket::{self, Request};
use crate::daemon::{self, Failure};
use crate::doctor::{View, examine};
use crate::observe::status::Status;
use crate::observe::table::explanation;
use crate::uninstall;
use crate::vif::id::VifId;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xsk_bridge::link::Link;
use xsk_bridge::{nic, tap};

/// How long `netback disconnect` waits for guests to be disconnected.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A Xen network backend and switch in user space.
#[derive(Debug, Parser)]
#[command(
    name = "netback",
    version,
    arg_required_else_help = false,
    max_term_width = 80,
    long_about = "A Xen network backend and switch in user space.\n\n\
        netback runs in a driver domain in place of the kernel's xen-netback and bridge: it serves the virtual network \
        interfaces (vifs) of other domains and switches their frames to the network card by AF_XDP. Write a configuration, \
        start `netback run` as root, and guests whose configuration says backend=<this domain> are online.\n\n\
        Stopping or killing it does not disconnect guests: their connections wait for the next `netback run`.",
    after_long_help = help::after_help()
)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Control socket of the running netback, where it is not the one that the configuration names.
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
    /// Vifs that an earlier netback served are taken over as they are: their guests notice nothing. On SIGHUP the configuration is
    /// read again and applied, and guests stay connected: [vif] applies to guests that connect afterwards (its filters and rates at
    /// once), vifs that were refused are tried again, and a changed [daemon] needs a restart.
    #[command(after_long_help = help::after_run_help())]
    Run {
        /// Only say whether the configuration is right and its network cards can be used.
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
    /// Show one vif, wake it, or disconnect it.
    #[command(subcommand)]
    Vif(vif::VifCommand),
    /// Show or change the addresses that bridges know.
    #[command(subcommand)]
    Fdb(fdb::FdbCommand),
    /// Disconnect guests: their vifs are closed, and connect again when the guests' drivers ask for it.
    Disconnect(Disconnected),
    /// Take netback's program off a network card and put the card back as it was; remove a host port.
    ///
    /// netback leaves all that there when it ends, so that the next one goes on without a gap. Stop netback first.
    Uninstall {
        /// The interface: a network card or a host port; without it, every interface that has something of netback's.
        interface: Option<String>,
    },
    /// List the points at which NETBACK_CRASH_AT can kill the daemon.
    #[cfg(feature = "crash-points")]
    CrashPoints,
}

/// Which vifs to disconnect: one, or all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Disconnected {
    /// The vif, as `netback status` names it.
    #[arg(value_name = "DOMID/DEVID")]
    vif: Option<VifId>,
    /// Every vif.
    #[arg(long)]
    all: bool,
}

/// Does what was typed; the exit status.
pub fn execute(cli: Cli) -> Result<u8, Failure> {
    match &cli.command {
        Command::Run { check: true } => check(&cli)?,
        Command::Run { check: false } => daemon::run(&cli.config)?,
        Command::Status { explain: true, .. } => say(explanation().trim_end())?,
        Command::Status { json, .. } => status(&cli, *json)?,
        Command::Doctor { json } => return doctor(&cli, *json),
        Command::Vif(command) => vif::execute(&cli, command)?,
        Command::Fdb(command) => fdb::execute(&cli, command)?,
        Command::Disconnect(Disconnected { vif, .. }) => {
            let disconnected = disconnect(&cli, *vif)?;
            say(&vif::told(&disconnected, false))?;
        }
        Command::Uninstall { interface } => uninstall(&cli, interface.as_deref())?,
        #[cfg(feature = "crash-points")]
        Command::CrashPoints => {
            use crate::crash::{LANE_POINT, POINTS};
            say(&[POINTS, &[LANE_POINT]].concat().join("\n"))?;
        }
    }
    Ok(0)
}

/// `netback run --check`: what `netback run` would refuse, found without touching anything.
fn check(cli: &Cli) -> Result<(), Failure> {
    let config = Config::load(&cli.config)?;
    let file = cli.config.display();
    for bridge in &config.bridges {
        let name = &bridge.name;
        for interface in bridge.interfaces() {
            nic::check(interface, bridge.xdp.wanted()).map_err(|error| {
                Failure::Input(format!("{file}: uplink of bridge {name}: {error}"))
            })?;
        }
        if bridge.host {
            tap::check(name).map_err(|error| {
                Failure::Input(format!("{file}: host port of bridge {name}: {error}"))
            })?;
        }
    }
    match config.bridges.len() {
        0 => say(&format!("{file}: {}", config::NO_BRIDGE)),
        1 => say(&format!("{file}: 1 bridge, nothing wrong")),
        bridges => say(&format!("{file}: {bridges} bridges, nothing wrong")),
    }
}

/// `netback doctor`: the exit status is that of the worst finding.
fn doctor(cli: &Cli, json: bool) -> Result<u8, Failure> {
    // A cure that names the file is typed in any directory.
    let config = std::path::absolute(&cli.config)
        .map_err(|error| Failure::Input(format!("{}: {error}", cli.config.display())))?;
    // Without a configuration that can be read the report says so.
    let socket = control_socket(cli).ok();
    let report = examine(&View::of_this_machine(&config, socket.as_deref()));
    let text = if json {
        serde_json::to_string(&report).map_err(|error| Failure::Runtime(error.to_string()))?
    } else {
        report.to_string().trim_end().to_owned()
    };
    say(&text)?;
    Ok(report.exit_status())
}

/// Prints to stdout; a reader that has gone is no failure of netback's.
fn say(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// The control socket of the running netback: the one that was typed, else the configuration's.
fn control_socket(cli: &Cli) -> Result<PathBuf, Failure> {
    match &cli.control {
        Some(path) => Ok(path.clone()),
        None => Ok(Daemon::load(&cli.config)?.control_socket),
    }
}

fn ask(cli: &Cli, request: &Request) -> Result<Value, Failure> {
    // What the daemon refuses is a mistake in what was typed.
    socket::ask(&control_socket(cli)?, request)
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

/// Disconnects a vif, or all of them, and waits until they are; their names.
fn disconnect(cli: &Cli, vif: Option<VifId>) -> Result<Vec<String>, Failure> {
    let vif = vif.map(|vif| vif.to_string());
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
            return Ok(asked);
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

fn uninstall(cli: &Cli, interface: Option<&str>) -> Result<(), Failure> {
    let daemon = Daemon::load(&cli.config)?;
    let socket = cli.control.as_ref().unwrap_or(&daemon.control_socket);
    if socket::ask(socket, &Request::Status).is_ok() {
        return Err(Failure::Input(
            "netback is running: stop it first (systemctl stop netback)".into(),
        ));
    }
    let mut installed = uninstall::installed(&daemon)?;
    let mut hosts = uninstall::noted_hosts(&daemon)?;
    if let Some(interface) = interface {
        let is_it = |name: &String| name == interface;
        installed.retain(is_it);
        hosts.retain(is_it);
        if installed.is_empty() && hosts.is_empty() {
            return nothing_installed(interface);
        }
    }
    for host in &hosts {
        uninstall::take_host_away(&daemon, host)?;
        say(&format!("{host}: the host port is removed"))?;
    }
    if installed.is_empty() && hosts.is_empty() {
        return say("no interface has anything of netback's");
    }
    for interface in installed {
        uninstall::take_off(&daemon, &interface)?;
        say(&format!(
            "{interface}: netback's program is off, settings are as before"
        ))?;
    }
    Ok(())
}

/// `netback uninstall` of an interface that has nothing of netback's: done where the interface exists, an error where it does not.
fn nothing_installed(interface: &str) -> Result<(), Failure> {
    let links = Link::all().map_err(|error| Failure::Runtime(error.to_string()))?;
    let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
    if names.iter().any(|name| name == interface) {
        return say(&format!("{interface}: there was nothing of netback's"));
    }
    names.sort();
    Err(Failure::Input(format!(
        "no interface {interface}; there are: {}",
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_of_the_help_has_every_key_with_its_default() {
        let shown = help::CONFIGURATION.replace("\n#", "\n");
        let is_setting = |line: &&str| line.starts_with('[') || line.contains(" = ");
        let settings: Vec<&str> = shown.lines().filter(is_setting).collect();
        for (table, keys) in config::KEYS {
            let header = |line: &&str| line.trim_matches(['[', ']']) == table;
            assert!(settings.iter().any(header), "{table}");
            for key in keys {
                let start = format!("{key} = ");
                assert!(
                    settings.iter().any(|line| line.starts_with(&start)),
                    "{key}"
                );
            }
        }
        let config = Config::parse("help".as_ref(), &settings.join("\n")).unwrap();
        let default = Config::parse("help".as_ref(), "").unwrap();
        assert_eq!(config.daemon, default.daemon);
        assert_eq!(config.bridges.len(), 1);
        assert_eq!(config.workers.pin, default.workers.pin);
        assert_eq!(config.workers.poll_us, default.workers.poll_us);
        assert_eq!(config.vif.backlog_bytes, default.vif.backlog_bytes);
        assert_eq!(config.vif.backlog_ms, default.vif.backlog_ms);
    }

    #[test]
    fn help_fits_a_terminal_where_it_is_typed_as_it_stands() {
        for text in [help::EXAMPLES, help::CONFIGURATION] {
            let longest = text.lines().max_by_key(|line| line.len()).unwrap();
            // A manual page indents by seven.
            assert!(longest.len() <= 73, "{longest}");
        }
    }

    #[test]
    fn help_is_wrapped_at_80_columns() {
        let mut cli = Cli::command();
        cli.build();
        let mut all = vec![cli.clone()];
        all.extend(cli.get_subcommands().cloned());
        for mut command in all {
            for help in [command.render_help(), command.render_long_help()] {
                for line in help.to_string().lines() {
                    assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
                }
            }
        }
    }

    #[test]
    fn a_wrong_command_line_is_refused_in_one_line() {
        for (typed, line) in [
            (
                "",
                "'netback' requires a subcommand but one was not provided [subcommands: run, status, doctor, vif, fdb, disconnect, uninstall, help]; `netback --help` says more",
            ),
            (
                "frobnicate",
                "unrecognized subcommand 'frobnicate'; `netback --help` says more",
            ),
            (
                "statsu",
                "unrecognized subcommand 'statsu'; a similar subcommand exists: 'status'; `netback --help` says more",
            ),
            (
                "status --jsno",
                "unexpected argument '--jsno' found; a similar argument exists: '--json'; `netback status --help` says more",
            ),
            (
                "status now",
                "unexpected argument 'now' found; `netback status --help` says more",
            ),
            (
                "run --check=yes",
                "unexpected value 'yes' for '--check' found; no more were expected; `netback run --help` says more",
            ),
            (
                "run --config",
                "a value is required for '--config <FILE>' but none was supplied; `netback --help` says more",
            ),
            (
                "disconnect",
                "the following required arguments were not provided: <DOMID/DEVID|--all>; `netback disconnect --help` says more",
            ),
            (
                "disconnect 3/0 --all",
                "the argument '[DOMID/DEVID]' cannot be used with '--all'; `netback disconnect --help` says more",
            ),
            (
                "disconnect 3",
                "invalid value '3' for '[DOMID/DEVID]': \"3\" is not a vif: name it DOMID/DEVID as `netback status` does, for example 3/0; `netback --help` says more",
            ),
        ] {
            let words = ["netback"].into_iter().chain(typed.split_whitespace());
            let error = Cli::try_parse_from(words).expect_err(typed);
            assert_eq!(usage::refusal(&error), line, "{typed:?}");
            assert_eq!(error.exit_code(), 2, "{typed:?}");
        }
        assert!(Cli::try_parse_from(["netback", "disconnect", "3/0", "--config", "/x"]).is_ok());
    }
}
