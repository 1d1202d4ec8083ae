//! Packets of 64 KB: few copy operations whichever way they go, what was looked at is what is delivered, and sizes that lie harm nobody.
use super::rig::{Guest, OUTSIDE, Rig, frame};
use super::segments::{HEADERS, SEGMENT, check_segments, gso_features, tcp};
use crate::observe::counters::DropReason;
use ring::wire::{Extra, GSO_TYPE_TCPV4, NETIF_RSP_DROPPED, NETTXF_CSUM_BLANK, NETTXF_EXTRA_INFO};

/// Bytes of payload of a packet that is cut into 45 segments.
const PAYLOAD: usize = 65_160;

/// The slots of a packet whose payload begins `within` a page: headers, and what each page has of the payload.
fn slots(payload: usize, within: usize) -> Vec<usize> {
    let mut sizes = vec![HEADERS];
    let mut left = payload;
    while left > 0 {
        let room = if sizes.len() == 1 {
            4096 - within
        } else {
            4096
        };
        sizes.push(room.min(left));
        left -= room.min(left);
    }
    sizes
}

fn send(guest: &mut Guest, bytes: &[u8], sizes: &[usize], segment: u16) {
    let extra = Extra::Gso {
        size: segment,
        kind: GSO_TYPE_TCPV4,
        features: 0,
    };
    let flags = NETTXF_CSUM_BLANK | NETTXF_EXTRA_INFO;
    guest.push_with_extra(bytes, sizes, flags, extra);
    let _ = guest.tx.publish();
}

fn operations(rig: &Rig) -> usize {
    let calls = rig.grants.take_calls();
    calls.iter().map(|call| call.segments).sum()
}

/// From outside it is one operation a page, which the tests of coalescing count.
#[test]
fn sixty_four_kilobytes_take_at_most_twenty_operations() {
    for within in [0, 1, 2048, 3096] {
        let sizes = slots(PAYLOAD, within);
        let mut rig = Rig::new();
        let mut a = rig.guest(1);
        let mut b = rig.guest_on(2, 0, gso_features());
        b.post(40);
        let bytes = tcp(b.mac(), a.mac(), PAYLOAD);
        rig.grants.take_calls();
        send(&mut a, &bytes, &sizes, SEGMENT);
        rig.settle();
        let made = operations(&rig);
        assert!(made <= 20, "guest to guest: {made}, {sizes:?}");
        let received = b.receive().remove(0);
        assert!(received.bytes == bytes);
        assert_eq!(received.slots, sizes.len());

        let bytes = tcp(OUTSIDE, a.mac(), PAYLOAD);
        send(&mut a, &bytes, &sizes, SEGMENT);
        rig.settle();
        let made = operations(&rig);
        assert!(made <= 20, "to the wire: {made}, {sizes:?}");
        check_segments(&rig.sent_to_wire(), &bytes);
        assert!(a.take_statuses().iter().all(|&status| status == 0));
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

/// A slot of its own for each of the sender's is only worth it, and only taken by netfront, where slots are large, few, and the first one
/// has all headers.
#[test]
fn what_is_not_laid_out_as_linux_does_fills_pages() {
    let small: Vec<usize> = [HEADERS].into_iter().chain([1250; 16]).collect();
    let layouts = [
        (vec![HEADERS, 4096, 4096, 4096, 4096, 3616], 6, 100),
        // The same with room for full pages only.
        (vec![HEADERS, 4096, 4096, 4096, 4096, 3616], 5, 6),
        (small, 5, 100),
        (vec![257, 4096, 4096, 4096, 4096, 3413], 5, 100),
        (vec![HEADERS - 4, 4096, 4096, 4096, 4096, 3620], 5, 100),
        (vec![4096, 4096, 4096, 4096, 3670], 5, 100),
        // One slot more than a packet may have pages.
        (
            [vec![HEADERS], vec![2100; 17], vec![2100]].concat(),
            10,
            100,
        ),
    ];
    for (sizes, slots, posted) in layouts {
        let mut rig = Rig::new();
        let mut a = rig.guest(1);
        let mut b = rig.guest_on(2, 0, gso_features());
        b.post(posted);
        let payload = sizes.iter().sum::<usize>() - HEADERS;
        let bytes = tcp(b.mac(), a.mac(), payload);
        send(&mut a, &bytes, &sizes, SEGMENT);
        rig.settle();
        let received = b.receive().remove(0);
        assert!(received.bytes == bytes, "{sizes:?}");
        assert_eq!(received.slots, slots, "{sizes:?}");
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn a_page_that_fails_is_named_in_its_slot_and_to_its_sender() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, gso_features());
    b.post(40);
    // The second request is the extra's.
    b.spoil_rx(4);
    let bytes = tcp(b.mac(), a.mac(), PAYLOAD);
    send(&mut a, &bytes, &slots(PAYLOAD, 1000), SEGMENT);
    rig.settle();
    let received = b.receive().remove(0);
    assert_eq!((received.slots, received.errors.len()), (18, 1));
    assert_eq!(received.bytes.len(), bytes.len() - 4096);
    assert_eq!(b.stats.rx_errors.get(), 1);
    let statuses = a.take_statuses();
    assert_eq!(statuses.iter().filter(|&&status| status != 0).count(), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// Headers that the sender rewrites after they were looked at: nobody gets the new ones.
#[test]
fn the_headers_that_were_judged_are_the_headers_that_are_delivered() {
    for to_wire in [false, true] {
        let mut rig = Rig::new();
        let mut a = rig.guest(1);
        let mut b = rig.guest_on(2, 0, gso_features());
        b.post(40);
        rig.settle();
        let to = if to_wire { OUTSIDE } else { b.mac() };
        let bytes = tcp(to, a.mac(), PAYLOAD);
        send(&mut a, &bytes, &slots(PAYLOAD, 1000), SEGMENT);
        rig.events[0].fire(a.event());
        let worker = &mut rig.workers[0];
        worker.begin();
        worker.read_messages();
        worker.take_events();
        worker.collect();
        worker.fetch_heads();
        worker.decide();
        // The first slot's page, as the rig lays it out.
        let (id, offset) = (1, 37 % (4097 - HEADERS));
        let others = vec![0xff; HEADERS];
        let access = xen::fake::Access::ReadOnly;
        rig.grants
            .grant(a.number.into(), Guest::tx_gref(id), offset, &others, access);
        worker.egress();
        worker.deliver();
        worker.send();
        worker.answer();
        worker.notify();
        worker.end(true);
        match to_wire {
            true => check_segments(&rig.sent_to_wire(), &bytes),
            false => assert!(b.receive().remove(0).bytes == bytes),
        }
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

/// A size of one asks for 65 000 frames, one larger than the payload for a packet of its own.
#[test]
fn sizes_that_lie_harm_nobody() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, gso_features());
    let mut quiet = rig.guest(3);
    b.post(60);
    let bytes = tcp(b.mac(), a.mac(), 10_000);
    let sizes = slots(10_000, 0);
    for (segment, arrives) in [(1, false), (70, false), (10_000, true), (u16::MAX, true)] {
        send(&mut a, &bytes, &sizes, segment);
        quiet.send(&frame(OUTSIDE, quiet.mac(), 100, segment.into()));
        rig.settle();
        let received = b.receive();
        assert_eq!(received.len(), usize::from(arrives), "{segment}");
        let status = if arrives { 0 } else { NETIF_RSP_DROPPED };
        let statuses = a.take_statuses();
        assert!(statuses.iter().all(|&one| one == status), "{statuses:?}");
        for packet in received {
            // One segment is an ordinary packet.
            assert!(packet.extra.is_none() && packet.bytes == bytes);
        }
        assert_eq!(rig.sent_to_wire().len(), 1, "the neighbour's");
    }
    assert_eq!(a.stats.tx_drops.get(DropReason::GsoRefused), 2);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// Eight guests that send more than a turn takes, to the wire and to each other, and one that sends a small packet now and then.
#[test]
fn beside_bulk_no_request_is_lost() {
    const ROUNDS: u32 = 30;
    let mut rig = Rig::new();
    let mut bulk: Vec<Guest> = (1..=8)
        .map(|number| rig.guest_on(number, 0, gso_features()))
        .collect();
    let (mut small, mut other) = (rig.guest(9), rig.guest(10));
    let (mut to_wire, mut to_guest) = (0, 0);
    let sizes = slots(PAYLOAD, 1000);
    for round in 0..ROUNDS {
        for n in 0..8 {
            for to in [OUTSIDE, bulk[(n + 1) % 8].mac()] {
                let bytes = tcp(to, bulk[n].mac(), PAYLOAD);
                if bulk[n].tx.free() as usize > sizes.len() {
                    send(&mut bulk[n], &bytes, &sizes, SEGMENT);
                }
            }
            let free = bulk[n].rx.free() as usize;
            bulk[n].post(free.min(100));
        }
        for to in [OUTSIDE, other.mac()] {
            small.send(&frame(to, small.mac(), 100, round));
        }
        let free = other.rx.free() as usize;
        other.post(free.min(4));
        rig.turns(2);
        let sent = rig.sent_to_wire();
        to_wire += sent.iter().filter(|bytes| bytes.len() == 100).count();
        to_guest += other.receive().len();
        for guest in &mut bulk {
            guest.receive();
            guest.read_answers();
        }
        small.read_answers();
    }
    rig.settle();
    let sent = rig.sent_to_wire();
    to_wire += sent.iter().filter(|bytes| bytes.len() == 100).count();
    to_guest += other.receive().len();
    let sent: u64 = bulk.iter().map(|guest| guest.stats.tx_packets.get()).sum();
    assert!(sent > 8 * u64::from(ROUNDS), "{sent} packets of 64 KB");
    assert_eq!((to_wire, to_guest), (ROUNDS as usize, ROUNDS as usize));
    assert_eq!(small.stats.tx_drops.total(), 0);
}
