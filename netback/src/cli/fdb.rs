//! `netback fdb`: the addresses that bridges know.
use super::{ask, say};
use crate::cli::Cli;
use crate::control::socket::{FdbRequest, Request};
use crate::daemon::Failure;
use crate::observe::status::FdbEntry;
use clap::{Args, Subcommand};

/// What to do with a forwarding database.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum FdbCommand {
    /// Show every address that bridges know: guests' own, learnt ones with their age, static ones.
    Show {
        /// On which bridge.
        #[command(flatten)]
        on: On,
    },
    /// Make a static entry, which neither ages nor moves to another port: what has the address and comes in elsewhere is dropped. It goes with its port: when the vif is disconnected, or netback
    /// ends.
    Add {
        /// The address, as 00:16:3e:00:00:01.
        mac: String,
        /// The vif behind which it is, as DOMID/DEVID, or the interface of an uplink.
        port: String,
        /// The VLAN; without it, frames without a tag.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        vlan: u16,
        /// On which bridge.
        #[command(flatten)]
        on: On,
    },
    /// Take an entry out, learnt or static.
    Del {
        /// The address, as 00:16:3e:00:00:01.
        mac: String,
        /// The VLAN; without it, frames without a tag.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        vlan: u16,
        /// On which bridge.
        #[command(flatten)]
        on: On,
    },
    /// Forget every address that was learnt; they are learnt anew from the next frames. Static entries stay.
    Flush {
        /// On which bridge.
        #[command(flatten)]
        on: On,
    },
}

/// On which bridge, and how the answer looks.
#[derive(Debug, Args)]
pub struct On {
    /// The bridge; add and del need it where there are several.
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// Does what was typed.
pub(super) fn execute(cli: &Cli, command: &FdbCommand) -> Result<(), Failure> {
    let (on, change, done) = match command {
        FdbCommand::Show { on } => (on, FdbRequest::Show, String::new()),
        FdbCommand::Add {
            mac,
            port,
            vlan,
            on,
        } => {
            let (mac, vlan, port) = (mac.clone(), *vlan, port.clone());
            (on, FdbRequest::Add { mac, vlan, port }, String::new())
        }
        FdbCommand::Del { mac, vlan, on } => {
            let (mac, vlan) = (mac.clone(), *vlan);
            let done = format!("{mac} is out");
            (on, FdbRequest::Del { mac, vlan }, done)
        }
        FdbCommand::Flush { on } => {
            let done = "forgot every address that was learnt".into();
            (on, FdbRequest::Flush, done)
        }
    };
    let bridge = on.bridge.clone();
    let answer = ask(cli, &Request::Fdb { bridge, change })?;
    if on.json {
        return say(&answer.to_string());
    }
    let entries: Vec<FdbEntry> =
        serde_json::from_value(answer["fdb"].clone()).map_err(|error| {
            let reason = format!("the running netback is of another version ({error}): try --json");
            Failure::Runtime(reason)
        })?;
    match (&*entries, done) {
        ([], done) if done.is_empty() => say("no address is known"),
        ([], done) => say(&done),
        (entries, _) => {
            let lines: Vec<String> = entries.iter().map(FdbEntry::to_string).collect();
            say(&lines.join("\n"))
        }
    }
}
