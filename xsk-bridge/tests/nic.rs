//! A device prepared and put back, and word of its changes.
mod support;

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;
use support::{Namespace, PATIENCE, run};
use xsk_bridge::link::{Link, LinkEvent, LinkWatcher};
use xsk_bridge::nic::{self, NicError, Prepared};
use xsk_bridge::xdp::Mode;

/// All that ip and ethtool say of a device that lasts.
fn state(namespace: &Namespace, ifname: &str) -> (String, String, String) {
    let link = run(&format!("ip -d -o link show {ifname}"));
    (
        link,
        namespace.ethtool(&format!("-k {ifname}")),
        namespace.ethtool(&format!("-l {ifname}")),
    )
}

fn prepare(namespace: &Namespace, queues: Option<u32>) -> Prepared {
    nic::prepare("near", Mode::Native, queues, namespace.run_dir()).unwrap()
}

#[test]
fn prepare_and_put_back_leave_the_device_as_it_was() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 4);
    namespace.ethtool("-L near rx 2 tx 2");
    let before = state(&namespace, "near");

    let prepared = prepare(&namespace, Some(4));
    assert_eq!((prepared.queues, prepared.mtu), (4, 1500));
    assert_eq!(prepared.max_frame, 1518);
    assert_eq!(prepared.warnings, Vec::<String>::new());
    let (link, offloads, _) = state(&namespace, "near");
    assert!(
        link.contains("PROMISC") && link.contains("ALLMULTI"),
        "{link}"
    );
    assert!(offloads.contains("rx-vlan-offload: off"), "{offloads}");
    assert!(offloads.contains("tx-vlan-offload: off"), "{offloads}");
    let record = namespace.run_dir().join("nic-near.json");
    let mode = record.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the record is root's alone");

    // A successor after a kill -9: it finds the device prepared, and the record must still say how it was before that.
    assert_eq!(prepare(&namespace, Some(4)), prepared);
    assert!(nic::put_back("near", namespace.run_dir()).unwrap());
    assert_eq!(state(&namespace, "near"), before);
    assert!(!record.exists());
    assert!(!nic::put_back("near", namespace.run_dir()).unwrap());
}

#[test]
fn ipv6_is_silenced_and_put_back_as_it_was() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let is_off = || run("sysctl -n net.ipv6.conf.near.disable_ipv6").trim() == "1";
    let silence = |silent| nic::silence_ipv6("near", silent, namespace.run_dir());
    let refused = silence(true).unwrap_err().to_string();
    assert!(refused.contains("nic-near.json"), "{refused}");
    for was_off in [false, true] {
        run(&format!(
            "sysctl -qw net.ipv6.conf.near.disable_ipv6={}",
            u8::from(was_off)
        ));
        prepare(&namespace, None);
        silence(true).unwrap();
        assert!(is_off());
        // A successor finds it done, and the record still says how it was.
        silence(true).unwrap();
        silence(false).unwrap();
        assert_eq!(is_off(), was_off);
        silence(true).unwrap();
        assert!(nic::put_back("near", namespace.run_dir()).unwrap());
        assert_eq!(is_off(), was_off);
    }
}

#[test]
fn settings_that_were_there_before_stay() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    run("ip link set near promisc on");
    run("ip link set near down");
    let before = state(&namespace, "near");
    assert_eq!(prepare(&namespace, None).queues, 1);
    assert!(Link::by_name("near").unwrap().unwrap().running());
    assert!(nic::put_back("near", namespace.run_dir()).unwrap());
    assert_eq!(state(&namespace, "near"), before);
    assert!(before.0.contains("PROMISC"));
}

#[test]
fn the_record_of_a_device_that_is_gone_is_not_used() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    run("ip link set near promisc on");
    prepare(&namespace, None);
    run("ip link del near");
    namespace.veth("near", "far", 1);
    let before = state(&namespace, "near");
    assert!(nic::put_back("near", namespace.run_dir()).unwrap());
    assert_eq!(
        state(&namespace, "near"),
        before,
        "restored another device's state"
    );

    prepare(&namespace, None);
    run("ip link del near");
    namespace.veth("near", "far", 1);
    let before = state(&namespace, "near");
    prepare(&namespace, None);
    nic::put_back("near", namespace.run_dir()).unwrap();
    assert_eq!(state(&namespace, "near"), before);
}

#[test]
fn every_channel_there_is_serves_unless_told_otherwise() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 4);
    assert_eq!(prepare(&namespace, None).queues, 4);
    assert_eq!(prepare(&namespace, Some(2)).queues, 2);
    assert_eq!(prepare(&namespace, None).queues, 2);
    for queues in [0, 5] {
        let refused =
            nic::prepare("near", Mode::Native, Some(queues), namespace.run_dir()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("near has 4 queues, not {queues}")
        );
    }
    nic::put_back("near", namespace.run_dir()).unwrap();
    assert_eq!(prepare(&namespace, None).queues, 4);
}

#[test]
fn what_cannot_serve_is_refused_with_the_cure_and_untouched() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let refusal = |ifname: &str| {
        let refused = nic::prepare(ifname, Mode::Native, None, namespace.run_dir()).unwrap_err();
        assert!(
            !namespace
                .run_dir()
                .join(format!("nic-{ifname}.json"))
                .exists(),
            "{ifname} was touched"
        );
        refused
    };
    assert_eq!(
        refusal("eth9").to_string(),
        "no interface eth9; there are: lo, far, near"
    );
    assert!(matches!(refusal("lo"), NicError::Loopback(_)));

    run("ip link add br0 type bridge");
    assert!(matches!(refusal("br0"), NicError::Stacked { .. }));
    run("ip link set near master br0");
    assert_eq!(
        refusal("near").to_string(),
        "near belongs to the bridge br0: take it out first with `ip link set dev near nomaster`"
    );
    assert_eq!(
        refusal("br0").to_string(),
        "br0 is a bridge, on which AF_XDP does not run: take near out (`ip link set dev near nomaster`) and name it"
    );
    run("ip link set dev near nomaster");
    // Not every kernel has VLAN devices.
    let vlan = "link add link near name near.7 type vlan id 7".split(' ');
    if Command::new("ip").args(vlan).status().unwrap().success() {
        let instead = "name the card beneath it as uplink, and the tag by vlan = of the [[bridge]]";
        assert!(refusal("near.7").to_string().ends_with(instead));
        run("ip link del near.7");
    }

    run("ip link set near mtu 65535");
    assert_eq!(
        refusal("near").to_string(),
        "near has MTU 65535, and 65262 is the largest that works, for a frame takes no more buffers: `ip link set dev near mtu 65262`"
    );
    run("ip link set dev near mtu 9000");
    assert_eq!(prepare(&namespace, None).max_frame, 9018);
}

fn wait_for(watcher: &mut LinkWatcher, what: &str, wanted: impl Fn(&LinkEvent) -> bool) {
    let mut events = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        watcher.read(&mut events).unwrap();
        if events.iter().any(&wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "no word of {what}: {events:?}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn the_watcher_tells_of_carrier_mtu_and_removal() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let index = Link::by_name("near").unwrap().unwrap().index;
    let mut watcher = LinkWatcher::open().unwrap();
    let fd = std::os::fd::AsFd::as_fd(&watcher).as_raw_fd();
    assert!(fd >= 0);
    let near = |check: fn(&Link) -> bool| move |event: &LinkEvent| matches!(event, LinkEvent::Changed(l) if l.index == index && check(l));
    run("ip link set far down");
    wait_for(&mut watcher, "the carrier's loss", near(|l| !l.running()));
    run("ip link set far up");
    wait_for(&mut watcher, "the carrier's return", near(Link::running));
    run("ip link set near mtu 1400");
    wait_for(&mut watcher, "the MTU", near(|l| l.mtu == 1400));
    run("ip link del near");
    wait_for(&mut watcher, "the removal", |event| {
        *event == LinkEvent::Removed { index }
    });
}
