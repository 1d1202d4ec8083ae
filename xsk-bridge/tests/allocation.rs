//! Sending and receiving allocate nothing. Alone in its file, for the allocator counts every thread of the process.
#![cfg(feature = "af-xdp")]
#![allow(unsafe_code)]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use support::{Namespace, PATIENCE, run};
use xsk_bridge::device::Device;
use xsk_bridge::device::xsk::{Options, XskDevice};
use xsk_bridge::frame::{FramePool, Rings, Umem};
use xsk_bridge::xdp;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator with a counter beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_packet_allocates_nothing_on_its_way_out_in_and_back() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let rings = Rings {
        recv: 256,
        send: 256,
    };
    let (umem, frames) = Umem::for_af_xdp(2 * rings.frames() + 256, rings).unwrap();
    let mut pool = FramePool::new(&umem);
    pool.extend(frames);
    let [mut near, mut far] = ["near", "far"].map(|name| {
        let attachment = xdp::install_or_adopt(name, &namespace.bpf_dir()).unwrap();
        XskDevice::open(&umem, &attachment, 0, Options::default()).unwrap()
    });
    let (mut packets, mut queue) = (Vec::with_capacity(64), VecDeque::with_capacity(64));
    far.recv(&mut pool, &mut packets, 0);
    near.recv(&mut pool, &mut packets, 0);
    for _ in 0..32 {
        packets.push(xsk_bridge::packet::Packet::new(
            pool.take().unwrap(),
            60,
            Default::default(),
        ));
    }

    // The packets bounce between the ends: each is received, and sent back from where it was received.
    let deadline = Instant::now() + PATIENCE;
    let before = ALLOCATIONS.load(Relaxed);
    assert!(before > 0, "nothing is counted");
    let mut received = [0; 2];
    while received.iter().any(|n| *n < 5_000) {
        for (i, count) in received.iter_mut().enumerate() {
            let (from, to) = match i {
                0 => (&mut near, &mut far),
                _ => (&mut far, &mut near),
            };
            assert!(from.room(&mut pool) >= packets.len());
            queue.extend(packets.drain(..));
            from.send(&mut queue, &mut pool);
            to.pending();
            *count += to.recv(&mut pool, &mut packets, 32).packets;
        }
        assert!(Instant::now() < deadline, "only {received:?} packets");
    }
    assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0);
    pool.extend(
        packets
            .drain(..)
            .flat_map(|packet| packet.into_frames(&umem)),
    );
    drop((near, far));
    run("ip link del near");
}
