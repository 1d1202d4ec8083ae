//! TCP segments towards guests that segment themselves: merged, in order, and nothing else is.
use super::rig::{Guest, OUTSIDE, Received, Rig, all_features, frame, mac};
use super::tcp::{Tcp, payload};
use crate::copy::staging::Staging;
use crate::observe::counters::DropReason;
use crate::path::ports::ServedBy;
use crate::queue::backlog::BacklogBounds;
use crate::vif::features::Features;
use ring::wire::{
    Extra, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED,
    NETRXF_EXTRA_INFO, NETTXF_CSUM_BLANK, NETTXF_EXTRA_INFO,
};
use xen::fake::OwnPages;
use xsk_bridge::offload::segment::{Cutter, GsoHead, Slices};
use xsk_bridge::packet::{Checksum, Gso};

pub fn gso_features() -> Features {
    Features {
        gso_tcpv4: true,
        gso_tcpv6: true,
        ..all_features()
    }
}

/// A stream from outside to the guest with this number.
pub fn stream(to: u8, ipv6: bool) -> Tcp {
    Tcp {
        macs: [mac(to), OUTSIDE].concat().try_into().unwrap(),
        ipv6,
        ..Tcp::default()
    }
}

fn kind(ipv6: bool) -> u8 {
    if ipv6 { GSO_TYPE_TCPV6 } else { GSO_TYPE_TCPV4 }
}

/// The segments that the guest's TCP sees: what it is to segment is cut.
pub fn cut(received: &[Received]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    for packet in received {
        assert!(packet.errors.is_empty());
        let Some(Extra::Gso { size, kind, .. }) = packet.extra else {
            segments.push(packet.bytes.clone());
            continue;
        };
        let gso = Gso {
            segment: size,
            ipv6: kind == GSO_TYPE_TCPV6,
        };
        let (bytes, blank) = (&packet.bytes, Checksum::Blank);
        let shape = GsoHead::parse(bytes, bytes.len(), gso, blank).unwrap();
        let mut cutter = Cutter::new(shape, bytes);
        let mut rest = Slices::new(std::iter::empty());
        let mut frame = vec![0; shape.longest()];
        while let Some(len) = cutter.next(&mut rest, [frame.as_mut_slice()]) {
            segments.push(frame[..len].to_vec());
        }
    }
    segments
}

fn is_merged(packet: &&Received) -> bool {
    packet.extra.is_some()
}

/// Packets by stream, those of one, and those of none, in the order in which they are.
pub fn in_streams(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.sort_by(|a, b| (&a[12..14], port(a)).cmp(&(&b[12..14], port(b))));
    packets
}

/// The source port of a TCP packet; `None`: it is no IP packet.
pub fn port(packet: &[u8]) -> Option<u16> {
    let at = match packet[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => return None,
    };
    Some(u16::from_be_bytes([packet[at], packet[at + 1]]))
}

pub fn arrive(rig: &mut Rig, packets: &[Vec<u8>]) {
    packets.iter().for_each(|bytes| rig.arrive_from_wire(bytes));
}

#[test]
fn sixty_four_kilobytes_are_one_packet_with_one_operation_a_page() {
    for ipv6 in [false, true] {
        let mut rig = Rig::new();
        let mut guest = rig.guest_on(1, 0, gso_features());
        guest.post(40);
        let (tcp, bytes) = (stream(1, ipv6), payload(65_160));
        let segments = tcp.segments(&bytes, 1448);
        assert_eq!(segments.len(), 45);
        arrive(&mut rig, &segments);
        rig.grants.take_calls();
        rig.turns(1);
        let received = guest.receive();
        assert_eq!(received.len(), 1, "closed at the end of the turn");
        assert!(received[0].bytes == tcp.blank(&bytes));
        let marks = NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED | NETRXF_EXTRA_INFO;
        assert_eq!(received[0].flags & marks, marks);
        let Some(Extra::Gso { size, kind: of, .. }) = received[0].extra else {
            panic!("no extra")
        };
        assert_eq!((size, of), (1448, kind(ipv6)));
        let calls = rig.grants.take_calls();
        assert_eq!((calls.len(), calls[0].segments), (1, 16));
        let stats = &guest.stats;
        assert_eq!(stats.rx_coalesced_packets.get(), 1);
        assert_eq!(stats.rx_coalesced_segments.get(), 45);
        assert_eq!((stats.rx_packets.get(), stats.rx_gso_packets.get()), (1, 1));
        assert_eq!(rig.notified(&guest), 1);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn the_length_field_and_the_pages_of_a_packet_bound_it() {
    let mut rig = Rig::new();
    let mut guest = rig.guest_on(1, 0, gso_features());
    guest.post(100);
    let tcp = Tcp {
        options: vec![1; 40],
        ..stream(1, false)
    };
    for size in [1448, 3700] {
        let segments = tcp.segments(&payload(64 * 1448), size);
        arrive(&mut rig, &segments);
        rig.settle();
        let received = guest.receive();
        assert!(received.iter().all(|packet| packet.slots <= 17));
        assert_eq!(received.len(), 2);
        assert!(cut(&received) == segments);
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

/// Which guests get merged packets, over which version of IP.
#[test]
fn a_guest_that_does_not_segment_gets_segments() {
    let all = gso_features();
    let lacking = |change: fn(&mut Features)| {
        let mut features = all;
        change(&mut features);
        features
    };
    let guests = [
        (all, [true, true]),
        (lacking(|all| all.gso_tcpv4 = false), [false, true]),
        (lacking(|all| all.gso_tcpv6 = false), [true, false]),
        (lacking(|all| all.csum_ipv4 = false), [false, true]),
        (lacking(|all| all.csum_ipv6 = false), [true, false]),
        (lacking(|all| all.sg = false), [false, false]),
    ];
    for (features, merges) in guests {
        for (ipv6, merges) in [false, true].into_iter().zip(merges) {
            let mut rig = Rig::new();
            let mut guest = rig.guest_on(1, 0, features);
            guest.post(60);
            let segments = stream(1, ipv6).segments(&payload(20_000), 1400);
            arrive(&mut rig, &segments);
            rig.settle();
            let received = guest.receive();
            assert_eq!(received.len(), if merges { 1 } else { segments.len() });
            assert!(cut(&received) == segments, "{features:?}");
            let unmarked = received.iter().filter(|packet| packet.flags == 0);
            assert_eq!(unmarked.count(), if merges { 0 } else { segments.len() });
            assert_eq!(guest.stats.rx_coalesced_packets.get(), u64::from(merges));
            assert_eq!(rig.frames_found(), rig.frames);
        }
    }
}

#[test]
fn a_wrong_one_goes_alone_and_unmarked_and_what_was_verified_says_so() {
    for n in 0..5 {
        let mut rig = Rig::new();
        let mut guest = rig.guest_on(1, 0, gso_features());
        guest.post(60);
        let mut segments = stream(1, false).segments(&payload(5 * 1448), 1448);
        *segments[n].last_mut().unwrap() ^= 1;
        arrive(&mut rig, &segments);
        rig.settle();
        let received = guest.receive();
        assert!(cut(&received) == segments);
        let wrong = received.iter().find(|packet| packet.bytes == segments[n]);
        assert_eq!(wrong.unwrap().flags, 0);
        if n == 1 {
            // The first one was verified before it turned out that nothing follows it.
            assert_eq!(received[0].flags, NETRXF_DATA_VALIDATED);
            assert!(received[0].bytes == segments[0]);
        }
        let merged = received.iter().filter(is_merged).count();
        assert_eq!(merged, [1, 1, 2, 1, 1][n]);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

/// Between copying and delivering, whoever writes to the frames changes nothing.
#[test]
fn the_bytes_that_were_verified_are_the_bytes_that_are_delivered() {
    let mut rig = Rig::new();
    let mut guest = rig.guest_on(1, 0, gso_features());
    guest.post(60);
    let (tcp, bytes) = (stream(1, false), payload(20 * 1448));
    arrive(&mut rig, &tcp.segments(&bytes, 1448));
    let worker = &mut rig.workers[0];
    worker.begin();
    worker.receive();
    worker.decide();
    worker.egress();
    let pool = &mut worker.fabric.pool;
    let umem = pool.umem().clone();
    let mut frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    for frame in &mut frames {
        umem.page_mut(frame).fill(0xaa);
    }
    pool.extend(frames);
    worker.deliver();
    worker.answer();
    worker.end(true);
    let received = guest.receive();
    assert_eq!(received.len(), 1);
    assert!(received[0].bytes == tcp.blank(&bytes));
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_a_guest_has_posted_bounds_a_packet_and_the_rest_waits_merged() {
    let bytes = payload(45 * 1448);
    for posted in [0, 1, 2, 5, 16] {
        let mut rig = Rig::new();
        let mut guest = rig.guest_on(1, 0, gso_features());
        guest.post(posted);
        let segments = stream(1, false).segments(&bytes, 1448);
        arrive(&mut rig, &segments);
        rig.turns(1);
        let mut received = guest.receive();
        let used: usize = received.iter().map(|packet| packet.slots).sum();
        // A packet needs a slot more for its extra.
        let extras = received.iter().filter(is_merged).count();
        assert_eq!(used + extras, posted, "what is posted is used");
        guest.post(60);
        rig.settle();
        received.extend(guest.receive());
        assert!(cut(&received) == segments, "{posted} posted");
        assert!(received.len() <= 4, "{}", received.len());
        assert_eq!(guest.stats.rx_drops.total(), 0);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn a_full_backlog_drops_segments_and_no_more_than_do_not_fit() {
    let mut rig = Rig::new();
    let mut guest = Guest::new(1, 0, gso_features(), &rig.grants);
    guest.backlog = BacklogBounds {
        bytes: 40_000,
        ..BacklogBounds::default()
    };
    rig.admit(&mut guest, false);
    rig.settle();
    let segments = stream(1, false).segments(&payload(60 * 1000), 1000);
    arrive(&mut rig, &segments);
    rig.settle();
    guest.post(60);
    rig.settle();
    let arrived = cut(&guest.receive());
    assert!(arrived == segments[..arrived.len()]);
    let dropped = guest.stats.rx_drops.get(DropReason::BacklogFull);
    assert_eq!(arrived.len() as u64 + dropped, 60);
    assert!(arrived.len() >= 38, "{}", arrived.len());
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn segments_from_another_worker_are_merged() {
    let mut rig = Rig::with(2, 4096, 1024);
    let mut guest = rig.guest_on(1, 1, gso_features());
    guest.post(60);
    let segments = stream(1, false).segments(&payload(64 * 1448), 1448);
    arrive(&mut rig, &segments);
    rig.settle();
    let received = guest.receive();
    assert!(cut(&received) == segments);
    // A turn takes 32 packets of a neighbour's.
    assert_eq!(received.len(), 2);
    assert_eq!(guest.stats.rx_coalesced_segments.get(), 64);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn each_queue_of_a_guest_merges_its_own_flows() {
    let mut rig = Rig::with(2, 4096, 1024);
    let mut queues: Vec<_> = (0..4u16)
        .map(|n| {
            let mut queue = Guest::new(1, usize::from(n % 2), gso_features(), &rig.grants);
            queue.queue = n;
            rig.connect(&mut queue, false);
            queue
        })
        .collect();
    let kind = xsk_bridge::switch::PortKind::Guest(mac(1));
    rig.bridge.add_port(queues[0].port(), kind);
    rig.tell_all(queues[0].port(), ServedBy::Guest(vec![0, 1, 0, 1]));
    rig.turns(1);
    queues.iter_mut().for_each(|queue| queue.post(100));
    let flow = |port: u16| Tcp {
        port,
        ..stream(1, false)
    };
    let flows: Vec<_> = (4000..4016)
        .map(|port| flow(port).segments(&payload(20 * 1448), 1448))
        .collect();
    // Four segments of each in turn.
    for from in (0..20).step_by(4) {
        flows
            .iter()
            .for_each(|flow| arrive(&mut rig, &flow[from..from + 4]));
        rig.settle();
    }
    let mut merged = 0;
    let mut arrived: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 16];
    for queue in &mut queues {
        let received = queue.receive();
        merged += received.iter().filter(is_merged).count();
        for segment in cut(&received) {
            arrived[usize::from(port(&segment).unwrap() - 4000)].push(segment);
        }
    }
    assert!(arrived == flows, "a flow lost its order");
    assert!(merged >= 60, "{merged} packets were merged");
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_flooded_segment_is_not_merged() {
    let mut rig = Rig::new();
    let mut guests = [1, 2].map(|number| rig.guest_on(number, 0, gso_features()));
    guests.iter_mut().for_each(|guest| guest.post(60));
    let everybody = Tcp {
        macs: [[0xff; 6], OUTSIDE].concat().try_into().unwrap(),
        ..stream(1, false)
    };
    let segments = everybody.segments(&payload(5 * 1448), 1448);
    arrive(&mut rig, &segments);
    rig.settle();
    for guest in &mut guests {
        let received = guest.receive();
        assert_eq!(received.len(), 5);
        assert!(cut(&received) == segments);
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_page_that_fails_is_an_error_of_its_packet_alone() {
    let mut rig = Rig::new();
    let mut guest = rig.guest_on(1, 0, gso_features());
    guest.post(60);
    guest.spoil_rx(3);
    let tcp = stream(1, false);
    let bytes = payload(64 * 1448);
    let segments = tcp.segments(&bytes, 1448);
    arrive(&mut rig, &segments);
    rig.settle();
    let received = guest.receive();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].errors.len(), 1);
    assert!(cut(&received[1..]) == segments[45..]);
    assert_eq!(guest.stats.rx_errors.get(), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn without_staging_memory_to_merge_in_segments_go_as_they_are() {
    let mut rig = Rig::new();
    let few = OwnPages::new(&rig.grants, 5_000_000, 6);
    let worker = &mut rig.workers[0];
    worker.batch.staging = Staging::new(Some(Box::new(few)), &mut worker.fabric.pool);
    let mut guest = rig.guest_on(1, 0, gso_features());
    guest.post(200);
    let segments = stream(1, false).segments(&payload(64 * 1448), 1448);
    arrive(&mut rig, &segments);
    rig.settle();
    assert!(cut(&guest.receive()) == segments);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn merged_by_address_where_there_is_no_gntalloc() {
    let mut rig = Rig::without_bounce();
    let mut guest = rig.guest_on(1, 0, gso_features());
    guest.post(40);
    let (tcp, bytes) = (stream(1, false), payload(65_160));
    arrive(&mut rig, &tcp.segments(&bytes, 1448));
    rig.grants.take_calls();
    rig.turns(1);
    let received = guest.receive();
    assert_eq!(received.len(), 1);
    assert!(received[0].bytes == tcp.blank(&bytes));
    assert_eq!(rig.grants.take_calls()[0].segments, 16);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// What comes from guests of this worker, at once, from page to page or cut, keeps its place among segments from the wire.
#[test]
fn packets_of_other_guests_stay_behind_what_was_open_before_them() {
    for features in [gso_features(), all_features()] {
        let mut rig = Rig::new();
        let mut sender = rig.guest_on(2, 0, gso_features());
        let mut guest = rig.guest_on(1, 0, features);
        guest.post(150);
        let (tcp, bytes) = (stream(1, false), payload(10 * 1448));
        let segments = tcp.segments(&bytes, 1448);
        arrive(&mut rig, &segments);
        let own = Tcp {
            macs: [mac(1), mac(2)].concat().try_into().unwrap(),
            port: 5000,
            ..tcp
        };
        let large = own.blank(&payload(9000));
        let extra = Extra::Gso {
            size: 1448,
            kind: GSO_TYPE_TCPV4,
            features: 0,
        };
        let sizes = [66, 4096, 4096, 808];
        sender.push_with_extra(&large, &sizes, NETTXF_CSUM_BLANK | NETTXF_EXTRA_INFO, extra);
        sender.push(&frame(mac(1), mac(2), 5000, 7), &[2500, 2500], 0);
        let _ = sender.tx.publish();
        rig.settle();
        let received = guest.receive();
        let arrived = cut(&received);
        let (of_wire, of_guest): (Vec<_>, Vec<_>) = arrived
            .into_iter()
            .partition(|bytes| port(bytes) == Some(4000));
        assert!(of_wire == segments);
        assert_eq!(of_guest.len(), 7 + 1);
        assert_eq!(of_guest[7].len(), 5000);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}
