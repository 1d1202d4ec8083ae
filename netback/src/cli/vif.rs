//! `netback vif`: one guest interface, shown and prodded.
use super::{Disconnected, ask, disconnect, say};
use crate::cli::Cli;
use crate::control::socket::Request;
use crate::daemon::Failure;
use crate::observe::status::Vif;
use crate::vif::id::VifId;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What to do with a vif.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum VifCommand {
    /// Show one vif: states, limits, queues, rings, counters, drops by reason.
    Show(One),
    /// Look at a vif's rings and notify its guest, as if each had just been told of news by the other.
    ///
    /// For a guest that seems to hang: where that helps, an event was lost, which is worth a report.
    Kick(One),
    /// Disconnect guests, as `netback disconnect`.
    Disconnect {
        /// Which.
        #[command(flatten)]
        which: Disconnected,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// One vif.
#[derive(Debug, Args)]
pub struct One {
    /// The vif, as `netback status` names it.
    #[arg(value_name = "DOMID/DEVID")]
    vif: VifId,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// Does what was typed.
pub(super) fn execute(cli: &Cli, command: &VifCommand) -> Result<(), Failure> {
    match command {
        VifCommand::Show(One { vif, json }) => {
            let answer = ask(
                cli,
                &Request::Vif {
                    vif: vif.to_string(),
                },
            )?;
            if *json {
                return say(&answer.to_string());
            }
            let vif: Vif = serde_json::from_value(answer).map_err(|error| {
                let reason =
                    format!("the running netback is of another version ({error}): try --json");
                Failure::Runtime(reason)
            })?;
            say(vif.to_string().trim_end())
        }
        VifCommand::Kick(One { vif, json }) => {
            let answer = ask(
                cli,
                &Request::Kick {
                    vif: vif.to_string(),
                },
            )?;
            match json {
                true => say(&answer.to_string()),
                false => say(&format!("kicked: {vif}, queues: {}", answer["queues"])),
            }
        }
        VifCommand::Disconnect { which, json } => {
            let disconnected = disconnect(cli, which.vif)?;
            say(&told(&disconnected, *json))
        }
    }
}

/// The vifs that were disconnected, in words or as JSON.
pub(super) fn told(disconnected: &[String], json: bool) -> String {
    if json {
        let value: Value = json!({ "disconnected": disconnected });
        return value.to_string();
    }
    match disconnected {
        [] => "disconnected: no vif".into(),
        vifs => format!("disconnected: {}", vifs.join(", ")),
    }
}
