//! Deaths of the daemon while it connects and takes over vifs.
use super::*;
use crate::crash::{self, CONNECT_POINTS};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `rsp_prod` of a ring that has carried requests before (xen/include/public/io/ring.h: the third word).
const CARRIED: u32 = 7;

#[test]
fn a_death_at_any_point_of_a_connection_leaves_rings_that_the_successor_takes_over() {
    for &point in CONNECT_POINTS {
        let house = House::new();
        let guest = Guest::new(3, 2);
        house.make(&guest);
        let mut daemon = house.daemon();
        until(&mut daemon, "InitWait", |_| {
            house.own_state(&guest).as_deref() == Some("2")
        });
        for page in house.prepare(&guest).iter().flatten() {
            page[0].store(CARRIED, Relaxed);
            page[2].store(CARRIED, Relaxed);
        }
        house.world.set(&format!("{}/state", guest.front()), "4");
        crash::in_tests::at(Some((point, 1)));
        let death = catch_unwind(AssertUnwindSafe(|| {
            until(&mut daemon, "a death", |_| false);
        }));
        assert!(
            death.is_err_and(|death| death.is::<crash::in_tests::Crash>()),
            "{point} was not passed"
        );
        let at_work = daemon.pool.0.iter().any(|member| member.queues > 0);
        let shown = house.own_state(&guest);
        assert!(
            !at_work || shown.as_deref() == Some("4"),
            "at {point} workers have queues of a vif in state {shown:?}: a successor would connect it afresh"
        );
        daemon.stop().unwrap();

        let mut successor = house.daemon();
        until(&mut successor, "service after a death", |daemon| {
            let (service, reason) = service(daemon, &guest).unwrap_or_default();
            assert_eq!(reason, None, "after a death at {point}");
            service == "served"
        });
        assert_eq!(house.own_state(&guest).as_deref(), Some("4"), "{point}");
        assert_eq!(house.xen.held(), (4, 4), "{point}");
        successor.stop().unwrap();
    }
}

#[test]
fn a_vif_whose_event_channel_is_bound_elsewhere_holds_no_other_up() {
    let house = House::new();
    let guests = [Guest::new(3, 1), Guest::new(4, 1)];
    let (daemon, _rings) = served(&house, &[&guests[0], &guests[1]]);
    daemon.stop().unwrap();
    house.xen.ports().steal(3, 100);
    house.xen.ports().take_binds();
    let mut successor = house.daemon();
    until(&mut successor, "service for the other", |daemon| {
        is_served(daemon, &guests[1])
    });
    // The first guest's port is tried once, and then comes the second guest's turn.
    let binds = house.xen.ports().take_binds();
    assert_eq!(binds[..3], [(3, 100), (4, 100), (4, 101)], "{binds:?}");
    until(&mut successor, "another attempt", |_| {
        house.xen.ports().take_binds().contains(&(3, 100))
    });
    assert_eq!(service(&successor, &guests[0]).unwrap().0, "waiting");
    // Its holder is gone at last.
    house.xen.ports().release(3, 100);
    until(&mut successor, "service", |daemon| {
        is_served(daemon, &guests[0])
    });
    successor.stop().unwrap();
}
