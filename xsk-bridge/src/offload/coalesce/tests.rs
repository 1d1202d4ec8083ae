use super::{Coalescer, Segment};
use crate::header::Transport;
use crate::offload::checksum::{Verified, verify};
use crate::offload::segment::{Cutter, GsoHead, Slices};
use crate::offload::tcp::{
    self, ACK, CWR, ECE, FIN, PSH, RST, SYN, Tcp, URG, payload, streams, sum,
};
use crate::packet::{Checksum, Gso, Offload};
use proptest::prelude::*;

#[path = "../../../tests/support/coalesce.rs"]
mod driver;
use driver::{Left, Pages, coalesce, in_streams, merged};

const VALID: Offload = Offload {
    checksum: Checksum::Valid,
    gso: None,
};

fn both() -> [Tcp; 2] {
    [false, true].map(|ipv6| Tcp {
        ipv6,
        ..Tcp::default()
    })
}

fn blank(segment: u16, ipv6: bool) -> Offload {
    Offload {
        checksum: Checksum::Blank,
        gso: Some(Gso { segment, ipv6 }),
    }
}

/// Of how many segments each packet was made.
fn counts(left: &[Left]) -> Vec<usize> {
    left.iter().map(|packet| packet.segments).collect()
}

/// The segments that a receiver sees: packets that are still to be segmented are cut.
fn cut(left: &[Left]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    for Left { bytes, offload, .. } in left {
        let Some(gso) = offload.gso else {
            segments.push(bytes.clone());
            continue;
        };
        let shape = GsoHead::parse(bytes, bytes.len(), gso, offload.checksum).unwrap();
        let mut cutter = Cutter::new(shape, bytes);
        let mut payload = Slices::new(std::iter::empty());
        let mut frame = vec![0; shape.longest()];
        while let Some(len) = cutter.next(&mut payload, [frame.as_mut_slice()]) {
            segments.push(frame[..len].to_vec());
        }
    }
    segments
}

/// Makes both checksums right again.
fn mend(packet: &mut [u8]) {
    if packet[12..14] == [8, 0] {
        packet[24..26].fill(0);
        let header = sum(&packet[14..34]);
        packet[24..26].copy_from_slice(&(!header).to_be_bytes());
    }
    if let Ok(transport) = Transport::parse(packet, packet.len()) {
        let at = transport.checksum();
        let pseudo = crate::offload::checksum::pseudo_header(&transport, packet);
        packet[at..at + 2].copy_from_slice(&pseudo);
        let end = transport.l4 + transport.l4_len;
        let total = sum(&packet[transport.l4..end]);
        packet[at..at + 2].copy_from_slice(&(!total).to_be_bytes());
    }
}

prop_compose! {
    fn stream()(
        ipv6: bool,
        options in 0..=10usize,
        flags in prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN, ACK | ECE, 0, FIN | PSH]),
        fragment in prop::sample::select(vec![0u16, 0x4000]),
        id in prop_oneof![any::<u16>(), Just(u16::MAX), Just(u16::MAX - 2)],
        sequence in prop_oneof![any::<u32>(), (u32::MAX - 9000)..=u32::MAX],
        tos: u8,
        reserved in 0..16u8,
    ) -> Tcp {
        Tcp { ipv6, flags, fragment, id, sequence, tos, reserved, options: vec![1; 4 * options], ..Tcp::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Whatever the sizes of segments and pages.
    #[test]
    fn segment_then_coalesce_is_the_identity(tcp in stream(), len in 1..65_000usize, size in 500..9000usize, page in prop_oneof![Just(4096usize), 67..5000usize]) {
        prop_assume!(len.div_ceil(size) <= 128);
        let payload = payload(len);
        let segments = tcp.segments(&payload, size);
        let left = coalesce(&segments, 65_535, &Pages::new(page, 1000));
        prop_assert_eq!(left.len(), 1);
        if segments.len() == 1 {
            // Nobody looked at it.
            prop_assert_eq!((&left[0].bytes, left[0].offload), (&segments[0], Offload::default()));
        } else {
            prop_assert!(left[0].bytes == tcp.blank(&payload));
            prop_assert_eq!(left[0].offload, blank(size as u16, tcp.ipv6));
        }
    }

    /// A stream with all that can happen to it: nothing is lost, changed or reordered.
    #[test]
    fn coalesce_then_segment_is_the_identity(
        streams in prop::collection::vec(stream(), 1..5),
        steps in prop::collection::vec((0..5usize, 0..40usize, prop::sample::select(vec![0usize, 1, 700, 1448, 1448, 1448, 1448])), 1..60),
    ) {
        let mut streams = streams;
        // Some have the same addresses and ports as another.
        streams.iter_mut().zip([0, 1, 0, 2]).for_each(|(tcp, more)| tcp.port += more);
        let mut packets = Vec::new();
        for (n, event, len) in steps {
            let count = streams.len();
            let tcp = &mut streams[n % count];
            match event {
                0 => tcp.ack = tcp.ack.wrapping_add(1),
                1 => tcp.window ^= 1,
                2 => tcp.ttl ^= 1,
                3 => tcp.tos ^= 1,
                4 => tcp.flags ^= PSH,
                5 => tcp.sequence = tcp.sequence.wrapping_add(1),
                _ => {}
            }
            let mut packet = tcp.packet(&payload(len));
            match event {
                6 => packet.extend([0; 6]),
                7 => *packet.last_mut().unwrap() ^= 0x10,
                _ => {}
            }
            packets.push(packet);
            tcp.id = tcp.id.wrapping_add(1);
            tcp.sequence = tcp.sequence.wrapping_add(len as u32);
        }
        prop_assert!(in_streams(cut(&merged(&packets))) == in_streams(packets));
    }

    /// The comparison of headers finds the segments that reading the headers finds, and says the same of them.
    #[test]
    fn the_next_segment_is_found_alike_by_comparison_and_by_reading(
        tcp in stream(),
        len in 1..200usize,
        bits in prop::collection::vec(0..8 * 140usize, 0..3),
        mended: bool,
        end in -60..20isize,
    ) {
        let tcp = Tcp { flags: tcp.flags & !(FIN | PSH), ..tcp };
        let [first, mut second] = <[_; 2]>::try_from(tcp.segments(&payload(2 * len), len)).unwrap();
        for bit in bits {
            let len = second.len();
            second[bit / 8 % len] ^= 1 << (bit % 8);
        }
        second.resize(second.len().saturating_add_signed(if end % 4 == 0 { end } else { 0 }), 0);
        // A shorter one has no checksum to mend.
        if mended && second.len() >= 34 {
            mend(&mut second);
        }
        let mut coalescer = Coalescer::default();
        let begun = Segment::of(&first).unwrap();
        coalescer.begin(&begun);
        coalescer.set_headers(&first);
        let (compared, read) = (coalescer.next(&second), Segment::of(&second));
        let taken = read.filter(|segment| coalescer.takes(segment, &second).is_some());
        let followed = compared.filter(|segment| coalescer.follows(segment).is_some());
        let said = |segment: Option<Segment>| segment.map(|segment| format!("{segment:?}"));
        prop_assert_eq!(said(taken), said(followed));
        if compared.is_some() {
            prop_assert_eq!(said(compared), said(read));
        }
    }

    #[test]
    fn no_bytes_panic(
        mut packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..5),
        ipv6: bool, keep in 0..100usize,
    ) {
        let good = Tcp { ipv6, ..Tcp::default() }.packet(&payload(40));
        for packet in &mut packets {
            let keep = keep.min(packet.len());
            packet[..keep].copy_from_slice(&good[..keep]);
        }
        let left = merged(&packets);
        prop_assert_eq!(left.iter().map(|left| left.segments).sum::<usize>(), packets.len());
    }
}

/// Each bit of the second segment's headers, checksums made right again: it splits the packet unless Linux does not look at it.
#[test]
fn every_difference_in_the_headers_ends_the_packet() {
    for tcp in both() {
        let segments = tcp.segments(&payload(3000), 1000);
        let (l4, header) = (tcp.l4(), tcp.header());
        for bit in 0..header * 8 {
            let mut packets = segments.clone();
            packets[1][bit / 8] ^= 1 << (bit % 8);
            mend(&mut packets[1]);
            let byte = bit / 8;
            let is_ip_sum = !tcp.ipv6 && (24..26).contains(&byte);
            let is_tcp_sum = (l4 + 16..l4 + 18).contains(&byte);
            let expected = match bit {
                // The urgent pointer says nothing without URG; sums were mended.
                _ if is_ip_sum || is_tcp_sum || (l4 + 18..l4 + 20).contains(&byte) => vec![3],
                // PSH and FIN close the packet.
                bit if byte == l4 + 13 && matches!(bit % 8, 0 | 3) => vec![2, 1],
                // The same identification as the third one's.
                _ if !tcp.ipv6 && byte == 19 && bit % 8 == 0 => vec![1, 2],
                _ => vec![1, 1, 1],
            };
            let left = merged(&packets);
            assert_eq!(
                counts(&left),
                expected,
                "byte {byte}, bit {}: {tcp:?}",
                bit % 8
            );
            if expected.len() > 1 && expected != [1, 2] {
                assert!(in_streams(cut(&left)) == in_streams(packets), "byte {byte}");
            }
        }
    }
}

#[test]
fn every_corrupt_byte_is_left_out_and_goes_alone_unmarked() {
    for tcp in both() {
        let segments = tcp.segments(&payload(5 * 100), 100);
        for at in tcp.l3()..segments[2].len() {
            let mut packets = segments.clone();
            packets[2][at] ^= 0x5a;
            let left = merged(&packets);
            // Where the headers say that it is another's, it was not verified, and nothing follows it.
            let (wrong, others): (Vec<_>, Vec<_>) = left
                .iter()
                .cloned()
                .partition(|left| left.bytes == packets[2]);
            assert_eq!(counts(&others), [2, 2], "byte {at}: {tcp:?}");
            assert_eq!((wrong.len(), wrong[0].offload), (1, Offload::default()));
            assert!(in_streams(cut(&left)) == in_streams(packets), "byte {at}");
        }
    }
}

/// The first one is verified when the second one comes; where one is wrong, the other is marked by what is known of it.
#[test]
fn a_wrong_one_at_either_end_spoils_nothing() {
    for tcp in both() {
        let segments = tcp.segments(&payload(300), 100);
        let spoil = |n: usize| {
            let mut packets = segments.clone();
            *packets[n].last_mut().unwrap() ^= 1;
            merged(&packets)
        };
        let marks = |left: &[Left]| left.iter().map(|left| left.offload).collect::<Vec<_>>();
        let merged = blank(100, tcp.ipv6);
        assert_eq!(marks(&spoil(0)), [Offload::default(), merged]);
        assert_eq!(
            marks(&spoil(1)),
            [VALID, Offload::default(), Offload::default()]
        );
        assert_eq!(marks(&spoil(2)), [merged, Offload::default()]);
    }
}

#[test]
fn a_wrong_header_checksum_goes_alone() {
    let mut segments = Tcp::default().segments(&payload(300), 100);
    segments[1][24] ^= 1;
    assert_eq!(counts(&merged(&segments)), [1, 1, 1]);
}

#[test]
fn padding_and_trailers_are_never_part_of_the_stream() {
    for tcp in both() {
        for (len, tail) in [(1, 5), (100, 4), (1448, 1)] {
            let mut segments = tcp.segments(&payload(3 * len), len);
            segments
                .iter_mut()
                .for_each(|segment| segment.extend(vec![0; tail]));
            let left = merged(&segments);
            assert_eq!(counts(&left), [1, 1, 1], "{len} and {tail}");
            assert!(cut(&left) == segments);
        }
    }
}

#[test]
fn flags_that_end_a_packet_and_flags_that_are_never_merged() {
    let with = |flags: [u8; 4]| {
        let segments = Tcp::default().segments(&payload(400), 100);
        let with_flags = |(mut segment, flags): (Vec<u8>, u8)| {
            segment[47] = flags;
            mend(&mut segment);
            segment
        };
        let packets: Vec<_> = segments.into_iter().zip(flags).map(with_flags).collect();
        counts(&merged(&packets))
    };
    assert_eq!(with([ACK, ACK | PSH, ACK, ACK | PSH]), [2, 2]);
    assert_eq!(with([ACK | PSH, ACK, ACK | FIN, ACK]), [1, 2, 1]);
    assert_eq!(with([ACK | ECE, ACK | ECE, ACK, ACK]), [2, 2]);
    for flag in [SYN, RST, URG, CWR] {
        assert_eq!(with([ACK, ACK | flag, ACK | flag, ACK]), [1, 1, 1, 1]);
    }
}

#[test]
fn a_shorter_one_ends_the_packet_and_a_longer_one_begins_another() {
    let tcp = Tcp::default();
    let lengths = |lens: &[usize]| {
        let mut own = tcp.clone();
        let mut packets = Vec::new();
        for &len in lens {
            packets.push(own.packet(&payload(len)));
            own.sequence += len as u32;
            own.id += 1;
        }
        counts(&merged(&packets))
    };
    assert_eq!(lengths(&[100, 100, 50, 50]), [3, 1]);
    assert_eq!(lengths(&[100, 101, 101]), [1, 2]);
    assert_eq!(lengths(&[100, 0, 100, 100]), [1, 1, 2]);
}

#[test]
fn identifications_rise_or_stay_where_fragments_are_forbidden() {
    let ids = |fragment: u16, ids: &[u16]| {
        let mut own = Tcp {
            fragment,
            ..Tcp::default()
        };
        let mut packets = Vec::new();
        for &id in ids {
            own.id = id;
            packets.push(own.packet(&payload(100)));
            own.sequence += 100;
        }
        counts(&merged(&packets))
    };
    for fragment in [0, 0x4000] {
        assert_eq!(ids(fragment, &[65_534, 65_535, 0, 1]), [4]);
        assert_eq!(ids(fragment, &[1, 3, 4]), [1, 2]);
        assert_eq!(ids(fragment, &[5, 4, 3]), [1, 1, 1]);
    }
    assert_eq!(ids(0x4000, &[7, 7, 7]), [3]);
    assert_eq!(ids(0x4000, &[7, 7, 8, 8]), [2, 2]);
    assert_eq!(ids(0x4000, &[7, 8, 8, 8]), [2, 2]);
    assert_eq!(ids(0, &[7, 7, 7]), [1, 1, 1]);
    // More fragments to come, an offset, the reserved bit.
    for fragment in [0x2000, 1, 0x8000] {
        assert_eq!(ids(fragment, &[1, 2]), [1, 1]);
    }
}

#[test]
fn no_packet_is_longer_than_its_length_field_and_its_pages() {
    let tcp = Tcp {
        options: vec![1; 40],
        ..Tcp::default()
    };
    let segments = tcp.segments(&payload(46 * 1448), 1448);
    let left = merged(&segments);
    assert_eq!(counts(&left), [45, 1]);
    assert!(left[0].bytes.len() <= 65_535);
    let jumbo = tcp.segments(&payload(18 * 3740), 3740);
    assert_eq!(counts(&merged(&jumbo)), [17, 1]);
    // A limit, as the pages that a guest has posted make it, and memory that ends.
    let few = coalesce(&segments, 4 * 4096, &Pages::new(4096, 17));
    assert_eq!(counts(&few)[..2], [11, 11]);
    let few = coalesce(&segments, 65_535, &Pages::new(4096, 3));
    assert_eq!(counts(&few)[..2], [8, 8]);
    assert!(cut(&few) == segments);
    let many = Tcp::default().segments(&payload(130), 1);
    assert_eq!(counts(&merged(&many)), [128, 2]);
}

/// As many segments of each of these streams, in turn.
fn in_turn(streams: &[Tcp], count: usize) -> Vec<Vec<u8>> {
    let cut = |tcp: &Tcp| tcp.segments(&payload(count * 100), 100);
    tcp::in_turn(&streams.iter().map(cut).collect::<Vec<_>>())
}

#[test]
fn streams_in_turn_are_merged_each_for_itself_up_to_a_bound() {
    for count in [2, 8] {
        let packets = in_turn(&streams(count), 10);
        let left = merged(&packets);
        assert_eq!(counts(&left), vec![10; count.into()]);
        assert!(in_streams(cut(&left)) == in_streams(packets));
    }
    // The ninth takes the place of the one that has waited longest, which then comes too late.
    let packets = in_turn(&streams(9), 3);
    let left = merged(&packets);
    assert_eq!(counts(&left), [1; 27]);
    assert!(in_streams(cut(&left)) == in_streams(packets));
}

/// What is no segment ends the packet of its own stream, and no other; where the stream cannot be told, it ends all.
#[test]
fn what_is_not_merged_ends_what_it_must_not_overtake() {
    let streams = streams(2);
    let between = |packet: Vec<u8>| {
        let mut packets = in_turn(&streams, 4);
        packets.insert(4, packet);
        let left = merged(&packets);
        assert!(in_streams(cut(&left)) == in_streams(packets));
        let mut counts = counts(&left);
        counts.sort_unstable();
        counts
    };
    let ack = streams[0].packet(&[]);
    assert_eq!(between(ack.clone()), [1, 2, 2, 4]);
    let mut udp = ack.clone();
    udp[23] = 17;
    mend(&mut udp);
    let mut arp = ack;
    arp[13] = 6;
    for other in [udp, arp] {
        assert_eq!(between(other), [1, 4, 4]);
    }
    let with_options = Tcp {
        ip_options: 1,
        ..streams[0].clone()
    };
    assert_eq!(between(with_options.packet(&[1])), [1, 2, 2, 2, 2]);
}

#[test]
fn what_is_never_merged() {
    let plain = Tcp::default();
    let never = [
        Tcp {
            tags: vec![(0x8100, 5)],
            ..plain.clone()
        },
        Tcp {
            ip_options: 1,
            ..plain.clone()
        },
        Tcp {
            ipv6: true,
            extensions: vec![(0, 8)],
            ..plain.clone()
        },
    ];
    for tcp in never {
        let segments = tcp.segments(&payload(300), 100);
        assert_eq!(counts(&merged(&segments)), [1, 1, 1], "{tcp:?}");
    }
    // UDP, and a data offset below 20 and beyond the packet.
    for (at, value) in [(23, 17), (46, 0x40), (46, 0xf0)] {
        let mut segments = plain.segments(&payload(20), 10);
        for segment in &mut segments {
            segment[at] = value;
            mend(segment);
        }
        assert_eq!(counts(&merged(&segments)), [1, 1], "{at}");
    }
}

/// Sums that fold to 0x0000 and 0xffff are among them.
#[test]
fn every_value_of_the_checksum() {
    for tcp in both() {
        let mut bytes = payload(200);
        for knob in 0..=u16::MAX {
            bytes[120..122].copy_from_slice(&knob.to_be_bytes());
            let mut segments = vec![tcp.packet(&bytes[..100])];
            let mut next = tcp.clone();
            (next.id, next.sequence) = (tcp.id + 1, tcp.sequence + 100);
            segments.push(next.packet(&bytes[100..]));
            assert_eq!(counts(&merged(&segments)), [2], "{knob:#x}");
            // A sum of all ones says the same as one of all zeros.
            let at = tcp.l4() + 16;
            if segments[1][at..at + 2] == [0, 0] {
                segments[1][at..at + 2].fill(0xff);
                assert_eq!(
                    verify(&segments[1], std::iter::empty()),
                    Ok(Verified::Right)
                );
                assert_eq!(counts(&merged(&segments)), [2]);
            }
        }
    }
}
