//! The control thread with real workers, on a xenstore and a hypervisor in the heap.
mod bridges;
mod hosts;
mod links;
mod log;
mod machine;
mod policy;
mod reload;
mod socket;
mod suspects;
mod take_over;
mod watch;
mod xenstore;

use super::socket::Request;
use super::*;
use crate::hypervisor::Fake;
use crate::vif::handshake::{self, Paths};
use crate::vif::state::State;
use machine::Machine;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use xen::fake::{Connection, Page, Store};

/// Waits for something that comes; a test that needs all of it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine on which daemons come and go.
struct House {
    world: Store,
    xen: Machine,
    dir: PathBuf,
    bridges: Arc<Mutex<String>>,
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

type Daemon = Control<Fake, Connection>;

impl House {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "netback-control-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let bridges = Arc::new(Mutex::new("[[bridge]]\nname = \"xenbr0\"\n".to_owned()));
        Self {
            world: Store::default(),
            xen: Machine::default(),
            dir,
            bridges,
        }
    }

    /// Start a daemon, with two workers.
    fn daemon(&self) -> Daemon {
        let (dir, bridges) = (self.dir.clone(), self.bridges.clone());
        let reload = Box::new(move || {
            let head = format!(
                "[daemon]\nrun_dir = {dir:?}\n[workers]\ncount = 2\npin = false\npoll_us = 0\n[vif]\nmax_queues = 4\n"
            );
            Config::parse("test.toml".as_ref(), &(head + &bridges.lock().unwrap()))
        });
        let config = reload().unwrap();
        let (umem, frames) = Umem::new(2048).unwrap();
        let setup = Setup::<Fake, Connection> {
            listener: Listener::bind(&config.daemon.control_socket).unwrap(),
            config,
            reload,
            store: self.world.connect(DomId(1)),
            domid: DomId(1),
            doors: self.xen.doors(2),
            umem,
            frames,
            open_device: links::opener(),
            open_host: hosts::opener(),
            signals: Arc::new(Signals::catch().unwrap()),
        };
        Control::start(setup).unwrap()
    }

    /// What libxl writes for a new vif.
    fn make(&self, vif: &Guest) {
        let (back, front) = (vif.back(), vif.front());
        for (key, value) in [
            ("frontend", &*front),
            ("frontend-id", &vif.domid.to_string()),
            ("online", "1"),
            ("handle", "0"),
            ("mac", &format!("00:16:3e:00:00:{:02x}", vif.domid)),
            ("bridge", vif.bridge),
            ("type", "vif"),
            ("hotplug-status", ""),
        ] {
            self.world.set(&format!("{back}/{key}"), value);
        }
        self.world.set(&format!("{front}/backend"), &back);
        self.world.set(&format!("{front}/state"), "1");
        self.world.set(&format!("{back}/state"), "1");
    }

    /// What a frontend does to connect.
    fn connect(&self, vif: &Guest) -> Vec<[Page; 2]> {
        let rings = self.prepare(vif);
        self.world.set(&format!("{}/state", vif.front()), "4");
        rings
    }

    /// What it does before: grants, ports, keys.
    fn prepare(&self, vif: &Guest) -> Vec<[Page; 2]> {
        let front = vif.front();
        let set = |key: &str, value: &str| self.world.set(&format!("{front}/{key}"), value);
        let mut rings = Vec::new();
        for queue in 0..vif.queues {
            let prefix = if vif.queues == 1 {
                String::new()
            } else {
                format!("queue-{queue}/")
            };
            let numbers = [0, 1].map(|side| 100 + queue * 2 + side);
            rings.push(numbers.map(|number| {
                self.xen.ports().offer(vif.domid, number);
                self.xen.grant(vif.domid, number)
            }));
            for (key, number) in [
                ("tx-ring-ref", 0),
                ("rx-ring-ref", 1),
                ("event-channel-tx", 0),
                ("event-channel-rx", 1),
            ] {
                set(&format!("{prefix}{key}"), &numbers[number].to_string());
            }
        }
        set("multi-queue-num-queues", &vif.queues.to_string());
        for key in [
            "request-rx-copy",
            "feature-rx-notify",
            "feature-sg",
            "feature-ipv6-csum-offload",
        ] {
            set(key, "1");
        }
        rings
    }

    fn own_state(&self, vif: &Guest) -> Option<String> {
        self.world.get(&format!("{}/state", vif.back()))
    }
}

/// A guest's vif 0.
struct Guest {
    domid: u16,
    queues: u32,
    bridge: &'static str,
}
impl Guest {
    fn new(domid: u16, queues: u32) -> Self {
        Self {
            domid,
            queues,
            bridge: "xenbr0",
        }
    }
    fn back(&self) -> String {
        format!("/local/domain/1/backend/vif/{}/0", self.domid)
    }
    fn front(&self) -> String {
        format!("/local/domain/{}/device/vif/0", self.domid)
    }
}

/// Let the daemon work until `done`.
fn until(daemon: &mut Daemon, what: &str, done: impl Fn(&Daemon) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(daemon) {
        assert!(Instant::now() < deadline, "never happened: {what}");
        daemon.wait().unwrap();
        daemon.turn().unwrap();
    }
}

fn service(daemon: &Daemon, guest: &Guest) -> Option<(String, Option<String>)> {
    let status = daemon.status();
    let vif = status.vifs.iter().find(|vif| vif.domid == guest.domid)?;
    Some((vif.service.clone(), vif.reason.clone()))
}
fn is_served(daemon: &Daemon, guest: &Guest) -> bool {
    service(daemon, guest).is_some_and(|(service, _)| service == "served")
}

/// A house with a daemon that serves these guests.
fn served(house: &House, guests: &[&Guest]) -> (Daemon, Vec<Vec<[Page; 2]>>) {
    guests.iter().for_each(|guest| house.make(guest));
    let mut daemon = house.daemon();
    for guest in guests {
        until(&mut daemon, "InitWait", |_| {
            house.own_state(guest).as_deref() == Some("2")
        });
    }
    let rings = guests.iter().map(|guest| house.connect(guest)).collect();
    for guest in guests {
        until(&mut daemon, "Connected", |_| {
            house.own_state(guest).as_deref() == Some("4")
        });
    }
    (daemon, rings)
}

#[test]
fn a_guest_is_offered_what_we_can_and_served_on_every_queue() {
    let house = House::new();
    let guest = Guest::new(3, 3);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    let key = |key: &str| house.world.get(&format!("{}/{key}", guest.back())).unwrap();
    for feature in [
        "feature-rx-copy",
        "feature-sg",
        "feature-split-event-channels",
        "feature-ipv6-csum-offload",
    ] {
        assert_eq!(key(feature), "1", "{feature}");
    }
    assert_eq!(
        (key("multi-queue-max-queues"), key("hotplug-status")),
        ("4".into(), "connected".into())
    );
    assert_eq!(house.xen.held(), (6, 6));
    let status = daemon.status();
    let vif = &status.vifs[0];
    assert_eq!(
        (&*vif.vif, vif.queues.len(), vif.mac.as_deref()),
        ("3/0", 3, Some("00:16:3e:00:00:03"))
    );
    let features = vif.features.unwrap();
    assert!(
        features.sg
            && features.csum_ipv4
            && features.csum_ipv6
            && features.rx_notify
            && features.split_event_channels
    );
    assert_eq!(daemon.bridges[0].switch.ports().len(), 1);
    // Both workers have some of the queues.
    assert!(daemon.pool.0.iter().all(|member| member.queues > 0));

    // The guest's driver goes: nothing of it is left but the node, which waits for the next one.
    house.world.set(&format!("{}/state", guest.front()), "5");
    until(&mut daemon, "Closing", |_| {
        house.own_state(&guest).as_deref() == Some("5")
    });
    house.world.set(&format!("{}/state", guest.front()), "6");
    until(&mut daemon, "Closed", |_| {
        house.own_state(&guest).as_deref() == Some("6")
    });
    assert_eq!(house.xen.held(), (0, 0));
    assert_eq!(daemon.bridges[0].switch.ports().len(), 0);
    assert!(!house.dir.join("vif-3-0").exists());
    assert_eq!(key("hotplug-status"), "connected");

    // And comes again, with other rings.
    house.world.set(&format!("{}/state", guest.front()), "1");
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&guest).as_deref() == Some("2")
    });
    house.connect(&guest);
    until(&mut daemon, "Connected", |_| {
        house.own_state(&guest).as_deref() == Some("4")
    });
    assert_eq!(house.xen.held(), (6, 6));
    daemon.stop().unwrap();
}

#[test]
fn a_detach_and_a_destroyed_guest_leave_no_node_and_others_alone() {
    let house = House::new();
    let (detached, destroyed, other) = (Guest::new(3, 1), Guest::new(4, 2), Guest::new(5, 1));
    let (mut daemon, _rings) = served(&house, &[&detached, &destroyed, &other]);
    house.world.set(&format!("{}/online", detached.back()), "0");
    house.world.set(&format!("{}/state", detached.back()), "5");
    house.world.remove("/local/domain/4");
    for gone in [&detached, &destroyed] {
        until(&mut daemon, "the node's end", |daemon| {
            house.own_state(gone).is_none() && service(daemon, gone).is_none()
        });
        assert_eq!(
            house.world.get(&format!("{}/hotplug-status", gone.back())),
            None
        );
    }
    assert!(is_served(&daemon, &other));
    assert_eq!(house.xen.held(), (2, 2));
    daemon.stop().unwrap();
}

#[test]
fn a_dead_guest_whose_keys_are_hidden_is_gone() {
    let house = House::new();
    let (dead, other) = (Guest::new(3, 2), Guest::new(4, 1));
    let (mut daemon, _rings) = served(&house, &[&dead, &other]);
    house.world.hide("/local/domain/3");
    until(&mut daemon, "the node's end", |daemon| {
        house.own_state(&dead).is_none() && service(daemon, &dead).is_none()
    });
    assert!(is_served(&daemon, &other));
    assert_eq!(house.xen.held(), (2, 2));
    daemon.stop().unwrap();
}

#[test]
fn multicast_control_is_offered_and_sampled_whenever_it_changes() {
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    for feature in [
        "feature-multicast-control",
        "feature-dynamic-multicast-control",
    ] {
        let key = format!("{}/{feature}", guest.back());
        assert_eq!(house.world.get(&key).as_deref(), Some("1"), "{feature}");
    }
    let filters = |daemon: &Daemon| daemon.status().vifs[0].features.unwrap().multicast_control;
    assert!(!filters(&daemon));
    let wish = format!("{}/request-multicast-control", guest.front());
    for (value, expected) in [("1", true), ("0", false), ("1", true)] {
        house.world.set(&wish, value);
        until(&mut daemon, "a sample", |daemon| {
            filters(daemon) == expected
        });
    }
    // What is no number changes nothing, and a key that is gone is 0.
    house.world.set(&wish, "yes");
    house.world.set(&format!("{}/x", guest.front()), "");
    for _ in 0..3 {
        daemon.turn().unwrap();
    }
    assert!(filters(&daemon) && is_served(&daemon, &guest));
    house.world.remove(&wish);
    until(&mut daemon, "a sample", |daemon| !filters(daemon));
    daemon.stop().unwrap();
}

#[test]
fn a_node_that_is_made_anew_at_once_is_taken_on_anew() {
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    house.world.remove(&guest.back());
    house.world.remove(&guest.front());
    house.make(&guest);
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&guest).as_deref() == Some("2")
    });
    house.connect(&guest);
    until(&mut daemon, "Connected", |_| {
        house.own_state(&guest).as_deref() == Some("4")
    });
    assert_eq!(house.xen.held(), (2, 2));
    daemon.stop().unwrap();
}

#[test]
fn a_rogue_is_disabled_with_its_reason_others_go_on_and_a_reconnect_revives_it() {
    let house = House::new();
    let (rogue, other) = (Guest::new(3, 2), Guest::new(4, 1));
    let (mut daemon, _rings) = served(&house, &[&other]);
    house.make(&rogue);
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&rogue).as_deref() == Some("2")
    });
    // The Rx ring's req_prod far beyond the ring.
    house.prepare(&rogue)[1][1][0].store(1 << 31, Relaxed);
    house.world.set(&format!("{}/state", rogue.front()), "4");
    until(&mut daemon, "the worker's notice", |daemon| {
        service(daemon, &rogue).is_some_and(|(service, _)| service == "disabled")
    });
    let (_, reason) = service(&daemon, &rogue).unwrap();
    assert!(
        reason
            .as_deref()
            .is_some_and(|reason| reason.contains("queue 1")),
        "{reason:?}"
    );
    assert_eq!(house.own_state(&rogue).as_deref(), Some("4"));
    until(&mut daemon, "every queue back", |_| {
        house.xen.held() == (2, 2)
    });
    assert!(is_served(&daemon, &other));

    for state in ["5", "6", "1"] {
        house.world.set(&format!("{}/state", rogue.front()), state);
        let expected = if state == "1" { "2" } else { state };
        until(&mut daemon, state, |_| {
            house.own_state(&rogue).as_deref() == Some(expected)
        });
    }
    house.connect(&rogue);
    until(&mut daemon, "revival", |daemon| is_served(daemon, &rogue));
    assert_eq!(service(&daemon, &rogue).unwrap().1, None);
    assert_eq!(house.xen.held(), (6, 6));
    daemon.stop().unwrap();
}

#[test]
fn a_guest_rogue_on_all_of_its_queues_at_once_can_close() {
    let house = House::new();
    let rogue = Guest::new(3, 2);
    house.make(&rogue);
    let mut daemon = house.daemon();
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&rogue).as_deref() == Some("2")
    });
    for rings in house.prepare(&rogue) {
        rings[1][0].store(1 << 31, Relaxed);
    }
    house.world.set(&format!("{}/state", rogue.front()), "4");
    until(&mut daemon, "Connected", |_| {
        house.own_state(&rogue).as_deref() == Some("4")
    });
    // Both workers have time to tell before control listens to either.
    std::thread::sleep(Duration::from_millis(100));
    until(&mut daemon, "the workers' notice", |daemon| {
        service(daemon, &rogue).is_some_and(|(service, _)| service == "disabled")
    });
    for state in ["5", "6"] {
        house.world.set(&format!("{}/state", rogue.front()), state);
        until(&mut daemon, state, |_| {
            house.own_state(&rogue).as_deref() == Some(state)
        });
    }
    assert_eq!(house.xen.held(), (0, 0));
    daemon.stop().unwrap();
}

#[test]
fn an_unknown_bridge_is_refused_by_name_until_a_reload_brings_it() {
    let house = House::new();
    let (lost, other) = (
        Guest {
            bridge: "dmz",
            ..Guest::new(3, 1)
        },
        Guest::new(4, 1),
    );
    house.make(&lost);
    house.make(&other);
    let mut daemon = house.daemon();
    until(&mut daemon, "InitWait", |_| {
        [&lost, &other]
            .iter()
            .all(|guest| house.own_state(guest).as_deref() == Some("2"))
    });
    house.connect(&lost);
    house.connect(&other);
    until(&mut daemon, "a refusal", |daemon| {
        service(daemon, &lost).is_some_and(|(service, _)| service == "refused")
    });
    until(&mut daemon, "service for the other", |daemon| {
        is_served(daemon, &other)
    });
    let told = house
        .world
        .get(&format!("{}/hotplug-error", lost.back()))
        .unwrap();
    assert!(
        told.starts_with("there is no bridge \"dmz\" (configured: xenbr0)"),
        "{told}"
    );
    assert_eq!(house.own_state(&lost).as_deref(), Some("2"));
    assert_eq!(house.xen.held(), (2, 2));

    house
        .bridges
        .lock()
        .unwrap()
        .push_str("[[bridge]]\nname = \"dmz\"\n");
    daemon.reload().unwrap();
    until(&mut daemon, "service", |daemon| is_served(daemon, &lost));
    assert_eq!(
        house.world.get(&format!("{}/hotplug-error", lost.back())),
        None
    );
    assert_eq!(
        daemon
            .bridges
            .iter()
            .map(|bridge| bridge.switch.ports().len())
            .collect::<Vec<_>>(),
        [1, 1]
    );
    daemon.stop().unwrap();
}

#[test]
fn a_vif_is_told_where_no_bridge_is_configured() {
    let house = House::new();
    house.bridges.lock().unwrap().clear();
    let guest = Guest::new(3, 1);
    house.make(&guest);
    let mut daemon = house.daemon();
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&guest).as_deref() == Some("2")
    });
    house.connect(&guest);
    let told = || house.world.get(&format!("{}/hotplug-error", guest.back()));
    until(&mut daemon, "a refusal", |_| told().is_some());
    assert_eq!(
        told().unwrap(),
        "there is no bridge \"xenbr0\" (no bridge is configured); add a [[bridge]] of this name and reload netback"
    );
    daemon.stop().unwrap();
}

#[test]
fn a_successor_takes_over_without_a_key_written_and_a_rival_is_refused() {
    let house = House::new();
    let guests = [Guest::new(3, 2), Guest::new(4, 1)];
    let (daemon, _rings) = served(&house, &[&guests[0], &guests[1]]);
    daemon.stop().unwrap();
    assert_eq!(house.xen.held(), (0, 0));
    house.world.take_changes();
    let mut successor = house.daemon();
    until(&mut successor, "service", |daemon| {
        guests.iter().all(|guest| is_served(daemon, guest))
    });
    assert_eq!(house.world.take_changes(), [""; 0]);
    assert_eq!(house.xen.held(), (6, 6));
    successor.stop().unwrap();

    // Another backend has one guest's port: that one is not touched, the other is served.
    house.xen.ports().steal(3, 100);
    let mut late = house.daemon();
    until(&mut late, "an end of the attempts", |daemon| {
        service(daemon, &guests[0]).is_some_and(|(service, _)| service == "disabled")
    });
    assert!(is_served(&late, &guests[1]));
    let (_, reason) = service(&late, &guests[0]).unwrap();
    assert!(
        reason
            .unwrap()
            .contains("is another backend serving this vif?")
    );
    assert_eq!(house.world.take_changes(), [""; 0]);
    late.stop().unwrap();
}

#[test]
fn the_operator_disconnects_one_and_the_node_waits_for_a_new_driver() {
    let house = House::new();
    let (guest, other) = (Guest::new(3, 1), Guest::new(4, 1));
    let (mut daemon, _rings) = served(&house, &[&guest, &other]);
    let unknown = daemon.answer(Request::Disconnect {
        vif: Some("9/0".into()),
    });
    assert!(
        unknown["error"]
            .as_str()
            .unwrap()
            .contains("there is no vif 9/0")
    );
    let answer = daemon.answer(Request::Disconnect {
        vif: Some("3/0".into()),
    });
    assert_eq!(answer["disconnected"][0], "3/0");
    until(&mut daemon, "Closed", |_| {
        house.own_state(&guest).as_deref() == Some("6")
    });
    assert_eq!(house.xen.held(), (2, 2));
    assert!(is_served(&daemon, &other));
    daemon.stop().unwrap();
}

#[test]
fn what_a_guest_writes_all_the_time_costs_a_bounded_number_of_looks() {
    let house = House::new();
    let (storm, other) = (Guest::new(3, 1), Guest::new(4, 1));
    let (mut daemon, _rings) = served(&house, &[&storm, &other]);
    house.world.take_requests();
    let begun = Instant::now();
    for round in 0..100_000u32 {
        house.world.set(
            &format!("{}/state", storm.front()),
            if round % 2 == 0 { "7" } else { "4" },
        );
        if round % 50 == 0 {
            daemon.turn().unwrap();
        }
    }
    let looks = 20 + begun.elapsed().as_millis() as u64 / 100 + 1;
    let reads = house.world.take_requests().len() as u64;
    // A look is three reads, more where a key is missing.
    assert!(reads <= looks * 6, "{reads} reads for {looks} looks");
    assert!(is_served(&daemon, &storm) && is_served(&daemon, &other));
    assert_eq!(daemon.vifs.len(), 2);
    daemon.stop().unwrap();
}

/// A frontend's keys, read in a house without a daemon.
fn offer(change: impl Fn(&Store, &str)) -> Result<handshake::Offer, String> {
    let house = House::new();
    let guest = Guest::new(3, 2);
    house.make(&guest);
    house.connect(&guest);
    house
        .world
        .set(&format!("{}/multi-queue-max-queues", guest.back()), "4");
    change(&house.world, &guest.front());
    let paths = Paths {
        backend: guest.back(),
        frontend: guest.front(),
    };
    handshake::offer(&mut house.world.connect(DomId(1)), &paths, 4)
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn a_number_of_queues_counts_where_several_are_offered() {
    let queues = |offered: bool| {
        let offer = offer(|store, front| {
            store.set(&format!("{front}/multi-queue-num-queues"), "2");
            for key in ["tx-ring-ref", "rx-ring-ref", "event-channel"] {
                store.set(&format!("{front}/{key}"), "8");
            }
            if !offered {
                store.remove("/local/domain/1/backend/vif/3/0/multi-queue-max-queues");
            }
        });
        offer.unwrap().queues.len()
    };
    assert_eq!((queues(true), queues(false)), (2, 1));
}

#[test]
fn a_handshake_is_read_strictly_and_refused_with_the_key() {
    for (key, value, reason) in [
        (
            "multi-queue-num-queues",
            "0",
            "multi-queue-num-queues is \"0\", not a number from 1 to 4",
        ),
        (
            "multi-queue-num-queues",
            "5",
            "multi-queue-num-queues is \"5\"",
        ),
        (
            "multi-queue-num-queues",
            "-1",
            "multi-queue-num-queues is \"-1\"",
        ),
        (
            "multi-queue-num-queues",
            "abc",
            "multi-queue-num-queues is \"abc\"",
        ),
        (
            "multi-queue-num-queues",
            "",
            "multi-queue-num-queues is \"\"",
        ),
        (
            "multi-queue-num-queues",
            " 1",
            "multi-queue-num-queues is \" 1\"",
        ),
        (
            "multi-queue-num-queues",
            "01",
            "multi-queue-num-queues is \"01\"",
        ),
        (
            "multi-queue-num-queues",
            "0x2",
            "multi-queue-num-queues is \"0x2\"",
        ),
        (
            "multi-queue-num-queues",
            "4294967297",
            "multi-queue-num-queues is \"4294967297\"",
        ),
        (
            "multi-queue-num-queues",
            "3",
            "queue-2/tx-ring-ref is missing",
        ),
        ("multi-queue-num-queues", "1", "tx-ring-ref is missing"),
        ("queue-1/tx-ring-ref", "-5", "queue-1/tx-ring-ref is \"-5\""),
        (
            "queue-0/rx-ring-ref",
            "4294967296",
            "queue-0/rx-ring-ref is \"4294967296\"",
        ),
        (
            "queue-0/event-channel-tx",
            "0",
            "queue-0/event-channel-tx is \"0\", not an event channel",
        ),
        (
            "queue-0/event-channel-rx",
            "x",
            "queue-0/event-channel-rx is \"x\"",
        ),
        (
            "request-rx-copy",
            "0",
            "request-rx-copy is \"0\", not 1: grant copy",
        ),
        ("feature-sg", "yes", "feature-sg is \"yes\", not 0 or 1"),
    ] {
        let refused =
            offer(|world, front| world.set(&format!("{front}/{key}"), value)).unwrap_err();
        assert!(refused.starts_with(reason), "{refused}");
        assert_eq!(refused.lines().count(), 1);
    }
    for (key, reason) in [
        ("request-rx-copy", "request-rx-copy is missing"),
        (
            "queue-1/event-channel-tx",
            "queue-1/event-channel is missing",
        ),
        (
            "queue-1/event-channel-rx",
            "queue-1/event-channel-rx is missing",
        ),
    ] {
        let refused = offer(|world, front| world.remove(&format!("{front}/{key}"))).unwrap_err();
        assert!(refused.starts_with(reason), "{refused}");
    }
    let long = "9".repeat(4000);
    let refused =
        offer(|world, front| world.set(&format!("{front}/multi-queue-num-queues"), &long))
            .unwrap_err();
    assert!(refused.len() < 200, "{refused}");
}

#[test]
fn a_handshake_may_be_flat_or_by_queue_with_one_event_channel_or_two() {
    let split = offer(|_, _| ()).unwrap();
    assert_eq!(split.queues.len(), 2);
    assert!(split.features.split_event_channels && split.features.sg && split.features.csum_ipv4);
    let flat = offer(|world, front| {
        for (key, value) in [
            ("tx-ring-ref", "0"),
            ("rx-ring-ref", "9"),
            ("event-channel", "7"),
            ("feature-no-csum-offload", "1"),
        ] {
            world.set(&format!("{front}/{key}"), value);
        }
        world.remove(&format!("{front}/multi-queue-num-queues"));
    })
    .unwrap();
    assert_eq!(flat.queues.len(), 1);
    assert_eq!((flat.queues[0].tx_gref, flat.queues[0].rx_gref), (0, 9));
    assert_eq!((flat.queues[0].tx_port, flat.queues[0].rx_port), (7, 7));
    assert!(!flat.features.split_event_channels && !flat.features.csum_ipv4);
}
