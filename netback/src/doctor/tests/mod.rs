//! One thing broken at a time in a made-up machine where nothing is wrong.
mod bridge;
mod machine;
mod store;
mod uplink;

use super::Severity::{self, Error, Info, Warning};
use machine::{CONFIG, Machine, NIC, guest};

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
fn names_each_missing_device_node() {
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
fn a_device_node_that_netback_does_without_takes_effect_by_a_restart() {
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
    let wanted = 9 * crate::bounds::STAGING_PAGES;
    machine.write(limit, &format!("{}\n", wanted - 1));
    machine.must_find(
        Warning,
        "gntalloc-limit",
        &format!("`echo {wanted} > {limit}`"),
    );
    machine.write(limit, &format!("{wanted}\n"));
    let report = machine.examine();
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn the_package_s_limit_of_gntalloc_is_enough_for_as_many_workers_as_it_says() {
    let text = include_str!("../../../../packaging/modprobe.conf");
    let number_after = |word: &str| -> usize {
        let (_, rest) = text.split_once(word).unwrap();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        rest[..end].parse().unwrap()
    };
    let limit = number_after("options xen-gntalloc limit=");
    assert_eq!(number_after("up to ") * crate::bounds::STAGING_PAGES, limit);
}

#[test]
fn names_a_device_node_that_its_owner_may_not_open() {
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
fn says_what_an_hvm_domain_and_dom0_mean_for_the_hosts_memory() {
    let machine = Machine::healthy();
    machine.remove("/sys/class/iommu/ivhd0");
    for (kind, findings) in [("PV", 1), ("HVM", 0), ("PVH", 0)] {
        machine.write("/sys/hypervisor/guest_type", kind);
        assert_eq!(machine.examine().findings.len(), findings, "{kind}");
    }
    machine.write("/sys/hypervisor/guest_type", "PV");
    machine.write("/proc/xen/capabilities", "control_d\n");
    machine.must_find(Info, "dom0", "has the whole host");
    // No devd runs in dom0, where xl runs the scripts itself, and none is asked for.
    assert_eq!(machine.examine().findings.len(), 1);
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
    let example = "/usr/share/doc/netback/examples/netback.toml";
    machine.must_find(Error, "config", "no such file");
    machine.must_find(
        Error,
        "config",
        &format!("`install -D -m 644 {example} {CONFIG}`"),
    );
    machine.write(&format!("{CONFIG}/x"), "");
    machine.must_find(Error, "config", "it cannot be read: Is a directory");
}

#[test]
fn no_cure_overwrites_a_configuration() {
    let machine = Machine::healthy();
    machine.write(CONFIG, "[wokers]\n");
    let example = "/usr/share/doc/netback/examples/netback.toml";
    machine.must_find(
        Error,
        "config",
        &format!("`cp --backup=numbered {example} {CONFIG}`"),
    );
    // A directory in the file's place, or a file without the right to read it, is not replaced.
    machine.remove(CONFIG);
    machine.write(&format!("{CONFIG}/x"), "");
    let report = machine.examine().to_string();
    assert!(
        !report.contains("cp ") && !report.contains("install "),
        "{report}"
    );
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
    // In a network namespace of its own it serves other interfaces.
    machine.link("/proc/12/ns/net", "net:[4026532000]");
    assert!(machine.examine().findings.is_empty());
    let mut machine = Machine::healthy();
    machine.remove("/proc/9");
    machine.must_find(Error, "not-running", "systemctl start netback");
    // Nobody asks for it.
    machine.backends = Ok(Vec::new());
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn says_that_devd_is_beside_it() {
    let machine = Machine::healthy();
    machine.process(20, &["/usr/sbin/xl", "devd", "-F"]);
    machine.must_find(Info, "devd", "beside netback");
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
fn names_the_quota_of_xenstore_where_vifs_may_meet_it() {
    let mut machine = Machine::healthy();
    let vifs = machine.backends.as_mut().unwrap();
    let room = 44 - vifs.len() as u32;
    vifs.extend(
        (0..room).map(|n| guest(&(10 + n).to_string(), &format!("00:16:3e:01:00:{n:02x}"))),
    );
    assert!(machine.examine().findings.is_empty());
    let vifs = machine.backends.as_mut().unwrap();
    vifs.push(guest("99", "00:16:3e:02:00:00"));
    machine.must_find(Warning, "xenstore-quota", "quota-maxentity = 1800");
    machine.must_find(Warning, "xenstore-quota", "--entry-nb 1800");
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
