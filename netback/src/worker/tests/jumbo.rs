//! Frames longer than a frame of the UMEM, between guests and a wire whose MTU is as large.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use super::segments::{HEADERS, check_segments_of, tcp};
use crate::bounds::OUTBOX;
use crate::observe::counters::DropReason;
use crate::vif::features::Features;
use crate::worker::messages::ToWorker;
use ring::wire::{Extra, GSO_TYPE_TCPV4, NETTXF_CSUM_BLANK, NETTXF_EXTRA_INFO};
use xsk_bridge::device::Faults;
use xsk_bridge::frame::DATA_CAPACITY;
use xsk_bridge::offload::checksum::{Verified, verify};

const MTU: u32 = 9000;
/// Lengths around what one frame, two and the MTU hold.
const LENGTHS: [usize; 9] = [60, 1514, 3839, 3840, 3841, 7680, 7681, 9014, 9018];

/// A rig of so many workers, with a wire of MTU 9000 that holds so many frames.
fn rig(workers: u8, wire: usize) -> Rig {
    let mut rig = Rig::with(workers, 4096, wire);
    rig.set_wire_mtu(MTU);
    rig
}

/// Puts a packet in slots of whole pages on the Tx ring.
fn send(guest: &mut Guest, bytes: &[u8], flags: u16) {
    let sizes: Vec<_> = bytes.chunks(4096).map(<[u8]>::len).collect();
    guest.push(bytes, &sizes, flags);
    let _ = guest.tx.publish();
}

#[test]
fn every_length_passes_both_ways_in_its_order() {
    for worker in [0, 1] {
        let mut rig = rig(2, 1024);
        let mut guest = rig.guest_on(1, worker, all_features());
        guest.post(100);
        let (mut out, mut back) = (Vec::new(), Vec::new());
        for (n, len) in LENGTHS.into_iter().enumerate() {
            out.push(frame(OUTSIDE, guest.mac(), len, n as u32));
            back.push(frame(guest.mac(), OUTSIDE, len, 100 + n as u32));
            send(&mut guest, &out[n], 0);
            rig.arrive_from_wire(&back[n]);
        }
        rig.settle();
        assert!(rig.sent_to_wire() == out, "worker {worker}");
        let received: Vec<_> = guest.receive().into_iter().map(|got| got.bytes).collect();
        assert!(received == back, "worker {worker}");
        guest.read_answers();
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn one_that_waits_for_its_guest_arrives_whole() {
    let mut rig = rig(1, 1024);
    let mut guest = rig.guest(1);
    let back: Vec<_> = (0..20)
        .map(|n| frame(guest.mac(), OUTSIDE, 9014, n))
        .collect();
    back.iter().for_each(|bytes| rig.arrive_from_wire(bytes));
    rig.settle();
    assert!(guest.receive().is_empty());
    guest.post(100);
    rig.settle();
    let received: Vec<_> = guest.receive().into_iter().map(|got| got.bytes).collect();
    assert!(received == back);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_flood_reaches_the_wire_and_guests_whole() {
    let mut rig = rig(2, 1024);
    let mut a = rig.guest(1);
    let mut b = rig.guest(2);
    let mut elsewhere = rig.guest_on(3, 1, all_features());
    b.post(10);
    elsewhere.post(10);
    let bytes = frame([0xff; 6], a.mac(), 9014, 7);
    send(&mut a, &bytes, 0);
    rig.settle();
    assert!(rig.sent_to_wire() == [bytes.clone()]);
    assert!(b.receive().remove(0).bytes == bytes);
    assert!(elsewhere.receive().remove(0).bytes == bytes);
    let back = frame([0xff; 6], OUTSIDE, 9014, 8);
    rig.arrive_from_wire(&back);
    a.post(10);
    rig.settle();
    assert!(a.receive().remove(0).bytes == back);
    a.read_answers();
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_blank_checksum_is_completed_before_the_wire() {
    let mut rig = rig(1, 1024);
    let mut guest = rig.guest(1);
    for payload in [3786, 3787, 8960, 8947] {
        let bytes = tcp(OUTSIDE, guest.mac(), payload);
        send(&mut guest, &bytes, NETTXF_CSUM_BLANK);
        rig.settle();
        let sent = rig.sent_to_wire().remove(0);
        assert_eq!(
            verify(&sent, std::iter::empty()),
            Ok(Verified::Right),
            "{payload}"
        );
        assert!(sent[HEADERS..] == bytes[HEADERS..]);
    }
    // What cannot be completed goes nowhere, and gives its frames back.
    let mut spoilt = tcp(OUTSIDE, guest.mac(), 8960);
    spoilt[23] = 47;
    send(&mut guest, &spoilt, NETTXF_CSUM_BLANK);
    rig.settle();
    assert!(rig.sent_to_wire().is_empty());
    assert_eq!(guest.stats.tx_drops.get(DropReason::ChecksumImpossible), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// What a guest's TCP leaves to be segmented is cut into segments as long as the wire carries.
#[test]
fn long_segments_are_cut_for_the_wire() {
    let mut rig = rig(1, 1024);
    let mut guest = rig.guest(1);
    for (size, payload) in [(8948, 65_000), (8948, 8949), (3786, 40_000), (3787, 40_000)] {
        let bytes = tcp(OUTSIDE, guest.mac(), payload);
        let mut sizes = vec![HEADERS];
        sizes.extend(bytes[HEADERS..].chunks(4096).map(<[u8]>::len));
        let extra = Extra::Gso {
            size,
            kind: GSO_TYPE_TCPV4,
            features: 0,
        };
        guest.push_with_extra(&bytes, &sizes, NETTXF_CSUM_BLANK | NETTXF_EXTRA_INFO, extra);
        let _ = guest.tx.publish();
        rig.settle();
        check_segments_of(&rig.sent_to_wire(), &bytes, size.into());
        guest.read_answers();
    }
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn one_that_is_too_long_for_wire_or_guest_is_dropped_by_name() {
    let mut rig = rig(1, 1024);
    let mut guest = rig.guest(1);
    send(&mut guest, &frame(OUTSIDE, mac(1), 9019, 1), 0);
    let no_sg = Features {
        sg: false,
        ..all_features()
    };
    let mut small = rig.guest_on(2, 0, no_sg);
    small.post(10);
    rig.arrive_from_wire(&frame(small.mac(), OUTSIDE, 9014, 2));
    rig.arrive_from_wire(&frame(small.mac(), OUTSIDE, 1514, 3));
    rig.settle();
    assert!(rig.sent_to_wire().is_empty());
    assert_eq!(guest.stats.tx_drops.get(DropReason::TooLong), 1);
    assert_eq!(small.stats.rx_drops.get(DropReason::TooLong), 1);
    assert_eq!(small.receive().len(), 1);
    // Those that wait for the wire while its MTU becomes smaller.
    send(&mut guest, &frame(OUTSIDE, mac(1), 9014, 4), 0);
    rig.tell(0, ToWorker::SetMtu(1, 1500));
    rig.settle();
    assert!(rig.sent_to_wire().is_empty());
    guest.read_answers();
    assert_eq!(rig.frames_found(), rig.frames);
}

/// A wire that is full holds back by frames, so that long packets take no more of them than short ones.
#[test]
fn what_waits_for_the_wire_is_bounded_in_frames() {
    const ROOM: usize = 4;
    let mut rig = rig(1, ROOM);
    let mut guest = rig.guest(1);
    let mut sent = 0;
    for _ in 0..400 {
        if guest.tx.free() >= 3 {
            send(&mut guest, &frame(OUTSIDE, mac(1), 9014, sent), 0);
            sent += 1;
        }
        rig.turns(1);
        guest.read_answers();
        let uplink = rig.workers[0].fabric.uplinks[0].as_ref().unwrap();
        assert!(uplink.frames() <= ROOM + OUTBOX + 3, "{}", uplink.frames());
        assert_eq!(rig.frames_found(), rig.frames);
    }
    // The order stays, and what was dropped for want of room was counted.
    let mut came = 0;
    for _ in 0..400 {
        let wire = rig.sent_to_wire();
        assert!(wire.iter().all(|bytes| bytes.len() == 9014));
        came += wire.len() as u64;
        rig.turns(1);
        guest.read_answers();
    }
    let dropped = guest.stats.tx_drops.get(DropReason::UplinkFull);
    assert_eq!(came + dropped, u64::from(sent));
    assert!(came > 80, "{came}");
}

#[test]
fn no_frame_is_lost_on_a_wire_that_goes_wrong() {
    let faults = Faults {
        lose: 7,
        refuse: 11,
        down: 13,
        full: 3,
        deaf: 4,
        stall: 2,
    };
    for seed in 1..6 {
        let mut rig = rig(1, 64);
        rig.make_uplink_faulty(faults, seed);
        let mut guest = rig.guest(1);
        let mut passed = [0, 0];
        for n in 0..300 {
            let len = LENGTHS[n as usize % LENGTHS.len()];
            if guest.tx.free() >= 3 {
                send(&mut guest, &frame(OUTSIDE, mac(1), len, n), 0);
            }
            if n % 5 == 0 {
                rig.arrive_from_wire(&frame(mac(1), OUTSIDE, len, n));
            }
            guest.post(guest.rx.free().min(3) as usize);
            rig.turns(1);
            guest.read_answers();
            for bytes in rig.sent_to_wire() {
                let number = u32::from_le_bytes(bytes[14..18].try_into().unwrap());
                assert!(bytes == frame(OUTSIDE, mac(1), bytes.len(), number));
                passed[0] += usize::from(bytes.len() > DATA_CAPACITY);
            }
            for got in guest.receive() {
                let number = u32::from_le_bytes(got.bytes[14..18].try_into().unwrap());
                assert!(got.bytes == frame(mac(1), OUTSIDE, got.bytes.len(), number));
                passed[1] += usize::from(got.bytes.len() > DATA_CAPACITY);
            }
            assert_eq!(rig.frames_found(), rig.frames, "seed {seed}, step {n}");
        }
        assert!(passed[0] > 30 && passed[1] > 10, "{passed:?}");
    }
}
