//! Staging memory: copies name it by reference, or by address where there is no gntalloc.
use super::rig::{Guest, OUTSIDE, Rig, frame, mac};
use crate::copy::staging::Staging;
use xen::fake::{Call, OwnPages};

/// Both guests send to the wire and to each other, and the wire to both; what everybody got.
fn exchange(rig: &mut Rig) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut guests = [rig.guest(1), rig.guest(2)];
    let sizes = [60, 64, 1514, 2048, 2049, 3000];
    for guest in &mut guests {
        guest.post(60);
        let (own, other) = (guest.mac(), mac(3 - guest.number));
        for (seed, size) in (0..).zip(sizes) {
            for to in [OUTSIDE, other] {
                guest.push(&frame(to, own, size, seed), &[size], 0);
            }
            if size < 2048 {
                rig.arrive_from_wire(&frame(own, OUTSIDE, size, seed));
            }
        }
        let _ = guest.tx.publish();
    }
    rig.settle();
    let mut received: Vec<_> = guests.iter_mut().flat_map(Guest::receive).collect();
    received.sort_by(|a, b| a.bytes.cmp(&b.bytes));
    let received = received.into_iter().map(|packet| packet.bytes).collect();
    assert_eq!(rig.frames_found(), rig.frames);
    (rig.sent_to_wire(), received)
}

fn by_address(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.by_address).sum()
}

#[test]
fn everything_arrives_with_and_without_them() {
    let (mut with, mut without) = (Rig::new(), Rig::without_bounce());
    let expected = exchange(&mut without);
    assert_eq!((expected.0.len(), expected.1.len()), (12, 12 + 6));
    assert!(exchange(&mut with) == expected);
    let calls = with.grants.take_calls();
    assert_eq!(by_address(&calls), 0);
    let calls = without.grants.take_calls();
    assert!(calls.iter().all(|call| call.by_reference == 0));
}

#[test]
fn what_a_turn_has_no_staging_memory_for_waits_for_the_next() {
    let mut rig = Rig::new();
    let few = OwnPages::new(&rig.grants, 5_000_000, 128);
    let worker = &mut rig.workers[0];
    worker.batch.staging = Staging::new(Some(Box::new(few)), &mut worker.fabric.pool);
    let mut receivers: Vec<_> = (1..=4).map(|number| rig.guest(number)).collect();
    let mut sender = rig.guest(5);
    // Before anybody posts: into the backlogs.
    let mut expected = Vec::new();
    for receiver in &receivers {
        let towards = (0..100).map(|seed| frame(receiver.mac(), OUTSIDE, 3000, seed));
        expected.push(towards.collect::<Vec<_>>());
    }
    for packet in expected.iter().flatten() {
        rig.arrive_from_wire(packet);
    }
    rig.settle();
    for seed in 0..64 {
        sender.push(&frame(OUTSIDE, sender.mac(), 3000, seed), &[1000, 2000], 0);
    }
    let _ = sender.tx.publish();
    receivers.iter_mut().for_each(|guest| guest.post(100));
    rig.grants.take_calls();
    rig.turns(1);
    let placed = rig.grants.take_calls().pop().unwrap();
    assert!(placed.by_reference < 128, "{}", placed.by_reference);
    let first = rig.sent_to_wire().len();
    assert!((1..64).contains(&first), "{first}");
    rig.settle();
    assert_eq!(first + rig.sent_to_wire().len(), 64);
    for (receiver, expected) in receivers.iter_mut().zip(expected) {
        let received: Vec<_> = receiver.receive().into_iter().map(|p| p.bytes).collect();
        assert!(received == expected);
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_head_that_could_not_be_fetched_goes_nowhere() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    b.post(4);
    let bytes = frame(b.mac(), a.mac(), 60, 1);
    a.send(&bytes);
    rig.settle();
    assert_eq!(b.receive().len(), 1);
    // The piece still holds the packet before it.
    let ids = a.push(&bytes, &[60], 0);
    rig.grants.revoke(1, Guest::tx_gref(ids[0]));
    let _ = a.tx.publish();
    rig.settle();
    assert!(b.receive().is_empty() && rig.sent_to_wire().is_empty());
    assert_eq!(a.take_statuses(), [0, ring::wire::NETIF_RSP_ERROR]);
}

#[test]
fn a_worker_with_little_memory_and_no_gntalloc_still_carries_packets() {
    let mut rig = Rig::with(1, 256, 1024);
    let worker = &mut rig.workers[0];
    worker.batch.staging = Staging::new(None, &mut worker.fabric.pool);
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    for round in 0..20 {
        b.post(4);
        a.push(&frame(OUTSIDE, a.mac(), 3000, round), &[1000, 2000], 0);
        a.push(&frame(b.mac(), a.mac(), 9000, round), &[4096, 4096, 808], 0);
        let _ = a.tx.publish();
        rig.settle();
        assert_eq!((rig.sent_to_wire().len(), b.receive().len()), (1, 1));
        assert_eq!(a.take_statuses(), [0; 5]);
    }
    assert_eq!(rig.frames_found(), rig.frames);
}
