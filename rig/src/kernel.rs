//! The kernels of the domains: Debian's packages unpacked, never installed on the host.

use crate::cache::Cache;
use crate::debian::Archive;
use crate::shell::{bash, output};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Generation {
    /// The release's own.
    Stock,
    /// The newest in backports: a later netfront.
    Backports,
    /// The newest that Debian builds for its next release: drivers that had no AF_XDP without copies before have it (igb since Linux
    /// 6.14).
    Latest,
}

impl Generation {
    /// Those that guests of the tests run, in the order in which they get them.
    pub const GUESTS: [Self; 2] = [Self::Stock, Self::Backports];

    /// As on the command line and in the names of cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Backports => "backports",
            Self::Latest => "latest",
        }
    }
}

/// An unpacked kernel: the ELF image that Xen boots, and every module.
pub struct Kernel {
    pub generation: Generation,
    /// As in /lib/modules, for example 6.1.0-40-amd64.
    pub abi: String,
    directory: PathBuf,
}

impl Kernel {
    /// Download and unpack once; later calls find it there.
    pub fn open(cache: &Cache, archive: &Archive, generation: Generation) -> Result<Self> {
        let version =
            archive.version("linux-image-amd64", archive.release.backports(generation))?;
        let depends = archive.dependencies("linux-image-amd64", &version)?;
        let abi = depends
            .iter()
            .find_map(|package| package.strip_prefix("linux-image-"))
            .with_context(|| format!("linux-image-amd64 {version} brings no kernel"))?
            .to_owned();
        let kernel = Self {
            generation,
            directory: cache.path(format!("kernel-{abi}")),
            abi,
        };
        if !kernel.image().exists() || !kernel.compressed().exists() {
            let debs = kernel.download(archive, &version)?;
            eprintln!("xen: unpacking Linux {}", kernel.abi);
            kernel.unpack(&debs)?;
        }
        Ok(kernel)
    }

    /// The uncompressed ELF image.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The image as packaged, which boot loaders read.
    pub fn compressed(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The packages that hold image and modules: one, or with Debian 13's later kernels those that it depends on.
    fn download(&self, archive: &Archive, version: &str) -> Result<Vec<PathBuf>> {
        let package = format!("linux-image-{}", self.abi);
        let mut parts = archive.dependencies(&package, version)?;
        parts.retain(|part| {
            ["linux-base-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|kind| part.starts_with(kind))
        });
        if parts.is_empty() {
            parts.push(package);
        }
        let download = |part: &String| archive.download(&format!("{part}={version}"));
        parts.iter().map(download).collect()
    }

    fn unpack(&self, debs: &[PathBuf]) -> Result<()> {
        let unpacked = self.directory.join("package");
        fs::create_dir_all(&unpacked)?;
        for deb in debs {
            output(Command::new("dpkg").arg("-x").arg(deb).arg(&unpacked))?;
        }
        // Since Debian 13 everything is below usr, and the image beside its modules.
        if !unpacked.join("lib").exists() {
            symlink("usr/lib", unpacked.join("lib"))?;
        }
        let images = [
            unpacked.join(format!("boot/vmlinuz-{}", self.abi)),
            unpacked.join(format!("lib/modules/{}/vmlinuz", self.abi)),
        ];
        let image = images.iter().find(|path| path.exists());
        let image = image.with_context(|| format!("Linux {} has no image", self.abi))?;
        output(
            Command::new("depmod")
                .arg("-b")
                .arg(&unpacked)
                .arg(&self.abi),
        )?;
        fs::copy(image, self.compressed())?;
        let compressed = fs::read(image)?;
        let fresh = self.directory.join("vmlinux.new");
        decompress(
            payload(&compressed)?,
            &self.directory.join("payload"),
            &fresh,
        )?;
        fs::rename(fresh, self.image())?;
        Ok(())
    }

    /// Copy the modules `names`, and all that they depend on, under `root`; modprobe finds them there.
    pub fn install_modules(&self, names: &[&str], root: &Path) -> Result<()> {
        let from = self.directory.join("package/lib/modules").join(&self.abi);
        let to = root.join("lib/modules").join(&self.abi);
        let dependencies = fs::read_to_string(from.join("modules.dep"))?;
        for module in closure(&dependencies, names) {
            let target = to.join(module);
            fs::create_dir_all(target.parent().expect("a module lies in a directory"))?;
            fs::copy(from.join(module), &target)?;
        }
        for list in [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ] {
            fs::copy(from.join(list), to.join(list))?;
        }
        // busybox's modprobe reads no compressed modules, and decompressing under emulation is slow.
        bash(
            r#"find "$1" -name '*.ko.xz' -exec xz -d {} +"#,
            &[to.as_os_str()],
        )?;
        output(Command::new("depmod").arg("-b").arg(root).arg(&self.abi)).map(drop)
    }
}

/// The compressed image inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length).
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    let find = || {
        let sectors = match *image.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (sectors + 1) * 512 + word(0x248)?;
        image.get(start..start + word(0x24c)?)
    };
    find().context("the kernel image is not a bzImage")
}

/// Decompress `payload` into `target`, by the magic number of its first bytes.
fn decompress(payload: &[u8], scratch: &Path, target: &Path) -> Result<()> {
    // All but gzip are followed by their uncompressed size, four bytes that are no part of the stream (arch/x86/boot/compressed).
    let sized = &payload[..payload.len().saturating_sub(4)];
    let (program, stream) = match payload {
        [0x1f, 0x8b, ..] => ("gzip", payload),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", sized),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", sized),
        _ => bail!("the kernel image is compressed in a way the rig does not know"),
    };
    fs::write(scratch, stream)?;
    let status = Command::new(program)
        .arg("-dc")
        .stdin(File::open(scratch)?)
        .stdout(File::create(target)?)
        .stderr(Stdio::inherit())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    fs::remove_file(scratch)?;
    if !status.success() {
        bail!("{program} could not decompress the kernel image ({status})");
    }
    Ok(())
}

/// Paths of `names` and of all that they need, by modules.dep (`path: path path ...`). What is built in is not listed and left out.
fn closure<'a>(dependencies: &'a str, names: &[&str]) -> BTreeSet<&'a str> {
    let mut by_name = BTreeMap::new();
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in dependencies.lines() {
        let Some((path, rest)) = line.split_once(':') else {
            continue;
        };
        let file = path.rsplit('/').next().unwrap_or(path);
        by_name.insert(
            file.split('.').next().unwrap_or(file).replace('-', "_"),
            path,
        );
        needs.insert(path, rest.split_whitespace().collect());
    }
    // modules.dep lists the needs of a module's needs with it, so one step is enough.
    names
        .iter()
        .filter_map(|name| by_name.get(&name.replace('-', "_")).copied())
        .flat_map(|path| std::iter::once(path).chain(needs[path].iter().copied()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{closure, payload};

    #[test]
    fn modules_bring_what_they_need_and_builtins_are_left_out() {
        let dependencies = "kernel/a/igb.ko: kernel/b/dca.ko kernel/c/i2c-algo-bit.ko\nkernel/b/dca.ko:\nkernel/c/i2c-algo-bit.ko.xz:\n";
        let wanted: Vec<&str> = closure(dependencies, &["igb", "i2c_algo_bit", "builtin"])
            .into_iter()
            .collect();
        assert_eq!(
            wanted,
            [
                "kernel/a/igb.ko",
                "kernel/b/dca.ko",
                "kernel/c/i2c-algo-bit.ko",
                "kernel/c/i2c-algo-bit.ko.xz"
            ]
        );
    }

    #[test]
    fn the_payload_of_a_short_file_is_refused() {
        assert!(payload(&[0; 0x200]).is_err());
        let mut image = vec![0; 4096];
        image[0x1f1] = 1;
        image[0x248] = 16;
        image[0x24c] = 3;
        image[1024 + 16..1024 + 19].copy_from_slice(b"abc");
        assert_eq!(payload(&image).unwrap(), b"abc");
    }
}
