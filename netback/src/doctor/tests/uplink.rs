//! Network cards that cannot serve, or not as they are.
use super::super::Severity::{Error, Info, Warning};
use super::machine::{CONFIG, Machine, NIC};
use crate::observe::counters::UplinkStats;
use crate::observe::status::{Bulk, Uplink, UplinkQueue};
use std::collections::BTreeMap;
use xsk_bridge::link::Driver;
use xsk_bridge::nic::MultiBuffer;

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
    // Nobody could be asked: it may work.
    assert!(machine.examine().findings.is_empty());
    // What fits a frame and not the driver would only be the next finding.
    machine.link(&format!("{NIC}/device/driver"), "../drivers/igb");
    machine.must_find(Error, "uplink-mtu", "ip link set dev eth0 mtu 3046");
}

#[test]
fn names_the_largest_mtu_where_frames_have_one_buffer() {
    let mut machine = Machine::healthy();
    machine.link(&format!("{NIC}/device/driver"), "../drivers/igb");
    let can = |receives_fragments| MultiBuffer {
        kernel: true,
        driver: Driver {
            native: true,
            receives_fragments,
            zero_copy_fragments: None,
        },
    };
    machine.multi_buffer = Some(can(false));
    machine.must_find(
        Info,
        "uplink-mtu-limit",
        "3822 is the largest that works, for the driver",
    );
    machine.write(&format!("{NIC}/mtu"), "9000\n");
    machine.must_find(
        Error,
        "uplink-mtu",
        "mtu 3046`, or less, or say xdp = \"generic\"",
    );
    // A driver that receives them is not held to what it takes in one.
    machine.multi_buffer = Some(can(true));
    assert!(machine.examine().findings.is_empty());
    machine.backends.as_mut().unwrap()[0].mtu = Some("9001".into());
    machine.must_find(
        Warning,
        "guest-mtu",
        "ip link set dev eth0 mtu 9001 && systemctl start",
    );
    machine.multi_buffer = Some(can(false));
    machine.write(
        CONFIG,
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\nxdp = \"generic\"\n",
    );
    machine.backends.as_mut().unwrap()[0].mtu = None;
    assert!(machine.examine().findings.is_empty());
}

#[test]
fn names_an_mtu_that_works_after_a_restart_only() {
    let mut machine = Machine::healthy();
    machine.link(&format!("{NIC}/device/driver"), "../drivers/mlx5_core");
    machine.multi_buffer = Some(MultiBuffer {
        kernel: true,
        driver: Driver {
            native: true,
            receives_fragments: true,
            zero_copy_fragments: Some(1),
        },
    });
    machine.write(&format!("{NIC}/mtu"), "9000\n");
    assert!(machine.examine().findings.is_empty());
    machine.uplinks = vec![Uplink {
        largest_mtu: 3822,
        ..served(&[])
    }];
    machine.must_find(Error, "uplink-mtu", "netback carries 3822 at most");
    machine.must_find(Error, "uplink-mtu", "systemctl restart netback");
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
    let moved = "ip address flush dev eth0 scope global && ip address add 192.0.2.7/24 dev xenbr0`";
    machine.links[0]["addr_info"][0]["prefixlen"] = 24.into();
    machine.must_find(
        Warning,
        "uplink-addressed",
        &format!(
            "`sed -i '0,/^uplink = \"eth0\"/s//&\\nhost = true/' /etc/netback/netback.toml && systemctl restart netback && {moved}"
        ),
    );
    machine.write(
        CONFIG,
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth0\"\nhost = true\n",
    );
    machine.must_find(Warning, "uplink-addressed", &format!("`{moved}"));
    let machine = Machine::healthy();
    machine.remove(&format!("{NIC}/queues/rx-1"));
    machine.must_find(Info, "one-queue", "one core");
}

#[test]
fn says_what_dom0_must_not_send_to_an_uplink_that_is_a_vif() {
    let machine = Machine::healthy();
    machine.link(&format!("{NIC}/device/driver"), "../drivers/vif");
    machine.must_find(Info, "uplink-vif", "in dom0");
}

/// eth0 as a running netback reports it, with these ways of large packets by its queues.
fn served(ways: &[Bulk]) -> Uplink {
    let queue = |(number, bulk): (u32, &Bulk)| UplinkQueue {
        queue: number,
        worker: 0,
        bulk: bulk.clone(),
        counts: (&UplinkStats::default()).into(),
        kernel: BTreeMap::new(),
    };
    Uplink {
        ifname: "eth0".into(),
        bridge: "xenbr0".into(),
        xdp_mode: "native".into(),
        zero_copy: false,
        standby: false,
        link_up: true,
        mtu: 1500,
        largest_mtu: 65_262,
        largest_mtu_reason: "a frame takes no more buffers".into(),
        queues: (0..).zip(ways).map(queue).collect(),
    }
}

#[test]
fn says_who_segments_for_each_uplink_and_why() {
    let by = |who: &str, reason: Option<&str>| Bulk {
        segmented_by: who.into(),
        reason: reason.map(str::to_owned),
    };
    let (device, netback) = (by("device", None), by("netback", Some("it is off")));
    let mut machine = Machine::healthy();
    for (ways, said) in [
        (vec![&device, &device], "eth0 are segmented by the device"),
        (
            vec![&netback, &netback],
            "eth0 are segmented by netback, because it is off",
        ),
        (
            vec![&device, &netback, &device],
            "on queue 0, 2 by the device; on queue 1 by netback, because it is off",
        ),
    ] {
        let ways: Vec<Bulk> = ways.into_iter().cloned().collect();
        machine.uplinks = vec![served(&ways)];
        machine.must_find(Info, "bulk", said);
    }
    machine.uplinks = vec![served(&[])];
    assert!(machine.examine().findings.is_empty());
}
