//! The package's changelog in Debian's form (deb-changelog(5)): one entry, for the version that is packaged.

use crate::build;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The entry for `version`, which has its Debian revision.
pub fn entry(version: &str, maintainer: &str) -> Result<String> {
    let date = Command::new("date")
        .args(["--utc", "--rfc-email", "--date", &format!("@{}", moment()?)])
        .env("LC_ALL", "C")
        .output()
        .context("cannot start date")?;
    ensure!(date.status.success(), "date: {}", date.status);
    let date = String::from_utf8(date.stdout)?;
    Ok(format!(
        "netback ({version}) unstable; urgency=medium\n\n  \
         * Packaged from source; /usr/share/doc/netback/changelog.gz says what\n    changed in netback itself.\n\n \
         -- {maintainer}  {}\n",
        date.trim()
    ))
}

/// Seconds since 1970 at which the source was as it is, so that the same source makes the same package: SOURCE_DATE_EPOCH, else the
/// last commit, else the last change of CHANGELOG.md.
fn moment() -> Result<u64> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return epoch.parse().context("SOURCE_DATE_EPOCH is no number");
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(build::workspace());
    if let Ok(output) = git.output()
        && let Ok(commit) = String::from_utf8_lossy(&output.stdout).trim().parse()
    {
        return Ok(commit);
    }
    let changed: SystemTime = build::workspace()
        .join("CHANGELOG.md")
        .metadata()?
        .modified()?;
    let since = changed.duration_since(UNIX_EPOCH);
    Ok(since.as_ref().map_or(0, Duration::as_secs))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_entry_is_what_dpkg_parses() {
        let entry = super::entry("1.2.3-4", "A B <a@b.example>").unwrap();
        let mut parser = std::process::Command::new("dpkg-parsechangelog");
        let path = std::env::temp_dir().join(format!("netback-changelog-{}", std::process::id()));
        std::fs::write(&path, entry).unwrap();
        let parsed = parser.arg("-l").arg(&path).output().unwrap();
        std::fs::remove_file(path).unwrap();
        let fields = String::from_utf8(parsed.stdout).unwrap();
        for field in [
            "Source: netback",
            "Version: 1.2.3-4",
            "Maintainer: A B <a@b.example>",
        ] {
            assert!(fields.lines().any(|line| line == field), "{fields}");
        }
        assert!(parsed.stderr.is_empty(), "{:?}", parsed.stderr);
    }
}
