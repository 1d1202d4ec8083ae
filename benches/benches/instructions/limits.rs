//! Limits of instructions a packet, by path and size, and the compiler they were counted with: another one makes other code.
use crate::report::Report;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file, below the crate.
pub const FILE: &str = "benches/instructions/limits.json";

#[derive(Serialize, Deserialize)]
struct Limits {
    rustc: String,
    /// By [`crate::report::Row::name`].
    instructions: BTreeMap<String, u64>,
}

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

/// Makes what was counted, and 2 % on top, the limits.
pub fn write(report: &Report) -> Result<()> {
    let limit = |instructions: f64| (instructions * 1.02).ceil() as u64;
    let rows = report.rows.iter();
    let limits = Limits {
        rustc: report.rustc.clone(),
        instructions: rows
            .map(|row| (row.name(), limit(row.instructions)))
            .collect(),
    };
    let text = serde_json::to_string_pretty(&limits)? + "\n";
    std::fs::write(path(), text).with_context(|| format!("cannot write {FILE}"))
}

/// Says on stderr which row takes more than its limit, or has none; false where that is a failure.
pub fn check(report: &Report) -> Result<bool> {
    let text = std::fs::read_to_string(path()).with_context(|| format!("cannot read {FILE}"))?;
    let limits: Limits =
        serde_json::from_str(&text).with_context(|| format!("{FILE} is no list of limits"))?;
    let is_same = limits.rustc == report.rustc;
    let mut good = true;
    for row in &report.rows {
        let limit = limits.instructions.get(&row.name());
        if limit.is_some_and(|&limit| row.instructions <= limit as f64) {
            continue;
        }
        good = false;
        let limit = limit.map_or("none".into(), u64::to_string);
        let word = if is_same { "error" } else { "warning" };
        eprintln!(
            "{word}: {} takes {:.0} instructions a packet; its limit is {limit} with {}, and this is {}",
            row.name(),
            row.instructions,
            limits.rustc,
            report.rustc,
        );
    }
    Ok(good || !is_same)
}
