//! What guests write into xenstore to keep others from being served, and what xenstore refuses.
use super::*;
use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what each thread logs, for itself.
#[derive(Clone, Copy)]
struct Log;

impl Log {
    /// Every test's lines are kept from now on: a subscriber for one thread alone would miss what other threads use first.
    fn keep() {
        static KEPT: Once = Once::new();
        KEPT.call_once(|| tracing_subscriber::fmt().with_writer(|| Log).init());
    }
    /// Lines with `text` that this thread has logged.
    fn lines(text: &str) -> usize {
        LOGGED.with_borrow(|bytes| {
            let log = String::from_utf8_lossy(bytes);
            log.lines().filter(|line| line.contains(text)).count()
        })
    }
}
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|log| log.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_guest_that_fills_its_directory_does_not_keep_the_toolstack_from_a_detach() {
    let house = House::new();
    let (guest, other) = (Guest::new(3, 1), Guest::new(4, 1));
    let (mut daemon, _rings) = served(&house, &[&guest, &other]);
    // More names than one answer of xenstore holds (xs_wire.h: 4096 bytes), and no state.
    for number in 0..1000 {
        house
            .world
            .set(&format!("{}/filler-{number}", guest.front()), "");
    }
    house.world.remove(&format!("{}/state", guest.front()));
    house.world.set(&format!("{}/online", guest.back()), "0");
    house.world.set(&format!("{}/state", guest.back()), "5");
    until(&mut daemon, "the end of the detach", |daemon| {
        service(daemon, &guest).is_none_or(|(service, _)| service == "closed")
    });
    assert_eq!(house.xen.held(), (2, 2));
    assert!(is_served(&daemon, &other));
    daemon.stop().unwrap();
}

#[test]
fn a_fatal_reason_is_logged_when_state_changes_have_used_up_the_lines() {
    Log::keep();
    let house = House::new();
    let rogue = Guest::new(3, 1);
    house.make(&rogue);
    let mut daemon = house.daemon();
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&rogue).as_deref() == Some("2")
    });
    for vif in daemon.vifs.values_mut() {
        while vif.may_log() {}
    }
    house.prepare(&rogue)[0][1][0].store(1 << 31, Relaxed);
    house.world.set(&format!("{}/state", rogue.front()), "4");
    until(&mut daemon, "the worker's notice", |daemon| {
        service(daemon, &rogue).is_some_and(|(service, _)| service == "disabled")
    });
    assert_eq!(Log::lines("the guest broke the protocol on queue 0"), 1);
    daemon.stop().unwrap();
}

#[test]
fn keys_that_cannot_be_read_fill_no_log() {
    Log::keep();
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    let state = format!("{}/state", guest.back());
    let refused = format!("xenstore refused read {state}: EIO");
    for lines_left in [true, false] {
        while !lines_left && daemon.vifs.values_mut().any(Vif::may_log) {}
        let before = Log::lines(&refused);
        let read = xen::fake::Request::Read;
        house.world.fail(read, &state, "EIO", 1);
        daemon.vifs.values_mut().for_each(|vif| vif.dirty = true);
        daemon.look_at_news().unwrap();
        assert_eq!(Log::lines(&refused) - before, usize::from(lines_left));
    }
    assert!(is_served(&daemon, &guest));
    daemon.stop().unwrap();
}

#[test]
fn a_storm_of_events_does_not_keep_the_control_thread_from_its_other_work() {
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    house.world.storm(&format!("{}/state", guest.front()));
    for _ in 0..10 {
        let before = house.world.listens();
        daemon.wait().unwrap();
        daemon.turn().unwrap();
        let listens = house.world.listens() - before;
        assert!(
            listens <= 8,
            "xenstore was listened to {listens} times before anything else was done"
        );
    }
    daemon.stop().unwrap();
}

#[test]
fn many_vifs_with_news_are_looked_at_a_few_a_turn_and_each_in_its_turn() {
    let house = House::new();
    let guests: Vec<Guest> = (3..43).map(|domid| Guest::new(domid, 1)).collect();
    guests.iter().for_each(|guest| house.make(guest));
    let mut daemon = house.daemon();
    let advertised = |daemon: &Daemon| {
        let is_settling = |vif: &&Vif| matches!(vif.state, State::InitWait { .. });
        daemon.vifs.values().filter(is_settling).count()
    };
    let (mut before, mut now) = (0, advertised(&daemon));
    while before < guests.len() {
        assert!(now - before <= 8, "{} vifs in one turn", now - before);
        before = now;
        daemon.wait().unwrap();
        daemon.turn().unwrap();
        now = advertised(&daemon);
    }
    for guest in &guests {
        assert_eq!(house.own_state(guest).as_deref(), Some("2"));
    }
    daemon.stop().unwrap();
}

/// Let the toolstack detach a guest's vif until our state is Closed.
fn detach(house: &House, daemon: &mut Daemon, guest: &Guest) {
    house.world.set(&format!("{}/online", guest.back()), "0");
    house.world.set(&format!("{}/state", guest.back()), "5");
    until(daemon, "Closed for the toolstack to see", |_| {
        house.own_state(guest).as_deref() == Some("6")
    });
}

#[test]
fn a_closed_node_stays_for_the_toolstack_to_see_and_is_removed_by_the_successor_too() {
    let house = House::new();
    let (first, second) = (Guest::new(3, 1), Guest::new(4, 1));
    let (mut daemon, _rings) = served(&house, &[&first, &second]);
    detach(&house, &mut daemon, &first);
    until(&mut daemon, "the node's end", |_| {
        house.own_state(&first).is_none()
    });
    detach(&house, &mut daemon, &second);
    daemon.stop().unwrap();
    let mut successor = house.daemon();
    assert_eq!(house.own_state(&second).as_deref(), Some("6"));
    until(&mut successor, "the node's end", |_| {
        house.own_state(&second).is_none()
    });
    successor.stop().unwrap();
}

#[test]
fn a_vif_made_anew_while_its_closed_node_stays_is_served_at_once() {
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (mut daemon, _rings) = served(&house, &[&guest]);
    detach(&house, &mut daemon, &guest);
    house.world.remove(&guest.back());
    house.world.remove(&guest.front());
    house.make(&guest);
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&guest).as_deref() == Some("2")
    });
    house.connect(&guest);
    until(&mut daemon, "service", |daemon| is_served(daemon, &guest));
    // The time for which the old node was kept passes, and the new one is still there.
    let later = Instant::now() + super::super::vif::LINGER;
    until(&mut daemon, "the old node's time", |_| {
        Instant::now() > later
    });
    assert_eq!(house.own_state(&guest).as_deref(), Some("4"));
    daemon.stop().unwrap();
}

/// Names of the keys below a vif's backend directory that the daemon wrote.
fn written(house: &House, guest: &Guest) -> Vec<String> {
    let back = guest.back() + "/";
    let mut names: Vec<String> = house
        .world
        .take_changes()
        .iter()
        .filter_map(|change| Some(change.strip_prefix(&back)?.split('=').next()?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn only_what_differs_from_the_protocol_s_defaults_is_written() {
    let house = House::new();
    let guest = Guest::new(3, 1);
    let (daemon, _rings) = served(&house, &[&guest]);
    assert_eq!(
        written(&house, &guest),
        [
            "feature-dynamic-multicast-control",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-multicast-control",
            "feature-rx-copy",
            "feature-sg",
            "feature-split-event-channels",
            "hotplug-status",
            "multi-queue-max-queues",
            "script",
            "state",
        ]
    );
    daemon.stop().unwrap();
}

#[test]
fn any_number_of_vifs_takes_one_watch() {
    let house = House::new();
    let guests: Vec<Guest> = (3..23).map(|domid| Guest::new(domid, 1)).collect();
    let (daemon, _rings) = served(&house, &guests.iter().collect::<Vec<_>>());
    assert_eq!(house.world.watches(), 1);
    daemon.stop().unwrap();
}

#[test]
fn a_vif_beyond_the_quota_of_nodes_says_so_and_is_served_once_there_is_room() {
    let house = House::new();
    let guests = [Guest::new(3, 1), Guest::new(4, 1)];
    guests.iter().for_each(|guest| house.make(guest));
    // Room for one vif's keys of ours.
    house.world.set_quota(xen::fake::Quota {
        nodes: 10,
        watches: 1,
    });
    let mut daemon = house.daemon();
    until(&mut daemon, "a refusal", |daemon| {
        service(daemon, &guests[1]).is_some_and(|(_, reason)| reason.is_some())
    });
    let (now, reason) = service(&daemon, &guests[1]).unwrap();
    let reason = reason.unwrap();
    assert_eq!(now, "waiting");
    assert!(
        reason.contains("EQUOTA") && reason.contains("quota-maxentity"),
        "{reason}"
    );
    assert_eq!(house.own_state(&guests[0]).as_deref(), Some("2"));
    assert_eq!(house.own_state(&guests[1]).as_deref(), Some("1"));
    // What its guest writes meanwhile does not have it tried more often.
    let _ = house.world.take_requests();
    for round in 0..10 {
        let key = format!("{}/x", guests[1].front());
        house.world.set(&key, &round.to_string());
        daemon.turn().unwrap();
    }
    let writes = house.world.take_requests();
    let writes = writes
        .iter()
        .filter(|request| **request == xen::fake::Request::Write);
    assert!(writes.count() <= 20, "tried at every look");

    house.world.set_quota(xen::fake::Quota::default());
    for guest in &guests {
        until(&mut daemon, "InitWait", |_| {
            house.own_state(guest).as_deref() == Some("2")
        });
        house.connect(guest);
        until(&mut daemon, "service", |daemon| is_served(daemon, guest));
        assert_eq!(service(&daemon, guest).unwrap().1, None);
    }
    daemon.stop().unwrap();
}
