//! Xen itself, unpacked from Debian's package, and the one byte of it that tests of PVH and HVM domains change.
//!
//! QEMU's emulated SVM asks, at every `mov` from a control register, whether reads of CR0 are intercepted, whichever register it is
//! (target/i386/tcg/sysemu/misc_helper.c, helper_read_cr0 and its users). Xen intercepts reads of CR0, not of CR2, so a kernel in a PVH
//! or HVM domain that reads CR2 at its first page fault comes to a handler of Xen's that does not expect it, and the domain is ended.
//! In the patched Xen reads of CR0 are not intercepted. No processor needs that, and nothing but the rig boots it.

use crate::debian::Archive;
use crate::shell::{bash, output};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Unpack the release's Xen as `xen`, and as `patched` with reads of CR0 let through. Nothing happens where both are there.
pub fn unpack(archive: &Archive, directory: &Path, xen: &Path, patched: &Path) -> Result<()> {
    if xen.exists() && patched.exists() {
        return Ok(());
    }
    let version = archive.release.xen();
    let deb = archive.download(&format!("xen-hypervisor-{version}-amd64"))?;
    let unpacked = directory.join("xen-package");
    output(Command::new("dpkg").arg("-x").arg(deb).arg(&unpacked))?;
    let compressed = unpacked.join(format!("boot/xen-{version}-amd64.gz"));
    bash(
        r#"gzip -dc "$1" > "$2.new"; mv "$2.new" "$2""#,
        &[compressed.as_os_str(), xen.as_os_str()],
    )?;
    let bytes = let_reads_of_cr0_through(fs::read(xen)?)
        .with_context(|| format!("Xen {version} cannot be patched"))?;
    Ok(fs::write(patched, bytes)?)
}

/// Clears the bit of CR0 reads in the constant that a domain's control register intercepts are set to: all but CR2's and CR8's, by
/// `movq $~(CR2 and CR8), disp8(register)`.
fn let_reads_of_cr0_through(mut xen: Vec<u8>) -> Result<Vec<u8>> {
    const CR0_READ: u8 = 1;
    let sets_intercepts = |code: &[u8]| matches!(code, [0x48, 0xc7, _, 0xfb, 0xfe, 0xfb, 0xfe]);
    let places: Vec<usize> = (0..xen.len().saturating_sub(6))
        .filter(|at| sets_intercepts(&xen[*at..*at + 7]))
        .collect();
    ensure!(
        places.len() == 1,
        "the instruction is there {} times and not once",
        places.len()
    );
    xen[places[0] + 3] &= !CR0_READ;
    Ok(xen)
}

#[cfg(test)]
mod tests {
    use super::let_reads_of_cr0_through;

    #[test]
    fn one_bit_of_one_instruction_is_cleared() {
        let code = |mask: u8| {
            [
                &[0x90, 0x48, 0xc7, 0x07, mask][..],
                &[0xfe, 0xfb, 0xfe, 0xc3],
            ]
            .concat()
        };
        assert_eq!(let_reads_of_cr0_through(code(0xfb)).unwrap(), code(0xfa));
        assert!(let_reads_of_cr0_through(code(0xfa)).is_err());
        assert!(let_reads_of_cr0_through([code(0xfb), code(0xfb)].concat()).is_err());
        assert!(let_reads_of_cr0_through(vec![0x48]).is_err());
    }
}
