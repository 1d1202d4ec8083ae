//! A root disk with a system on it: Debian as an operator of a driver domain has it, with systemd, udev, dpkg and apt, and nothing of
//! netback's. The other disk (`image`) has neither: its domains are up sooner.

use crate::cache::Cache;
use crate::debian::Archive;
use crate::image::{Image, ROOT_MODULES, fresh_directory, write_executable};
use crate::kernel::Generation;
use crate::kind::Release;
use crate::os;
use crate::shell::{bash, output};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Beyond Debian's minimal system: what starts it, what netback's package asks for, what a driver domain has from Xen, what the
/// document's steps and the doctor's cures type, and what configures its network.
const PACKAGES: &str = "systemd-sysv,udev,kmod,iproute2,iputils-ping,ethtool,bpftool,pciutils,procps,xen-utils-common,xenstore-utils,\
                        ifupdown,isc-dhcp-client";

/// The rig's own: the agent as a unit, and the domain's end of the management network.
const FILES: &[(&str, &str)] = &[
    ("rig/management", include_str!("../files/management")),
    (
        "etc/systemd/system/rig-agent.service",
        include_str!("../files/rig-agent.service"),
    ),
    // In a domain without an emulated PC udev gives the card this name; in another one it lies elsewhere on the bus. The host port has the
    // card's address too, but not as one that was made with it.
    (
        "etc/systemd/network/10-rig.link",
        "[Match]\nPermanentMACAddress=52:54:00:09:00:02\n\n[Link]\nName=enp0s0\n",
    ),
    // No first boot, which would set every unit anew.
    ("etc/machine-id", "6e65746261636b000000000000000001\n"),
    ("etc/hostname", "driver-domain\n"),
    ("etc/hosts", "127.0.0.1 localhost driver-domain\n"),
    ("etc/fstab", ""),
];

/// Nothing here is under test, and each costs seconds of emulated time or waits for a network that there is not.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "networking.service",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "xen.service",
    "xendomains.service",
];

/// Build the disk if it is missing or older than what it is made of; other processes wait meanwhile.
pub fn build(cache: &Cache, image: &Image, release: Release) -> Result<PathBuf> {
    let _lock = os::lock(&cache.path("lock"))?;
    let file = |name: &str| cache.path(release.name()).join(name);
    let disk = file("system.img");
    let base = bootstrap(cache, release)?;
    let agent = fs::metadata(&image.agent)?;
    let kernel = image.kernel(Generation::Stock);
    let recipe = format!(
        "{PACKAGES}{FILES:?}{MASKED:?}{ROOT_MODULES:?}{PACK}{} {:?} {}",
        agent.len(),
        agent.modified()?,
        kernel.abi
    );
    let stamp = file("system.recipe");
    if fs::read_to_string(&stamp).ok().as_deref() == Some(&recipe) {
        return Ok(disk);
    }
    eprintln!("xen: building the driver domain's disk");
    let tree = fresh_directory(&file("system"))?;
    bash(
        r#"cp -a "$1/." "$2""#,
        &[base.as_os_str(), tree.as_os_str()],
    )?;
    for (name, text) in FILES {
        write_executable(&tree.join(name), text)?;
    }
    for unit in MASKED {
        let link = tree.join("etc/systemd/system").join(unit);
        std::os::unix::fs::symlink("/dev/null", link)?;
    }
    fs::copy(&image.agent, tree.join("rig/rig-agent"))?;
    kernel.install_modules(ROOT_MODULES, &tree)?;
    bash(PACK, &[tree.as_os_str(), disk.as_os_str()])?;
    fs::remove_dir_all(tree)?;
    fs::write(stamp, recipe)?;
    Ok(disk)
}

/// Debian, installed and configured by its own scripts, once for each list of packages.
fn bootstrap(cache: &Cache, release: Release) -> Result<PathBuf> {
    let directory = cache.path(release.name());
    fs::create_dir_all(&directory)?;
    let base = directory.join("system-base");
    let stamp = directory.join("system-base.packages");
    let packages = format!("{PACKAGES},xen-utils-{}", release.xen());
    if fs::read_to_string(&stamp).ok().as_ref() == Some(&packages) {
        return Ok(base);
    }
    eprintln!(
        "xen: installing Debian {} with systemd into the driver domain's directory (a minute)",
        release.name()
    );
    if base.exists() {
        fs::remove_dir_all(&base)?;
    }
    let archive = Archive::open(cache, release)?;
    output(&mut mmdebstrap(&archive, &base, &packages))?;
    fs::write(stamp, packages)?;
    Ok(base)
}

fn mmdebstrap(archive: &Archive, base: &Path, packages: &str) -> Command {
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap
        .args(["--quiet", "--mode=root", "--variant=minbase"])
        .arg(format!("--include={packages}"))
        .arg(archive.release.name())
        .arg(base)
        .arg(archive.sources())
        .env("LC_ALL", "C");
    bootstrap
}

/// The agent's unit is wanted, what mmdebstrap left for apt's first run is not (the domain has no way to an archive), and the disk.
const PACK: &str = r#"
mkdir -p "$1"/etc/systemd/system/multi-user.target.wants
chmod 644 "$1"/etc/systemd/system/rig-agent.service
ln -s ../rig-agent.service "$1"/etc/systemd/system/multi-user.target.wants/
: > "$1"/etc/apt/sources.list
rm -f "$2"
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -L system -d "$1" "$2" 700M
"#;
