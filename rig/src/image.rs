//! What the machine boots: Xen, an initramfs a kernel, and one root disk that serves every domain under a tmpfs overlay.

use crate::cache::Cache;
use crate::debian::Archive;
use crate::hypervisor;
use crate::kernel::{Generation, Kernel};
use crate::kind::{Kind, Release};
use crate::os;
use crate::shell::{bash, output};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{build, command, packages};

/// On the host, beside QEMU.
const HOST_PACKAGES: &[&str] = &[
    "cpio",
    "e2fsprogs",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "mmdebstrap",
    "xz-utils",
    "zstd",
];

/// On the root disk, beside Xen's tools: what a test or a person looking around in a domain types.
const ROOT_PACKAGES: &str = "base-files,bash,bpftool,bridge-utils,busybox-static,coreutils,dash,ethtool,findutils,gawk,grep,iperf3,\
iproute2,iputils-arping,iputils-ping,kmod,libc-bin,libc6,libelf1,libgcc-s1,mount,netcat-openbsd,pciutils,procps,sed,socat,strace,\
tcpdump,util-linux,xen-utils-common,xenstore-utils,zlib1g";

/// What emulates the PC of an HVM domain, on the root disk of machines that have one.
const DEVICE_MODEL: &str = "qemu-system-xen,seabios,ipxe-qemu";

/// Modules of the root disk, with what they depend on. No udev runs in the domains: they are loaded by name.
pub const ROOT_MODULES: &[&str] = &[
    "8021q",
    "bridge",
    "e1000",
    "ext4",
    "igb",
    "loop",
    "overlay",
    "pktgen",
    "tun",
    "veth",
    "virtio_blk",
    "virtio_net",
    "virtio_pci",
    "xen-blkback",
    "xen-blkfront",
    "xen-evtchn",
    "xen-gntalloc",
    "xen-gntdev",
    "xen-netback",
    "xen-netfront",
    "xen-pciback",
    "xen-pcifront",
    "xen-privcmd",
    "xenfs",
    "crc32c_generic",
    "sch_netem",
    "sch_tbf",
];

/// Modules of the initramfs: to reach the root disk, and the frontend for guests that have none.
const INITRAMFS_MODULES: &[&str] = &[
    "crc32c_generic",
    "ext4",
    "overlay",
    "virtio_blk",
    "virtio_pci",
    "xen-blkfront",
    "xen-netfront",
];

/// The scripts of rig/files: name under /rig, text.
const SCRIPTS: &[(&str, &str)] = &[
    ("init", include_str!("../files/init")),
    ("init-dom0", include_str!("../files/init-dom0")),
    (
        "init-driver-domain",
        include_str!("../files/init-driver-domain"),
    ),
    ("init-guest", include_str!("../files/init-guest")),
];
const MINI_INIT: &str = include_str!("../files/mini-init");

/// Files written over the root disk's own: path, text.
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n10.9.0.1 peer\n"),
    (
        "etc/xen/xl.conf",
        "autoballoon=\"off\"\nlockfile=\"/run/lock/xl\"\nvif.default.script=\"vif-bridge\"\nvif.default.bridge=\"xenbr0\"\n",
    ),
    (
        "root/.bashrc",
        "export PATH=/rig/bin:$(echo /usr/lib/xen-4.*/bin):/usr/sbin:/usr/bin:/sbin:/bin\n",
    ),
    // The hotplug scripts log through it, and no syslog runs.
    ("usr/bin/logger", "#!/bin/sh\nexit 0\n"),
];

/// Everything that `machine` and `domain` need to boot.
pub struct Image {
    /// The hypervisor.
    pub xen: PathBuf,
    /// The same with one byte changed, for machines whose domains run by the processor's virtualisation (`hypervisor`).
    pub patched_xen: PathBuf,
    pub root: PathBuf,
    /// An empty ext4 disk for domains saved by dom0.
    pub scratch: PathBuf,
    /// The agent, to be run on the host as the peer's probe.
    pub agent: PathBuf,
    pub kernels: Vec<Kernel>,
    release: Release,
    device_model: bool,
    directory: PathBuf,
}

impl Image {
    /// Build what is missing or older than its sources for machines of this kind; other processes wait meanwhile.
    pub fn build(cache: &Cache, kind: Kind) -> Result<Self> {
        packages::ensure(&[packages::BUILD, HOST_PACKAGES])?;
        let _lock = os::lock(&cache.path("lock"))?;
        let release = kind.release;
        let archive = Archive::open(cache, release)?;
        let kernels = release
            .kernels()
            .iter()
            .map(|generation| Kernel::open(cache, &archive, *generation))
            .collect::<Result<Vec<_>>>()?;
        let directory = cache.path(match kind.device_model() {
            true => format!("{}-with-device-model", release.name()),
            false => release.name().into(),
        });
        fs::create_dir_all(&directory)?;
        let image = Self {
            xen: directory.join("xen.elf"),
            patched_xen: directory.join("xen-patched.elf"),
            root: directory.join("root.img"),
            scratch: directory.join("scratch.img"),
            agent: build_agent()?,
            kernels,
            release,
            device_model: kind.device_model(),
            directory,
        };
        hypervisor::unpack(&archive, &image.directory, &image.xen, &image.patched_xen)?;
        image.bootstrap(&archive)?;
        let recipe = image.recipe()?;
        let stamp = image.directory.join("recipe");
        if fs::read_to_string(&stamp).ok().as_deref() != Some(&recipe) {
            eprintln!("xen: building initramfs and root disk ({})", release.name());
            for kernel in &image.kernels {
                image.build_initramfs(kernel)?;
            }
            image.build_root()?;
            fs::write(stamp, recipe)?;
        }
        Ok(image)
    }

    /// Whether machines of `kind` boot from it.
    pub fn serves(&self, kind: Kind) -> bool {
        (self.release, self.device_model) == (kind.release, kind.device_model())
    }

    /// The kernel of `generation`.
    pub fn kernel(&self, generation: Generation) -> &Kernel {
        let generation = self.release.kernel(generation);
        let mut kernels = self.kernels.iter();
        kernels
            .find(|kernel| kernel.generation == generation)
            .expect("all generations are opened")
    }

    /// The initramfs that goes with `kernel`.
    pub fn initramfs(&self, kernel: &Kernel) -> PathBuf {
        self.directory
            .join(format!("initramfs-{}.cpio", kernel.abi))
    }

    /// All that root disk and initramfs are made of, as text: a change of it makes them stale.
    fn recipe(&self) -> Result<String> {
        let mut recipe = format!(
            "{SCRIPTS:?}{FILES:?}{MINI_INIT}{ROOT_MODULES:?}{INITRAMFS_MODULES:?}{}{LINK_AND_PACK}",
            self.packages()
        );
        let agent = fs::metadata(&self.agent)?;
        write!(recipe, "{} {:?}", agent.len(), agent.modified()?)?;
        for kernel in &self.kernels {
            write!(recipe, " {}", kernel.abi)?;
        }
        Ok(recipe)
    }

    /// All packages of the root disk.
    fn packages(&self) -> String {
        let mut packages = format!("{ROOT_PACKAGES},xen-utils-{}", self.release.xen());
        if self.device_model {
            packages += ",";
            packages += DEVICE_MODEL;
        }
        packages
    }

    fn base(&self) -> PathBuf {
        self.directory.join("root-base")
    }

    /// Debian's files of the root disk, by mmdebstrap, once for each list of packages.
    fn bootstrap(&self, archive: &Archive) -> Result<()> {
        let packages = self.packages();
        let stamp = self.directory.join("root-base.packages");
        if fs::read_to_string(&stamp).ok().as_ref() == Some(&packages) {
            return Ok(());
        }
        eprintln!(
            "xen: installing Debian {} into the root disk's directory (half a minute)",
            self.release.name()
        );
        let base = self.base();
        if base.exists() {
            fs::remove_dir_all(&base)?;
        }
        let mut bootstrap = Command::new("mmdebstrap");
        bootstrap.args(["--quiet", "--mode=root", "--variant=extract"]);
        for excluded in ["man", "locale", "doc"] {
            bootstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{excluded}/*"));
        }
        bootstrap
            .arg(format!("--include={packages}"))
            .arg(self.release.name())
            .arg(&base)
            .arg(archive.sources());
        output(bootstrap.env("LC_ALL", "C"))?;
        fs::write(stamp, packages)?;
        Ok(())
    }

    /// Uncompressed, so that nothing is decompressed under emulation.
    fn build_initramfs(&self, kernel: &Kernel) -> Result<()> {
        let tree = fresh_directory(&self.directory.join("initramfs"))?;
        for directory in ["bin", "sbin", "dev"] {
            fs::create_dir(tree.join(directory))?;
        }
        fs::copy(self.base().join("bin/busybox"), tree.join("bin/busybox"))?;
        std::os::unix::fs::symlink("busybox", tree.join("bin/sh"))?;
        std::os::unix::fs::symlink("../bin/busybox", tree.join("sbin/modprobe"))?;
        write_executable(&tree.join("init"), MINI_INIT)?;
        // What a kernel runs when the toolstack wants its domain to end.
        for verb in ["poweroff", "reboot"] {
            let text = format!("#!/bin/sh\nexec /bin/busybox {verb} -f\n");
            write_executable(&tree.join("sbin").join(verb), &text)?;
        }
        kernel.install_modules(INITRAMFS_MODULES, &tree)?;
        bash(
            r#"cd "$1"; mknod -m 600 dev/console c 5 1; find . | cpio -o -H newc --quiet > "$2""#,
            &[tree.as_os_str(), self.initramfs(kernel).as_os_str()],
        )?;
        Ok(fs::remove_dir_all(tree)?)
    }

    fn build_root(&self) -> Result<()> {
        let tree = fresh_directory(&self.directory.join("root"))?;
        bash(
            r#"cp -a "$1/." "$2""#,
            &[self.base().as_os_str(), tree.as_os_str()],
        )?;
        for (name, text) in SCRIPTS {
            write_executable(&tree.join("rig").join(name), text)?;
        }
        for (name, text) in FILES {
            write_executable(&tree.join(name), text)?;
        }
        fs::create_dir_all(tree.join("rig/bin"))?;
        fs::create_dir_all(tree.join("rig/boot"))?;
        fs::copy(&self.agent, tree.join("rig/bin/rig-agent"))?;
        for kernel in &self.kernels {
            kernel.install_modules(ROOT_MODULES, &tree)?;
            let name = kernel.generation.name();
            fs::copy(
                kernel.image(),
                tree.join(format!("rig/boot/vmlinux-{name}")),
            )?;
            fs::copy(
                self.initramfs(kernel),
                tree.join(format!("rig/boot/initramfs-{name}")),
            )?;
        }
        bash(
            LINK_AND_PACK,
            &[
                tree.as_os_str(),
                self.root.as_os_str(),
                self.scratch.as_os_str(),
            ],
        )?;
        Ok(fs::remove_dir_all(tree)?)
    }
}

/// What the packages' configuration scripts would have done (they never ran), then both disks.
const LINK_AND_PACK: &str = r#"
mkdir -p "$1"/var/log/xen "$1"/var/lib/xen "$1"/proc/xen "$1"/sys
rm -rf "$1"/var/run "$1"/var/lock; ln -s /run "$1"/var/run; ln -s /run/lock "$1"/var/lock
ln -sf gawk "$1"/usr/bin/awk; ln -sf dash "$1"/bin/sh
ldconfig -r "$1"
rm -f "$2" "$3"
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -L rig -d "$1" "$2" 1400M
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -L scratch "$3" 1G
"#;

pub fn fresh_directory(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path)?;
    Ok(path.into())
}

pub fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().expect("a file lies in a directory"))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// The agent, linked statically: it runs in images of any age.
fn build_agent() -> Result<PathBuf> {
    let mut cargo = Command::new(command::cargo());
    cargo
        .args([
            "rustc",
            "--quiet",
            "--release",
            "-p",
            "rig-agent",
            "--",
            "-C",
            "target-feature=+crt-static",
        ])
        .current_dir(build::workspace());
    command::must_succeed(&mut cargo, "building rig-agent")?;
    Ok(build::target_dir()?.join("release/rig-agent"))
}
