//! What guests send.
use super::rig::{OUTSIDE, Rig, frame, mac};
use crate::observe::counters::DropReason;
use ring::wire::{
    Extra, NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, TxRequest,
};

#[test]
fn packets_of_one_and_many_slots_reach_the_wire_byte_for_byte() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    let mut sent = Vec::new();
    for (seed, sizes) in [
        &[60][..],
        &[1514],
        &[14, 46],
        &[66, 1448],
        &[100, 1, 0, 700, 300],
        &[2000, 1500],
        &[14, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = frame(OUTSIDE, guest.mac(), sizes.iter().sum(), seed as u32);
        guest.push(&bytes, sizes, 0);
        sent.push(bytes);
    }
    let _ = guest.tx.publish();
    rig.settle();
    assert_eq!(rig.sent_to_wire(), sent);
    let statuses = guest.take_statuses();
    assert_eq!(statuses, vec![NETIF_RSP_OKAY; 1 + 1 + 2 + 2 + 5 + 2 + 19]);
    assert_eq!(guest.unanswered(), 0);
    assert_eq!(rig.notified(&guest), 1, "one notification a turn");
    assert_eq!(guest.stats.tx_packets.get(), 7);
    assert_eq!(
        guest.stats.tx_bytes.get(),
        sent.iter().map(|bytes| bytes.len() as u64).sum::<u64>()
    );
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_turn_fetches_everybody_in_one_call_and_the_wire_needs_no_more() {
    let mut rig = Rig::new();
    let mut guests: Vec<_> = (1..=4).map(|number| rig.guest(number)).collect();
    for guest in &mut guests {
        for seed in 0..16 {
            let bytes = frame(OUTSIDE, guest.mac(), 60 + seed, seed as u32);
            guest.push(&bytes, &[bytes.len()], 0);
        }
        let _ = guest.tx.publish();
    }
    rig.grants.take_calls();
    rig.turns(1);
    let calls = rig.grants.take_calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].segments, 64);
    assert_eq!(rig.sent_to_wire().len(), 64);
}

#[test]
fn a_quota_a_turn_is_fair_and_everything_is_answered_in_the_end() {
    let mut rig = Rig::new();
    let mut greedy = rig.guest(1);
    let mut modest = rig.guest(2);
    for seed in 0..256 {
        let bytes = frame(OUTSIDE, greedy.mac(), 60, seed);
        greedy.push(&bytes, &[60], 0);
    }
    let _ = greedy.tx.publish();
    modest.send(&frame(OUTSIDE, modest.mac(), 60, 1));
    rig.turns(1);
    assert_eq!(modest.take_statuses(), [NETIF_RSP_OKAY]);
    greedy.read_answers();
    assert_eq!(greedy.statuses.len(), 64);
    rig.settle();
    assert_eq!(greedy.take_statuses().len(), 256);
    assert_eq!(rig.sent_to_wire().len(), 257);
}

#[test]
fn a_failed_copy_at_each_position_is_that_slots_error_and_nothing_stale_leaves() {
    for bad in 0..9 {
        let mut rig = Rig::new();
        let mut guest = rig.guest(1);
        let mut ids = Vec::new();
        let mut sent = Vec::new();
        for (seed, sizes) in [
            &[60][..],
            &[14, 100, 200],
            &[1000, 1500, 900],
            &[60],
            &[3000],
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = frame(OUTSIDE, guest.mac(), sizes.iter().sum(), seed as u32);
            let first = ids.len();
            ids.extend(guest.push(&bytes, sizes, 0));
            sent.push((first..ids.len(), bytes));
        }
        rig.grants.revoke(1, super::rig::Guest::tx_gref(ids[bad]));
        let _ = guest.tx.publish();
        rig.settle();
        let expected: Vec<_> = sent
            .iter()
            .filter(|(slots, _)| !slots.contains(&bad))
            .map(|(_, bytes)| bytes.clone())
            .collect();
        assert_eq!(rig.sent_to_wire(), expected);
        let statuses = guest.take_statuses();
        let expected: Vec<_> = (0..9)
            .map(|n| {
                if n == bad {
                    NETIF_RSP_ERROR
                } else {
                    NETIF_RSP_OKAY
                }
            })
            .collect();
        assert_eq!(statuses, expected, "slot {bad}");
        assert_eq!(guest.stats.tx_drops.get(DropReason::CopyFailed), 1);
        assert_eq!(guest.stats.tx_errors.get(), 1);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn a_call_that_fails_as_a_whole_forwards_nothing() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    for seed in 0..20 {
        let bytes = frame(OUTSIDE, guest.mac(), 100, seed);
        guest.push(&bytes, &[100], 0);
    }
    let _ = guest.tx.publish();
    rig.grants.fail_next_call();
    rig.settle();
    assert!(rig.sent_to_wire().is_empty());
    assert_eq!(guest.take_statuses(), [NETIF_RSP_ERROR; 20]);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn rejected_chains_multicast_requests_and_drops_are_answered_in_order() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    guest.send(&frame(OUTSIDE, guest.mac(), 60, 0));
    guest.send(&[1; 13]); // shorter than an Ethernet header
    guest.request(TxRequest {
        gref: 0,
        offset: 0,
        flags: NETTXF_EXTRA_INFO,
        id: 900,
        size: 0,
    });
    guest.extra(Extra::MulticastAdd([1, 0, 0x5e, 0, 0, 1]), false);
    guest.send(&frame(OUTSIDE, [1; 6], 60, 0)); // multicast source
    guest.send(&frame(guest.mac(), guest.mac(), 60, 0)); // to itself
    guest.send(&frame(OUTSIDE, guest.mac(), 60, 1));
    rig.settle();
    let (okay, error, dropped) = (NETIF_RSP_OKAY, NETIF_RSP_ERROR, NETIF_RSP_DROPPED);
    assert_eq!(
        guest.take_statuses(),
        [okay, error, okay, dropped, dropped, okay]
    );
    assert_eq!(guest.nulls, 1);
    assert_eq!(rig.sent_to_wire().len(), 2);
    for reason in [
        DropReason::Malformed,
        DropReason::BadSource,
        DropReason::SamePort,
    ] {
        assert_eq!(guest.stats.tx_drops.get(reason), 1, "{reason:?}");
    }
}

#[test]
fn a_flood_reaches_everybody_but_its_sender() {
    let mut rig = Rig::new();
    let mut guests: Vec<_> = (1..=3).map(|number| rig.guest(number)).collect();
    guests.iter_mut().for_each(|guest| guest.post(4));
    let bytes = frame([0xff; 6], mac(1), 300, 7);
    guests[0].send(&bytes);
    rig.settle();
    assert_eq!(rig.sent_to_wire(), std::slice::from_ref(&bytes));
    assert!(guests[0].receive().is_empty());
    for guest in &mut guests[1..] {
        let received = guest.receive();
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].bytes, bytes);
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_full_uplink_stops_consumption_and_guests_among_themselves_go_on() {
    let mut rig = Rig::with(1, 4096, 32);
    let mut sender = rig.guest(1);
    let (mut a, mut b) = (rig.guest(2), rig.guest(3));
    b.post(200);
    let mut pushed = 0;
    for round in 0..40 {
        for seed in 0..sender.tx.free() {
            let bytes = frame(OUTSIDE, sender.mac(), 60, seed);
            sender.push(&bytes, &[60], 0);
            pushed += 1;
        }
        let _ = sender.tx.publish();
        a.send(&frame(b.mac(), a.mac(), 100, round));
        rig.turns(2);
        sender.read_answers();
    }
    assert_eq!(b.receive().len(), 40);
    let consumed = pushed - sender.unanswered();
    // The cable, the outbox, and a quota before the queue's habit was known.
    assert!(consumed <= 32 + crate::bounds::OUTBOX + 64, "{consumed}");
    assert_eq!(sender.stats.tx_drops.total(), 0);
    let mut arrived = 0;
    for _ in 0..100 {
        arrived += rig.sent_to_wire().len();
        rig.turns(2);
    }
    sender.read_answers();
    assert_eq!((arrived, sender.unanswered()), (pushed, 0));
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_rogue_queue_goes_alone_and_control_is_told_why() {
    use crate::worker::messages::FromWorker;
    let mut rig = Rig::new();
    let mut rogue = rig.guest(1);
    let mut honest = rig.guest(2);
    rogue.request(TxRequest {
        gref: 1,
        offset: 4000,
        flags: 0,
        id: 7,
        size: 200,
    });
    let _ = rogue.tx.publish();
    honest.send(&frame(OUTSIDE, honest.mac(), 60, 1));
    rig.settle();
    let Some(FromWorker::Rogue { id, remains, .. }) = rig.outboxes[0].pop() else {
        panic!("no word of it")
    };
    assert_eq!(id, rogue.id());
    assert_eq!(remains.unmap(), [rogue.event(); 2]);
    assert_eq!(honest.take_statuses(), [NETIF_RSP_OKAY]);
    honest.send(&frame(rogue.mac(), honest.mac(), 60, 2));
    rig.settle();
    assert_eq!(honest.take_statuses(), [NETIF_RSP_DROPPED]);
    assert_eq!(honest.stats.tx_drops.get(DropReason::PortGone), 1);
    assert_eq!(rig.frames_found(), rig.frames);

    rogue = rig.guest(1);
    rogue.send(&frame(OUTSIDE, rogue.mac(), 60, 3));
    rig.settle();
    assert_eq!(
        rogue.take_statuses(),
        [NETIF_RSP_OKAY],
        "a reconnect revives it"
    );
}
