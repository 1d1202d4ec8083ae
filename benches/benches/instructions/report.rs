//! What was counted, as a table and as JSON.
use crate::callgrind::Count;
use crate::rig::Path;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

/// Instructions a packet of one path and size.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Where packets went.
    pub path: Path,
    /// Bytes of a frame, without its check sequence.
    pub bytes: usize,
    /// Packets counted.
    pub packets: usize,
    /// Instructions a packet.
    pub instructions: f64,
    /// Of these, by what the turn calls.
    pub stages: BTreeMap<String, f64>,
    /// Of these, by function, from one instruction a packet on.
    pub functions: BTreeMap<String, f64>,
}

impl Row {
    pub fn new(path: Path, bytes: usize, count: &Count) -> Self {
        let each = |sum: f64| (sum / count.packets as f64 * 10.0).round() / 10.0;
        let parts = |parts: &BTreeMap<String, f64>, from: f64| {
            let parts = parts.iter().map(|(name, &sum)| (name.clone(), each(sum)));
            parts.filter(|(_, part)| *part >= from).collect()
        };
        Self {
            path,
            bytes,
            packets: count.packets,
            instructions: each(count.total),
            stages: parts(&count.stages, 0.1),
            functions: parts(&count.functions, 1.0),
        }
    }

    /// What its limit is found by.
    pub fn name(&self) -> String {
        format!("{}, {} B", self.path.name(), self.bytes)
    }
}

/// All rows.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `rustc --version`.
    pub rustc: String,
    pub rows: Vec<Row>,
}

impl Report {
    /// Without rows.
    pub fn new() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).arg("--version").output();
        let output = output.context("cannot start rustc")?;
        ensure!(output.status.success(), "rustc: {}", output.status);
        Ok(Self {
            rustc: String::from_utf8(output.stdout)?.trim().into(),
            rows: Vec::new(),
        })
    }

    pub fn table(&self, functions: bool) -> String {
        let mut text = format!("instructions of our own a packet, by {}\n", self.rustc);
        for row in &self.rows {
            let _ = writeln!(text, "\n{:<24}{:>10.1}", row.name(), row.instructions);
            let parts = if functions {
                &row.functions
            } else {
                &row.stages
            };
            let mut parts: Vec<_> = parts.iter().collect();
            parts.sort_by(|a, b| b.1.total_cmp(a.1));
            for (name, part) in parts {
                let _ = writeln!(text, "  {name:<40}{part:>8.1}");
            }
        }
        text
    }
}
