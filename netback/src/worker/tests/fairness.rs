//! Nobody's share is another's: packet memory, turns, floods, and destinations that are full.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use crate::bounds::{HOLD, QUEUE_QUANTUM, SUSPICION, frames_needed};
use crate::observe::counters::DropReason;
use crate::worker::messages::ToWorker;
use ring::wire::NETIF_RSP_OKAY;
use std::time::Duration;
use xsk_bridge::frame::Rings;

/// A rig whose worker has the frames that the sum of their holders asks for.
fn rig_of_the_usual_size() -> Rig {
    Rig::with(
        1,
        frames_needed(1, 1, Rings { recv: 0, send: 0 }, 0) as usize,
        1024,
    )
}

/// Packets of `sender` for every guest, `count` of `len` bytes each.
fn send_to_all(rig: &mut Rig, sender: &mut Guest, guests: &[Guest], count: u32, len: usize) {
    for guest in guests {
        for seed in 0..count {
            sender.send(&frame(guest.mac(), sender.mac(), len, seed));
            rig.turns(1);
            sender.read_answers();
        }
    }
    sender.statuses.clear();
}

#[test]
fn guests_that_post_nothing_keep_nobody_from_sending_and_receiving() {
    let mut rig = rig_of_the_usual_size();
    let paused: Vec<_> = (1..=12).map(|number| rig.guest(number)).collect();
    let mut talker = rig.guest(13);
    send_to_all(&mut rig, &mut talker, &paused, 400, 1514);
    let full = |guest: &Guest| guest.stats.rx_drops.get(DropReason::BacklogFull) > 0;
    assert!(paused.iter().all(full), "every backlog is at its bound");

    let (mut sender, mut late) = (rig.guest(20), rig.guest(21));
    for seed in 0..64 {
        let bytes = frame(OUTSIDE, sender.mac(), 1514, seed);
        sender.push(&bytes, &[1514], 0);
    }
    let _ = sender.tx.publish();
    rig.arrive_from_wire(&frame(late.mac(), OUTSIDE, 1514, 1));
    rig.settle();
    assert_eq!(sender.take_statuses(), [NETIF_RSP_OKAY; 64]);
    assert_eq!(rig.sent_to_wire().len(), 64);
    late.post(1);
    rig.settle();
    assert_eq!(late.receive().len(), 1, "a newcomer's packet may wait too");
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn small_packets_wait_in_a_share_of_a_frame_each() {
    let mut rig = rig_of_the_usual_size();
    let (guest, mut sender) = (rig.guest(1), rig.guest(2));
    send_to_all(&mut rig, &mut sender, &[guest], 1000, 60);
    let backlog = &rig.workers[0].fabric.queues[0].as_ref().unwrap().rx.backlog;
    assert_eq!(
        (backlog.packets(), backlog.frames()),
        (1000, 1000 * 60 / 4096 + 1)
    );
}

#[test]
fn a_turn_gives_each_queue_its_share_in_bytes() {
    let mut rig = Rig::new();
    let (mut bulk, mut small) = (rig.guest(1), rig.guest(2));
    let sizes: Vec<usize> = [4000; 15].into();
    for seed in 0..16 {
        bulk.push(&frame(mac(2), bulk.mac(), 60_000, seed), &sizes, 0);
    }
    let _ = bulk.tx.publish();
    for seed in 0..60 {
        small.push(&frame(OUTSIDE, small.mac(), 60, seed), &[60], 0);
    }
    let _ = small.tx.publish();
    rig.turns(1);
    assert_eq!(small.take_statuses(), [NETIF_RSP_OKAY; 60]);
    let taken = bulk.take_statuses().len() / sizes.len();
    assert!(
        (1..=QUEUE_QUANTUM / 60_000 + 1).contains(&taken),
        "{taken} packets of 60000 bytes"
    );
    rig.settle();
    bulk.read_answers();
    assert_eq!(bulk.unanswered(), 0);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn the_queue_that_a_turn_had_no_budget_for_is_the_next_turn_s_first() {
    let mut rig = Rig::new();
    let mut guests: Vec<_> = (1..=5).map(|number| rig.guest(number)).collect();
    for guest in &mut guests {
        for seed in 0..64 {
            guest.push(&frame(OUTSIDE, guest.mac(), 60, seed), &[60], 0);
        }
        let _ = guest.tx.publish();
    }
    // Two queues' worth a turn.
    for served in [2, 4, 5] {
        rig.turns(1);
        guests.iter_mut().for_each(Guest::read_answers);
        let done = guests.iter().filter(|guest| guest.statuses.len() == 64);
        assert_eq!(done.count(), served);
    }
}

#[test]
fn one_guest_s_broadcasts_leave_the_wire_its_own() {
    let mut rig = Rig::new();
    let mut loud = rig.guest(1);
    let mut others: Vec<_> = (2..=20).map(|number| rig.guest(number)).collect();
    for round in 0..20 {
        others
            .iter_mut()
            .for_each(|guest| guest.post(guest.rx.free() as usize));
        for seed in 0..64 {
            let bytes = frame([0xff; 6], loud.mac(), 60, seed);
            loud.push(&bytes, &[60], 0);
        }
        let _ = loud.tx.publish();
        let from_the_wire = frame([0xff; 6], OUTSIDE, 60, 1000 + round);
        rig.arrive_from_wire(&from_the_wire);
        rig.settle();
        assert_eq!(rig.sent_to_wire().len(), 64, "the wire hears all of them");
        assert_eq!(loud.take_statuses(), [NETIF_RSP_OKAY; 64]);
        for guest in &mut others {
            let heard = guest.receive();
            assert!(heard.iter().any(|packet| packet.bytes == from_the_wire));
        }
    }
    assert!(loud.stats.tx_drops.get(DropReason::FloodLimit) > 0);
    assert_eq!(rig.uplink.recv_drops.total(), 0);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// Two workers: the first has guest 1 and the wire, which takes nothing; the second has guests 2 and 3, of which guest 2 has filled
/// everything on the way to the wire.
fn full_wire() -> (Rig, Vec<Guest>) {
    let mut rig = Rig::with(2, 4096, 8);
    let mut guests: Vec<_> = [(1, 0), (2, 1), (3, 1)]
        .map(|(number, worker)| rig.guest_on(number, worker, all_features()))
        .into();
    for _ in 0..20 {
        push_to_the_wire(&mut guests[1]);
        rig.turns(2);
        guests[1].read_answers();
    }
    assert!(guests[1].unanswered() > 0, "it waits in the ring");
    (rig, guests)
}

fn push_to_the_wire(guest: &mut Guest) {
    for seed in 0..guest.tx.free() {
        let bytes = frame(OUTSIDE, guest.mac(), 60, seed);
        guest.push(&bytes, &[60], 0);
    }
    let _ = guest.tx.publish();
}

#[test]
fn a_full_wire_stops_nothing_between_guests_of_different_workers() {
    let (mut rig, mut guests) = full_wire();
    guests[0].post(20);
    for seed in 0..20 {
        let bytes = frame(mac(1), mac(3), 100, seed);
        guests[2].push(&bytes, &[100], 0);
    }
    let _ = guests[2].tx.publish();
    rig.turns(4);
    assert_eq!(guests[0].receive().len(), 20);
    assert_eq!(guests[2].take_statuses(), [NETIF_RSP_OKAY; 20]);
}

#[test]
fn a_destination_that_stays_full_holds_a_queue_for_a_while_and_then_costs_its_own_packets_only() {
    let (mut rig, mut guests) = full_wire();
    guests[0].post(20);
    guests[1].statuses.clear();
    rig.turns(4);
    guests[1].read_answers();
    assert!(guests[1].statuses.is_empty(), "held");
    // Behind what is for the wire waits a packet for a guest.
    std::thread::sleep(HOLD + Duration::from_millis(5));
    for _ in 0..8 {
        rig.turns(2);
        guests[1].read_answers();
    }
    guests[1].send(&frame(mac(1), mac(2), 100, 7));
    for _ in 0..8 {
        rig.turns(2);
    }
    assert_eq!(guests[0].receive().len(), 1);
    let dropped = rig.workers[0].stats.drops.get(DropReason::UplinkFull);
    assert!(dropped > 0, "by name, where the wire is");
    assert_eq!(rig.workers[0].stats.drops.total(), dropped);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// Operations from page to page that a packet of guest 1 for another takes.
fn direct_operations(rig: &mut Rig, sender: &mut Guest, receiver: &mut Guest) -> usize {
    rig.grants.take_calls();
    receiver.post(2);
    sender.push(
        &frame(receiver.mac(), sender.mac(), 6000, 1),
        &[3000, 3000],
        0,
    );
    let _ = sender.tx.publish();
    rig.settle();
    sender.read_answers();
    receiver.receive();
    let calls = rig.grants.take_calls();
    calls.iter().map(|call| call.foreign_to_foreign).sum()
}

#[test]
fn a_bad_receiver_costs_its_senders_direct_copies_for_a_while_only() {
    let mut rig = Rig::new();
    let (mut sender, mut bad, mut good) = (rig.guest(1), rig.guest(2), rig.guest(3));
    assert!(direct_operations(&mut rig, &mut sender, &mut good) > 0);
    bad.post(2);
    bad.spoil_rx(1);
    sender.push(&frame(bad.mac(), sender.mac(), 6000, 1), &[3000, 3000], 0);
    let _ = sender.tx.publish();
    rig.settle();
    bad.receive();
    assert_eq!(direct_operations(&mut rig, &mut sender, &mut good), 0);
    std::thread::sleep(SUSPICION + Duration::from_millis(10));
    assert!(direct_operations(&mut rig, &mut sender, &mut good) > 0);
}

#[test]
fn a_queue_that_goes_gives_its_backlog_s_frames_back() {
    let mut rig = Rig::new();
    let (guest, mut sender) = (rig.guest(1), rig.guest(2));
    send_to_all(
        &mut rig,
        &mut sender,
        std::slice::from_ref(&guest),
        200,
        1514,
    );
    rig.tell(0, ToWorker::RemoveQueue(guest.id()));
    rig.settle();
    assert!(guest.stats.rx_drops.get(DropReason::PortGone) > 100);
    assert_eq!(rig.frames_found(), rig.frames);
}
