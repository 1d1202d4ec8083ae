//! What every kind of machine must do, with one guest, and what `netback doctor` says of the kind.

use super::{Case, lifecycle, residue, restart, traffic};
use crate::kind::DriverType;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub fn cases() -> Vec<Case> {
    let mut cases = traffic::every_length();
    cases.extend(restart::cases());
    cases.push(Case::new("doctor", doctor).ours_only());
    cases.extend(lifecycle::with_one_guest());
    cases.extend(residue::few());
    cases
}

/// Findings of which each is about one type of driver domain.
const OF_A_TYPE: [&str; 4] = ["iommu", "dom0", "uplink-vif", "devd"];

/// It says of the IOMMU and of the uplink what is true of this type, and misses no `xl devd`.
fn doctor(machine: &Machine) -> Result<String> {
    let outcome = machine.run(Place::DriverDomain, "netback doctor --json")?;
    let report: Value =
        serde_json::from_slice(&outcome.stdout).context("the doctor printed no JSON")?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let named: Vec<&str> = findings
        .iter()
        .filter_map(|finding| finding["check"].as_str())
        .filter(|check| OF_A_TYPE.contains(check))
        .collect();
    let expected: &[&str] = match machine.kind().driver {
        DriverType::Pv => &["iommu"],
        DriverType::Hvm => &[],
        DriverType::Pvh => &["uplink-vif"],
        DriverType::Dom0 => &["dom0"],
    };
    ensure!(
        named == expected,
        "{named:?} and not {expected:?}: {report}"
    );
    ensure!(report["severity"] != "error", "the doctor says {report}");
    Ok(format!("{} findings, no error", findings.len()))
}
