//! The QEMU that a machine runs in: the host's own, or for domains that run by the processor's virtualisation a newer one, unpacked.
//!
//! An HVM domain's NIC reads and writes memory by the domain's own addresses, so the emulated AMD IOMMU must translate them
//! (`dma-remap`), which it does since QEMU 11. Debian has that for its release after the host's: it is unpacked with its libraries and
//! started by its own dynamic linker, and nothing of it is installed.
//!
//! One instruction of it is taken out. An interrupt that Xen injects into an HVM or PVH domain as it resumes it (SVM's EVENTINJ) stays
//! noted as the exception to be raised next until the domain leaves for Xen (target/i386/tcg/system/svm_helper.c, helper_vmrun, the case
//! SVM_EVTINJ_TYPE_INTR). When QEMU leaves its inner loop before that, which it does at every timer where instructions are counted
//! (`--icount`), it delivers the interrupt a second time, inside the handler of the first: a driver domain hung within a minute in the
//! handler of its card, on the lock of that interrupt, which it held. Without the note the interrupt is delivered once.

use crate::cache::Cache;
use crate::debian::{Archive, NEXT_BACKPORTS};
use crate::kind::{Kind, Release};
use crate::os;
use crate::shell::output;
use anyhow::{Context, Result, bail, ensure};
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
const QEMU: &str = "qemu-system-x86_64";
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

    /// The words that start the tree's QEMU with interrupts delivered once. Made from the packaged one where it is missing or older;
    /// other threads and processes wait meanwhile.
    fn qemu(&self, cache: &Cache) -> Result<Vec<String>> {
        let _lock = os::lock(&cache.path("lock"))?;
        let packaged = self.path(format!("usr/bin/{QEMU}"));
        let patched = format!("{QEMU}-patched");
        let target = self.path(format!("usr/bin/{patched}"));
        let age = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
        if !age(&target).is_ok_and(|of_target| age(&packaged).is_ok_and(|age| age <= of_target)) {
            let code = deliver_injected_interrupts_once(fs::read(&packaged)?)
                .with_context(|| format!("{} cannot be patched", packaged.display()))?;
            let fresh = self.path("qemu.new");
            fs::write(&fresh, code)?;
            fs::rename(fresh, &target)?;
        }
        let mut words = self.program(&patched);
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            words.extend(["-L".into(), self.path(data).display().to_string()]);
        }
        Ok(words)
    }
}

/// Takes out of helper_vmrun the instruction that notes an injected interrupt as a pending exception. It is known by what follows:
/// exception_is_int = 0, exception_next_eip = -1, a look at the log's level, and the third argument of the interrupt's delivery, 1.
fn deliver_injected_interrupts_once(mut qemu: Vec<u8>) -> Result<Vec<u8>> {
    const NOTE: usize = 6;
    const NOP: u8 = 0x90;
    #[rustfmt::skip]
    let notes = |code: &[u8]| {
        matches!(
            code,
            [
                0x89, 0xb3, _, _, 0xff, 0xff,
                0xc7, 0x83, _, _, 0, 0, 0, 0, 0, 0,
                0x48, 0xc7, 0x83, _, _, 0, 0, 0xff, 0xff, 0xff, 0xff,
                0xf6, 0x05, _, _, _, _, 0x02, 0x0f, 0x85, _, _, _, _,
                0xba, 1, 0, 0, 0,
            ]
        )
    };
    let places: Vec<usize> = qemu
        .windows(45)
        .enumerate()
        .filter(|(_, code)| notes(code))
        .map(|(at, _)| at)
        .collect();
    ensure!(
        places.len() == 1,
        "the instruction is there {} times and not once",
        places.len()
    );
    qemu[places[0]..places[0] + NOTE].fill(NOP);
    Ok(qemu)
}

/// The words that start QEMU for a machine of `kind`, which is made available if it is not.
pub fn words(cache: &Cache, kind: Kind) -> Result<Vec<String>> {
    if kind.virtualised() {
        return Tree::open(cache)?.qemu(cache);
    }
    ensure_host_has_qemu(cache)?;
    Ok(vec![QEMU.into()])
}

/// A QEMU that emulates igb (8.0 and later): bookworm has it in backports only.
fn ensure_host_has_qemu(cache: &Cache) -> Result<()> {
    let works = || output(Command::new(QEMU).args(["-device", "igb,help"])).is_ok();
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

#[cfg(test)]
mod tests {
    use super::deliver_injected_interrupts_once;

    #[rustfmt::skip]
    const CODE: [u8; 47] = [
        0x90,
        0x89, 0xb3, 0x50, 0xc2, 0xff, 0xff,
        0xc7, 0x83, 0x84, 0x34, 0, 0, 0, 0, 0, 0,
        0x48, 0xc7, 0x83, 0x88, 0x34, 0, 0, 0xff, 0xff, 0xff, 0xff,
        0xf6, 0x05, 0xdc, 0x5d, 0x57, 0x01, 0x02, 0x0f, 0x85, 0xc1, 0, 0, 0,
        0xba, 1, 0, 0, 0,
        0xc3,
    ];

    #[test]
    fn the_note_is_taken_out_and_nothing_else() {
        let patched = deliver_injected_interrupts_once(CODE.to_vec()).unwrap();
        assert_eq!(patched[..7], [0x90; 7]);
        assert_eq!(patched[7..], CODE[7..]);
        assert!(deliver_injected_interrupts_once(patched).is_err());
        assert!(deliver_injected_interrupts_once([CODE, CODE].concat()).is_err());
        assert!(deliver_injected_interrupts_once(vec![0x89]).is_err());
    }
}
