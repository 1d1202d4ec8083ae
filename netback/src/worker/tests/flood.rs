//! Who hears what nobody is known to be the one for.
use super::rig::{OUTSIDE, Rig, frame};
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
