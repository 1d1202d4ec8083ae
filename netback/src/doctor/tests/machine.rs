//! A made-up machine where nothing is wrong, to break one thing in.
use super::super::{Backend, Report, Severity, View, examine};
use crate::observe::status::Uplink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use xsk_bridge::nic::MultiBuffer;

pub(super) const CONFIG: &str = "/etc/netback/netback.toml";
pub(super) const NIC: &str = "/sys/class/net/eth0";

/// A machine's files in a directory of their own, gone with it.
pub(super) struct Machine {
    root: PathBuf,
    pub(super) backends: Result<Vec<Backend>, String>,
    pub(super) links: Vec<serde_json::Value>,
    pub(super) offloads: Vec<(&'static str, &'static str)>,
    /// What kernel and driver of eth0 do with frames in several buffers; `None`: they could not be asked.
    pub(super) multi_buffer: Option<MultiBuffer>,
    pub(super) uplinks: Vec<Uplink>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Machine {
    /// A PV driver domain with an igb and one guest, ready for netback.
    pub(super) fn healthy() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "netback-doctor-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let root = std::env::temp_dir().join(name);
        let machine = Self {
            root,
            backends: Ok(vec![guest("3", "00:16:3e:00:00:03")]),
            links: vec![link("eth0")],
            offloads: Vec::new(),
            multi_buffer: None,
            uplinks: Vec::new(),
        };
        for (path, text) in [
            ("/sys/hypervisor/type", "xen\n"),
            ("/sys/hypervisor/guest_type", "PV\n"),
            ("/sys/class/iommu/ivhd0/uevent", ""),
            ("/dev/xen/gntdev", ""),
            ("/dev/xen/gntalloc", ""),
            ("/dev/xen/evtchn", ""),
            ("/dev/xen/xenbus", ""),
            ("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
            ("/proc/sys/kernel/io_uring_disabled", "0\n"),
            ("/proc/sys/net/core/bpf_jit_enable", "1\n"),
            (
                "/etc/modprobe.d/netback.conf",
                "# ours\nblacklist xen-netback\n",
            ),
            (
                "/proc/self/status",
                "Name:\tnetback\nCapEff:\t000001ffffffffff\n",
            ),
            (
                "/proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         65536                65536                bytes\n",
            ),
            (
                "/proc/mounts",
                "/dev/xvda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\nsysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n",
            ),
            (CONFIG, "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\n"),
        ] {
            machine.write(path, text);
        }
        for (file, text) in [
            ("mtu", "1500\n"),
            ("flags", "0x1003\n"),
            ("carrier", "1\n"),
            ("queues/rx-0/x", ""),
            ("queues/rx-1/x", ""),
        ] {
            machine.write(&format!("{NIC}/{file}"), text);
        }
        machine.link(
            &format!("{NIC}/device/driver"),
            "../../../bus/pci/drivers/igb",
        );
        machine.link("/proc/self/ns/net", "net:[4026531840]");
        machine.process(9, &["/usr/sbin/netback", "run"]);
        machine
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// A process in the machine's network namespace.
    pub(super) fn process(&self, pid: u32, arguments: &[&str]) {
        self.link(&format!("/proc/{pid}/ns/net"), "net:[4026531840]");
        self.write(
            &format!("/proc/{pid}/cmdline"),
            &(arguments.join("\0") + "\0"),
        );
    }

    pub(super) fn examine(&self) -> Report {
        let mut view = View::below(
            &self.root,
            Path::new(CONFIG),
            self.backends.clone(),
            self.links.clone(),
        );
        view.offloads.insert("eth0".into(), self.offloads.clone());
        let can = self.multi_buffer.map(|can| ("eth0".into(), can));
        view.multi_buffer.extend(can);
        view.uplinks.clone_from(&self.uplinks);
        examine(&view)
    }

    /// Exactly one finding, of this name and severity, whose cure (or text) names `cure`.
    #[track_caller]
    pub(super) fn must_find(&self, severity: Severity, check: &str, cure: &str) {
        let report = self.examine();
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|f| (f.severity, f.check))
            .collect();
        assert_eq!(found, [(severity, check)], "{report}");
        assert_eq!(report.severity, severity);
        let line = report.findings[0].to_string();
        assert!(line.contains(cure), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

pub(super) fn guest(domid: &str, mac: &str) -> Backend {
    Backend {
        domid: domid.into(),
        devid: "0".into(),
        bridge: Some("xenbr0".into()),
        mac: Some(mac.into()),
        ..Backend::default()
    }
}

pub(super) fn link(name: &str) -> serde_json::Value {
    serde_json::json!({ "ifname": name, "addr_info": [{ "family": "inet6", "local": "fe80::1", "scope": "link" }] })
}
