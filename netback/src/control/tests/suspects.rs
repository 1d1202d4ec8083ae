//! A packet that crashes the daemon, and vifs that merely were in service.
use super::*;
use crate::life::Marks;
use crate::vif::file::{Identity, RingIdentity, VifFile};
use crate::vif::id::VifId;
use crate::worker::messages::ToWorker;
use ring::shadow::Shadow;

/// A grant reference whose copy is a defect of the worker.
const POISON: u32 = 66;

/// Puts a Tx request of 60 bytes from page `gref` into the ring (netif.h: gref, then offset and flags, then id and size).
fn send(ring: &Page, gref: u32) {
    let at = ring[0].load(Relaxed);
    let slot = 16 + 3 * (at as usize % 256);
    for (word, value) in ring[slot..].iter().zip([gref, 0, 60 << 16]) {
        word.store(value, Relaxed);
    }
    ring[0].store(at + 1, Relaxed);
}

/// As if a worker had consumed a Tx request and died before it answered.
fn leave_unanswered(house: &House, guest: &Guest, ring: &Page) {
    let identity = Identity {
        vif: VifId {
            domid: DomId(guest.domid),
            devid: 0,
        },
        queues: vec![RingIdentity {
            tx_gref: 100,
            rx_gref: 101,
            tx_port: 100,
            rx_port: 101,
        }],
    };
    let file = VifFile::reopen(&house.dir, &identity).unwrap();
    send(ring, 0);
    let consumed = ring[0].load(Relaxed);
    file.queue(0).tx().consumed().store(consumed, Relaxed);
}

/// Lets the daemon work until a worker of it panics, and ends what is left of the process.
fn crash(house: &House, mut daemon: Daemon) {
    let deadline = Instant::now() + PATIENCE;
    while daemon.wait().and_then(|()| daemon.turn()).is_ok() {
        assert!(Instant::now() < deadline, "nothing crashed");
    }
    Marks::open(&house.dir).unwrap().crashed();
    daemon.stop().unwrap();
}

/// A waker that is called before its owner lies down leaves nothing behind: the last look before the sleep must find out.
#[test]
fn a_worker_that_ends_before_the_daemon_sleeps_is_found_missing() {
    let house = House::new();
    let mut daemon = house.daemon();
    daemon.pool.send(0, ToWorker::Stop);
    let deadline = Instant::now() + PATIENCE;
    while !daemon.pool.0[0].has_ended() {
        assert!(Instant::now() < deadline, "the worker goes on");
        std::thread::yield_now();
    }
    assert!(daemon.wait().is_err());
    daemon.stop().unwrap();
}

#[test]
fn a_guest_whose_packet_crashes_the_daemon_three_times_is_disabled_and_the_others_are_served() {
    let house = House::new();
    let (poisonous, busy, idle) = (Guest::new(3, 1), Guest::new(4, 1), Guest::new(5, 1));
    house.xen.poison(3, POISON);
    let (mut daemon, rings) = served(&house, &[&busy, &idle]);
    house.make(&poisonous);
    until(&mut daemon, "InitWait", |_| {
        house.own_state(&poisonous).as_deref() == Some("2")
    });
    send(&house.prepare(&poisonous)[0][0], POISON);
    house
        .world
        .set(&format!("{}/state", poisonous.front()), "4");
    for deaths in 1..=3 {
        crash(&house, daemon);
        leave_unanswered(&house, &busy, &rings[0][0][0]);
        daemon = house.daemon();
        assert!(is_served(&daemon, &idle));
        if deaths == 2 {
            // Of the two that may be to blame one is tried, and it never gets an answer.
            assert_eq!(service(&daemon, &busy).unwrap().0, "waiting");
        }
    }
    // It stays so across a restart by the operator.
    for _ in 0..2 {
        for guest in [&busy, &idle] {
            until(&mut daemon, "service", |daemon| is_served(daemon, guest));
        }
        let (service, reason) = service(&daemon, &poisonous).unwrap();
        let reason = reason.unwrap();
        assert_eq!(service, "disabled");
        assert!(
            reason.starts_with("netback crashed three times within a minute"),
            "{reason}"
        );
        let told = format!("{}/hotplug-error", poisonous.back());
        assert_eq!(house.world.get(&told), Some(reason));
        daemon.stop().unwrap();
        daemon = house.daemon();
    }
    // A frontend that connects anew is served again.
    for (state, expected) in [("5", "5"), ("6", "6"), ("1", "2")] {
        house
            .world
            .set(&format!("{}/state", poisonous.front()), state);
        until(&mut daemon, "our state", |_| {
            house.own_state(&poisonous).as_deref() == Some(expected)
        });
    }
    house.connect(&poisonous);
    until(&mut daemon, "service", |daemon| {
        is_served(daemon, &poisonous)
    });
    daemon.stop().unwrap();
}

#[test]
fn deaths_from_outside_count_for_no_vif() {
    let house = House::new();
    let busy = Guest::new(3, 1);
    let (mut daemon, rings) = served(&house, &[&busy]);
    for _ in 0..5 {
        daemon.stop().unwrap();
        leave_unanswered(&house, &busy, &rings[0][0][0]);
        daemon = house.daemon();
        until(&mut daemon, "service", |daemon| is_served(daemon, &busy));
    }
    daemon.stop().unwrap();
}
