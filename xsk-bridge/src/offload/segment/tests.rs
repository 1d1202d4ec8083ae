use super::*;
use proptest::prelude::*;

use crate::offload::tcp::{self, ACK, Tcp, payload};

fn gso(segment: u16, ipv6: bool) -> Gso {
    Gso { segment, ipv6 }
}

/// Cut `packet`, of which `private` bytes are in the head, with payload in slices of `slice` bytes and frames in pieces of `room`.
fn cut(packet: &[u8], gso: Gso, private: usize, slice: usize, room: usize) -> Vec<Vec<u8>> {
    let (head, rest) = packet.split_at(private.min(packet.len()));
    let shape = GsoHead::parse(head, packet.len(), gso, Checksum::Blank).unwrap();
    let mut payload = Slices::new(rest.chunks(slice));
    let mut cutter = Cutter::new(shape, head);
    let mut segments = Vec::new();
    let mut frame = vec![0xee; shape.longest() + 9];
    let room = room.max(shape.header());
    while let Some(len) = cutter.next(&mut payload, frame.chunks_mut(room)) {
        assert!(len <= shape.longest());
        assert!(
            frame[len..].iter().all(|byte| *byte == 0xee),
            "written behind the segment"
        );
        segments.push(frame[..len].to_vec());
        frame.fill(0xee);
    }
    assert_eq!(segments.len(), shape.segments());
    segments
}

prop_compose! {
    fn shape()(
        tags in prop::sample::select(vec![vec![], vec![(0x8100u16, 0x2007u16)], vec![(0x88a8, 9), (0x8100, 0xe123)]]),
        ipv6: bool,
        extensions in prop::sample::select(vec![vec![], vec![(0u8, 8usize)], vec![(60, 24), (43, 8)], vec![(0, 8), (60, 16)]]),
        ip_options in 0..=10usize,
        options in 0..=10usize,
        flags: u8,
        id: u16,
        sequence: u32,
        tos: u8,
        urgent: u16,
    ) -> Tcp {
        Tcp {
            tags, ipv6, ip_options, flags, id, sequence, tos, urgent,
            extensions: if ipv6 { extensions } else { Vec::new() },
            options: vec![1; 4 * options],
            ..Tcp::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn segments_are_what_they_are_from_scratch(
        tcp in shape(), len in 1..9000usize, size in 71..3000u16, private in 0..200usize, slice in 1..68usize, room in 1..500usize,
    ) {
        let payload = payload(len);
        let packet = tcp.blank(&payload);
        let segments = cut(&packet, gso(size, tcp.ipv6), tcp.header() + private, slice, room);
        prop_assert_eq!(segments, tcp.segments(&payload, size.into()));
    }

    #[test]
    fn no_bytes_of_a_head_panic(
        mut packet in prop::collection::vec(any::<u8>(), 0..300), tcp in shape(), keep in 0..160usize, flip in prop::collection::vec((0..160usize, any::<u8>()), 0..3),
        segment: u16, ipv6: bool, blank: bool, more in 0..65536usize,
    ) {
        // Half sensible headers, so that the depths are reached.
        let good = tcp.blank(&payload(100));
        let keep = keep.min(good.len()).min(packet.len());
        packet[..keep].copy_from_slice(&good[..keep]);
        for (at, value) in flip {
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= value;
            }
        }
        let checksum = if blank { Checksum::Blank } else { Checksum::Unverified };
        let len = packet.len() + more;
        if let Ok(shape) = GsoHead::parse(&packet, len, gso(segment, ipv6), checksum) {
            prop_assert!(shape.len() <= len && shape.segments() <= MAX_SEGMENTS && shape.header() <= packet.len());
            let rest = vec![0; more];
            let mut frame = vec![0; shape.longest()];
            let mut cutter = Cutter::new(shape, &packet);
            let mut bytes = 0;
            let mut payload = Slices::new([rest.as_slice()]);
            while let Some(len) = cutter.next(&mut payload, [frame.as_mut_slice()]) {
                bytes += len - shape.header();
            }
            prop_assert_eq!(bytes, shape.len() - shape.header());
        }
    }
}

#[test]
fn sequence_number_and_identification_wrap() {
    let tcp = Tcp {
        sequence: u32::MAX - 1500,
        id: u16::MAX - 1,
        ..Tcp::default()
    };
    let payload = payload(5000);
    let segments = cut(&tcp.blank(&payload), gso(1000, false), 200, 100, 2000);
    assert_eq!(segments, tcp.segments(&payload, 1000));
    assert_eq!(segments[2][18..20], [0, 0]);
    assert_eq!(segments[2][38..42], 499u32.to_be_bytes());
}

#[test]
fn fin_and_psh_are_in_the_last_and_cwr_in_the_first() {
    for flags in 0..=255 {
        let tcp = Tcp {
            flags,
            ..Tcp::default()
        };
        let segments = cut(&tcp.blank(&payload(300)), gso(100, false), 66, 300, 400);
        let seen: Vec<u8> = segments.iter().map(|segment| segment[47]).collect();
        assert_eq!(seen, [flags & !0x09, flags & !0x89, flags & !0x80]);
    }
}

/// Every sum a segment can have, those that fold to 0x0000 and 0xffff among them.
#[test]
fn every_value_of_the_checksum_is_right() {
    let tcp = Tcp::default();
    let mut payload = payload(150);
    for knob in 0..=u16::MAX {
        payload[20..22].copy_from_slice(&knob.to_be_bytes());
        let segments = cut(&tcp.blank(&payload), gso(100, false), 66, 67, 400);
        assert_eq!(segments[0], tcp.segments(&payload, 100)[0], "{knob:#x}");
    }
}

#[test]
fn a_senders_sum_does_not_matter() {
    let tcp = Tcp::default();
    let payload = payload(3000);
    let mut packet = tcp.blank(&payload);
    let right = packet.clone();
    packet[50..52].copy_from_slice(&[0xde, 0xad]);
    assert_eq!(
        cut(&packet, gso(1448, false), 100, 64, 2000),
        tcp.segments(&payload, 1448)
    );
    // Nor where the packet is passed whole.
    for checksum in [Checksum::Blank, Checksum::Unverified, Checksum::Valid] {
        let mut whole = packet.clone();
        let shape = GsoHead::parse(&whole, whole.len(), gso(1448, false), checksum).unwrap();
        shape.blank_checksum(&mut whole);
        assert_eq!(whole, right);
    }
}

/// The pseudo-header of a source-routed packet has a destination that only its sender knows.
#[test]
fn a_source_routed_packet_keeps_its_senders_pseudo_header() {
    let mut tcp = Tcp {
        ipv6: true,
        extensions: vec![(43, 24)],
        ..Tcp::default()
    };
    tcp.host = 5;
    let payload = payload(300);
    // Another destination in the sum, as the last segment of the route would be.
    let route = |packet: &mut Vec<u8>, sum: u16| {
        packet[57] = 1;
        packet[94..96].copy_from_slice(&sum.to_be_bytes());
    };
    let mut packet = tcp.blank(&payload);
    let other = u16::from_be_bytes([packet[94], packet[95]]) ^ 0x0101;
    route(&mut packet, other);
    let shape = GsoHead::parse(&packet, packet.len(), gso(100, true), Checksum::Blank).unwrap();
    let mut whole = packet.clone();
    shape.blank_checksum(&mut whole);
    assert_eq!(whole, packet);
    let tcp_len = (packet.len() - 78) as u16;
    for segment in cut(&packet, gso(100, true), 200, 50, 300) {
        let len = (segment.len() - 78) as u16;
        let mut bytes = segment[78..].to_vec();
        // The sender's sum with another length.
        bytes.extend(if bytes.len() % 2 == 1 {
            vec![0]
        } else {
            vec![]
        });
        bytes.extend(other.to_be_bytes());
        bytes.extend((!tcp_len).to_be_bytes());
        bytes.extend(len.to_be_bytes());
        assert_eq!(tcp::sum(&bytes), 0xffff);
    }
    let refused = GsoHead::parse(&packet, packet.len(), gso(100, true), Checksum::Unverified);
    assert_eq!(refused, Err(Refusal::SourceRouted));
}

#[test]
fn bytes_behind_the_ip_packet_are_not_part_of_the_stream() {
    let tcp = Tcp::default();
    let payload = payload(2000);
    let mut packet = tcp.blank(&payload);
    packet.extend([0xaa; 700]);
    assert_eq!(
        cut(&packet, gso(1448, false), 120, 61, 2000),
        tcp.segments(&payload, 1448)
    );
    let shape = GsoHead::parse(&packet, packet.len(), gso(1448, false), Checksum::Blank).unwrap();
    assert_eq!(
        (shape.len(), shape.header(), shape.longest()),
        (2066, 66, 66 + 1448)
    );
}

#[test]
fn a_packet_of_one_segment_is_an_ordinary_packet() {
    for size in [500, 501, u16::MAX] {
        let tcp = Tcp {
            flags: ACK | tcp::FIN | tcp::PSH | tcp::CWR,
            ..Tcp::default()
        };
        let packet = tcp.blank(&payload(500));
        let segments = cut(&packet, gso(size, false), 80, 100, 1000);
        assert_eq!(segments, [tcp.packet(&payload(500))]);
    }
}

#[test]
fn the_most_segments_are_128() {
    let tcp = Tcp {
        ipv6: true,
        ..Tcp::default()
    };
    let parse = |len, size| {
        let packet = tcp.blank(&payload(len));
        GsoHead::parse(
            &packet[..100],
            packet.len(),
            gso(size, true),
            Checksum::Blank,
        )
    };
    assert_eq!(parse(128, 1).unwrap().segments(), 128);
    assert_eq!(parse(129, 1), Err(Refusal::TooManySegments));
    assert_eq!(parse(65_000, 1), Err(Refusal::TooManySegments));
    assert_eq!(parse(128 * 500, 500).unwrap().segments(), 128);
    assert_eq!(parse(128 * 500 + 1, 500), Err(Refusal::TooManySegments));
}

#[test]
fn every_refusal_has_its_name() {
    let v4 = Tcp::default().blank(&payload(3000));
    let v6 = |extensions: &[(u8, usize)]| {
        Tcp {
            ipv6: true,
            extensions: extensions.to_vec(),
            ..Tcp::default()
        }
        .blank(&payload(3000))
    };
    let judge =
        |packet: &[u8], gso| GsoHead::parse(packet, packet.len(), gso, Checksum::Blank).map(|_| ());
    let with = |at: usize, value: u8| {
        let mut packet = v4.clone();
        packet[at] = value;
        judge(&packet, gso(1448, false))
    };
    assert_eq!(judge(&v4, gso(1448, false)), Ok(()));
    assert_eq!(judge(&v4, gso(0, false)), Err(Refusal::NoSegmentSize));
    assert_eq!(judge(&v4, gso(1448, true)), Err(Refusal::WrongVersion));
    assert_eq!(
        judge(&v6(&[]), gso(1448, false)),
        Err(Refusal::WrongVersion)
    );
    assert_eq!(with(12, 9), Err(HeaderError::NotIp.into()));
    assert_eq!(
        with(20, 0x20),
        Err(HeaderError::Fragment.into()),
        "more fragments"
    );
    assert_eq!(with(21, 1), Err(HeaderError::Fragment.into()), "an offset");
    assert_eq!(with(23, 17), Err(Refusal::NotTcp));
    assert_eq!(with(23, 1), Err(HeaderError::NotTransport.into()));
    assert_eq!(
        with(16, 0x40),
        Err(HeaderError::BadLength.into()),
        "longer than the packet"
    );
    for (words, expected) in [
        (0, Err(Refusal::DataOffset)),
        (4, Err(Refusal::DataOffset)),
        (5, Ok(())),
        (15, Ok(())),
    ] {
        assert_eq!(with(46, words << 4), expected, "{words} words");
    }
    // Options beyond the end of the IP packet, and headers only.
    let short = |len: usize, tcp_words: u8| {
        let mut packet = v4[..len].to_vec();
        packet[16..18].copy_from_slice(&u16::to_be_bytes(len as u16 - 14));
        packet[46] = tcp_words << 4;
        judge(&packet, gso(1448, false))
    };
    assert_eq!(short(67, 9), Err(Refusal::DataOffset));
    assert_eq!(short(66, 8), Err(Refusal::NoPayload));
    assert_eq!(short(67, 8), Ok(()));
    // The private head ends inside the headers.
    for len in 0..66 {
        let refused = GsoHead::parse(&v4[..len], v4.len(), gso(1448, false), Checksum::Blank);
        assert_eq!(refused.unwrap_err(), HeaderError::Truncated.into(), "{len}");
    }
    assert!(GsoHead::parse(&v4[..66], v4.len(), gso(1448, false), Checksum::Blank).is_ok());
    // 256 bytes of headers are fetched, and no more are taken. 14 + 40 + 32 + extensions.
    assert_eq!(judge(&v6(&[(0, 168)]), gso(1448, true)), Ok(()));
    assert_eq!(
        judge(&v6(&[(0, 176)]), gso(1448, true)),
        Err(Refusal::HeaderTooLong)
    );
    // Headers that hold for one packet only.
    for extensions in [&[(44u8, 8usize)][..], &[(0, 8), (44, 8)]] {
        let mut packet = v6(extensions);
        let at = 54 + extensions.iter().map(|(_, len)| len).sum::<usize>() - 8;
        packet[at + 1..at + 8].fill(0);
        assert_eq!(judge(&packet, gso(1448, true)), Err(Refusal::Indivisible));
    }
    let mut signed = v6(&[(51, 16)]);
    signed[55] = 2;
    assert_eq!(judge(&signed, gso(1448, true)), Err(Refusal::Indivisible));
}

#[test]
fn a_tag_is_seen() {
    for (tags, tagged) in [(vec![], false), (vec![(0x8100, 5)], true)] {
        let packet = Tcp {
            tags,
            ..Tcp::default()
        }
        .blank(&payload(3000));
        let shape =
            GsoHead::parse(&packet, packet.len(), gso(1448, false), Checksum::Blank).unwrap();
        assert_eq!(shape.tagged(), tagged);
    }
}
