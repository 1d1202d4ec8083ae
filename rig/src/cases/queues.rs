//! A guest that uses several queues: each of them carries.

use super::Case;
use super::lifecycle::{network_is_back, remark};
use super::traffic::iperf;
use crate::domain::reload_netfront;
use crate::machine::Machine;
use crate::netback;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const GUEST: Place = Place::Guest(2);
const COUNT: u8 = 4;

pub fn cases() -> Vec<Case> {
    vec![Case::new("queues/4", four).ours_only()]
}

/// Leaves the guest as it was before.
fn four(machine: &Machine) -> Result<String> {
    // netfront has as many queues as processors, unless it is told otherwise. Under emulation a domain with four does not boot in bearable
    // time.
    let queues = netback::reconfigure(machine, &format!("[vif]\nmax_queues = {COUNT}\n"))
        .and_then(|()| reload_netfront(machine, GUEST, &format!("max_queues={COUNT}")))
        .and_then(|()| every_queue_carries(machine));
    let restored = netback::reconfigure(machine, "")
        .and_then(|()| reload_netfront(machine, GUEST, ""))
        .and_then(|()| network_is_back(machine, GUEST))
        .and_then(|()| remark(machine, GUEST));
    queues.and_then(|queues| restored.map(|()| queues))
}

/// Sixty-four streams both ways: the guest and netback each choose a queue for each stream by its hash.
fn every_queue_carries(machine: &Machine) -> Result<String> {
    network_is_back(machine, GUEST)?;
    let interface = machine.must(GUEST, "ls /sys/class/net/test0/queues | grep -c tx")?;
    ensure!(
        interface.trim() == COUNT.to_string(),
        "the guest's interface has {} queues",
        interface.trim()
    );
    let end = iperf(machine, GUEST, Place::Peer, "-P 32 --bidir -t 3")?;
    let sent = end["sum_sent"]["bytes"].as_u64().unwrap_or(0);
    ensure!(sent > 1_000_000, "{sent} bytes were sent");
    let domid = machine.must(Place::Dom0, &format!("xl domid {GUEST}"))?;
    let show = format!("netback vif show {}/1 --json", domid.trim());
    let said = machine.must(Place::DriverDomain, &show)?;
    let vif: Value = serde_json::from_str(&said).context("netback printed no JSON")?;
    let queues = vif["queues"].as_array().context("the vif has no queues")?;
    ensure!(queues.len() == usize::from(COUNT), "{vif}");
    let mut counts = Vec::new();
    for queue in queues {
        let [sent, received] = ["tx_packets", "rx_packets"].map(|key| queue[key].as_u64());
        let (sent, received) = (sent.unwrap_or(0), received.unwrap_or(0));
        ensure!(
            sent > 100 && received > 100,
            "a queue without traffic: {vif}"
        );
        counts.push(format!("{sent}/{received}"));
    }
    Ok(format!(
        "packets from and to the guest by queue: {}",
        counts.join(", ")
    ))
}
