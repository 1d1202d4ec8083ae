//! What a vif's rate leaves in its guest's ring, and what it lets through to the guest.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use crate::observe::counters::DropReason;
use crate::queue::limits::Limits;
use crate::vif::bandwidth::Bandwidth;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ten packets of a thousand bytes at once, and the next one more than a second later.
const TEN: Bandwidth = Bandwidth {
    bytes: 9_001,
    window: 10_000_000,
};

fn limits(tx: Option<Bandwidth>, rx: Option<Bandwidth>) -> Arc<Limits> {
    Arc::new(Limits::new(1, [tx, rx], None, Instant::now()))
}

/// A guest with these limits.
fn limited(rig: &mut Rig, number: u8, limits: &Arc<Limits>) -> Guest {
    let mut guest = Guest::new(number, 0, all_features(), &rig.grants);
    guest.limits = limits.clone();
    rig.admit(&mut guest, false);
    rig.turns(1);
    guest
}

fn send(guest: &mut Guest, packets: u32) {
    for seed in 0..packets {
        let bytes = frame(OUTSIDE, guest.mac(), 1000, seed);
        guest.push(&bytes, &[1000], 0);
    }
    let _ = guest.tx.publish();
}

#[test]
fn what_is_more_than_the_rate_stays_in_the_ring_and_the_worker_sleeps() {
    let mut rig = Rig::new();
    let limits = limits(Some(TEN), None);
    let mut guest = limited(&mut rig, 1, &limits);
    send(&mut guest, 30);
    rig.settle();
    assert_eq!(rig.sent_to_wire().len(), 10);
    assert_eq!(guest.stats.tx_drops.total(), 0);
    assert_eq!(guest.stats.tx_paced.get(), 1);
    assert!(rig.workers[0].may_sleep(), "until the bucket has something");
    assert!(rig.workers[0].timeout().unwrap() > Duration::from_millis(2));
    // Others are not held up by it.
    let mut other = rig.guest(2);
    send(&mut other, 30);
    rig.settle();
    assert_eq!(rig.sent_to_wire().len(), 30);

    limits.set_tx(None, Instant::now());
    rig.settle();
    assert_eq!(rig.sent_to_wire().len(), 20);
    assert_eq!(guest.take_statuses().len(), 30);
}

#[test]
fn the_queues_of_a_vif_share_its_rate() {
    let mut rig = Rig::new();
    let limits = limits(Some(TEN), None);
    let mut guests = [1, 2, 3].map(|number| limited(&mut rig, number, &limits));
    for guest in &mut guests {
        send(guest, 30);
    }
    rig.settle();
    let sent = rig.sent_to_wire().len();
    assert_eq!(sent, 10);
}

#[test]
fn a_packet_longer_than_a_window_passes() {
    let mut rig = Rig::new();
    let little = Bandwidth { bytes: 100, ..TEN };
    let limits = limits(Some(little), None);
    let mut guest = limited(&mut rig, 1, &limits);
    send(&mut guest, 3);
    rig.settle();
    assert_eq!(rig.sent_to_wire().len(), 1);
}

#[test]
fn what_is_more_than_the_rate_towards_a_guest_waits_and_then_is_dropped_by_name() {
    let mut rig = Rig::new();
    let limits = limits(None, Some(TEN));
    let mut guest = limited(&mut rig, 1, &limits);
    guest.post(250);
    let arrive = |rig: &mut Rig, count: u32| {
        for seed in 0..count {
            rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 1000, seed));
            rig.turns(1);
        }
    };
    arrive(&mut rig, 30);
    rig.settle();
    assert_eq!(guest.receive().len(), 10);
    let queues = rig.workers[0].fabric.queues.iter().flatten();
    let waiting: usize = queues.map(|queue| queue.rx.backlog.packets()).sum();
    assert_eq!(waiting, 20);
    assert!(rig.workers[0].may_sleep(), "though the guest has posted");
    arrive(&mut rig, 150);
    rig.settle();
    assert_eq!(guest.receive().len(), 0);
    // Two of the longest packets may wait, 131 of these.
    assert_eq!(guest.stats.rx_drops.get(DropReason::RateExceeded), 39);
    assert_eq!(guest.stats.rx_drops.total(), 39);

    limits.set_rx(None, Instant::now());
    rig.settle();
    assert_eq!(guest.receive().len(), 131);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn the_mtu_of_a_vif_counts_both_ways() {
    let mut rig = Rig::new();
    let limits = Arc::new(Limits::new(1, [None; 2], Some(1000), Instant::now()));
    let mut guest = limited(&mut rig, 1, &limits);
    guest.post(10);
    for len in [1018, 1019] {
        let bytes = frame(OUTSIDE, guest.mac(), len, 0);
        guest.push(&bytes, &[len], 0);
        rig.arrive_from_wire(&frame(mac(1), OUTSIDE, len, 0));
    }
    let _ = guest.tx.publish();
    rig.settle();
    assert_eq!((rig.sent_to_wire().len(), guest.receive().len()), (1, 1));
    assert_eq!(guest.stats.tx_drops.get(DropReason::TooLong), 1);
    assert_eq!(guest.stats.rx_drops.get(DropReason::TooLong), 1);
    limits.set_mtu(None);
    rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 1019, 0));
    rig.settle();
    assert_eq!(guest.receive().len(), 1);
}
