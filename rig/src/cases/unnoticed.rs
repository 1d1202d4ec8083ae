//! What nobody may notice of another backend process: xenstore, the guest's kernel log and the NIC's carrier stay as they were.

use super::traffic::complaints;
use super::xenstore::Snapshot;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Result, ensure};

/// How it was before.
pub struct Before {
    nic: &'static str,
    carrier_changes: String,
    nodes: Snapshot,
}

impl Before {
    /// Now; `nic` as the driver domain calls it.
    pub fn note(machine: &Machine, nic: &'static str) -> Result<Self> {
        Ok(Self {
            nic,
            carrier_changes: carrier_changes(machine, nic)?,
            nodes: Snapshot::take(machine)?,
        })
    }

    /// Fails unless all of it is as it was, and `guest`'s kernel has nothing to say.
    pub fn must_be_now(&self, machine: &Machine, guest: Place) -> Result<()> {
        ensure!(
            carrier_changes(machine, self.nic)? == self.carrier_changes,
            "the NIC's carrier changed"
        );
        let changed = Snapshot::take(machine)?.since(&self.nodes);
        ensure!(changed.is_empty(), "xenstore changed: {changed:?}");
        let said = complaints(machine, guest)?;
        ensure!(said.is_empty(), "the guest's kernel says: {said}");
        Ok(())
    }
}

fn carrier_changes(machine: &Machine, nic: &str) -> Result<String> {
    machine.must(
        Place::DriverDomain,
        &format!("cat /sys/class/net/{nic}/carrier_changes"),
    )
}
