//! What was counted, as a table and as JSON.
use crate::callgrind::Count;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

/// What a packet of one path and size takes.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Where packets went.
    pub path: &'static str,
    /// Bytes of a frame, without its check sequence.
    pub bytes: usize,
    /// Packets counted.
    pub packets: usize,
    /// Operations of grant copies a packet.
    pub operations: f64,
    /// How often grant copies move a byte of a packet, where that was counted.
    pub copies_of_a_byte: Option<f64>,
    /// Instructions a packet.
    pub instructions: f64,
    /// Of these, by what the turn calls.
    pub stages: BTreeMap<String, f64>,
    /// Of these, by function, from one instruction a packet on.
    pub functions: BTreeMap<String, f64>,
}

impl Row {
    pub fn new(path: &'static str, bytes: usize, count: &Count) -> Self {
        let passed = count.passed;
        let packets = passed.packets as f64;
        let each = |sum: f64| (sum / packets * 10.0).round() / 10.0;
        let hundredths = |value: f64| (value * 100.0).round() / 100.0;
        let parts = |parts: &BTreeMap<String, f64>, from: f64| {
            let parts = parts.iter().map(|(name, &sum)| (name.clone(), each(sum)));
            parts.filter(|(_, part)| *part >= from).collect()
        };
        Self {
            path,
            bytes,
            packets: passed.packets,
            operations: hundredths(passed.operations as f64 / packets),
            copies_of_a_byte: passed
                .copied_bytes
                .map(|copied| hundredths(copied as f64 / packets / bytes as f64)),
            instructions: each(count.total),
            stages: parts(&count.stages, 0.1),
            functions: parts(&count.functions, 1.0),
        }
    }

    /// The name that the row's limit is found by.
    pub fn name(&self) -> String {
        format!("{}, {} B", self.path, self.bytes)
    }

    fn write(&self, text: &mut String, functions: bool) {
        let copies = self.copies_of_a_byte.map_or(String::new(), |copies| {
            format!(", which move each byte {copies:.2} times")
        });
        let _ = writeln!(
            text,
            "\n{:<38}{:>10.1}  and {:.2} operations of grant copies{copies}",
            self.name(),
            self.instructions,
            self.operations,
        );
        let parts = match functions {
            true => &self.functions,
            false => &self.stages,
        };
        let mut parts: Vec<_> = parts.iter().collect();
        parts.sort_by(|a, b| b.1.total_cmp(a.1));
        for (name, part) in parts {
            let _ = writeln!(text, "  {name:<40}{part:>8.1}");
        }
    }
}

/// Instructions and operations of every path that was counted.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `rustc --version`.
    pub rustc: String,
    /// The paths of a worker over the fake hypervisor.
    pub rows: Vec<Row>,
    /// The paths of the worker of the real daemon with simulated guests.
    pub daemon: Vec<Row>,
}

impl Report {
    /// Begins a report, with the compiler and no path yet.
    pub fn new() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).arg("--version").output();
        let output = output.context("cannot start rustc")?;
        ensure!(output.status.success(), "rustc: {}", output.status);
        Ok(Self {
            rustc: String::from_utf8(output.stdout)?.trim().into(),
            rows: Vec::new(),
            daemon: Vec::new(),
        })
    }

    /// Both tables, by function or by stage.
    pub fn tables(&self, functions: bool) -> String {
        let mut text = String::new();
        for (rows, whose) in [
            (&self.rows, "a worker by itself"),
            (&self.daemon, "the daemon's worker under steady load"),
        ] {
            if rows.is_empty() {
                continue;
            }
            let rustc = &self.rustc;
            let _ = writeln!(
                text,
                "instructions of our own a packet, {whose}, by {rustc}"
            );
            rows.iter().for_each(|row| row.write(&mut text, functions));
            text.push('\n');
        }
        text
    }
}
