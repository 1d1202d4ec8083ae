//! A worker over an uplink that goes wrong.
use super::rig::{OUTSIDE, Rig, frame};
use crate::observe::counters::DropReason;
use crate::path::uplink::UplinkQueue;
use ring::wire::{NETIF_RSP_DROPPED, NETIF_RSP_OKAY};
use std::collections::HashSet;
use xsk_bridge::device::Faults;

const FAULTS: Faults = Faults {
    lose: 7,
    refuse: 11,
    down: 13,
    full: 3,
    deaf: 2,
    stall: 3,
};

fn uplink_waits(rig: &Rig) -> bool {
    rig.workers[0]
        .fabric
        .uplinks
        .iter()
        .flatten()
        .any(UplinkQueue::waits)
}

/// Whatever the uplink does, each packet has one end that is counted, its slots are answered, and no frame is lost.
#[test]
fn each_packet_that_a_faulty_uplink_takes_or_drops_is_counted_once() {
    let mut rig = Rig::with(1, 4096, 48);
    rig.make_uplink_faulty(FAULTS, 11);
    let mut guest = rig.guest(1);
    let (mut sent, mut came) = (Vec::new(), Vec::new());
    for round in 0..40 {
        for seed in 0..60 {
            let bytes = frame(OUTSIDE, guest.mac(), 60, round * 60 + seed);
            guest.push(&bytes, &[60], 0);
            sent.push(bytes);
        }
        let _ = guest.tx.publish();
        // Some wait for room or a kick, which brings no event: the worker looks again after a while.
        while guest.unanswered() > 0 || uplink_waits(&rig) {
            rig.turns(1);
            came.append(&mut rig.sent_to_wire());
            guest.read_answers();
        }
    }
    let statuses = guest.take_statuses();
    assert_eq!(statuses.len(), sent.len());
    let dropped = statuses.iter().filter(|&&s| s == NETIF_RSP_DROPPED);
    let full = guest.stats.tx_drops.get(DropReason::UplinkFull);
    assert_eq!(dropped.count() as u64, full);
    assert_eq!(guest.stats.tx_drops.total(), full);
    let taken = statuses.iter().filter(|&&s| s == NETIF_RSP_OKAY);
    assert_eq!(taken.count() as u64, guest.stats.tx_packets.get());

    let drops = &rig.uplink.send_drops;
    let refused = drops.get(DropReason::UplinkFull);
    let down = drops.get(DropReason::LinkDown);
    let handed = rig.uplink.send_packets.get();
    assert!(refused > 0 && down > 0, "{refused} {down}");
    assert_eq!(handed + refused + down, guest.stats.tx_packets.get());
    assert_eq!(rig.uplink.send_bytes.get(), 60 * handed);
    // The line lost some of them without a word, and changed the order of none.
    assert!(!came.is_empty() && (came.len() as u64) < handed);
    let place = |bytes| sent.iter().position(|other| *other == bytes);
    let places: Vec<_> = came.into_iter().map(place).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted());
    assert_eq!(places.iter().collect::<HashSet<_>>().len(), places.len());
    assert_eq!(rig.frames_found(), rig.frames);
}

/// An uplink that now and then has nothing to say loses nothing of what it heard.
#[test]
fn what_a_deaf_uplink_brings_late_reaches_the_guest_in_order() {
    let mut rig = Rig::with(1, 4096, 48);
    rig.make_uplink_faulty(FAULTS, 5);
    let mut guest = rig.guest(1);
    guest.post(200);
    let (mut sent, mut heard) = (Vec::new(), Vec::new());
    for round in 0..8 {
        for seed in 0..24 {
            let bytes = frame(guest.mac(), OUTSIDE, 100, round * 24 + seed);
            rig.arrive_from_wire(&bytes);
            sent.push(bytes);
        }
        while guest.stats.rx_packets.get() < sent.len() as u64 {
            rig.turns(1);
        }
        heard.extend(guest.receive().into_iter().map(|packet| packet.bytes));
    }
    assert_eq!(heard, sent);
    assert_eq!(rig.uplink.recv_packets.get(), sent.len() as u64);
    assert_eq!(rig.uplink.recv_bytes.get(), 100 * sent.len() as u64);
    assert_eq!(rig.frames_found(), rig.frames);
}
