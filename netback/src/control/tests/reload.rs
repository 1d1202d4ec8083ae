//! SIGHUP, as the control thread carries it out.
use super::log::Log;
use super::*;

#[test]
fn a_reload_that_changes_nothing_says_so() {
    let log = Log::begin();
    let house = House::new();
    let mut daemon = house.daemon();
    assert!(daemon.reload().unwrap().is_none());
    assert_eq!(log.count("nothing in the configuration has changed"), 1);
    house
        .bridges
        .lock()
        .unwrap()
        .push_str("[[bridge]]\nname = \"dmz\"\n");
    assert!(daemon.reload().unwrap().is_none());
    assert_eq!(log.count("nothing in the configuration has changed"), 1);
    assert!(daemon.reload().unwrap().is_none());
    assert_eq!(log.count("nothing in the configuration has changed"), 2);
    daemon.stop().unwrap();
}

#[test]
fn an_uplink_taken_out_of_the_configuration_leaves_service_by_a_new_beginning() {
    let log = Log::begin();
    let house = House::new();
    let guest = Guest::new(3, 1);
    let set = |bridges: &str| *house.bridges.lock().unwrap() = bridges.into();
    set("[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n");
    let (mut daemon, _rings) = served(&house, &[&guest]);
    set("[[bridge]]\nname = \"xenbr0\"\n");
    let fresh = daemon.reload().unwrap().expect("it begins anew");
    assert_eq!(
        log.count("the reload changes the uplink of bridge xenbr0"),
        1
    );
    house.world.take_changes();
    assert!(matches!(
        daemon.begin_anew(fresh).unwrap(),
        Ended::BeginAnew { running, next }
            if running.bridges[0].uplink.is_some() && next.bridges[0].uplink.is_none()
    ));
    let mut successor = house.daemon();
    until(&mut successor, "service", |daemon| {
        is_served(daemon, &guest)
    });
    assert!(successor.status().uplinks.is_empty());
    assert_eq!(house.world.take_changes(), [""; 0], "the guest was told");
    successor.stop().unwrap();
}

#[test]
fn an_uplink_that_cannot_be_opened_is_one_line_and_tried_again_by_the_next_reload() {
    let log = Log::begin();
    let house = House::new();
    let set = |uplink: &str| {
        *house.bridges.lock().unwrap() = format!(
            "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n[[bridge]]\nname = \"dmz\"\nuplink = \"{uplink}\"\n"
        );
    };
    *house.bridges.lock().unwrap() = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n".into();
    let mut daemon = house.daemon();
    set("wlan0");
    assert!(daemon.reload().unwrap().is_none());
    assert_eq!(log.count("not taken on: no interface wlan0"), 1);
    set("eth8");
    assert!(daemon.reload().unwrap().is_none());
    let status = daemon.status();
    let uplinks: Vec<_> = status
        .uplinks
        .iter()
        .map(|uplink| &*uplink.ifname)
        .collect();
    assert_eq!(uplinks, ["eth7", "eth8"]);
    daemon.stop().unwrap();
}
