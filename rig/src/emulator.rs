//! The QEMU that a machine runs in: the host's own, or for domains that run by the processor's virtualisation a newer one, unpacked.
//!
//! An HVM domain's NIC reads and writes memory by the domain's own addresses, so the emulated AMD IOMMU must translate them
//! (`dma-remap`), which it does since QEMU 11. Debian has that for its release after the host's: it is unpacked with its libraries and
//! started by its own dynamic linker, and nothing of it is installed.

use crate::cache::Cache;
use crate::debian::{Archive, NEXT_BACKPORTS};
use crate::kind::{Kind, Release};
use crate::os;
use crate::shell::output;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::packages;

/// From the backports: the emulator and what must be of its version.
const EMULATOR: [&str; 4] = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
];
/// What makes the disks that HVM domains boot from.
const GRUB: &str = "grub-common,grub-pc-bin";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Packages of a newer release unpacked side by side, whose programs run on the host.
pub struct Tree(PathBuf);

impl Tree {
    /// Unpack once for each list of packages; other processes wait meanwhile.
    pub fn open(cache: &Cache) -> Result<Self> {
        let _lock = os::lock(&cache.path("lock"))?;
        let tree = Self(cache.path("tools"));
        let emulator = EMULATOR.map(|package| format!("{package}/{NEXT_BACKPORTS}"));
        let packages = format!("{},{GRUB}", emulator.join(","));
        let stamp = cache.path("tools.packages");
        if fs::read_to_string(&stamp).ok().as_ref() == Some(&packages) {
            return Ok(tree);
        }
        eprintln!("xen: unpacking a newer QEMU and GRUB (a minute)");
        if tree.0.exists() {
            fs::remove_dir_all(&tree.0)?;
        }
        let archive = Archive::open(cache, Release::Trixie)?;
        let mut bootstrap = Command::new("mmdebstrap");
        bootstrap
            .args(["--quiet", "--mode=root", "--variant=extract"])
            .arg(format!("--include={packages}"))
            .arg(archive.release.name())
            .arg(&tree.0)
            .arg(archive.sources());
        output(bootstrap.env("LC_ALL", "C"))?;
        fs::write(stamp, packages)?;
        Ok(tree)
    }

    /// A file of the tree.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The words that start its program `name`: the tree's dynamic linker with the tree's libraries.
    pub fn program(&self, name: &str) -> Vec<String> {
        let path = |name: String| self.path(name).display().to_string();
        vec![
            path(format!("{LIBRARIES}/ld-linux-x86-64.so.2")),
            "--library-path".into(),
            path(LIBRARIES.into()),
            path(format!("usr/bin/{name}")),
        ]
    }

    fn qemu(&self) -> Vec<String> {
        let mut words = self.program("qemu-system-x86_64");
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            words.extend(["-L".into(), self.path(data).display().to_string()]);
        }
        words
    }
}

/// The words that start QEMU for a machine of `kind`, which is made available if it is not.
pub fn words(cache: &Cache, kind: Kind) -> Result<Vec<String>> {
    if kind.virtualised() {
        return Ok(Tree::open(cache)?.qemu());
    }
    ensure_host_has_qemu(cache)?;
    Ok(vec!["qemu-system-x86_64".into()])
}

/// A QEMU that emulates igb (8.0 and later): bookworm has it in backports only.
fn ensure_host_has_qemu(cache: &Cache) -> Result<()> {
    let works = || output(Command::new("qemu-system-x86_64").args(["-device", "igb,help"])).is_ok();
    if works() {
        return Ok(());
    }
    let _lock = os::lock(&cache.path("lock"))?;
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if release
        .lines()
        .any(|line| line == "VERSION_CODENAME=bookworm")
    {
        Archive::open(cache, Release::Bookworm)?.install_from_backports("qemu-system-x86")?;
    } else {
        packages::ensure(&[&["qemu-system-x86"]])?;
    }
    if !works() {
        bail!("qemu-system-x86_64 does not know the device igb: the rig needs QEMU 8.0 or later");
    }
    Ok(())
}
