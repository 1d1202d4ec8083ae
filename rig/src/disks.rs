//! The disks of a machine, as QEMU is given them and as dom0 calls them.

use crate::bootdisk;
use crate::cache::Cache;
use crate::domain;
use crate::emulator::Tree;
use crate::image::Image;
use crate::kind::DomainType;
use crate::options::{Backend, Options};
use crate::place::Place;
use crate::system;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Slots of the PCI bus that no other device takes, one a disk: dom0 names its disks in this order.
const SLOTS: [u8; 12] = [
    0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf, 0x11, 0x12, 0x13,
];
/// dom0's own, the same for domains, and one for saved domains.
const FIRST: usize = 3;

/// In the order in which dom0 names them.
pub struct Disks(Vec<Disk>);

struct Disk {
    file: PathBuf,
    /// Of QEMU's -drive.
    mode: &'static str,
}

/// Writes go nowhere but to this machine's memory.
const OWN: &str = "snapshot=on";
/// The same in several domains.
const SHARED: &str = "readonly=on";

impl Disks {
    /// Of a machine with these options. Disks of its own are made in `directory`.
    pub fn make(cache: &Cache, image: &Image, options: &Options, directory: &Path) -> Result<Self> {
        let disk = |file: &Path, mode| Disk {
            file: file.into(),
            mode,
        };
        let mut disks = vec![
            disk(&image.root, OWN),
            // Once more for the domains, whose blkback opens it by itself.
            disk(&image.root, SHARED),
            disk(&image.scratch, OWN),
        ];
        let system = match options.backend {
            Backend::Package => Some(system::build(cache, image, options.kind().release)?),
            Backend::Netback | Backend::Kernel => None,
        };
        if let Some(system) = &system
            && separate_system(options)
        {
            disks.push(disk(system, OWN));
        }
        for place in emulated_domains(options) {
            let file = directory.join(format!("boot-{place}.img"));
            let kernel = image.kernel(domain::kernel(options, place));
            bootdisk::build(
                &Tree::open(cache)?,
                &kernel.compressed(),
                &image.initramfs(kernel),
                &domain::arguments(options, place),
                &file,
            )?;
            disks.push(disk(&file, OWN));
            // libxl takes no read-only disk beside the one that the domain boots from.
            let root = match place {
                Place::DriverDomain => system.as_ref().unwrap_or(&image.root),
                _ => &image.root,
            };
            disks.push(disk(root, OWN));
        }
        Ok(Self(disks))
    }

    /// For QEMU.
    pub fn arguments(&self) -> String {
        let drive = |(disk, slot): (&Disk, u8)| {
            format!(
                "-drive file={},if=none,id=disk{slot},format=raw,{} -device virtio-blk-pci,drive=disk{slot},addr={slot:#x}",
                disk.file.display(),
                disk.mode
            )
        };
        let drives: Vec<String> = self.0.iter().zip(SLOTS).map(drive).collect();
        drives.join(" ")
    }
}

/// Whether the driver domain's system is a disk that comes before those of domains with an emulated PC.
fn separate_system(options: &Options) -> bool {
    options.backend == Backend::Package && options.kind().driver.domain() != Some(DomainType::Hvm)
}

/// What dom0 calls the disk that the HVM domain `place` boots from, and its root disk.
pub fn of_emulated_domain(options: &Options, place: Place) -> Option<[String; 2]> {
    let first = FIRST + usize::from(separate_system(options));
    let index = emulated_domains(options).position(|other| other == place)?;
    let name = |index: usize| format!("/dev/vd{}", char::from(b"abcdefghijkl"[index]));
    let boot = first + 2 * index;
    Some([name(boot), name(boot + 1)])
}

/// The domains that have an emulated PC.
fn emulated_domains(options: &Options) -> impl Iterator<Item = Place> + use<> {
    let kind = options.kind();
    let driver = kind.driver.domain() == Some(DomainType::Hvm);
    let guests = if kind.guest == DomainType::Hvm {
        options.guests
    } else {
        0
    };
    let driver = driver.then_some(Place::DriverDomain).into_iter();
    driver.chain((1..=guests).map(Place::Guest))
}
