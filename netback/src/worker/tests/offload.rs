//! Blank checksums: completed before the wire, for guests that cannot take them and behind VLAN tags; passed on otherwise.
use super::rig::{Guest, OUTSIDE, Received, Rig, all_features, frame, mac};
use crate::observe::counters::DropReason;
use crate::vif::features::Features;
use crate::worker::messages::ToWorker;
use ring::wire::{
    NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED,
};
use xsk_bridge::header::Transport;
use xsk_bridge::offload::checksum::{Verified, pseudo_header, verify};

/// A UDP datagram over IPv4 whose checksum field holds the sum of the pseudo-header alone.
fn blank(to: [u8; 6], from: [u8; 6], vlan: bool, payload: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = to.into_iter().chain(from).collect();
    if vlan {
        frame.extend([0x81, 0x00, 0x00, 0x05]);
    }
    frame.extend([0x08, 0x00]);
    let total = (28 + payload) as u16;
    let [high, low] = total.to_be_bytes();
    frame.extend([
        0x45, 0, high, low, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    let [high, low] = (total - 20).to_be_bytes();
    frame.extend([0x30, 0x39, 0, 53, high, low, 0, 0]);
    frame.extend((0..payload).map(|n| n as u8));
    let transport = Transport::parse(&frame, frame.len()).unwrap();
    let (at, sum) = (transport.checksum(), pseudo_header(&transport, &frame));
    frame[at..at + 2].copy_from_slice(&sum);
    frame
}

/// The same over IPv6.
fn blank_ipv6(to: [u8; 6], from: [u8; 6], payload: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = to.into_iter().chain(from).chain([0x86, 0xdd]).collect();
    let [high, low] = (8 + payload as u16).to_be_bytes();
    frame.extend([0x60, 0, 0, 0, high, low, 17, 64]);
    frame.extend([0xfd; 16].into_iter().chain([0x20; 16]));
    frame.extend([0x30, 0x39, 0, 53, high, low, 0, 0]);
    frame.extend((0..payload).map(|n| n as u8));
    let transport = Transport::parse(&frame, frame.len()).unwrap();
    let (at, sum) = (transport.checksum(), pseudo_header(&transport, &frame));
    frame[at..at + 2].copy_from_slice(&sum);
    frame
}

fn send(guest: &mut Guest, bytes: &[u8]) {
    let sizes: Vec<_> = bytes.chunks(4096).map(<[u8]>::len).collect();
    guest.push(bytes, &sizes, NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED);
    let _ = guest.tx.publish();
}

fn is_right(bytes: &[u8]) -> bool {
    verify(bytes, std::iter::empty()) == Ok(Verified::Right)
}

/// What a guest with `features` receives of `bytes` from another.
fn across(features: Features, vlan: bool, payload: usize) -> (Vec<u8>, Received) {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut b = rig.guest_on(2, 0, features);
    b.post(10);
    let bytes = blank(b.mac(), a.mac(), vlan, payload);
    send(&mut a, &bytes);
    rig.settle();
    assert_eq!(rig.frames_found(), rig.frames);
    (bytes, b.receive().remove(0))
}

#[test]
fn completed_before_the_wire() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    for (vlan, payload) in [
        (false, 0),
        (false, 1),
        (false, 1400),
        (true, 100),
        (false, 2500),
    ] {
        let bytes = blank(OUTSIDE, guest.mac(), vlan, payload);
        assert!(!is_right(&bytes));
        send(&mut guest, &bytes);
    }
    rig.settle();
    let sent = rig.sent_to_wire();
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|bytes| is_right(bytes)));
}

#[test]
fn passed_on_to_a_guest_that_takes_them() {
    for payload in [100, 1400, 3000, 9000] {
        let (sent, received) = across(all_features(), false, payload);
        assert_eq!(
            received.flags & 3,
            NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED
        );
        assert!(received.bytes == sent);
    }
}

#[test]
fn completed_for_a_guest_that_cannot_and_behind_a_vlan_tag() {
    for payload in [100, 1400, 3000, 9000] {
        for (features, vlan) in [
            (
                Features {
                    csum_ipv4: false,
                    ..all_features()
                },
                false,
            ),
            (all_features(), true),
        ] {
            let (_, received) = across(features, vlan, payload);
            assert_eq!(received.flags & 3, NETRXF_DATA_VALIDATED);
            assert!(is_right(&received.bytes), "{payload}");
        }
    }
}

#[test]
fn ipv6_is_completed_for_a_guest_that_does_not_say_that_it_completes() {
    let mut rig = Rig::new();
    let mut a = rig.guest(1);
    let mut takes = rig.guest_on(2, 0, all_features());
    let no_csum = Features {
        csum_ipv6: false,
        ..all_features()
    };
    let mut takes_not = rig.guest_on(3, 0, no_csum);
    for (guest, flags) in [
        (&mut takes, NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED),
        (&mut takes_not, NETRXF_DATA_VALIDATED),
    ] {
        guest.post(10);
        let bytes = blank_ipv6(guest.mac(), a.mac(), 1000);
        send(&mut a, &bytes);
        rig.settle();
        let received = guest.receive().remove(0);
        assert_eq!(received.flags & 3, flags);
        assert_eq!(is_right(&received.bytes), flags == NETRXF_DATA_VALIDATED);
    }
}

#[test]
fn validated_stays_validated_and_unknown_stays_unknown() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    b.post(10);
    let bytes = frame(b.mac(), a.mac(), 200, 1);
    for (sent, expected) in [(NETTXF_DATA_VALIDATED, NETRXF_DATA_VALIDATED), (0, 0)] {
        a.push(&bytes, &[200], sent);
        let _ = a.tx.publish();
        rig.settle();
        assert_eq!(b.receive().remove(0).flags & 3, expected);
    }
    rig.arrive_from_wire(&frame(b.mac(), OUTSIDE, 200, 2));
    rig.settle();
    assert_eq!(b.receive().remove(0).flags & 3, 0);
}

#[test]
fn one_that_no_guest_could_complete_is_dropped_before_it() {
    let mut rig = Rig::new();
    let (mut a, mut b) = (rig.guest(1), rig.guest(2));
    b.post(10);
    let mut bytes = blank(b.mac(), a.mac(), false, 100);
    bytes[23] = 47; // neither TCP nor UDP
    send(&mut a, &bytes);
    rig.settle();
    assert!(b.receive().is_empty());
    assert_eq!(b.stats.rx_drops.get(DropReason::ChecksumImpossible), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn one_that_cannot_be_completed_is_dropped_by_name() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    let mut bytes = blank(OUTSIDE, mac(1), false, 100);
    bytes[12] = 0x88; // not IP
    send(&mut guest, &bytes);
    rig.settle();
    assert!(rig.sent_to_wire().is_empty());
    assert_eq!(guest.stats.tx_drops.get(DropReason::ChecksumImpossible), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn the_longest_frame_to_the_wire_follows_the_mtu() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    let mut reaches = |rig: &mut Rig, len: usize| {
        guest.send(&frame(OUTSIDE, guest.mac(), len, 1));
        rig.settle();
        guest.read_answers();
        rig.sent_to_wire().len()
    };
    rig.tell(0, ToWorker::SetMtu(1, 600));
    // Ethernet header and one VLAN tag are not of the MTU.
    assert_eq!(reaches(&mut rig, 618), 1);
    assert_eq!(reaches(&mut rig, 619), 0);
    rig.tell(0, ToWorker::SetMtu(1, 1500));
    assert_eq!(reaches(&mut rig, 1518), 1);
    assert_eq!(guest.stats.tx_drops.get(DropReason::TooLong), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}
