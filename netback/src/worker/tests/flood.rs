//! Who hears what nobody is known to be the one for.
use super::rig::{Guest, OUTSIDE, Rig, frame};
use super::segments::{gso_features, send_tcp, tcp};
use crate::bounds::FLOOD_BYTES;
use crate::observe::counters::DropReason;

const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0xee];
const BEHIND: [u8; 6] = [2, 0, 0, 0, 9, 3];

/// Guest 1 sends, guest 2 stands for itself alone, guest 3 has others behind it.
#[test]
fn unknown_unicast_reaches_the_wire_and_guests_with_others_behind_them() {
    let mut rig = Rig::new();
    let mut sender = rig.guest(1);
    let mut alone = rig.guest(2);
    let mut bridging = rig.guest(3);
    bridging.send(&frame(OUTSIDE, BEHIND, 60, 0));
    rig.settle();
    rig.sent_to_wire();
    alone.post(8);
    bridging.post(8);

    let unknown = frame(NOBODY, sender.mac(), 60, 1);
    sender.send(&unknown);
    rig.settle();
    assert_eq!(rig.sent_to_wire(), std::slice::from_ref(&unknown));
    let heard: Vec<_> = bridging.receive().into_iter().map(|p| p.bytes).collect();
    assert_eq!(heard, [unknown]);
    assert!(alone.receive().is_empty());

    let from_the_wire = frame(NOBODY, OUTSIDE, 60, 2);
    rig.arrive_from_wire(&from_the_wire);
    rig.settle();
    let heard: Vec<_> = bridging.receive().into_iter().map(|p| p.bytes).collect();
    assert_eq!(heard, [from_the_wire]);
    assert!(sender.receive().is_empty() && alone.receive().is_empty());

    // Everybody hears a broadcast.
    let broadcast = frame([0xff; 6], sender.mac(), 60, 3);
    sender.send(&broadcast);
    rig.settle();
    assert_eq!(rig.sent_to_wire().len(), 1);
    assert_eq!((alone.receive().len(), bridging.receive().len()), (1, 1));
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_the_wire_brings_for_nobody_here_is_dropped_by_name() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    guest.post(8);
    for seed in 0..5 {
        rig.arrive_from_wire(&frame(NOBODY, OUTSIDE, 60, seed));
    }
    rig.settle();
    assert!(guest.receive().is_empty());
    assert_eq!(rig.uplink.recv_drops.get(DropReason::NoPort), 5);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn large_packets_for_everybody_are_bounded_counted_and_cost_their_sender_alone() {
    let mut rig = Rig::new();
    let (mut loud, mut quiet) = (rig.guest(1), rig.guest(2));
    let mut receivers: Vec<Guest> = (3..=18)
        .map(|number| rig.guest_on(number, 0, gso_features()))
        .collect();
    let bytes = tcp([0xff; 6], loud.mac(), 65_000);
    let (mut heard, mut by_one, mut on_the_wire) = (0, 0, 0);
    for round in 0..8 {
        receivers.iter_mut().for_each(|guest| {
            let posted = guest.rx.free() as usize;
            guest.post(posted.min(60));
        });
        send_tcp(&mut loud, &bytes);
        for n in 0..8 {
            let (to, from) = (receivers[0].mac(), quiet.mac());
            quiet.send(&frame(to, from, 100, round * 8 + n));
            quiet.send(&frame(OUTSIDE, from, 100, round * 8 + n));
        }
        rig.turns(1);
        let mut copies = 0;
        for (number, guest) in receivers.iter_mut().enumerate() {
            for packet in guest.receive() {
                match packet.bytes == bytes {
                    true => copies += 1,
                    false => by_one += usize::from(number == 0 && packet.bytes.len() == 100),
                }
            }
        }
        assert!(copies * bytes.len() <= FLOOD_BYTES, "{copies} in a turn");
        heard += copies;
        let small = rig.sent_to_wire().into_iter();
        on_the_wire += small.filter(|bytes| bytes.len() == 100).count();
        loud.read_answers();
        quiet.read_answers();
    }
    assert!(heard > 0);
    // 17 other guests would have heard each packet.
    let dropped = loud.stats.tx_drops.get(DropReason::FloodLimit);
    let cut_for_quiet = quiet.stats.rx_cut_packets.get();
    assert_eq!(heard as u64 + cut_for_quiet + dropped, 8 * 17);
    assert_eq!((by_one, on_the_wire), (64, 64));
    assert_eq!(quiet.stats.tx_drops.total(), 0);
    assert_eq!(rig.frames_found(), rig.frames);
}
