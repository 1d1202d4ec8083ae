//! Debian's archive of one release through the machine's own package sources, with lists kept beside the machine's.

use crate::cache::Cache;
use crate::kind::Release;
use crate::shell::output;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Newer kernels and QEMU for Debian 12.
pub const BACKPORTS: &str = "bookworm-backports";
/// Newer kernels and QEMU for Debian 13.
pub const NEXT_BACKPORTS: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a state directory of its own, which knows backports too.
pub struct Archive {
    pub release: Release,
    directory: PathBuf,
}

impl Archive {
    /// Set up at the first use, and when this version wants other sources: sources, then lists.
    pub fn open(cache: &Cache, release: Release) -> Result<Self> {
        let archive = Self {
            release,
            directory: cache.path(format!("apt-{}", release.name())),
        };
        fs::create_dir_all(archive.directory.join("lists/partial"))?;
        fs::create_dir_all(archive.directory.join("debs"))?;
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        let sources = sources_list(&targets, release)?;
        if fs::read_to_string(archive.sources()).ok().as_ref() != Some(&sources) {
            archive.refresh_with(&sources)?;
        }
        Ok(archive)
    }

    /// The sources.list of this archive, for mmdebstrap.
    pub fn sources(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    /// Lists first, the sources file last: its presence says that the lists are there.
    fn refresh_with(&self, sources: &str) -> Result<()> {
        eprintln!(
            "xen: reading the package lists of Debian {}",
            self.release.name()
        );
        let fresh = self.directory.join("sources.list.new");
        fs::write(&fresh, sources)?;
        let mut update = self.apt("apt-get");
        update
            .arg("-o")
            .arg(format!("Dir::Etc::SourceList={}", fresh.display()));
        output(update.args(["-q", "update"]))?;
        fs::rename(&fresh, self.sources())?;
        Ok(())
    }

    /// An apt program that knows only this archive.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, value: String| [String::from("-o"), format!("{name}={value}")];
        command
            .args(option(
                "Dir::Etc::SourceList",
                self.sources().display().to_string(),
            ))
            .args(option("Dir::Etc::SourceParts", "/dev/null".into()))
            .args(option(
                "Dir::State::Lists",
                self.directory.join("lists").display().to_string(),
            ))
            .args(option("Dir::Cache::pkgcache", String::new()))
            .args(option("Dir::Cache::srcpkgcache", String::new()))
            // The cache may lie where the user _apt cannot read.
            .args(option("APT::Sandbox::User", "root".into()))
            .args(option("DPkg::Lock::Timeout", "300".into()))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_MODE", "l")
            .env("LC_ALL", "C");
        command
    }

    /// The version of `package` that is newest in these backports, or newest outside of any.
    pub fn version(&self, package: &str, backports: Option<&str>) -> Result<String> {
        let madison = output(self.apt("apt-cache").args(["madison", package]))?;
        newest(&madison, backports).with_context(|| {
            format!(
                "Debian's archive has no {package} in {}",
                backports.unwrap_or(self.release.name())
            )
        })
    }

    /// The packages that `package` of `version` depends on; of alternatives the first.
    pub fn dependencies(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let show = output(
            self.apt("apt-cache")
                .args(["show", &format!("{package}={version}")]),
        )?;
        let depends = show.lines().find_map(|line| line.strip_prefix("Depends: "));
        let names = depends.unwrap_or_default().split(", ");
        let first = |name: &str| name.split(' ').next().map(String::from);
        Ok(names.filter_map(first).collect())
    }

    /// Download one package file; lists that name a version the mirror has replaced are read anew once.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        let debs = self.directory.join("debs");
        let prefix = format!("{}_", package.split('=').next().unwrap_or(package));
        let find = || -> Result<Option<PathBuf>> {
            let mut files = fs::read_dir(&debs)?.filter_map(|entry| Some(entry.ok()?.path()));
            Ok(files.find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(".deb")
            }))
        };
        if let Some(file) = find()? {
            return Ok(file);
        }
        eprintln!("xen: downloading {package}");
        let download = || {
            let mut apt = self.apt("apt-get");
            output(apt.current_dir(&debs).args(["-q", "download", package]))
        };
        if download().is_err() {
            self.refresh_with(&fs::read_to_string(self.sources())?)?;
            download()?;
        }
        find()?.with_context(|| format!("apt-get download {package} left no file"))
    }

    /// Install a package from backports on this machine.
    pub fn install_from_backports(&self, package: &str) -> Result<()> {
        eprintln!("xen: installing {package} from {BACKPORTS}");
        let mut install = self.apt("apt-get");
        install.args([
            "-q",
            "-y",
            "--no-install-recommends",
            "-t",
            BACKPORTS,
            "install",
            package,
        ]);
        output(&mut install).map(drop)
    }
}

/// Our sources.list from the machine's index targets (`SUITE URI` a line): the same mirrors, with backports.
fn sources_list(targets: &str, release: Release) -> Result<String> {
    let release = release.name();
    let mut lines = BTreeSet::new();
    for target in targets.lines() {
        let Some((suite, uri)) = target.split_once(' ') else {
            continue;
        };
        if suite.ends_with("-security") {
            lines.insert(format!(
                "deb [signed-by={KEYRING}] {uri} {release}-security main\n"
            ));
        } else if matches!(suite, "bookworm" | "trixie" | "stable" | "oldstable") {
            let (updates, backports) =
                (format!("{release}-updates"), format!("{release}-backports"));
            for suite in [release, &updates, &backports, NEXT_BACKPORTS] {
                lines.insert(format!("deb [signed-by={KEYRING}] {uri} {suite} main\n"));
            }
        }
    }
    if lines.is_empty() {
        bail!(
            "no Debian archive among this machine's package sources (apt-get indextargets): the rig is built from Debian's packages"
        );
    }
    Ok(lines.into_iter().collect())
}

/// The first version of `apt-cache madison` (newest first) that is from these backports, or from none.
fn newest(madison: &str, backports: Option<&str>) -> Option<String> {
    let mut rows = madison.lines().filter_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        Some((columns.nth(1)?, columns.next()?))
    });
    rows.find(|(_, source)| match backports {
        Some(suite) => source.contains(&format!(" {suite}/")),
        None => !source.contains("-backports/"),
    })
    .map(|(version, _)| version.into())
}

#[cfg(test)]
mod tests {
    use super::{BACKPORTS, NEXT_BACKPORTS, newest, sources_list};
    use crate::kind::Release;

    const MADISON: &str = "\
linux-image-amd64 | 7.3.4-1~bpo13+1 | http://mirror trixie-backports/main amd64 Packages
linux-image-amd64 | 6.12.95-1~bpo12+1 | http://mirror bookworm-backports/main amd64 Packages
linux-image-amd64 |  6.1.192-2 | http://mirror bookworm-security/main amd64 Packages
linux-image-amd64 |  6.1.176-1 | http://mirror bookworm/main amd64 Packages
";

    #[test]
    fn the_generations_of_kernel_are_told_apart() {
        let from = |backports| newest(MADISON, backports).unwrap();
        assert_eq!(from(Some(NEXT_BACKPORTS)), "7.3.4-1~bpo13+1");
        assert_eq!(from(Some(BACKPORTS)), "6.12.95-1~bpo12+1");
        assert_eq!(from(None), "6.1.192-2");
        assert_eq!(newest("", None), None);
    }

    #[test]
    fn sources_are_the_machines_mirrors_and_nothing_else() {
        let machine = "bookworm http://a/debian/\nbookworm-updates http://a/debian/\nbookworm-security http://b/\nnode http://c/\n";
        let suites = |release| -> Vec<String> {
            let sources = sources_list(machine, release).unwrap();
            assert!(!sources.contains("http://c/"));
            let suite = |line: &str| line.split(' ').nth(3).unwrap().to_owned();
            sources.lines().map(suite).collect()
        };
        assert_eq!(
            suites(Release::Bookworm),
            [
                "bookworm",
                "bookworm-backports",
                "bookworm-updates",
                "trixie-backports",
                "bookworm-security"
            ]
        );
        assert_eq!(
            suites(Release::Trixie),
            [
                "trixie",
                "trixie-backports",
                "trixie-updates",
                "trixie-security"
            ]
        );
        assert!(sources_list("node http://c/\n", Release::Trixie).is_err());
    }
}
