//! Several workers: packets for ports that live elsewhere, and frames on their way home.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use crate::bounds::PARCELS;
use crate::observe::counters::DropReason;
use crate::path::ports::ServedBy;
use crate::worker::messages::ToWorker;

/// One guest a worker; the wire is on worker 0.
fn rig(workers: u8) -> (Rig, Vec<Guest>) {
    let mut rig = Rig::with(workers, 4096, 1024);
    let guests = (0..workers)
        .map(|n| rig.guest_on(n + 1, n.into(), all_features()))
        .collect();
    (rig, guests)
}

#[test]
fn guests_on_different_workers_and_the_wire_reach_each_other() {
    let (mut rig, mut guests) = rig(3);
    guests.iter_mut().for_each(|guest| guest.post(20));
    for from in 0..3u8 {
        for to in (0..3u8).filter(|&to| to != from) {
            guests[usize::from(from)].send(&frame(
                mac(to + 1),
                mac(from + 1),
                3000,
                (from * 3 + to).into(),
            ));
        }
        guests[usize::from(from)].send(&frame(OUTSIDE, mac(from + 1), 100, 100));
        rig.arrive_from_wire(&frame(mac(from + 1), OUTSIDE, 100, 200));
    }
    rig.settle();
    assert_eq!(rig.sent_to_wire().len(), 3);
    for (n, guest) in guests.iter_mut().enumerate() {
        let received = guest.receive();
        assert_eq!(received.len(), 3);
        assert!(
            received
                .iter()
                .all(|packet| packet.bytes[..6] == mac(n as u8 + 1))
        );
        assert_eq!(guest.take_statuses(), [0; 3]);
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn frames_go_home() {
    let (mut rig, mut guests) = rig(2);
    let before: Vec<_> = rig
        .workers
        .iter()
        .map(|worker| worker.fabric.pool.len())
        .collect();
    for seed in 0..2000 {
        guests[1].send(&frame(OUTSIDE, mac(2), 100, seed));
        rig.turns(2);
        guests[1].read_answers();
        rig.sent_to_wire();
    }
    rig.settle();
    let after: Vec<_> = rig
        .workers
        .iter()
        .map(|worker| worker.fabric.pool.len())
        .collect();
    assert_eq!(after, before);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_worker_that_does_not_turn_holds_its_neighbour_to_the_bound() {
    let (mut rig, mut guests) = rig(2);
    let mut pushed = 0;
    for _ in 0..20 {
        while guests[1].tx.free() > 0 {
            let bytes = frame(OUTSIDE, mac(2), 60, pushed);
            guests[1].push(&bytes, &[60], 0);
            pushed += 1;
        }
        let _ = guests[1].tx.publish();
        rig.workers[1].turn();
        guests[1].read_answers();
    }
    let consumed = pushed as usize - guests[1].unanswered();
    assert!(consumed <= PARCELS + 64, "{consumed}");
    assert_eq!(guests[1].stats.tx_drops.total(), 0, "it waits in the ring");
    rig.settle();
    guests[1].read_answers();
    assert_eq!(guests[1].unanswered(), 0);
    assert_eq!(rig.sent_to_wire().len(), pushed as usize);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_is_under_way_to_a_queue_that_goes_is_dropped_by_name() {
    let (mut rig, mut guests) = rig(2);
    guests[1].send(&frame(mac(1), mac(2), 100, 1));
    rig.workers[1].turn();
    rig.tell(0, ToWorker::RemoveQueue(guests[0].id()));
    rig.tell_all(guests[0].port(), ServedBy::Nobody);
    rig.settle();
    assert_eq!(rig.workers[0].stats.drops.get(DropReason::PortGone), 1);
    assert_eq!(guests[1].take_statuses(), [0]);
    guests[1].send(&frame(mac(1), mac(2), 100, 2));
    rig.settle();
    assert_eq!(guests[1].stats.tx_drops.get(DropReason::PortGone), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}
