//! Whatever one guest sends, in whatever slots, another receives: the same bytes, in the same order.
use super::rig::{Rig, frame, mac};
use proptest::prelude::*;

/// A packet as slot sizes; the first holds the Ethernet header.
fn slots() -> impl Strategy<Value = Vec<usize>> {
    let first = prop_oneof![14usize..=300, 14usize..=4096];
    let other = prop_oneof![Just(0usize), 1usize..=64, 1usize..=4096];
    (first, prop::collection::vec(other, 0..=18)).prop_map(|(first, mut others)| {
        while first + others.iter().sum::<usize>() > 65_535 {
            others.pop();
        }
        others.insert(0, first);
        others
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn packets_arrive_as_they_were_sent(packets in prop::collection::vec((slots(), 0usize..12, any::<bool>()), 1..40)) {
        let mut rig = Rig::new();
        let (mut a, mut b) = (rig.guest(1), rig.guest(2));
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (seed, (sizes, posted, turn)) in packets.iter().enumerate() {
            if (a.tx.free() as usize) < sizes.len() {
                rig.turns(3);
                a.read_answers();
            }
            let bytes = frame(mac(2), mac(1), sizes.iter().sum(), seed as u32);
            a.push(&bytes, sizes, 0);
            sent.push(bytes);
            let _ = a.tx.publish();
            b.post((*posted).min(b.rx.free() as usize));
            if *turn {
                rig.turns(1);
            }
            got.extend(b.receive());
            a.read_answers();
        }
        for _ in 0..60 {
            b.post((b.rx.free() as usize).min(40));
            rig.settle();
            got.extend(b.receive());
            a.read_answers();
        }
        prop_assert_eq!(a.unanswered(), 0);
        prop_assert!(a.statuses.iter().all(|&status| status == 0));
        let lost = b.stats.rx_drops.total() as usize;
        prop_assert_eq!(got.len() + lost, sent.len());
        // Only a full backlog loses any, and what arrives is in order.
        let mut sent = sent.iter();
        for packet in &got {
            prop_assert!(packet.errors.is_empty());
            prop_assert!(sent.any(|bytes| *bytes == packet.bytes), "changed, or out of order");
        }
        prop_assert_eq!(rig.frames_found(), rig.frames);
    }
}
