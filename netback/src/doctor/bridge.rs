//! A configuration without a bridge: what to write into it.

use super::guests::DEFAULT_BRIDGE;
use super::host::kernel_bridges;
use super::view::{Backend, View};
use super::{Finding, Severity};
use crate::config::Config;

/// Proposes the first bridge, with a NIC that guests can have without cutting this domain off.
pub(super) fn missing(view: &View, config: &Config) -> Option<Finding> {
    if !config.bridges.is_empty() {
        return None;
    }
    let vifs = view.backends.as_deref().unwrap_or_default();
    let (severity, mut what) = match vifs {
        [] => (
            Severity::Warning,
            "there is no [[bridge]], so no guest is served".to_owned(),
        ),
        vifs => {
            let names: Vec<String> = vifs.iter().map(Backend::name).collect();
            let what = format!("there is no [[bridge]], and vif {} waits", names.join(", "));
            (Severity::Error, what)
        }
    };
    let mut nics: Vec<String> = view.nics();
    nics.retain(|nic| view.link(format!("/sys/class/net/{nic}/master")).is_none());
    let (addressed, free): (Vec<String>, Vec<String>) = nics
        .into_iter()
        .partition(|nic| !view.addresses(nic).is_empty());
    for nic in &addressed {
        what += &format!(
            "; {nic} is left out: it has the address {} of this domain, which would have to move to a host port (host = true)",
            view.addresses(nic).join(", ")
        );
    }
    let replaced = kernel_bridges(view);
    if let (true, Some(bridge)) = (free.is_empty(), replaced.first()) {
        what += &format!(
            "; {} is a bridge of the kernel with {}",
            bridge.name, bridge.nic
        );
        return Some(Finding::new(
            severity,
            "no-bridge",
            what,
            bridge.replacement(view),
        ));
    }
    let cure = match (free.as_slice(), addressed.as_slice()) {
        ([], []) => "pass a network card through to this domain (pci= in its configuration) and load its driver".into(),
        ([], _) => "pass another network card through to this domain; or reach this domain by another interface first".into(),
        ([nic, others @ ..], _) => {
            let command = write(view, vifs, nic);
            match others {
                [] => command,
                others => format!("{command}; or with uplink = \"{}\"", others.join("\" or \"")),
            }
        }
    };
    Some(Finding::new(severity, "no-bridge", what, cure))
}

/// The command that appends the bridge which the first guest asks for, with the uplink `nic`, and has netback read it.
fn write(view: &View, vifs: &[Backend], nic: &str) -> String {
    let asked = vifs.first().and_then(|vif| vif.bridge.as_deref());
    format!(
        "`printf '\\n[[bridge]]\\nname = \"{}\"\\nuplink = \"{nic}\"\\n' >> {} && systemctl restart netback`",
        asked.unwrap_or(DEFAULT_BRIDGE),
        view.config.display()
    )
}
