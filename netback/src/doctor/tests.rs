//! One thing broken at a time in a made-up machine where nothing is wrong.

use super::view::backends;
use super::{Backend, Report, Severity, View, examine};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use xen::store::{StoreError, Transaction, WatchEvent, XenStore};

const CONFIG: &str = "/etc/netback/netback.toml";
const NIC: &str = "/sys/class/net/eth0";

/// A machine's files in a directory of their own, gone with it.
struct Machine {
    root: PathBuf,
    backends: Result<Vec<Backend>, String>,
    links: Vec<serde_json::Value>,
    offloads: Vec<(&'static str, &'static str)>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Machine {
    /// A PV driver domain with an igb and one guest, ready for netback.
    fn healthy() -> Self {
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
        machine.process(9, &["/usr/sbin/netback", "run"]);
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    fn process(&self, pid: u32, arguments: &[&str]) {
        self.write(
            &format!("/proc/{pid}/cmdline"),
            &(arguments.join("\0") + "\0"),
        );
    }

    fn examine(&self) -> Report {
        let mut view = View::below(
            &self.root,
            Path::new(CONFIG),
            self.backends.clone(),
            self.links.clone(),
        );
        view.offloads.insert("eth0".into(), self.offloads.clone());
        examine(&view)
    }

    /// Exactly one finding, of this name and severity, whose cure (or text) names `cure`.
    #[track_caller]
    fn must_find(&self, severity: Severity, check: &str, cure: &str) {
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

fn guest(domid: &str, mac: &str) -> Backend {
    Backend {
        domid: domid.into(),
        devid: "0".into(),
        bridge: Some("xenbr0".into()),
        script: Some("/etc/xen/scripts/vif-bridge".into()),
        mac: Some(mac.into()),
        ..Backend::default()
    }
}

fn link(name: &str) -> serde_json::Value {
    serde_json::json!({ "ifname": name, "addr_info": [{ "family": "inet6", "local": "fe80::1", "scope": "link" }] })
}

use Severity::{Error, Info, Warning};

#[test]
fn finds_nothing_where_nothing_is_wrong() {
    let report = Machine::healthy().examine();
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!(report.exit_status(), 0);
    assert_eq!(report.to_string(), "ok: nothing stands in the way\n");
}

#[test]
fn names_a_machine_without_xen() {
    let machine = Machine::healthy();
    machine.remove("/sys/hypervisor");
    machine.must_find(Error, "no-xen", "cargo xtask demo");
    machine.write("/sys/hypervisor/type", "kvm\n");
    machine.must_find(Error, "no-xen", "under kvm");
}

#[test]
fn names_each_missing_door() {
    for (severity, node, check, cure) in [
        (Error, "gntdev", "no-gntdev", "modprobe xen-gntdev"),
        (Error, "evtchn", "no-evtchn", "modprobe xen-evtchn"),
        (Error, "xenbus", "no-xenbus", "built for domains of Xen"),
        (Warning, "gntalloc", "no-gntalloc", "modprobe xen-gntalloc"),
    ] {
        let machine = Machine::healthy();
        machine.remove(&format!("/dev/xen/{node}"));
        machine.must_find(severity, check, cure);
        // The kernel has the device, and its node was removed.
        machine.write(&format!("/sys/class/misc/xen!{node}/dev"), "10:121\n");
        machine.must_find(severity, check, &format!("mknod -m 600 /dev/xen/{node} c"));
    }
}

#[test]
fn a_door_that_netback_does_without_takes_effect_by_a_restart() {
    let restart = "then `systemctl try-restart netback`";
    let machine = Machine::healthy();
    machine.remove("/dev/xen/gntalloc");
    machine.must_find(Warning, "no-gntalloc", restart);
}

#[test]
fn names_more_workers_than_gntalloc_has_pages_for() {
    let limit = "/sys/module/xen_gntalloc/parameters/limit";
    let machine = Machine::healthy();
    let config = "[workers]\ncount = 9\n[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\n";
    machine.write(CONFIG, config);
    machine.write(limit, "1151\n");
    machine.must_find(Warning, "gntalloc-limit", &format!("`echo 1152 > {limit}`"));
    machine.write(limit, "1152\n");
    let report = machine.examine();
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn the_package_s_limit_of_gntalloc_is_enough_for_as_many_workers_as_it_says() {
    let text = include_str!("../../../packaging/modprobe.conf");
    let number_after = |word: &str| -> usize {
        let (_, rest) = text.split_once(word).unwrap();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        rest[..end].parse().unwrap()
    };
    let limit = number_after("options xen-gntalloc limit=");
    assert_eq!(number_after("up to ") * crate::worker::BOUNCE_PAGES, limit);
}

#[test]
fn names_a_door_that_its_owner_may_not_open() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::healthy();
    let node = machine.path("/dev/xen/gntdev");
    std::fs::set_permissions(node, std::fs::Permissions::from_mode(0o060)).unwrap();
    machine.must_find(Error, "door-closed", "`chmod 600 /dev/xen/gntdev`");
}

#[test]
fn names_a_silent_xenstore() {
    let mut machine = Machine::healthy();
    machine.backends = Err("xenstored does not answer within 3 s".into());
    machine.must_find(Error, "no-xenstore", "xenstored runs in dom0");
}

#[test]
fn says_that_the_iommu_is_out_of_sight() {
    let machine = Machine::healthy();
    machine.remove("/sys/class/iommu/ivhd0");
    machine.must_find(Info, "iommu", "xl dmesg");
    assert_eq!(machine.examine().exit_status(), 0);
}

#[test]
fn names_an_old_kernel() {
    let machine = Machine::healthy();
    machine.write("/proc/sys/kernel/osrelease", "5.4.0-1");
    machine.remove(&format!("{NIC}/device"));
    machine.must_find(Error, "kernel", "Linux 5.10 or later");
}

#[test]
fn names_kernel_netback_in_each_of_its_stages() {
    let machine = Machine::healthy();
    machine.remove("/etc/modprobe.d");
    machine.must_find(Warning, "kernel-netback-autoload", "blacklist xen-netback");
    machine.write("/sys/module/xen_netback/refcnt", "0\n");
    machine.must_find(Error, "kernel-netback-loaded", "modprobe -r xen-netback");
    machine.write("/sys/bus/xen-backend/drivers/vif/bind", "");
    machine.write("/sys/bus/xen-backend/drivers/vif/vif-3-0", "");
    machine.must_find(
        Error,
        "kernel-netback-bound",
        "in dom0: `xl network-detach 3 0`",
    );
}

#[test]
fn takes_either_spelling_of_a_blacklist_and_no_comment() {
    let machine = Machine::healthy();
    for line in ["blacklist xen_netback", "install xen-netback /bin/true"] {
        machine.write("/etc/modprobe.d/netback.conf", line);
        assert!(machine.examine().findings.is_empty(), "{line}");
    }
    for line in [
        "# blacklist xen-netback",
        "blacklist xen-netfront",
        "options xen-netback x=1",
    ] {
        machine.write("/etc/modprobe.d/netback.conf", line);
        machine.must_find(Warning, "kernel-netback-autoload", "blacklist xen-netback");
    }
    machine.write("/etc/modprobe.d/README", "blacklist xen-netback");
    machine.must_find(Warning, "kernel-netback-autoload", "blacklist xen-netback");
}

#[test]
fn names_bpf_and_io_uring_settings() {
    let machine = Machine::healthy();
    machine.write("/proc/sys/net/core/bpf_jit_enable", "0\n");
    machine.must_find(Warning, "bpf-jit", "sysctl net.core.bpf_jit_enable=1");
    let machine = Machine::healthy();
    machine.write("/proc/sys/kernel/io_uring_disabled", "2\n");
    machine.must_find(Info, "io-uring", "sysctl kernel.io_uring_disabled=0");
}

#[test]
fn names_a_wrong_or_absent_configuration() {
    let machine = Machine::healthy();
    machine.write(CONFIG, "[[bridge]]\nname = \"xenbr0\"\nuplink = \"a/b\"\n");
    machine.must_find(Error, "config", "netback.toml:3: bridge.uplink");
    machine.remove(CONFIG);
    machine.must_find(Error, "config", "no such file");
}

#[test]
fn names_missing_capabilities() {
    let machine = Machine::healthy();
    // Everything but CAP_NET_RAW; CAP_SYS_ADMIN stands in for CAP_BPF.
    machine.write("/proc/self/status", "CapEff:\t0000000000205000\n");
    machine.must_find(Error, "capabilities", "lacks CAP_NET_RAW;");
    machine.write("/proc/self/status", "CapEff:\t0000000000207000\n");
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_too_little_lockable_memory() {
    let machine = Machine::healthy();
    machine.write("/proc/self/status", "CapEff:\t0000000000203000\n");
    machine.must_find(Error, "memlock", "LimitMEMLOCK=infinity");
    let enough = "Max locked memory         67108864             67108864             bytes\n";
    machine.write("/proc/self/limits", enough);
    assert!(machine.examine().findings.is_empty());
    machine.write(
        "/proc/self/limits",
        "Max locked memory         unlimited            unlimited            bytes\n",
    );
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_directories_on_the_wrong_file_system() {
    let machine = Machine::healthy();
    machine.write(
        "/proc/mounts",
        "/dev/xvda1 / ext4 rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n",
    );
    machine.must_find(Warning, "run-dir", "sed -i '/^ *run_dir *=/d' /etc/netback");
    machine.write(
        "/proc/mounts",
        "/dev/xvda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\nsysfs /sys sysfs rw 0 0\n",
    );
    machine.must_find(Error, "bpffs", "mount -t bpf bpf /sys/fs/bpf");
}

#[test]
fn tells_one_netback_from_none_and_two() {
    let machine = Machine::healthy();
    machine.process(11, &["/usr/sbin/netback", "doctor"]);
    assert!(machine.examine().findings.is_empty());
    machine.process(12, &["/usr/sbin/netback", "run", "--config", CONFIG]);
    machine.must_find(Warning, "running-twice", "12, 9");
    let mut machine = Machine::healthy();
    machine.remove("/proc/9");
    machine.must_find(Error, "not-running", "systemctl start netback");
    // Nobody asks for it.
    machine.backends = Ok(Vec::new());
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_devd_where_its_script_would_fail() {
    let mut machine = Machine::healthy();
    machine.process(20, &["/usr/sbin/xl", "devd", "-F"]);
    machine.must_find(Warning, "devd-script", "script=vif-netback");
    machine.backends.as_mut().unwrap()[0].script = Some("/etc/xen/scripts/vif-netback".into());
    machine.must_find(Info, "devd", "live together");
}

#[test]
fn names_what_guests_ask_for_in_vain() {
    let mut machine = Machine::healthy();
    machine.backends.as_mut().unwrap()[0].bridge = Some("xenbr7".into());
    machine.must_find(
        Error,
        "bridge-unknown",
        "`printf '\\n[[bridge]]\\nname = \"xenbr7\"\\n' >>",
    );
    let mut machine = Machine::healthy();
    machine.backends.as_mut().unwrap()[0].mtu = Some("9000".into());
    machine.must_find(Warning, "guest-mtu", "in dom0: `xl network-detach 3 0`");
    machine.backends.as_mut().unwrap()[0].mtu = Some("3000".into());
    machine.must_find(
        Warning,
        "guest-mtu",
        "ip link set dev eth0 mtu 3000 && systemctl start",
    );
    let mut machine = Machine::healthy();
    machine.backends.as_mut().unwrap()[0].hotplug_error = Some("vif-bridge failed".into());
    machine.must_find(Warning, "hotplug-error", "vif-bridge failed");
}

#[test]
fn takes_xenbr0_for_a_vif_without_a_bridge() {
    let mut machine = Machine::healthy();
    machine.backends.as_mut().unwrap()[0].bridge = None;
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_guests_with_one_address() {
    let mut machine = Machine::healthy();
    machine
        .backends
        .as_mut()
        .unwrap()
        .push(guest("4", "00:16:3E:00:00:03"));
    machine.must_find(Error, "duplicate-mac", "3.0 and 4.0");
    // On bridges of their own they never meet.
    machine.write(
        CONFIG,
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"other\"\n",
    );
    machine.backends.as_mut().unwrap()[1].bridge = Some("other".into());
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_a_nic_that_is_not_there_and_what_is() {
    let machine = Machine::healthy();
    machine.remove(NIC);
    machine.write("/sys/class/net/enp0s8/mtu", "1500");
    machine.must_find(Error, "uplink-missing", "there are enp0s8");
    machine.link("/sys/class/net/enp0s8/device/driver", "../drivers/igb");
    machine.link("/sys/class/net/enX0/device/driver", "../drivers/vif");
    machine.must_find(
        Error,
        "uplink-missing",
        "`sed -i 's/^uplink = \"eth0\"/uplink = \"enp0s8\"/'",
    );
    machine.remove("/sys/class/net/enX0");
    machine.remove("/sys/class/net/enp0s8");
    machine.must_find(Error, "uplink-missing", "pass a NIC through");
}

#[test]
fn names_a_nic_that_belongs_to_others() {
    let machine = Machine::healthy();
    machine.link(&format!("{NIC}/master"), "../br0");
    machine.must_find(Error, "uplink-enslaved", "ip link set dev eth0 nomaster");
    let mut machine = Machine::healthy();
    machine.links[0]["xdp"] = serde_json::json!({ "mode": 1, "prog": { "id": 41 } });
    machine.must_find(Error, "uplink-in-use", "(id 41)");
    machine.must_find(Error, "uplink-in-use", "`ip link set dev eth0 xdpdrv off`");
    machine.links[0]["xdp"]["mode"] = 2.into();
    machine.must_find(Error, "uplink-in-use", "eth0 xdpgeneric off`");
    // Ours, pinned by a netback that runs or ran.
    machine.write("/sys/fs/bpf/netback/eth0/link", "");
    machine.write(&format!("{NIC}/flags"), "0x1103\n");
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn knows_drivers_by_their_xdp() {
    let machine = Machine::healthy();
    machine.link(&format!("{NIC}/device/driver"), "../drivers/e1000e");
    machine.must_find(Warning, "xdp-generic", "generic mode");
    machine.link(&format!("{NIC}/device/driver"), "../drivers/novel");
    machine.must_find(Info, "xdp-unknown", "netback status");
    machine.link(&format!("{NIC}/device/driver"), "../drivers/atlantic");
    machine.write("/proc/sys/kernel/osrelease", "5.15.0-1");
    machine.must_find(Warning, "xdp-generic", "from Linux 5.19 on");
    machine.write(
        CONFIG,
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\nxdp = \"native\"\n",
    );
    machine.must_find(Error, "xdp-native", "xdp = \"auto\"");
    machine.write(
        CONFIG,
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\nxdp = \"generic\"\n",
    );
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_an_mtu_beyond_the_limits() {
    let machine = Machine::healthy();
    machine.write(&format!("{NIC}/mtu"), "3046\n");
    assert!(machine.examine().findings.is_empty());
    machine.write(&format!("{NIC}/mtu"), "3047\n");
    machine.must_find(Warning, "uplink-mtu", "ip link set dev eth0 mtu 3046");
    machine.write(
        CONFIG,
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\nxdp = \"native\"\n",
    );
    machine.must_find(Error, "uplink-mtu", "native XDP of igb takes 3046");
    machine.link(&format!("{NIC}/device/driver"), "../drivers/mlx5_core");
    assert!(machine.examine().findings.is_empty());
    machine.write(&format!("{NIC}/mtu"), "9000\n");
    machine.must_find(Error, "uplink-mtu", "ip link set dev eth0 mtu 3822");
    // What fits a frame and not the driver would only be the next finding.
    machine.link(&format!("{NIC}/device/driver"), "../drivers/igb");
    machine.must_find(Error, "uplink-mtu", "ip link set dev eth0 mtu 3046");
}

#[test]
fn names_a_nic_that_hears_nothing() {
    let machine = Machine::healthy();
    machine.write(&format!("{NIC}/carrier"), "0\n");
    machine.must_find(Warning, "no-carrier", "cable");
    // Before netback has run it is no matter: it brings the NIC up itself.
    machine.write(&format!("{NIC}/flags"), "0x1002\n");
    assert!(machine.examine().findings.is_empty());
    let machine = Machine::healthy();
    machine.write("/sys/fs/bpf/netback/eth0/link", "");
    machine.must_find(Error, "not-promiscuous", "ip link set dev eth0 promisc on");
    machine.write(&format!("{NIC}/flags"), "0x1102\n");
    machine.must_find(Error, "uplink-down", "ip link set dev eth0 up");
}

#[test]
fn names_offloads_that_came_back() {
    let mut machine = Machine::healthy();
    machine.offloads = vec![("rx-vlan-hw-parse", "VLAN tags are stripped")];
    // Before netback has run it is no matter: it switches them off itself.
    assert!(machine.examine().findings.is_empty());
    machine.write("/sys/fs/bpf/netback/eth0/link", "");
    machine.write(&format!("{NIC}/flags"), "0x1103\n");
    machine.must_find(
        Error,
        "uplink-offloads",
        "rx-vlan-hw-parse on: VLAN tags are stripped",
    );
}

#[test]
fn names_uplinks_that_are_no_plain_nics() {
    for kind in ["bridge", "bonding"] {
        let machine = Machine::healthy();
        machine.write(&format!("{NIC}/{kind}/x"), "");
        machine.must_find(Error, "uplink-stacked", kind);
    }
    let machine = Machine::healthy();
    machine.write(&format!("{NIC}/device/physfn/x"), "");
    machine.must_find(Warning, "virtual-function", "trust on");
}

#[test]
fn names_an_address_that_would_be_deaf_and_a_single_queue() {
    let mut machine = Machine::healthy();
    machine.links[0]["addr_info"] =
        serde_json::json!([{ "local": "192.0.2.7", "scope": "global" }]);
    machine.must_find(Warning, "uplink-addressed", "192.0.2.7");
    let machine = Machine::healthy();
    machine.remove(&format!("{NIC}/queues/rx-1"));
    machine.must_find(Info, "one-queue", "one core");
}

#[test]
fn the_worst_comes_first_and_is_the_exit_status() {
    let mut machine = Machine::healthy();
    machine.backends.as_mut().unwrap()[0].mtu = Some("9000".into());
    machine.remove("/sys/class/iommu/ivhd0");
    machine.remove("/dev/xen/gntdev");
    let report = machine.examine();
    let order: Vec<Severity> = report.findings.iter().map(|f| f.severity).collect();
    assert_eq!(order, [Error, Warning, Info]);
    assert_eq!(report.exit_status(), 2);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["severity"], "error");
    assert_eq!(json["findings"][0]["check"], "no-gntdev");
    assert_eq!(json["findings"][1]["severity"], "warning");
}

/// A xenstore with just enough in it to be read.
struct FewKeys(Vec<(&'static str, &'static str)>);

impl XenStore for FewKeys {
    fn read(&mut self, _: Transaction, path: &str) -> Result<String, StoreError> {
        let found = self.0.iter().find(|(key, _)| *key == path);
        found
            .map(|(_, value)| (*value).into())
            .ok_or_else(|| StoreError::Missing(path.into()))
    }
    fn directory(&mut self, _: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        let below = format!("{path}/");
        let mut names: Vec<String> = Vec::new();
        for name in self
            .0
            .iter()
            .filter_map(|(key, _)| key.strip_prefix(&below)?.split('/').next())
        {
            if names.last().is_none_or(|last| last != name) {
                names.push(name.into());
            }
        }
        if names.is_empty() {
            Err(StoreError::Missing(path.into()))
        } else {
            Ok(names)
        }
    }
    fn write(&mut self, _: Transaction, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn remove(&mut self, _: Transaction, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn begin(&mut self) -> Result<Transaction, StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn end(&mut self, _: Transaction, _: bool) -> Result<(), StoreError> {
        unreachable!("the doctor changes nothing")
    }
    fn watch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor does not stay")
    }
    fn unwatch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("the doctor does not stay")
    }
    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError> {
        Ok(Vec::new())
    }
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        unreachable!("the doctor does not stay")
    }
}

#[test]
fn reads_every_vif_of_the_backend_directory() {
    let mut store = FewKeys(vec![
        ("backend/vif/3/0/bridge", "xenbr0"),
        ("backend/vif/3/0/mac", "00:16:3e:00:00:03"),
        ("backend/vif/3/1/script", "/etc/xen/scripts/vif-netback"),
        ("backend/vif/12/0/hotplug-error", "no bridge"),
    ]);
    let found = backends(&mut store).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|vif| (vif.domid.as_str(), vif.devid.as_str()))
        .collect();
    assert_eq!(names, [("3", "0"), ("3", "1"), ("12", "0")]);
    assert_eq!(found[0].mac.as_deref(), Some("00:16:3e:00:00:03"));
    assert_eq!(found[0].mtu, None);
    assert_eq!(
        found[1].script.as_deref(),
        Some("/etc/xen/scripts/vif-netback")
    );
    assert_eq!(found[2].hotplug_error.as_deref(), Some("no bridge"));
    assert_eq!(backends(&mut FewKeys(Vec::new())).unwrap(), []);
}
