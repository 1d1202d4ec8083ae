//! The multicast list: amended by dummy Tx requests, applied to multicast alone, kept across a restart.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame};
use crate::observe::counters::DropReason;
use crate::vif::features::Features;
use ring::wire::{Extra, NETIF_RSP_ERROR, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, TxRequest};

fn address(n: u8) -> [u8; 6] {
    [1, 0, 0x5e, 0, 0, n]
}

fn ask(rig: &mut Rig, guest: &mut Guest, extra: Extra) -> i16 {
    guest.request(TxRequest {
        gref: 0,
        offset: 0,
        flags: NETTXF_EXTRA_INFO,
        id: 900,
        size: 0,
    });
    guest.extra(extra, false);
    let _ = guest.tx.publish();
    rig.settle();
    let statuses = guest.take_statuses();
    assert_eq!(statuses.len(), 1);
    statuses[0]
}

/// Whether the guest receives a frame for `to`.
fn hears(rig: &mut Rig, guest: &mut Guest, to: [u8; 6]) -> bool {
    guest.post(1);
    rig.arrive_from_wire(&frame(to, OUTSIDE, 60, 1));
    rig.settle();
    !guest.receive().is_empty()
}

fn subscriber(rig: &mut Rig) -> Guest {
    rig.guest_on(
        1,
        0,
        Features {
            multicast_control: true,
            ..all_features()
        },
    )
}

#[test]
fn a_guest_hears_what_it_subscribed_to_and_broadcasts() {
    let mut rig = Rig::new();
    let mut guest = subscriber(&mut rig);
    assert!(!hears(&mut rig, &mut guest, address(1)));
    assert_eq!(guest.stats.rx_drops.get(DropReason::MulticastFiltered), 1);
    assert!(hears(&mut rig, &mut guest, [0xff; 6]));
    let own = guest.mac();
    assert!(hears(&mut rig, &mut guest, own));
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastAdd(address(1))),
        NETIF_RSP_OKAY
    );
    assert!(hears(&mut rig, &mut guest, address(1)));
    assert!(!hears(&mut rig, &mut guest, address(2)));
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastDel(address(1))),
        NETIF_RSP_OKAY
    );
    assert!(!hears(&mut rig, &mut guest, address(1)));
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn the_list_is_kept_while_it_does_not_count() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    assert!(hears(&mut rig, &mut guest, address(2)), "nobody filters");
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastAdd(address(1))),
        NETIF_RSP_OKAY
    );
    let list = guest.multicast.clone().unwrap();
    list.set_filters(true);
    assert!(hears(&mut rig, &mut guest, address(1)));
    assert!(!hears(&mut rig, &mut guest, address(2)));
    list.set_filters(false);
    assert!(hears(&mut rig, &mut guest, address(2)));
    assert_eq!(guest.stats.rx_drops.get(DropReason::MulticastFiltered), 1);
}

#[test]
fn the_list_holds_64_and_the_unknown_is_deleted_gladly() {
    let mut rig = Rig::new();
    let mut guest = subscriber(&mut rig);
    for n in 0..64 {
        assert_eq!(
            ask(&mut rig, &mut guest, Extra::MulticastAdd(address(n))),
            NETIF_RSP_OKAY
        );
    }
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastAdd(address(64))),
        NETIF_RSP_ERROR
    );
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastAdd(address(7))),
        NETIF_RSP_OKAY,
        "it is there"
    );
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastDel(address(99))),
        NETIF_RSP_OKAY
    );
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastDel(address(7))),
        NETIF_RSP_OKAY
    );
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastAdd(address(64))),
        NETIF_RSP_OKAY
    );
}

#[test]
fn a_successor_filters_as_before() {
    let mut rig = Rig::new();
    let mut guest = subscriber(&mut rig);
    assert_eq!(
        ask(&mut rig, &mut guest, Extra::MulticastAdd(address(3))),
        NETIF_RSP_OKAY
    );
    let mut rig = rig.successor();
    rig.admit(&mut guest, true);
    rig.turns(2);
    assert!(hears(&mut rig, &mut guest, address(3)));
    assert!(!hears(&mut rig, &mut guest, address(4)));
}
