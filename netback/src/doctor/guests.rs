//! What guests ask for: bridges, addresses, sizes.

use super::Finding;
use super::uplink::mtu_limit;
use super::view::{Backend, View};
use crate::config::{Bridge, Config};
use std::collections::BTreeMap;

/// What libxl means where it writes no `bridge` (xl-network-configuration(5)).
pub(super) const DEFAULT_BRIDGE: &str = "xenbr0";

/// xenstore nodes that a domain may have unless dom0 allows more (xenstored's --entry-nb, quota-maxentity in oxenstored.conf).
const NODES: usize = 1000;
/// Nodes that count for us of each vif: libxl's directory with its keys, the frontend's mtu, and what we advertise.
const NODES_A_VIF: usize = 20;

pub(super) fn check(view: &View, config: Option<&Config>) -> Vec<Finding> {
    let vifs: &[Backend] = view.backends.as_deref().unwrap_or_default();
    let mut findings = duplicate_addresses(vifs);
    findings.extend(quota(vifs));
    for vif in vifs {
        if let Some(error) = &vif.hotplug_error {
            let what = format!("vif {} is not served as asked for: {error}", vif.name());
            let cure = format!(
                "correct what it says in the guest's configuration, then in dom0: `{}`, and attach it again; or correct the key in xenstore, \
                 which counts at once",
                detach(vif)
            );
            findings.push(Finding::warning("hotplug-error", what, cure));
        }
        let Some(config) = config else { continue };
        let wanted = vif.bridge.as_deref().unwrap_or(DEFAULT_BRIDGE);
        match config.bridges.iter().find(|bridge| bridge.name == wanted) {
            Some(bridge) => findings.extend(size(view, vif, bridge)),
            // A configuration without any bridge is a finding of its own.
            None if config.bridges.is_empty() => {}
            None => findings.push(unknown_bridge(view, vif, wanted, config)),
        }
    }
    findings
}

/// So many vifs that xenstore has no room for a few more where nobody raised the quota: a domain has some nodes besides its vifs'.
fn quota(vifs: &[Backend]) -> Option<Finding> {
    let nodes = vifs.len() * NODES_A_VIF;
    if nodes * 10 < NODES * 9 {
        return None;
    }
    let what = format!(
        "{} vifs take about {nodes} xenstore nodes, and a domain may have {NODES} by default: vifs beyond about the 50th wait",
        vifs.len()
    );
    let cure = format!(
        "in dom0, unless it was done: `xl xenstore-quota-set` (Xen 4.22); else quota-maxentity = {0} in /etc/xen/oxenstored.conf, \
         or XENSTORED_ARGS=\"--entry-nb {0}\" in /etc/default/xencommons, which count from the next boot of dom0 on",
        nodes * 2
    );
    Some(Finding::warning("xenstore-quota", what, cure))
}

/// The command, typed in dom0, that takes the vif from its guest.
fn detach(vif: &Backend) -> String {
    format!("xl network-detach {} {}", vif.domid, vif.devid)
}

fn unknown_bridge(view: &View, vif: &Backend, wanted: &str, config: &Config) -> Finding {
    let known: Vec<&str> = config
        .bridges
        .iter()
        .map(|bridge| bridge.name.as_str())
        .collect();
    let what = format!(
        "vif {} asks for bridge {wanted}; configured are {}",
        vif.name(),
        known.join(", ")
    );
    let cure = format!(
        "`printf '\\n[[bridge]]\\nname = \"{wanted}\"\\n' >> {} && systemctl restart netback`, with its uplink; or correct bridge= of the guest in dom0",
        view.config.display()
    );
    Finding::error("bridge-unknown", what, cure)
}

/// A vif whose MTU is larger than that of its uplink.
fn size(view: &View, vif: &Backend, bridge: &Bridge) -> Option<Finding> {
    let promised: u64 = vif.mtu.as_deref()?.parse().ok()?;
    let uplink = bridge.uplink.as_deref()?;
    let wire = view.number(format!("/sys/class/net/{uplink}/mtu"))?;
    if promised <= wire {
        return None;
    }
    let what = format!(
        "vif {} has mtu {promised}, its uplink {uplink} only {wire}",
        vif.name()
    );
    let smaller = format!(
        "in dom0: `{}`, and attach it again with mtu={wire} or less",
        detach(vif)
    );
    let (most, _) = mtu_limit(view, bridge, uplink);
    let cure = if promised > most {
        smaller
    } else {
        // Some drivers refuse to change the MTU under XDP.
        format!(
            "`systemctl stop netback && netback uninstall {uplink} && ip link set dev {uplink} mtu {promised} && systemctl start netback`, \
             guests keep their connections; or {smaller}"
        )
    };
    Some(Finding::warning("guest-mtu", what, cure))
}

/// Vifs of one bridge with the same address: the switch gives an address to one port, so that the other guest receives nothing.
fn duplicate_addresses(vifs: &[Backend]) -> Vec<Finding> {
    let mut holders: BTreeMap<(String, String), Vec<&Backend>> = BTreeMap::new();
    for vif in vifs {
        let bridge = vif.bridge.as_deref().unwrap_or(DEFAULT_BRIDGE).to_owned();
        if let Some(mac) = &vif.mac {
            holders
                .entry((bridge, mac.to_ascii_lowercase()))
                .or_default()
                .push(vif);
        }
    }
    let several = holders.into_iter().filter(|(_, vifs)| vifs.len() > 1);
    let finding = |((bridge, mac), vifs): ((String, String), Vec<&Backend>)| {
        let names: Vec<String> = vifs.iter().copied().map(Backend::name).collect();
        let what = format!(
            "vifs {} on bridge {bridge} have the same address {mac}",
            names.join(" and ")
        );
        let others: Vec<String> = vifs.iter().skip(1).copied().map(detach).collect();
        let cure = format!(
            "in dom0: `{}`, and attach again with a mac= of its own",
            others.join(" && ")
        );
        Finding::error("duplicate-mac", what, cure)
    };
    several.map(finding).collect()
}
