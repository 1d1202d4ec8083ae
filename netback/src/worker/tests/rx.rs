//! What guests receive.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use crate::bounds::BACKLOG_FRAMES;
use crate::observe::counters::DropReason;
use crate::vif::features::Features;
use std::time::Duration;
use xen::fake::Access;

#[test]
fn frames_from_the_wire_reach_their_guest_in_one_call() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    guest.post(64);
    let sent: Vec<_> = (0..40)
        .map(|seed| frame(mac(1), OUTSIDE, 60 + seed as usize * 30, seed))
        .collect();
    sent.iter().for_each(|bytes| rig.arrive_from_wire(bytes));
    rig.notified(&guest);
    rig.grants.take_calls();
    rig.turns(1);
    let received = guest.receive();
    assert_eq!(
        received
            .iter()
            .map(|packet| packet.bytes.clone())
            .collect::<Vec<_>>(),
        sent
    );
    assert!(
        received
            .iter()
            .all(|packet| packet.slots == 1 && packet.flags == 0)
    );
    let calls = rig.grants.take_calls();
    assert_eq!((calls.len(), calls[0].segments), (1, 40));
    assert_eq!(rig.notified(&guest), 1);
    assert_eq!(guest.stats.rx_packets.get(), 40);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn guest_to_guest_small_ones_go_by_the_private_copy_large_ones_page_to_page() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    b.post(100);
    for (seed, sizes) in [
        &[60][..],
        &[1514],
        &[66, 1448],
        &[4000],
        &[100, 4096, 4096, 4096],
        &[4096; 15],
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = frame(b.mac(), a.mac(), sizes.iter().sum(), seed as u32);
        a.push(&bytes, sizes, 0);
        let _ = a.tx.publish();
        rig.grants.take_calls();
        rig.turns(1);
        let calls = rig.grants.take_calls();
        assert_eq!(calls.len(), 2, "one in, one out");
        let (large, by_address) = (
            bytes.len() > 2048,
            calls[0].by_address + calls[1].by_address,
        );
        assert_eq!(calls[1].foreign_to_foreign > 0, large);
        assert_eq!(by_address, 0, "nothing of ours is looked up");
        let received = b.receive();
        assert_eq!(received.len(), 1, "{sizes:?}");
        assert!(received[0].bytes == bytes, "{sizes:?}");
        assert_eq!(received[0].slots, bytes.len().div_ceil(4096));
        assert!(a.take_statuses().iter().all(|&status| status == 0));
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn order_is_kept_whatever_way_packets_take() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    let mut sent = Vec::new();
    let mut received = Vec::new();
    for round in 0..60u32 {
        for n in 0..4 {
            let len = [60, 1514, 3000, 9000][((round * 7 + n * 3) % 4) as usize];
            let bytes = frame(b.mac(), a.mac(), len, round * 4 + n);
            let sizes: Vec<_> = (0..len.div_ceil(4096))
                .map(|page| (len - page * 4096).min(4096))
                .collect();
            a.push(&bytes, &sizes, 0);
            sent.push(bytes);
        }
        let _ = a.tx.publish();
        b.post([0, 2, 9, 20][(round % 4) as usize].min(b.rx.free() as usize));
        rig.turns(1);
        received.extend(b.receive());
        a.read_answers();
    }
    for _ in 0..20 {
        b.post(20.min(b.rx.free() as usize));
        rig.turns(1);
        received.extend(b.receive());
    }
    assert_eq!(received.len(), sent.len());
    assert!(
        received
            .iter()
            .zip(&sent)
            .all(|(got, sent)| got.bytes == *sent)
    );
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_starved_ring_backs_up_to_the_bound_and_not_beyond() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    b.post(1); // one slot: never enough for a packet of two
    for seed in 0..3000 {
        a.push(&frame(b.mac(), a.mac(), 6000, seed), &[4096, 1904], 0);
        let _ = a.tx.publish();
        rig.turns(1);
        a.read_answers();
    }
    assert_eq!(
        a.unanswered(),
        0,
        "a starved receiver never holds the sender up"
    );
    let backlog = 512 * 1024 / 6000;
    assert_eq!(
        b.stats.rx_drops.get(DropReason::BacklogFull),
        3000 - backlog
    );
    assert!(b.receive().is_empty());
    assert_eq!(rig.frames_found(), rig.frames);
    b.post(255);
    rig.settle();
    assert_eq!(b.receive().len() as u64, backlog);

    for seed in 0..2000 {
        a.send(&frame(mac(3), a.mac(), 60, seed));
        rig.turns(1);
        a.read_answers();
    }
    assert!(
        rig.workers[0]
            .fabric
            .queues
            .iter()
            .flatten()
            .all(|queue| queue.rx.backlog.frames() <= BACKLOG_FRAMES)
    );
}

#[test]
fn a_waiting_packet_asks_for_as_many_slots_as_it_needs() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    let bytes = frame(b.mac(), a.mac(), 9000, 1);
    a.push(&bytes, &[4096, 4096, 808], 0);
    let _ = a.tx.publish();
    rig.settle();
    assert!(rig.workers[0].rest(0));
    for posted in [1, 1] {
        b.post(posted);
        rig.settle();
        assert!(b.receive().is_empty());
    }
    assert!(rig.workers[0].rest(0), "two of three: no event is due");
    b.rx.arm();
    let id = 77;
    rig.grants.grant(2, 20_000 + id, 0, &[], Access::ReadWrite);
    b.post(1);
    rig.events[0].fire(b.event());
    rig.settle();
    assert_eq!(b.receive()[0].bytes, bytes);
}

#[test]
fn a_failed_copy_is_an_error_in_its_slot_and_the_others_arrive() {
    for bad in 0..3 {
        let mut rig = Rig::new();
        let mut guest = rig.guest(1);
        guest.post(3);
        guest.spoil_rx(bad);
        (0..3).for_each(|seed| rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 100, seed)));
        rig.settle();
        let received = guest.receive();
        assert_eq!(received.len(), 3);
        for (n, packet) in received.iter().enumerate() {
            assert_eq!(packet.errors.len(), usize::from(n == bad));
            assert!(packet.errors.iter().all(|&status| status < 0));
        }
        assert_eq!(guest.stats.rx_errors.get(), 1);
        assert_eq!(guest.stats.rx_packets.get(), 2);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn a_sender_whose_page_fails_loses_the_direct_way() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    b.post(20);
    for round in 0..3 {
        let ids = a.push(&frame(b.mac(), a.mac(), 6000, round), &[3000, 3000], 0);
        rig.grants.revoke(1, super::rig::Guest::tx_gref(ids[1]));
        let _ = a.tx.publish();
        rig.settle();
        assert_eq!(a.take_statuses(), [0, -1]);
    }
    let received = b.receive();
    assert_eq!(
        received.len(),
        1,
        "only the first got as far as the receiver's ring"
    );
    assert!(!received[0].errors.is_empty());
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_a_guest_cannot_take_is_dropped_by_name() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut plain = rig.guest_on(
        2,
        0,
        Features {
            sg: false,
            ..all_features()
        },
    );
    plain.post(10);
    a.push(&frame(mac(2), a.mac(), 1518, 1), &[1518], 0);
    a.push(&frame(mac(2), a.mac(), 1519, 2), &[1519], 0);
    let _ = a.tx.publish();
    rig.settle();
    assert_eq!(plain.receive().len(), 1);
    assert_eq!(plain.stats.rx_drops.get(DropReason::TooLong), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_frontend_that_never_notifies_is_polled() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut quiet = rig.guest_on(
        2,
        0,
        Features {
            rx_notify: false,
            ..all_features()
        },
    );
    a.send(&frame(mac(2), a.mac(), 100, 1));
    rig.settle();
    assert!(rig.workers[0].rest(0));
    quiet.post(1);
    rig.turns(1);
    assert_eq!(quiet.receive().len(), 1);
}

#[test]
fn the_guest_is_notified_once_and_only_when_it_asked() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    guest.post(20);
    rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 100, 0));
    rig.settle();
    assert_eq!(rig.notified(&guest), 1);
    rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 100, 1));
    rig.settle();
    assert_eq!(rig.notified(&guest), 0, "rsp_event was not moved");
    assert_eq!(guest.receive().len(), 2);
    assert!(!guest.rx.arm());
    rig.turns(5);
    assert_eq!(rig.notified(&guest), 0, "nothing new, no event");
    rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 100, 2));
    rig.settle();
    assert_eq!(rig.notified(&guest), 1);
}

#[test]
fn a_vif_with_queues_gets_each_flow_on_one_of_them_in_order() {
    use crate::path::ports::ServedBy;
    let mut rig = Rig::with(2, 4096, 1024);
    let mut queues: Vec<_> = (0..4)
        .map(|n| rig.queue_of(1, n, usize::from(n % 2)))
        .collect();
    rig.tell_all(queues[0].port(), ServedBy::Guest(vec![0, 1, 0, 1]));
    rig.turns(1);
    queues.iter_mut().for_each(|queue| queue.post(200));
    // Not IP: the flow is the pair of MACs.
    for seed in 0..200u32 {
        let from = [2, 0, 0, 0, 1, (seed % 40) as u8];
        rig.arrive_from_wire(&frame(mac(1), from, 100, seed));
    }
    rig.settle();
    let mut on = std::collections::HashMap::new();
    let mut used = 0;
    for (n, queue) in queues.iter_mut().enumerate() {
        let received = queue.receive();
        used += usize::from(!received.is_empty());
        for packet in received {
            let seed = u32::from_le_bytes(packet.bytes[14..18].try_into().unwrap());
            let (queue, last) = on.insert(packet.bytes[11], (n, seed)).unwrap_or((n, seed));
            assert!(
                queue == n && last <= seed,
                "a flow changed its queue, or its order"
            );
        }
    }
    assert_eq!((on.len(), used), (40, 4));
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_waits_too_long_expires() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = Guest::new(2, 0, all_features(), &rig.grants);
    b.backlog.age = Duration::from_millis(20);
    rig.admit(&mut b, false);
    rig.settle();
    a.send(&frame(b.mac(), a.mac(), 100, 1));
    rig.settle();
    std::thread::sleep(Duration::from_millis(30));
    rig.turns(1);
    b.post(1);
    rig.settle();
    assert!(b.receive().is_empty());
    assert_eq!(b.stats.rx_drops.get(DropReason::BacklogExpired), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}
