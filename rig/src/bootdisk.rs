//! A disk that an HVM domain boots from: GRUB in its first megabyte, a kernel with its initramfs in one partition, no menu.
//!
//! The device model can load a kernel itself, but hands it over byte by byte through a port, each of which is an exit to dom0; the
//! disk's controller reads by DMA.

use crate::emulator::Tree;
use crate::image::fresh_directory;
use crate::shell::{bash, output};
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

const SECTOR: usize = 512;
/// The partition begins at one megabyte: what is before it is GRUB's.
const FIRST_SECTOR: usize = 2048;
/// Code of the boot sector; its partition table follows.
const BOOT_CODE: usize = 440;
const PARTITION_TABLE: usize = 446;

/// Make `target` a disk that boots `kernel` with `initramfs` and `arguments`.
pub fn build(
    tree: &Tree,
    kernel: &Path,
    initramfs: &Path,
    arguments: &str,
    target: &Path,
) -> Result<()> {
    let scratch = fresh_directory(&target.with_extension("files"))?;
    let files = scratch.join("partition");
    fs::create_dir(&files)?;
    fs::copy(kernel, files.join("kernel"))?;
    fs::copy(initramfs, files.join("initramfs"))?;
    let commands = scratch.join("commands");
    fs::write(
        &commands,
        format!("linux (hd0,msdos1)/kernel {arguments}\ninitrd (hd0,msdos1)/initramfs\nboot\n"),
    )?;
    let grub = tree.path("usr/lib/grub/i386-pc");
    let core = scratch.join("core.img");
    let words = tree.program("grub-mkimage");
    let mut mkimage = Command::new(&words[0]);
    mkimage
        .args(&words[1..])
        .arg("-d")
        .arg(&grub)
        .arg("-c")
        .arg(&commands)
        .arg("-o")
        .arg(&core);
    mkimage.args(["-O", "i386-pc", "-p", "(hd0,msdos1)/"]);
    output(mkimage.args(["biosdisk", "part_msdos", "ext2", "linux", "boot"]))?;
    let size = fs::metadata(kernel)?.len() + fs::metadata(initramfs)?.len();
    let megabytes = size.div_ceil(1 << 20) + 4;
    let head = scratch.join("head");
    fs::write(
        &head,
        boot_area(
            &fs::read(grub.join("boot.img"))?,
            &fs::read(&core)?,
            megabytes,
        )?,
    )?;
    bash(
        PUT_TOGETHER,
        &[
            files.as_os_str(),
            head.as_os_str(),
            megabytes.to_string().as_ref(),
            target.as_os_str(),
        ],
    )?;
    Ok(fs::remove_dir_all(scratch)?)
}

/// The first megabyte: boot sector with one partition of `megabytes`, and GRUB's core image from the second sector on.
fn boot_area(boot: &[u8], core: &[u8], megabytes: u64) -> Result<Vec<u8>> {
    const LINUX: u8 = 0x83;
    const ACTIVE: u8 = 0x80;
    ensure!(
        core.len() <= (FIRST_SECTOR - 1) * SECTOR && boot.len() >= BOOT_CODE,
        "GRUB's image does not fit before the partition"
    );
    let mut area = vec![0; FIRST_SECTOR * SECTOR];
    area[..BOOT_CODE].copy_from_slice(&boot[..BOOT_CODE]);
    area[SECTOR..SECTOR + core.len()].copy_from_slice(core);
    let sectors = u32::try_from(megabytes * (1 << 20) / SECTOR as u64)?;
    // Cylinders, heads and sectors say that they do not.
    let beyond = [0xfe, 0xff, 0xff];
    let entry = [
        &[ACTIVE][..],
        &beyond,
        &[LINUX],
        &beyond,
        &u32::try_from(FIRST_SECTOR)?.to_le_bytes(),
        &sectors.to_le_bytes(),
    ]
    .concat();
    area[PARTITION_TABLE..PARTITION_TABLE + entry.len()].copy_from_slice(&entry);
    area[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    Ok(area)
}

/// $1 the partition's files, $2 what is before it, $3 its size in megabytes, $4 the disk.
const PUT_TOGETHER: &str = r#"
mke2fs -q -t ext2 -b 4096 -d "$1" "$2.partition" "$3M"
cat "$2" "$2.partition" > "$4"
"#;

#[cfg(test)]
mod tests {
    use super::boot_area;

    #[test]
    fn the_partition_follows_grub() {
        let area = boot_area(&[0xeb; 512], &[7; 1000], 3).unwrap();
        assert_eq!(area.len(), 1 << 20);
        assert_eq!((area[0], area[439], area[440]), (0xeb, 0xeb, 0));
        assert_eq!(
            (area[511], area[512], area[1511], area[1512]),
            (0xaa, 7, 7, 0)
        );
        assert_eq!(area[454..462], [0, 8, 0, 0, 0, 0x18, 0, 0]);
        assert!(boot_area(&[0; 512], &vec![0; 1 << 20], 3).is_err());
    }
}
