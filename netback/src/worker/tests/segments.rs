//! Packets that a guest's TCP has not cut: whole to guests that segment themselves, cut for everybody else.
use super::rig::{Guest, OUTSIDE, Received, Rig, all_features, mac};
use crate::observe::counters::DropReason;
use crate::vif::features::Features;
use ring::wire::{
    Extra, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NETIF_RSP_DROPPED, NETIF_RSP_OKAY, NETRXF_CSUM_BLANK,
    NETTXF_CSUM_BLANK, NETTXF_EXTRA_INFO,
};
use xsk_bridge::header::Transport;
use xsk_bridge::offload::checksum::{Verified, pseudo_header, verify};

pub const SEGMENT: u16 = 1448;
pub const HEADERS: usize = 54;

pub fn gso_features() -> Features {
    Features {
        gso_tcpv4: true,
        gso_tcpv6: true,
        ..all_features()
    }
}

/// A TCP packet over IPv4 with a blank checksum, its payload told apart by position.
pub fn tcp(to: [u8; 6], from: [u8; 6], payload: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = to.into_iter().chain(from).chain([8, 0]).collect();
    let [high, low] = (40 + payload as u16).to_be_bytes();
    frame.extend([0x45, 0, high, low, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|n| (n * 7 + n / 251) as u8));
    let transport = Transport::parse(&frame, frame.len()).unwrap();
    let (at, sum) = (transport.checksum(), pseudo_header(&transport, &frame));
    frame[at..at + 2].copy_from_slice(&sum);
    frame
}

/// Puts a packet with a GSO extra on the Tx ring, as Linux's netfront does: the headers alone, then whole pages.
fn send(guest: &mut Guest, bytes: &[u8], size: u16, kind: u8, blank: u16) {
    let mut sizes = vec![HEADERS];
    sizes.extend(bytes[HEADERS..].chunks(4096).map(<[u8]>::len));
    let extra = Extra::Gso {
        size,
        kind,
        features: 0,
    };
    guest.push_with_extra(bytes, &sizes, blank | NETTXF_EXTRA_INFO, extra);
    let _ = guest.tx.publish();
}

pub fn send_tcp(guest: &mut Guest, bytes: &[u8]) {
    send(guest, bytes, SEGMENT, GSO_TYPE_TCPV4, NETTXF_CSUM_BLANK);
}

/// Every frame is a right segment of at most the usual size, and their payloads are `bytes`'s.
pub fn check_segments(frames: &[Vec<u8>], bytes: &[u8]) {
    check_segments_of(frames, bytes, SEGMENT.into());
}

/// Every frame is a right segment of at most `size` bytes, and their payloads are `bytes`'s.
pub fn check_segments_of(frames: &[Vec<u8>], bytes: &[u8], size: usize) {
    assert_eq!(frames.len(), (bytes.len() - HEADERS).div_ceil(size));
    let mut payload: Vec<u8> = Vec::new();
    for frame in frames {
        assert!(frame.len() <= HEADERS + size);
        assert_eq!(verify(frame, std::iter::empty()), Ok(Verified::Right));
        payload.extend(&frame[HEADERS..]);
    }
    assert!(payload == bytes[HEADERS..]);
}

fn bytes_of(received: Vec<Received>) -> Vec<Vec<u8>> {
    received.into_iter().map(|packet| packet.bytes).collect()
}

#[test]
fn whole_to_a_guest_that_segments_itself_and_few_operations() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, gso_features());
    b.post(60);
    for payload in [1449, 5000, 65_160 - HEADERS] {
        let bytes = tcp(b.mac(), a.mac(), payload);
        rig.grants.take_calls();
        send_tcp(&mut a, &bytes);
        rig.settle();
        let received = b.receive().remove(0);
        assert!(received.bytes == bytes, "{payload}");
        assert_ne!(received.flags & NETRXF_CSUM_BLANK, 0);
        let Some(Extra::Gso { size, kind, .. }) = received.extra else {
            panic!("no extra: {:?}", received.extra)
        };
        assert_eq!((size, kind), (SEGMENT, GSO_TYPE_TCPV4));
        let calls = rig.grants.take_calls();
        let operations: usize = calls.iter().map(|call| call.segments).sum();
        // Two for the first 256 bytes, and one for each slot.
        assert!(operations <= 3 + payload.div_ceil(4096), "{operations}");
        assert!(operations <= 20, "{operations}");
    }
    assert_eq!(
        (a.stats.tx_gso_packets.get(), b.stats.rx_gso_packets.get()),
        (3, 3)
    );
    assert!(
        a.take_statuses()
            .iter()
            .all(|&status| status == NETIF_RSP_OKAY)
    );
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn cut_for_the_wire_with_one_operation_a_fragment() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    for payload in [1449, 5000, 65_160 - HEADERS] {
        let bytes = tcp(OUTSIDE, guest.mac(), payload);
        rig.grants.take_calls();
        send_tcp(&mut guest, &bytes);
        rig.settle();
        check_segments(&rig.sent_to_wire(), &bytes);
        let calls = rig.grants.take_calls();
        let operations: usize = calls.iter().map(|call| call.segments).sum();
        assert!(operations <= 2 + payload.div_ceil(4096), "{operations}");
        assert!(operations <= 20, "{operations}");
        assert!(calls.len() <= 2);
    }
    assert_eq!(rig.uplink.cut_packets.get(), 3);
    assert_eq!(rig.uplink.segments.get(), 2 + 4 + 45);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn cut_for_a_guest_that_does_not_segment() {
    let plain = [
        all_features(),
        Features {
            sg: false,
            ..gso_features()
        },
        Features {
            csum_ipv4: false,
            ..gso_features()
        },
    ];
    for features in plain {
        let mut rig = Rig::new();
        let mut a = rig.guest(1);
        let mut b = rig.guest_on(2, 0, features);
        b.post(100);
        let bytes = tcp(b.mac(), a.mac(), 20_000);
        send_tcp(&mut a, &bytes);
        rig.settle();
        check_segments(&bytes_of(b.receive()), &bytes);
        assert_eq!(b.stats.rx_cut_packets.get(), 1);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

/// Guests whose MTU is larger than a frame of the UMEM holds may have their packets cut into segments as long.
#[test]
fn segments_longer_than_a_frame_are_cut_for_a_guest_that_does_not_segment() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, all_features());
    b.post(200);
    for (size, payload) in [
        (8948, 30_000),
        (3787, 10_000),
        (3786, 10_000),
        (60_000, 65_000),
    ] {
        let bytes = tcp(b.mac(), a.mac(), payload);
        send(&mut a, &bytes, size, GSO_TYPE_TCPV4, NETTXF_CSUM_BLANK);
        rig.settle();
        check_segments_of(&bytes_of(b.receive()), &bytes, size.into());
        a.read_answers();
    }
    assert_eq!(b.stats.rx_cut_packets.get(), 4);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn whole_through_a_backlog_and_from_worker_to_worker() {
    let mut rig = Rig::with(2, 4096, 1024);
    let mut a = rig.guest_on(1, 1, gso_features());
    let mut b = rig.guest_on(2, 0, gso_features());
    let bytes = tcp(b.mac(), a.mac(), 60_000);
    send_tcp(&mut a, &bytes);
    let out = tcp(OUTSIDE, a.mac(), 30_000);
    send_tcp(&mut a, &out);
    rig.settle();
    check_segments(&rig.sent_to_wire(), &out);
    assert!(b.receive().is_empty());
    b.post(20);
    rig.settle();
    let received = b.receive().remove(0);
    assert!(received.bytes == bytes && received.extra.is_some());
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_checksum_field_that_is_not_even_blank_is_made_so() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, gso_features());
    b.post(20);
    for payload in [1500, 10_000] {
        let expected = tcp(b.mac(), a.mac(), payload);
        let mut sent = expected.clone();
        sent[50..52].copy_from_slice(&[0x5a, 0x5a]);
        send(&mut a, &sent, SEGMENT, GSO_TYPE_TCPV4, 0);
        rig.settle();
        let received = b.receive().remove(0);
        assert!(received.bytes == expected, "{payload}");
        assert_ne!(received.flags & NETRXF_CSUM_BLANK, 0);
    }
    assert_eq!(a.stats.checksum_fixups.get(), 2);
}

#[test]
fn half_a_packet_is_never_sent() {
    for room in [0, 1, 43, 44] {
        let mut rig = Rig::new();
        let mut guest = rig.guest(1);
        let pool = &mut rig.workers[0].fabric.pool;
        let kept: Vec<_> = (0..pool.len() - room)
            .map(|_| pool.take().unwrap())
            .collect();
        let bytes = tcp(OUTSIDE, guest.mac(), 65_000);
        send_tcp(&mut guest, &bytes);
        rig.turns(1);
        assert!(rig.sent_to_wire().is_empty(), "{room} of 45 frames");
        assert_eq!(guest.stats.tx_drops.get(DropReason::NoFrame), 1);
        rig.workers[0].fabric.pool.extend(kept);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn what_cannot_be_segmented_is_dropped_by_name_and_the_vif_lives() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, gso_features());
    b.post(100);
    let good = tcp(b.mac(), a.mac(), 20_000);
    let spoilt: [fn(&mut Vec<u8>); 5] = [
        |packet| packet[23] = 17,           // UDP
        |packet| packet[20] |= 0x20,        // a fragment
        |packet| packet[46] = 0x40,         // a data offset of 16 bytes
        |packet| packet[16..18].fill(0xff), // longer than the packet
        |packet| packet[12..14].copy_from_slice(&[0x88, 0xb5]),
    ];
    for spoil in spoilt {
        let mut bytes = good.clone();
        spoil(&mut bytes);
        send_tcp(&mut a, &bytes);
    }
    send(&mut a, &good, SEGMENT, GSO_TYPE_TCPV6, NETTXF_CSUM_BLANK);
    send(&mut a, &good, 1, GSO_TYPE_TCPV4, NETTXF_CSUM_BLANK);
    rig.settle();
    assert!(b.receive().is_empty());
    assert_eq!(a.stats.tx_drops.get(DropReason::GsoRefused), 7);
    let statuses = a.take_statuses();
    assert!(statuses.iter().all(|&status| status == NETIF_RSP_DROPPED));
    send_tcp(&mut a, &good);
    rig.settle();
    assert_eq!(b.receive().len(), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn flooded_whole_to_guests_and_cut_for_the_wire() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, gso_features());
    b.post(20);
    let bytes = tcp([0xff; 6], mac(1), 10_000);
    send_tcp(&mut a, &bytes);
    rig.settle();
    check_segments(&rig.sent_to_wire(), &bytes);
    assert!(b.receive().remove(0).bytes == bytes);
    assert_eq!(rig.frames_found(), rig.frames);
}
