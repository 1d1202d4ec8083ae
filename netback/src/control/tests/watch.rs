//! Guests that take no packets, and drops that go on, over a time that the test makes.
use super::log::Log;
use super::*;
use crate::observe::counters::DropReason;

/// A daemon with a guest whose counters the test writes, as no packet passes.
fn counted(house: &House) -> (Daemon, Arc<crate::observe::counters::QueueStats>) {
    let guest = Guest::new(3, 1);
    let (daemon, _rings) = served(house, &[&guest]);
    let service = daemon.vifs.values().next().unwrap().service.as_ref();
    let stats = service.unwrap().queues[0].stats.clone();
    (daemon, stats)
}

fn stalled(daemon: &Daemon) -> Option<u64> {
    daemon.status().vifs[0].stalled_seconds
}

#[test]
fn a_guest_that_takes_no_packets_for_a_minute_is_stalled_until_it_takes_one() {
    let log = Log::begin();
    let house = House::new();
    let (mut daemon, stats) = counted(&house);
    let begun = Instant::now();
    let at = |daemon: &mut Daemon, seconds| {
        daemon.watch_counters(begun + Duration::from_secs(seconds));
    };
    at(&mut daemon, 0);
    // Nothing to take is no stall.
    at(&mut daemon, 500);
    assert_eq!(stalled(&daemon), None);
    stats.backlog_packets.set(3);
    at(&mut daemon, 540);
    stats.rx_packets.add(1);
    at(&mut daemon, 570);
    at(&mut daemon, 620);
    assert_eq!(stalled(&daemon), None, "it took one 50 s ago");
    // What waited has expired by now, and more has come.
    stats.backlog_packets.set(0);
    stats.rx_drops.add(DropReason::BacklogExpired, 3);
    at(&mut daemon, 630);
    assert!(stalled(&daemon).is_some());
    let text = daemon.status().to_string();
    assert!(text.contains("served but STALLED"), "{text}");
    assert_eq!(
        log.count("vif 3/0: the guest takes no packets on queue 0"),
        1
    );
    // It hears no floods meanwhile, and that nothing waits for it any more does not make it well.
    let hears = |daemon: &Daemon| {
        let mut view = xsk_bridge::switch::BridgeView::new(daemon.bridges[0].switch.clone());
        let mut receivers = Vec::new();
        let untagged = xsk_bridge::switch::tag::InVlan::default();
        let group = xsk_bridge::switch::Flood::Group;
        view.receivers(
            group,
            xsk_bridge::switch::PortId(0),
            untagged,
            &mut receivers,
        );
        receivers.len()
    };
    assert_eq!(hears(&daemon), 0);
    at(&mut daemon, 640);
    assert_eq!(log.count("takes no packets"), 1);
    assert!(stalled(&daemon).is_some());
    stats.rx_ring.req_prod.set(32);
    at(&mut daemon, 650);
    assert_eq!(hears(&daemon), 1);
    assert_eq!(stalled(&daemon), None);
    assert_eq!(
        log.count("vif 3/0: the guest takes packets on queue 0 again"),
        1
    );
    daemon.stop().unwrap();
}

#[test]
fn drops_that_go_on_are_a_line_a_minute() {
    let log = Log::begin();
    let house = House::new();
    let (mut daemon, stats) = counted(&house);
    let begun = Instant::now();
    for step in 0..=30 {
        stats.rx_drops.add(DropReason::NoFrame, 5);
        stats.rx_drops.add(DropReason::MulticastFiltered, 7);
        daemon.watch_counters(begun + Duration::from_secs(step * 10));
    }
    // At 10 s, for it goes on only then, and every minute after.
    assert_eq!(
        log.count("vif 3/0: packets for the guest are being dropped: "),
        5
    );
    assert_eq!(log.count("dropped: 10 no_frame ("), 1);
    assert_eq!(log.count("dropped: 30 no_frame ("), 4);
    daemon.stop().unwrap();
}

#[test]
fn drops_by_rule_and_drops_that_do_not_go_on_are_no_line() {
    let log = Log::begin();
    let house = House::new();
    let (mut daemon, stats) = counted(&house);
    let begun = Instant::now();
    for step in 0..20 {
        stats.tx_drops.add(DropReason::LinkLocal, 5);
        stats.tx_drops.add(DropReason::SpoofedSource, step % 2);
        daemon.watch_counters(begun + Duration::from_secs(step * 10));
    }
    assert_eq!(log.count("are being dropped"), 0);
    daemon.stop().unwrap();
}
