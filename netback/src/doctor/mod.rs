//! `netback doctor`: what stands between this machine and a running netback, each with its cure.
//!
//! Every check is a pure function of a [`View`], so that a test can break one thing in a made-up machine and see it named.

mod bridge;
mod bulk;
mod drivers;
mod guests;
mod host;
mod hypervisor;
mod kernel;
mod process;
mod uplink;
mod view;

#[cfg(test)]
mod tests;

pub use view::{Backend, View};

use crate::config::Config;
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;

/// How much a finding matters; the worst one is the exit status (info 0, warning 1, error 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing is wrong.
    Info,
    /// netback runs, and something will not be as the operator expects.
    Warning,
    /// netback cannot start, or a guest has no network.
    Error,
}

/// One thing found, in one line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A name that does not change between versions, for scripts and for the manual.
    pub check: &'static str,
    /// What is wrong, with what.
    pub what: String,
    /// What to do about it; empty where there is nothing to do. What stands in backquotes is to be typed as it is, as root: here, or
    /// in dom0 where `in dom0:` stands before it. What follows `; or` is another way.
    pub cure: String,
}

impl Finding {
    fn new(
        severity: Severity,
        check: &'static str,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            check,
            what: what.into(),
            cure: cure.into(),
        }
    }
    fn error(check: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, what, cure)
    }
    fn warning(check: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, what, cure)
    }
    fn info(check: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Severity::Info, check, what, cure)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity:<7} {}: {}", self.check, self.what)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        Ok(())
    }
}

/// Everything that was found, the worst first.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// The worst of the findings; info where there is none.
    pub severity: Severity,
    /// Worst first, otherwise in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Exit status: 0 nothing but information, 1 warnings, 2 errors.
    pub fn exit_status(&self) -> u8 {
        match self.severity {
            Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if self.severity == Severity::Info {
            writeln!(f, "ok: nothing stands in the way")?;
        }
        Ok(())
    }
}

/// Run every check on `view`.
pub fn examine(view: &View) -> Report {
    let mut findings = Vec::new();
    findings.extend(hypervisor::check(view));
    findings.extend(kernel::check(view));
    let config = configuration(view)
        .map_err(|finding| findings.push(finding))
        .ok();
    findings.extend(process::check(view, config.as_ref()));
    findings.extend(guests::check(view, config.as_ref()));
    if let Some(config) = &config {
        findings.extend(hypervisor::granted_pages(view, config));
        findings.extend(bridge::missing(view, config));
        let hosts = config.bridges.iter();
        findings.extend(hosts.filter_map(|bridge| host::occupied(view, bridge)));
        let mut looked_at = BTreeSet::new();
        for bridge in &config.bridges {
            // Several bridges may share one.
            if looked_at.insert(&bridge.uplink) {
                findings.extend(uplink::check(view, &config.daemon.bpf_dir, bridge));
            }
        }
    }
    findings.extend(bulk::check(view));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let severity = findings.first().map_or(Severity::Info, |f| f.severity);
    Report { severity, findings }
}

/// The configuration as the package installs it.
const EXAMPLE: &str = "/usr/share/doc/netback/examples/netback.toml";

/// The configuration, or why there is none that could be used. No cure overwrites a file that is there.
fn configuration(view: &View) -> Result<Config, Finding> {
    let file = view.config.display();
    let text = view.config_text().map_err(|error| {
        let (what, cure) = match error.kind() {
            ErrorKind::NotFound => (
                "no such file".into(),
                format!("`install -D -m 644 {EXAMPLE} {file}`"),
            ),
            ErrorKind::PermissionDenied => (
                "it cannot be read".into(),
                "ask as root: `netback doctor`".into(),
            ),
            _ => (format!("it cannot be read: {error}"), String::new()),
        };
        Finding::error("config", format!("{file}: {what}"), cure)
    })?;
    Config::parse(&view.config, &text).map_err(|error| {
        let cure = format!(
            "correct it, or begin again with the old one kept beside it: `cp --backup=numbered {EXAMPLE} {file}`"
        );
        Finding::error("config", error.to_string(), cure)
    })
}
