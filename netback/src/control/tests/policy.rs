//! The toolstack's keys: what netback cannot honour keeps its vif from connecting, and says so.
use super::*;

fn key(house: &House, guest: &Guest, key: &str) -> Option<String> {
    house.world.get(&format!("{}/{key}", guest.back()))
}

fn set(house: &House, guest: &Guest, key: &str, value: &str) {
    house.world.set(&format!("{}/{key}", guest.back()), value);
}

/// A guest whose vif has one more key, advertised.
fn advertised(house: &House, name: &str, value: &str) -> (Guest, Daemon) {
    let guest = Guest::new(3, 1);
    house.make(&guest);
    set(house, &guest, name, value);
    let mut daemon = house.daemon();
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&guest).as_deref() == Some("2")
    });
    (guest, daemon)
}

#[test]
fn a_key_that_cannot_be_honoured_keeps_the_vif_from_connecting_until_it_is_corrected() {
    let house = House::new();
    let (guest, mut daemon) = advertised(&house, "rate", "fast");
    // Before the guest is there the operator can see it, as with a hotplug script.
    let wrong = "rate is \"fast\", not <bytes>,<microseconds> as xl writes it for rate=10Mb/s";
    let said = |house: &House| {
        let error = key(house, &guest, "hotplug-error");
        (key(house, &guest, "hotplug-status").unwrap(), error)
    };
    assert_eq!(said(&house), ("error".into(), Some(wrong.into())));
    let refused = Some(("refused".to_owned(), Some(wrong.to_owned())));
    assert_eq!(service(&daemon, &guest), refused);

    house.connect(&guest);
    until(&mut daemon, "refusal", |daemon| {
        daemon
            .vifs
            .values()
            .any(|vif| matches!(vif.state, State::Refused(_)))
    });
    assert_eq!(service(&daemon, &guest), refused);
    assert_eq!(
        (house.own_state(&guest).as_deref(), house.xen.held()),
        (Some("2"), (0, 0))
    );

    set(&house, &guest, "rate", "62500,0");
    until(&mut daemon, "the new reason", |_| {
        said(&house)
            .1
            .is_some_and(|error| error.contains("62500,0"))
    });
    set(&house, &guest, "rate", "62500,50000");
    until(&mut daemon, "Connected", |daemon| is_served(daemon, &guest));
    assert_eq!(said(&house), ("connected".into(), None));
    assert_eq!(service(&daemon, &guest).unwrap().1, None);
    daemon.stop().unwrap();
}

#[test]
fn a_key_that_is_corrected_before_the_guest_connects_leaves_no_trace() {
    let house = House::new();
    let (guest, mut daemon) = advertised(&house, "gatewaydev", "eth0");
    house.world.remove(&format!("{}/gatewaydev", guest.back()));
    until(&mut daemon, "the end of the error", |_| {
        key(&house, &guest, "hotplug-status").as_deref() == Some("connected")
    });
    assert_eq!(key(&house, &guest, "hotplug-error"), None);
    house.connect(&guest);
    until(&mut daemon, "Connected", |daemon| is_served(daemon, &guest));
    daemon.stop().unwrap();
}

#[test]
fn a_connected_guest_is_served_as_before_where_a_key_becomes_wrong() {
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    let reason = |daemon: &Daemon| service(daemon, &guest).unwrap().1.unwrap_or_default();
    set(&house, &guest, "mtu", "many");
    until(&mut daemon, "the reason", |daemon| {
        reason(daemon) == "served as before: mtu is \"many\", not a number from 68 to 65517"
    });
    assert!(is_served(&daemon, &guest));
    // Its network works, so the toolstack is told of no error.
    let hotplug = key(&house, &guest, "hotplug-status");
    assert_eq!(hotplug.as_deref(), Some("connected"));
    house.world.remove(&format!("{}/mtu", guest.back()));
    until(&mut daemon, "no reason", |daemon| reason(daemon).is_empty());
    set(&house, &guest, "bridge", "other");
    until(&mut daemon, "the reason", |daemon| {
        reason(daemon).contains("new bridge counts from its next connection on")
    });
    assert!(is_served(&daemon, &guest));
    // What counts at once does not wait for what counts later.
    set(&house, &guest, "ip", "192.0.2.7");
    until(&mut daemon, "the filter", |daemon| {
        let status = daemon.status();
        let filter = status.vifs[0].filter.as_ref();
        filter.and_then(|filter| filter.ip.as_deref()) == Some("192.0.2.7")
    });
    assert!(reason(&daemon).contains("new bridge"));
    house.world.remove(&format!("{}/ip", guest.back()));

    // A successor serves it without what is wrong, for the guest is not to notice.
    set(&house, &guest, "bridge", "xenbr0");
    set(&house, &guest, "mtu", "many");
    daemon.stop().unwrap();
    let mut daemon = house.daemon();
    until(&mut daemon, "the take-over", |daemon| {
        is_served(daemon, &guest)
    });
    daemon.stop().unwrap();
}

#[test]
fn libxls_script_is_replaced_by_ours_in_the_transaction_that_goes_to_init_wait() {
    let house = House::new();
    let (guest, daemon) = advertised(&house, "script", "/etc/xen/scripts/vif-bridge");
    assert_eq!(
        key(&house, &guest, "script").as_deref(),
        Some("/etc/xen/scripts/vif-netback")
    );
    assert_eq!(
        key(&house, &guest, "hotplug-status").as_deref(),
        Some("connected")
    );
    daemon.stop().unwrap();

    let house = House::new();
    let (guest, daemon) = advertised(&house, "script", "/etc/xen/scripts/vif-route");
    let error = key(&house, &guest, "hotplug-error").unwrap();
    assert!(
        error.contains("vif-route") && error.contains("take script= out"),
        "{error}"
    );
    daemon.stop().unwrap();
}
