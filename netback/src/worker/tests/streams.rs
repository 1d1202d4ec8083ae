//! Several TCP streams towards a guest at once: each is merged for itself and keeps its order.
use super::coalesce::{arrive, cut, gso_features, in_streams, port, stream};
use super::rig::{Guest, OUTSIDE, Received, Rig, frame, mac};
use super::tcp::{ACK, PSH, Tcp, payload};
use proptest::prelude::*;

/// Sixty-four segments, one of each stream in turn: a turn takes them all, and what is copied is pages.
#[test]
fn streams_that_come_in_turn_are_merged_each_for_itself() {
    for count in [1, 2, 4, 8] {
        let mut rig = Rig::new();
        let mut guest = rig.guest_on(1, 0, gso_features());
        guest.post(100);
        let streams: Vec<_> = (0..count)
            .map(|n| Tcp {
                port: 4000 + n,
                ..stream(1, n % 3 == 2)
            })
            .map(|tcp| tcp.segments(&payload(64 / usize::from(count) * 1448), 1448))
            .collect();
        let each = streams[0].len();
        for n in 0..each {
            streams
                .iter()
                .for_each(|segments| arrive(&mut rig, &segments[n..=n]));
        }
        rig.grants.take_calls();
        rig.turns(1);
        let received = guest.receive();
        // One of 64 is longer than a packet may be.
        let packets = if count == 1 { 2 } else { count.into() };
        assert_eq!(received.len(), packets);
        assert!(in_streams(cut(&received)) == in_streams(streams.concat()));
        let pages: usize = received
            .iter()
            .map(|packet| packet.bytes.len().div_ceil(4096))
            .sum();
        let calls = rig.grants.take_calls();
        assert_eq!((calls.len(), calls[0].segments), (1, pages));
        assert_eq!(guest.stats.rx_coalesced_segments.get(), 64);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

/// Open packets share what the guest has posted, and what does not fit waits.
#[test]
fn streams_in_turn_take_no_more_than_is_posted() {
    for posted in 0..40 {
        let mut rig = Rig::new();
        let mut guest = rig.guest_on(1, 0, gso_features());
        guest.post(posted);
        let streams = [4000, 4001, 4002].map(|port| {
            let tcp = Tcp {
                port,
                ..stream(1, false)
            };
            tcp.segments(&payload(20 * 1448), 1448)
        });
        for n in 0..20 {
            streams
                .iter()
                .for_each(|segments| arrive(&mut rig, &segments[n..=n]));
        }
        rig.turns(1);
        let mut received = guest.receive();
        guest.post(90);
        rig.settle();
        received.extend(guest.receive());
        assert!(
            in_streams(cut(&received)) == in_streams(streams.concat()),
            "{posted} posted"
        );
        assert_eq!(guest.stats.rx_drops.total(), 0);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

/// Eight streams have a packet open. A ninth one has the packets closed one after the other, from the oldest place on, and no stream is
/// reordered.
#[test]
fn a_ninth_stream_ends_the_packet_of_another() {
    let mut rig = Rig::new();
    let mut guest = rig.guest_on(1, 0, gso_features());
    guest.post(100);
    let streams: Vec<_> = (0..9)
        .map(|n| Tcp {
            port: 4000 + n,
            ..stream(1, false)
        })
        .map(|tcp| tcp.segments(&payload(4 * 1448), 1448))
        .collect();
    let ports = |guest: &mut Guest| -> Vec<_> {
        let received = guest.receive();
        let of = |packet: &Received| (port(&packet.bytes).unwrap() - 4000, packet.bytes.len());
        received.iter().map(of).collect()
    };
    // Two segments of each of eight, two of the ninth, and one of the first again, which ends the packet of the second.
    for segments in &streams {
        arrive(&mut rig, &segments[..2]);
    }
    arrive(&mut rig, &streams[0][2..3]);
    rig.turns(1);
    let (one, two) = (66 + 1448, 66 + 2 * 1448);
    let ended = [(0, two), (1, two)];
    let at_the_end = [(8, two), (0, one)]
        .into_iter()
        .chain((2..8).map(|n| (n, two)));
    let expected: Vec<_> = ended.into_iter().chain(at_the_end).collect();
    assert_eq!(ports(&mut guest), expected);
    assert_eq!(guest.stats.rx_coalesced_packets.get(), 9);

    // Nine in turn end each other's packets before anything is merged, and keep their order.
    let third = streams[1..].iter().map(|segments| segments[2].clone());
    let fourth = streams.iter().map(|segments| segments[3].clone());
    let sent: Vec<_> = third.chain(fourth).collect();
    arrive(&mut rig, &sent);
    rig.turns(1);
    assert!(in_streams(cut(&guest.receive())) == in_streams(sent));
    assert_eq!(guest.stats.rx_coalesced_packets.get(), 9);
    assert_eq!(rig.frames_found(), rig.frames);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Everything that may come from the wire, and guests that post now and then: nothing is lost or changed, and no stream is reordered.
    #[test]
    fn whatever_arrives_arrives_in_its_order(
        steps in prop::collection::vec((0..3usize, 0..30usize, prop::sample::select(vec![0usize, 1, 700, 1448, 1448, 1448, 1448])), 1..200),
        posts in prop::collection::vec(0..40usize, 1..8), workers in 1..3u8, burst in 1..90usize,
    ) {
        let mut rig = Rig::with(workers, 4096, 1024);
        let mut guest = rig.guest_on(1, usize::from(workers - 1), gso_features());
        let mut streams = [0, 1, 2].map(|n: u16| Tcp { port: 4000 + n, ..stream(1, n == 2) });
        let mut sent = Vec::new();
        for (n, event, len) in steps {
            let tcp = &mut streams[n];
            match event {
                0 => tcp.ack = tcp.ack.wrapping_add(1),
                1 => tcp.window ^= 1,
                2 => tcp.flags ^= PSH,
                3 => tcp.sequence = tcp.sequence.wrapping_sub(9),
                _ => {}
            }
            let mut packet = tcp.packet(&payload(len));
            match event {
                4 => *packet.last_mut().unwrap() ^= 0x10,
                5 => packet.resize(packet.len() + 5, 0),
                6 => packet = frame(mac(1), OUTSIDE, 60 + len, sent.len() as u32),
                7 => packet = Tcp { flags: ACK, ..tcp.clone() }.packet(&[]),
                _ => {}
            }
            sent.push(packet);
            tcp.id = tcp.id.wrapping_add(1);
            tcp.sequence = tcp.sequence.wrapping_add(len as u32);
        }
        let mut received = Vec::new();
        for (n, packets) in sent.chunks(burst).enumerate() {
            arrive(&mut rig, packets);
            guest.post(posts[n % posts.len()].min(guest.rx.free() as usize));
            rig.turns(2);
            received.extend(guest.receive());
        }
        for _ in 0..40 {
            guest.post(40.min(guest.rx.free() as usize));
            rig.settle();
            received.extend(guest.receive());
        }
        prop_assert_eq!(guest.stats.rx_drops.total(), 0);
        prop_assert!(in_streams(cut(&received)) == in_streams(sent));
        prop_assert_eq!(rig.frames_found(), rig.frames);
    }
}
