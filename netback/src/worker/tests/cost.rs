//! What a packet costs, as counts: allocations, copy segments, copy calls, notifications.
#![allow(unsafe_code)] // A counting allocator.
use super::rig::{Guest, OUTSIDE, Rig, all_features, frame, mac};
use super::tcp::{Tcp, payload};
use crate::vif::features::Features;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system allocator's; counting touches a thread-local integer only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread during `f`.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

/// Both guests send to the wire, to each other, small and large, and a flood; the wire sends to both, segments that are merged too.
fn load(rig: &mut Rig, guests: &mut [Guest; 2]) {
    for guest in guests.iter_mut() {
        let free = guest.rx.free().min(200) as usize;
        guest.post(free);
        let (own, other) = (guest.mac(), mac(3 - guest.number));
        for seed in 0..12 {
            guest.push(&frame(OUTSIDE, own, 60, seed), &[60], 0);
            guest.push(&frame(other, own, 1514, seed), &[66, 1448], 0);
            guest.push(&frame(other, own, 9000, seed), &[4096, 4096, 808], 0);
        }
        guest.push(&frame([0xff; 6], own, 60, 0), &[60], 0);
        let _ = guest.tx.publish();
        rig.events[0].fire(guest.event());
        (0..10).for_each(|seed| rig.arrive_from_wire(&frame(own, OUTSIDE, 1514, seed)));
        let stream = Tcp {
            macs: [own, OUTSIDE].concat().try_into().unwrap(),
            ..Tcp::default()
        };
        for segment in stream.segments(&payload(14_480), 1448) {
            rig.arrive_from_wire(&segment);
        }
    }
}

fn read(rig: &mut Rig, guests: &mut [Guest; 2]) {
    rig.sent_to_wire();
    for guest in guests {
        guest.receive();
        assert!(guest.take_statuses().iter().all(|&status| status == 0));
    }
}

#[test]
fn the_packet_path_allocates_nothing() {
    let mut rig = Rig::new();
    let features = Features {
        gso_tcpv4: true,
        ..all_features()
    };
    let mut guests = [1, 2].map(|number| rig.guest_on(number, 0, features));
    rig.grants.reserve_calls(1000);
    for round in 0..4 {
        load(&mut rig, &mut guests);
        let moved = guests[0].stats.rx_packets.get();
        let allocated = allocations(|| rig.turns(3));
        assert!(
            guests[0].stats.rx_packets.get() > moved + 30,
            "nothing was moved"
        );
        assert!(guests[0].stats.rx_coalesced_packets.get() > round);
        // The fakes' own tables settle in the first round.
        assert!(
            round == 0 || allocated == 0,
            "round {round}: {allocated} allocations"
        );
        read(&mut rig, &mut guests);
        rig.workers[0].rest(0);
    }
}

#[test]
fn copies_are_few_and_in_large_batches_and_notifications_fewer() {
    let mut rig = Rig::new();
    let mut guests: Vec<_> = (1..=4).map(|number| rig.guest(number)).collect();
    rig.grants.take_calls();
    let (mut packets, mut calls, mut segments, mut notified) = (0, 0, 0, 0);
    for round in 0..50 {
        for guest in &mut guests {
            for seed in 0..32 {
                guest.push(
                    &frame(OUTSIDE, guest.mac(), 64, round * 32 + seed),
                    &[64],
                    0,
                );
                packets += 1;
            }
            let _ = guest.tx.publish();
        }
        rig.turns(1);
        let made = rig.grants.take_calls();
        calls += made.len();
        segments += made.iter().map(|call| call.segments).sum::<usize>();
        rig.sent_to_wire();
        for guest in &mut guests {
            assert_eq!(guest.take_statuses().len(), 32);
            guest.tx.arm();
            notified += rig.events[0].take_notified(guest.event());
        }
    }
    assert_eq!(segments, packets, "one copy a small packet");
    assert!(packets / calls >= 32, "{packets} packets in {calls} calls");
    assert!(
        notified as usize <= packets / 32,
        "{notified} notifications of {packets} packets"
    );
}
