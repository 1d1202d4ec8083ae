//! Bridges that share a network card, and what guests on them may do.
use super::*;
use xsk_bridge::switch::{DropReason, Verdict};

const SHARED: &str = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n\
                      [[bridge]]\nname = \"red\"\nuplink = \"eth7\"\nvlan = 10\n";

fn house(bridges: &str) -> House {
    let house = House::new();
    *house.bridges.lock().unwrap() = bridges.into();
    house
}

fn on(domid: u16, bridge: &'static str) -> Guest {
    Guest {
        bridge,
        ..Guest::new(domid, 1)
    }
}

/// VLANs, and whether the MAC is locked, addresses, isolation: as status shows them.
fn shown(daemon: &Daemon, guest: &Guest) -> (Option<String>, (bool, Option<String>, bool)) {
    let status = daemon.status();
    let mut vifs = status.vifs.into_iter();
    let vif = vifs.find(|vif| vif.domid == guest.domid).unwrap();
    let filter = vif.filter.unwrap();
    (vif.vlan, (filter.mac_lock, filter.ip, filter.isolated))
}

#[test]
fn bridges_with_one_uplink_are_vlans_of_one_switch() {
    let house = house(SHARED);
    let (plain, red) = (on(3, "xenbr0"), on(4, "red"));
    let (mut daemon, _rings) = served(&house, &[&plain, &red]);
    let status = daemon.status();
    assert_eq!(status.uplinks.len(), 1);
    assert_eq!(status.uplinks[0].bridge, "xenbr0, red");
    let vlans: Vec<_> = status.bridges.iter().map(|bridge| bridge.vlan).collect();
    assert_eq!(vlans, [None, Some(10)]);
    assert!(Arc::ptr_eq(
        &daemon.bridges[0].switch,
        &daemon.bridges[1].switch
    ));
    let free = (false, None, false);
    assert_eq!(shown(&daemon, &plain), (None, free.clone()));
    assert_eq!(shown(&daemon, &red), (Some("10".into()), free));

    // A third one comes by a reload, without a new beginning.
    let more = "[[bridge]]\nname = \"blue\"\nuplink = \"eth7\"\nvlan = 20\n";
    house.bridges.lock().unwrap().push_str(more);
    assert!(daemon.reload().unwrap().is_none());
    assert_eq!(daemon.status().uplinks[0].bridge, "xenbr0, red, blue");
    daemon.stop().unwrap();
}

#[test]
fn a_vlan_that_the_bridge_is_not_keeps_the_vif_from_connecting() {
    let house = house(SHARED);
    let guest = on(3, "red");
    house.make(&guest);
    house.world.set(&format!("{}/vlan", guest.back()), "20p/10");
    let mut daemon = house.daemon();
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&guest).as_deref() == Some("2")
    });
    house.connect(&guest);
    until(&mut daemon, "refusal", |daemon| {
        service(daemon, &guest).is_some_and(|(service, _)| service == "refused")
    });
    let reason = service(&daemon, &guest).unwrap().1.unwrap();
    assert_eq!(
        reason,
        "vlan is \"20p/10\", and bridge \"red\" is VLAN 10: take vlan= out, or name a bridge without a vlan of its own"
    );
    // Said as the bridge says it, it is honoured.
    house.world.set(&format!("{}/vlan", guest.back()), "10");
    until(&mut daemon, "Connected", |daemon| is_served(daemon, &guest));
    assert_eq!(shown(&daemon, &guest).0.as_deref(), Some("10"));
    daemon.stop().unwrap();
}

#[test]
fn what_a_guest_may_send_follows_its_key_and_the_configuration_at_once() {
    let vif = "mac_lock = true\nip = \"192.0.2.0/24\"\n";
    let house = house(&format!("{vif}{SHARED}"));
    let (with_key, without) = (on(3, "xenbr0"), on(4, "xenbr0"));
    house.make(&with_key);
    let key = format!("{}/ip", with_key.back());
    house.world.set(&key, "192.0.2.7");
    let (mut daemon, _rings) = served(&house, &[&without]);
    house.connect(&with_key);
    until(&mut daemon, "Connected", |daemon| {
        is_served(daemon, &with_key)
    });
    let ip = |ip: &str| Some(ip.to_owned());
    assert_eq!(shown(&daemon, &with_key).1, (true, ip("192.0.2.7"), false));
    assert_eq!(
        shown(&daemon, &without).1,
        (true, ip("192.0.2.0/24"), false)
    );

    *house.bridges.lock().unwrap() = format!("isolated = true\n{SHARED}");
    assert!(daemon.reload().unwrap().is_none());
    assert_eq!(shown(&daemon, &with_key).1, (false, ip("192.0.2.7"), true));
    assert_eq!(shown(&daemon, &without).1, (false, None, true));

    // The key changes while the guest is connected.
    house.world.set(&key, "192.0.2.8");
    until(&mut daemon, "the new address", |daemon| {
        shown(daemon, &with_key).1.1 == ip("192.0.2.8")
    });
    daemon.stop().unwrap();
}

/// Guests without a VLAN are never in that of another one, not while it has not connected yet after a restart, and not once it has left.
#[test]
fn vlans_are_told_apart_from_before_the_first_guest_is_served() {
    let house = House::new();
    let (plain, in_vlan) = (Guest::new(3, 1), Guest::new(4, 1));
    house.make(&plain);
    house.make(&in_vlan);
    house.world.set(&format!("{}/vlan", in_vlan.back()), "10");
    let mut daemon = house.daemon();
    house.connect(&plain);
    until(&mut daemon, "Connected", |daemon| is_served(daemon, &plain));
    let port = daemon.vifs.values().find_map(|vif| vif.service.as_ref());
    let port = port.unwrap().port_id;
    let switch = daemon.bridges[0].switch.clone();
    let tagged = [
        &[0xff; 6][..],
        &[0, 0x16, 0x3e, 0, 0, 3],
        &[0x81, 0, 0, 10, 8, 0],
    ]
    .concat();
    let dropped = Verdict::Drop(DropReason::Vlan);
    assert_eq!(switch.decide(port, &tagged, 1), dropped);
    house.world.remove(&in_vlan.back());
    until(&mut daemon, "the end of the vif", |daemon| {
        daemon.vifs.len() == 1
    });
    assert_eq!(switch.decide(port, &tagged, 1), dropped);
    daemon.stop().unwrap();
}
