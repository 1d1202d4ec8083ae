//! Tags on the way between ports of VLANs: put in, taken out, kept, whatever a packet's size and wherever its bytes are.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use super::segments::{check_segments, gso_features, send_tcp, tcp};
use crate::observe::counters::DropReason;
use proptest::prelude::*;
use ring::wire::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};
use xsk_bridge::switch::Rules;

/// A guest on worker `worker` in the VLANs that the key says.
fn guest_in(rig: &mut Rig, number: u8, worker: usize, key: &str) -> Guest {
    let features = gso_features();
    let mut guest = Guest::new(number, worker, features, &rig.grants);
    guest.rules = Rules {
        vlans: Some(key.parse().unwrap()),
        isolated: false,
    };
    rig.admit(&mut guest, false);
    rig.turns(1);
    guest
}

fn tagged(bytes: &[u8], vid: u16) -> Vec<u8> {
    let tag = [0x81, 0, (vid >> 8) as u8, vid as u8];
    [&bytes[..12], &tag, &bytes[12..]].concat()
}

fn heard(guest: &mut Guest) -> Vec<Vec<u8>> {
    let received = guest.receive().into_iter();
    let whole = received.inspect(|packet| assert!(packet.errors.is_empty()));
    whole.map(|packet| packet.bytes).collect()
}

#[test]
fn an_access_guest_has_no_tag_and_the_wire_has_one() {
    let mut rig = Rig::new();
    let mut guest = guest_in(&mut rig, 1, 0, "10");
    let mut other = guest_in(&mut rig, 2, 0, "20");
    guest.post(8);
    other.post(8);
    rig.arrive_from_wire(&tagged(&frame(mac(1), OUTSIDE, 60, 1), 10));
    rig.arrive_from_wire(&tagged(&frame([0xff; 6], OUTSIDE, 1514, 2), 10));
    rig.settle();
    let expected = [
        frame(mac(1), OUTSIDE, 60, 1),
        frame([0xff; 6], OUTSIDE, 1514, 2),
    ];
    assert_eq!(heard(&mut guest), expected);
    for (seed, size) in [60, 1000, 1514].into_iter().enumerate() {
        let bytes = frame(OUTSIDE, mac(1), size, seed as u32);
        guest.send(&bytes);
        rig.settle();
        assert_eq!(rig.sent_to_wire(), [tagged(&bytes, 10)]);
    }
    // A tag of its own is not the guest's to send.
    guest.send(&tagged(&frame(OUTSIDE, mac(1), 60, 9), 20));
    rig.settle();
    assert!(rig.sent_to_wire().is_empty() && heard(&mut other).is_empty());
    assert_eq!(guest.stats.tx_drops.get(DropReason::Vlan), 1);
    assert_eq!(guest.take_statuses().last(), Some(&NETIF_RSP_DROPPED));
    // The wire's VLANs that nobody is in.
    rig.arrive_from_wire(&tagged(&frame([0xff; 6], OUTSIDE, 60, 3), 30));
    rig.settle();
    assert_eq!(rig.uplink.recv_drops.get(DropReason::NoPort), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// One broadcast is heard with a tag and without one, here and on another worker.
#[test]
fn a_flood_has_the_tag_that_each_port_has() {
    let mut rig = Rig::with(2, 4096, 1024);
    let mut access = guest_in(&mut rig, 1, 0, "10");
    let mut trunk = guest_in(&mut rig, 2, 0, "20p/10");
    let mut far_access = guest_in(&mut rig, 3, 1, "10");
    let mut far_trunk = guest_in(&mut rig, 4, 1, "30p/10");
    let mut elsewhere = guest_in(&mut rig, 5, 1, "20");
    let mut everybody = [
        &mut access,
        &mut trunk,
        &mut far_access,
        &mut far_trunk,
        &mut elsewhere,
    ];
    everybody.iter_mut().for_each(|guest| guest.post(20));
    for size in [60, 1500, 3000, 9000] {
        let bytes = frame([0xff; 6], mac(1), size, size as u32);
        let sizes: Vec<usize> = bytes.chunks(1000).map(<[u8]>::len).collect();
        everybody[0].push(&bytes, &sizes, 0);
        let _ = everybody[0].tx.publish();
        rig.settle();
        let with_tag = tagged(&bytes, 10);
        let got: Vec<_> = everybody.iter_mut().map(|guest| heard(guest)).collect();
        let one = |bytes: &Vec<u8>| vec![bytes.clone()];
        let expected = [vec![], one(&with_tag), one(&bytes), one(&with_tag), vec![]];
        assert!(got == expected, "{size}");
        // As long as the frames of a device may be here.
        let wire: &[Vec<u8>] = if size < 3840 { &[with_tag] } else { &[] };
        assert!(rig.sent_to_wire() == wire, "{size}");
        everybody[0].read_answers();
    }
    // The other way round: the sender's frame has the tag.
    let bytes = tagged(&frame([0xff; 6], mac(2), 900, 7), 10);
    everybody[1].send(&bytes);
    rig.settle();
    let got: Vec<_> = everybody.iter_mut().map(|guest| heard(guest)).collect();
    let without = frame([0xff; 6], mac(2), 900, 7);
    assert!(
        got == [
            vec![without.clone()],
            vec![],
            vec![without],
            vec![bytes.clone()],
            vec![]
        ]
    );
    assert!(rig.sent_to_wire() == [bytes]);
    everybody.iter_mut().for_each(|guest| guest.read_answers());
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn segments_for_the_wire_have_the_tag() {
    let mut rig = Rig::new();
    let mut access = guest_in(&mut rig, 1, 0, "10");
    for payload in [1449, 5000, 65_000] {
        let bytes = tcp(OUTSIDE, mac(1), payload);
        send_tcp(&mut access, &bytes);
        rig.settle();
        let sent = rig.sent_to_wire();
        assert!(sent.iter().all(|frame| frame[12..16] == [0x81, 0, 0, 10]));
        let without: Vec<Vec<u8>> = sent
            .iter()
            .map(|frame| [&frame[..12], &frame[16..]].concat())
            .collect();
        check_segments(&without, &bytes);
    }
    assert_eq!(access.stats.tx_gso_packets.get(), 3);
    // Whole, from one access guest to another.
    let mut neighbour = guest_in(&mut rig, 2, 0, "10");
    neighbour.post(30);
    let bytes = tcp(mac(2), mac(1), 5000);
    send_tcp(&mut access, &bytes);
    rig.settle();
    assert_eq!(heard(&mut neighbour), [bytes]);
    assert_eq!(neighbour.stats.rx_gso_packets.get(), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// A slot whose grant is no good is answered as its own, also where a tag moved the packet's bytes.
#[test]
fn a_failed_slot_is_named_behind_a_moved_head() {
    for (from, to) in [("10", "20p/10"), ("20p/10", "10")] {
        for spoilt in 1..3 {
            let mut rig = Rig::new();
            let (mut a, mut b) = (guest_in(&mut rig, 1, 0, from), guest_in(&mut rig, 2, 0, to));
            b.post(8);
            let mut bytes = frame(mac(2), mac(1), 6000, 5);
            if from != "10" {
                bytes = [&bytes[..12], &[0x81, 0, 0, 10], &bytes[16..]].concat();
            }
            let ids = a.push(&bytes, &[2000; 3], 0);
            rig.grants.revoke(1, Guest::tx_gref(ids[spoilt]));
            let _ = a.tx.publish();
            rig.settle();
            a.read_answers();
            for (slot, &status) in a.statuses.iter().enumerate() {
                assert_eq!(
                    status == NETIF_RSP_ERROR,
                    slot == spoilt,
                    "{:?}",
                    a.statuses
                );
            }
            assert_eq!(rig.frames_found(), rig.frames);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever slots a packet is in, and whether its receiver has posted for it: it arrives whole, with its tag as the receiver has it.
    #[test]
    fn a_packet_arrives_with_the_receivers_tag(
        packets in prop::collection::vec((prop::collection::vec(1usize..=4096, 0..=14), 18usize..=3000, 1u8..=4, 1u8..=4, any::<bool>()), 1..30),
        workers in 1u8..=2,
    ) {
        let mut rig = Rig::with(workers, 4096, 1024);
        // The first two have no tag in VLAN 10, the others one.
        let keys = ["10", "10p/7", "7p/10", "10/8p"];
        let mut guests: Vec<Guest> = (1..).zip(keys).map(|(number, key)| {
            let worker = usize::from(number % workers);
            guest_in(&mut rig, number, worker, key)
        }).collect();
        let has_tag = |number: u8| number > 2;
        for (seed, (sizes, first, from, to, posted)) in packets.into_iter().enumerate() {
            if from == to {
                continue;
            }
            let sizes: Vec<usize> = std::iter::once(first).chain(sizes).collect();
            let plain = frame(mac(to), mac(from), sizes.iter().sum(), seed as u32);
            let with_tag = [&plain[..12], &[0x81, 0, 0, 10], &plain[16..]].concat();
            // Both are as long as the slots say; what the other side has is four bytes longer or shorter.
            let (sent, expected) = match (has_tag(from), has_tag(to)) {
                (true, true) => (with_tag.clone(), with_tag),
                (true, false) => (with_tag.clone(), [&with_tag[..12], &with_tag[16..]].concat()),
                (false, true) => (plain.clone(), tagged(&plain, 10)),
                (false, false) => (plain.clone(), plain),
            };
            let sender = &mut guests[usize::from(from) - 1];
            sender.push(&sent, &sizes, 0);
            let _ = sender.tx.publish();
            let posts = |guest: &mut Guest| guest.post((guest.rx.free() as usize).min(20));
            if posted {
                posts(&mut guests[usize::from(to) - 1]);
            }
            rig.settle();
            posts(&mut guests[usize::from(to) - 1]);
            rig.settle();
            for (n, guest) in guests.iter_mut().enumerate() {
                let got = heard(guest);
                let due: &[Vec<u8>] = match n + 1 == usize::from(to) {
                    true => std::slice::from_ref(&expected),
                    false => &[],
                };
                prop_assert!(got == due, "guest {} heard {} packets", n + 1, got.len());
                let statuses = guest.take_statuses();
                prop_assert!(statuses.iter().all(|&status| status == NETIF_RSP_OKAY));
            }
            prop_assert_eq!(rig.frames_found(), rig.frames);
        }
    }
}

/// Guests that are kept apart, and one in no VLAN beside them.
#[test]
fn isolated_guests_reach_the_wire_and_not_each_other() {
    let mut rig = Rig::new();
    let mut isolated = |number: u8| {
        let mut guest = Guest::new(number, 0, all_features(), &rig.grants);
        guest.rules.isolated = true;
        rig.admit(&mut guest, false);
        rig.turns(1);
        guest
    };
    let (mut a, mut b) = (isolated(1), isolated(2));
    b.post(8);
    a.send(&frame(mac(2), mac(1), 60, 1));
    a.send(&tagged(&frame([0xff; 6], mac(1), 60, 2), 77));
    a.send(&frame(OUTSIDE, mac(1), 60, 3));
    rig.settle();
    assert!(heard(&mut b).is_empty());
    let (flooded, to_wire) = (
        frame([0xff; 6], mac(1), 60, 2),
        frame(OUTSIDE, mac(1), 60, 3),
    );
    assert_eq!(rig.sent_to_wire(), [tagged(&flooded, 77), to_wire]);
    assert_eq!(a.stats.tx_drops.get(DropReason::Isolated), 1);
    let (drop, okay) = (NETIF_RSP_DROPPED, NETIF_RSP_OKAY);
    assert_eq!(a.take_statuses(), [drop, okay, okay]);
    rig.arrive_from_wire(&frame(mac(2), OUTSIDE, 60, 4));
    rig.settle();
    assert_eq!(heard(&mut b), [frame(mac(2), OUTSIDE, 60, 4)]);
}
