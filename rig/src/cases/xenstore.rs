//! xenstore as a whole, to see what a step has changed.

use crate::machine::Machine;
use crate::place::Place;
use anyhow::Result;
use std::collections::BTreeSet;

/// Every node with its value, as `path = "value"`.
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Now, as dom0 sees it.
    pub fn take(machine: &Machine) -> Result<Self> {
        let listing = machine.must(Place::Dom0, "xenstore-ls -f")?;
        Ok(Self(listing.lines().map(String::from).collect()))
    }

    /// What differs from `earlier`: `-` lines that are gone, `+` lines that are new.
    pub fn since(&self, earlier: &Self) -> Vec<String> {
        let gone = earlier.0.difference(&self.0).map(|line| format!("-{line}"));
        let new = self.0.difference(&earlier.0).map(|line| format!("+{line}"));
        gone.chain(new).collect()
    }
}
