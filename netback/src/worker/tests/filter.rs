//! What a guest may not send goes nowhere, and is counted under the rule that it breaks.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use crate::observe::counters::DropReason;
use crate::worker::messages::ToWorker;
use ring::wire::{NETIF_RSP_DROPPED, NETIF_RSP_OKAY};
use std::sync::Arc;
use xsk_bridge::switch::filter::Filter;

fn filtered(rig: &mut Rig, number: u8) -> Guest {
    let mut guest = Guest::new(number, 0, all_features(), &rig.grants);
    let addresses = Some("192.0.2.7 fd77::7".parse().unwrap());
    guest.filter = Filter::new(mac(number), true, addresses).map(Arc::new);
    rig.admit(&mut guest, false);
    rig.turns(1);
    guest
}

fn packet(ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&OUTSIDE[..], &mac(1), &ethertype, packet].concat()
}
fn ipv4(source: [u8; 4], len: usize) -> Vec<u8> {
    let [high, low] = (len as u16).to_be_bytes();
    let header = [0x45, 0, high, low, 0, 1, 0x40, 0, 64, 253, 0, 0];
    let rest = vec![9; len - 20];
    packet(
        [8, 0],
        &[&header[..], &source, &[10, 0, 0, 2], &rest].concat(),
    )
}
fn icmp6(source: u8, kind: u8, target: u8) -> Vec<u8> {
    let address = |last: u8| [&[0xfd, 0x77][..], &[0; 13], &[last]].concat();
    let header = [0x60, 0, 0, 0, 0, 24, 58, 255];
    let body = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &address(target)].concat();
    packet(
        [0x86, 0xdd],
        &[&header[..], &address(source), &address(1), &body].concat(),
    )
}
fn arp(sender: [u8; 4]) -> Vec<u8> {
    let start = [0, 1, 8, 0, 6, 4, 0, 1];
    packet(
        [8, 6],
        &[&start[..], &mac(1), &sender, &[0; 6], &[192, 0, 2, 1]].concat(),
    )
}

#[test]
fn each_rule_has_its_count_and_the_rest_passes() {
    let mut rig = Rig::new();
    let mut guest = filtered(&mut rig, 1);
    let honest = [
        arp([192, 0, 2, 7]),
        ipv4([192, 0, 2, 7], 60),
        ipv4([192, 0, 2, 7], 1400),
        icmp6(7, 128, 9),
        icmp6(7, 136, 7),
        frame(OUTSIDE, mac(1), 60, 1),
    ];
    let pretending = [
        (DropReason::FilterMac, frame(OUTSIDE, mac(9), 60, 1)),
        (DropReason::FilterArp, arp([192, 0, 2, 1])),
        (DropReason::FilterIpv4, ipv4([192, 0, 2, 8], 60)),
        (DropReason::FilterIpv6, icmp6(8, 128, 9)),
        (DropReason::FilterNd, icmp6(7, 136, 8)),
        (DropReason::FilterRa, icmp6(7, 134, 0)),
    ];
    for (n, (reason, bytes)) in pretending.iter().enumerate() {
        for _ in 0..=n {
            guest.send(bytes);
            rig.settle();
            assert_eq!(guest.take_statuses(), [NETIF_RSP_DROPPED]);
        }
        assert!(rig.sent_to_wire().is_empty(), "{reason:?}");
        assert_eq!(guest.stats.tx_drops.get(*reason), n as u64 + 1);
    }
    for bytes in &honest {
        guest.send(bytes);
    }
    rig.settle();
    assert_eq!(rig.sent_to_wire(), honest);
    assert_eq!(guest.stats.tx_drops.total(), 1 + 2 + 3 + 4 + 5 + 6);
    assert_eq!(guest.take_statuses(), [NETIF_RSP_OKAY; 6]);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// Of a long packet the head alone is fetched before it is judged, and nothing else where it is refused.
#[test]
fn a_long_packet_is_judged_by_its_head() {
    let mut rig = Rig::new();
    let mut guest = filtered(&mut rig, 1);
    let mut neighbour = rig.guest(2);
    neighbour.post(20);
    for (source, passes) in [([192, 0, 2, 7], true), ([192, 0, 2, 8], false)] {
        let mut bytes = ipv4(source, 9000);
        bytes[..6].copy_from_slice(&mac(2));
        guest.push(&bytes, &[14, 4000, 4000, 1000], 0);
        let _ = guest.tx.publish();
        rig.grants.take_calls();
        rig.settle();
        let received = neighbour.receive();
        assert_eq!(received.len(), usize::from(passes));
        if !passes {
            let operations: usize = rig
                .grants
                .take_calls()
                .iter()
                .map(|call| call.segments)
                .sum();
            assert_eq!(operations, 2, "the head is in two slots");
        }
    }
    assert_eq!(guest.stats.tx_drops.get(DropReason::FilterIpv4), 1);
}

#[test]
fn a_filter_changes_while_its_guest_sends() {
    let mut rig = Rig::new();
    let mut guest = filtered(&mut rig, 1);
    let pretending = ipv4([192, 0, 2, 8], 60);
    for (filter, passes) in [
        (None, true),
        (
            Filter::new(mac(1), false, Some("192.0.2.8".parse().unwrap())),
            true,
        ),
        (
            Filter::new(mac(1), false, Some("192.0.2.9".parse().unwrap())),
            false,
        ),
    ] {
        rig.tell(0, ToWorker::SetFilter(guest.port(), filter.map(Arc::new)));
        guest.send(&pretending);
        rig.settle();
        assert_eq!(rig.sent_to_wire().len(), usize::from(passes));
    }
}

/// A guest that sends from the address of somebody on the wire hears nothing of what is meant for that host, and nobody is told that the
/// host is here.
#[test]
fn the_address_of_a_host_on_the_wire_is_not_taken_over() {
    let mut rig = Rig::new();
    let (mut rogue, mut honest) = (rig.guest(1), rig.guest(2));
    rogue.post(30);
    for seed in 0..20 {
        rogue.send(&frame([0xff; 6], OUTSIDE, 60, seed));
        honest.send(&frame(OUTSIDE, mac(2), 60, 100 + seed));
        rig.settle();
        assert_eq!(rig.sent_to_wire(), [frame(OUTSIDE, mac(2), 60, 100 + seed)]);
    }
    assert!(rogue.receive().is_empty());
    assert_eq!(rogue.stats.tx_drops.get(DropReason::WireSource), 20);
}
