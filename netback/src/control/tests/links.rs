//! Uplinks whose device loses its link, changes its MTU, is removed and comes back.
use super::log::Log;
use super::*;
use xsk_bridge::device::Cable;
use xsk_bridge::link::{Link, LinkEvent};
use xsk_bridge::nic::LengthLimit;

const IFF_UP: u32 = 1;

/// A device called `name`, up and with a carrier.
pub fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        flags: IFF_UP,
        hardware: 1,
        mtu: 1500,
        mac: [0; 6],
        carrier: true,
        master: None,
        kind: None,
        slave_kind: None,
        xdp: None,
        gso_max_size: 65_536,
        gso_max_segments: 65_535,
    }
}

/// Opens `eth<n>`, device number `n`, as the end of a cable; nothing else is there.
pub fn opener() -> OpenDevice {
    Box::new(|bridge, ifname| {
        let number = ifname.strip_prefix("eth").and_then(|n| n.parse().ok());
        Ok(OpenUplink {
            link: link(
                number.ok_or_else(|| format!("no interface {ifname}"))?,
                ifname,
            ),
            bridge: bridge.name.clone(),
            xdp_mode: "native".into(),
            zero_copy: false,
            mtu_limit: (3822, LengthLimit::Driver),
            queues: vec![OpenQueue {
                device: Box::new(Cable::pair(64).0),
                socket: None,
                large: Err("a cable has none".into()),
            }],
        })
    })
}

fn wired() -> (House, Daemon) {
    let house = House::new();
    *house.bridges.lock().unwrap() = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n".into();
    let daemon = house.daemon();
    (house, daemon)
}

fn shown(daemon: &Daemon) -> (bool, u32) {
    let uplink = &daemon.status().uplinks[0];
    (uplink.link_up, uplink.mtu)
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_shown_and_logged() {
    let log = Log::begin();
    let (_house, mut daemon) = wired();
    assert_eq!(shown(&daemon), (true, 1500));
    let down = Link {
        carrier: false,
        ..link(7, "eth7")
    };
    for _ in 0..2 {
        // Said twice, as the kernel does: it is one change.
        daemon
            .link_event(&LinkEvent::Changed(down.clone()))
            .unwrap();
        daemon
            .link_event(&LinkEvent::Changed(down.clone()))
            .unwrap();
        assert_eq!(shown(&daemon), (false, 1500));
        daemon
            .link_event(&LinkEvent::Changed(link(7, "eth7")))
            .unwrap();
        assert_eq!(shown(&daemon), (true, 1500));
    }
    // Of another device there is nothing to say.
    daemon
        .link_event(&LinkEvent::Changed(Link {
            carrier: false,
            ..link(8, "eth8")
        }))
        .unwrap();
    assert_eq!(log.count("link is down"), 2);
    assert_eq!(log.count("link is up"), 2);
    assert!(daemon.returned.is_none());
    daemon.stop().unwrap();
}

#[test]
fn a_link_that_flaps_without_end_fills_no_log() {
    let log = Log::begin();
    let (_house, mut daemon) = wired();
    for round in 0..1000 {
        let carrier = round % 2 == 1;
        daemon
            .link_event(&LinkEvent::Changed(Link {
                carrier,
                ..link(7, "eth7")
            }))
            .unwrap();
    }
    assert!((20..100).contains(&log.count("link is ")));
    assert_eq!(shown(&daemon), (true, 1500));
    daemon.stop().unwrap();
}

#[test]
fn a_changed_mtu_is_shown_and_logged() {
    let log = Log::begin();
    let (_house, mut daemon) = wired();
    daemon
        .link_event(&LinkEvent::Changed(Link {
            mtu: 3000,
            ..link(7, "eth7")
        }))
        .unwrap();
    assert_eq!(shown(&daemon), (true, 3000));
    assert_eq!(log.count("MTU changed from 1500 to 3000"), 1);
    daemon.stop().unwrap();
}

/// The kernel lets an MTU be set that frames of one buffer do not reach.
#[test]
fn an_mtu_that_does_not_work_is_named_with_the_largest_that_does() {
    let log = Log::begin();
    let (_house, mut daemon) = wired();
    let largest = "MTU 3822 is the largest that works, for the driver receives no frame in several";
    assert_eq!(log.count(largest), 1);
    daemon
        .link_event(&LinkEvent::Changed(Link {
            mtu: 9000,
            ..link(7, "eth7")
        }))
        .unwrap();
    assert_eq!(log.count("MTU 9000 does not work, 3822 at most does"), 1);
    assert_eq!(log.count("guests are told 3822"), 1);
    let uplink = &daemon.status().uplinks[0];
    assert_eq!((uplink.mtu, uplink.largest_mtu), (9000, 3822));
    assert!(uplink.largest_mtu_reason.starts_with("the driver"));
    assert_eq!(daemon.uplinks[0].usable_mtu(), 3822);
    daemon.stop().unwrap();
}

#[test]
fn a_removed_device_is_down_until_another_of_its_name_is_there() {
    let log = Log::begin();
    let (_house, mut daemon) = wired();
    daemon.link_event(&LinkEvent::Removed { index: 8 }).unwrap();
    assert_eq!(shown(&daemon), (true, 1500));
    daemon.link_event(&LinkEvent::Removed { index: 7 }).unwrap();
    assert_eq!(shown(&daemon), (false, 1500));
    assert_eq!(log.count("the interface was removed"), 1);
    assert!(daemon.returned.is_none());
    // The new one may have any index.
    for index in [7, 9] {
        daemon.returned = None;
        daemon
            .link_event(&LinkEvent::Changed(link(index, "eth7")))
            .unwrap();
        let returned = daemon.returned.as_ref().unwrap();
        assert_eq!(returned.ifname, "eth7");
        assert!(returned.settled > Instant::now());
    }
    assert_eq!(shown(&daemon), (false, 1500));
    daemon.stop().unwrap();
}

/// The device called `name` as the kernel tells of it once its cable is out.
fn pulled(index: u32, name: &str) -> LinkEvent {
    LinkEvent::Changed(Link {
        carrier: false,
        ..link(index, name)
    })
}

#[test]
fn a_backup_takes_over_once_the_uplink_has_no_link_and_keeps_on() {
    let log = Log::begin();
    let house = House::new();
    let bridge = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\nbackup = \"eth8\"\n";
    *house.bridges.lock().unwrap() = bridge.into();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    let carrying = |daemon: &Daemon| daemon.status().bridges[0].uplink.clone().unwrap();
    assert_eq!(carrying(&daemon), "eth7");
    assert_eq!(
        daemon.bridges[0].switch.ports().len(),
        2,
        "one port for both, one for the guest"
    );
    // A backup without a link is none.
    daemon.link_event(&pulled(8, "eth8")).unwrap();
    daemon.link_event(&pulled(7, "eth7")).unwrap();
    assert_eq!(carrying(&daemon), "eth7");
    let carrier = format!("{}/carrier", guest.back());
    assert_eq!(house.world.get(&carrier).as_deref(), Some("0"));
    daemon
        .link_event(&LinkEvent::Changed(link(8, "eth8")))
        .unwrap();
    assert_eq!(carrying(&daemon), "eth8");
    assert_eq!(house.world.get(&carrier).as_deref(), Some("1"));
    // The backup carries on when the uplink is back, and gives way when it fails itself.
    daemon
        .link_event(&LinkEvent::Changed(link(7, "eth7")))
        .unwrap();
    assert_eq!(carrying(&daemon), "eth8");
    daemon.link_event(&LinkEvent::Removed { index: 8 }).unwrap();
    assert_eq!(carrying(&daemon), "eth7");
    assert_eq!(log.count("takes over"), 2);
    daemon.stop().unwrap();
}

#[test]
fn guests_are_told_the_mtu_of_their_uplink_unless_their_own_key_says_one() {
    let house = House::new();
    *house.bridges.lock().unwrap() = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n".into();
    let (inherits, own) = (Guest::new(3, 1), Guest::new(4, 1));
    for guest in [&inherits, &own] {
        house.make(guest);
        house.world.set(&format!("{}/mtu", guest.front()), "1500");
    }
    house.world.set(&format!("{}/mtu", own.back()), "1400");
    let mut daemon = house.daemon();
    let told = |guest: &Guest| house.world.get(&format!("{}/mtu", guest.front())).unwrap();
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&inherits).as_deref() == Some("2")
            && house.own_state(&own).as_deref() == Some("2")
    });
    assert_eq!(
        (told(&inherits), told(&own)),
        ("1500".into(), "1400".into())
    );
    let larger = Link {
        mtu: 3000,
        ..link(7, "eth7")
    };
    daemon.link_event(&LinkEvent::Changed(larger)).unwrap();
    assert_eq!(
        (told(&inherits), told(&own)),
        ("3000".into(), "1400".into())
    );
    house.world.set(&format!("{}/mtu", own.back()), "1300");
    until(&mut daemon, "the new MTU", |_| told(&own) == "1300");
    // A toolstack without the key gets none.
    let bare = Guest::new(5, 1);
    house.make(&bare);
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&bare).as_deref() == Some("2")
    });
    assert_eq!(house.world.get(&format!("{}/mtu", bare.front())), None);
    daemon.stop().unwrap();
}
