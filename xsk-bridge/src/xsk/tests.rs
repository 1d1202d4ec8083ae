//! What only shows from inside: states that the kernel is in between two of its writes.
#[path = "../../tests/support/mod.rs"]
mod support;

use super::{Options, PACKETS_PER_KICK, XskUplink, sockopt};
use crate::frame::{FramePool, Rings, Umem};
use crate::packet::{Offload, Packet};
use crate::uplink::Uplink;
use crate::xdp;
use std::time::Instant;
use support::{ETHERTYPE, Namespace, PATIENCE, PacketSocket, frame};

const RINGS: Rings = Rings { recv: 64, send: 64 };
/// Packets that were handed over while their fill entries were not.
const BEHIND: u32 = 16;

/// The kernel publishes a received batch, and releases the batch's fill entries a moment later, on its own core. A worker that
/// looks in between has those packets and a fill ring that is as full as before.
#[test]
fn entries_that_the_kernel_has_not_released_are_not_filled_again() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, frames) = Umem::for_af_xdp(2 * RINGS.frames() + 64, RINGS).unwrap();
    let mut pool = FramePool::with_capacity(frames.len());
    pool.extend(frames);
    let mut uplink = XskUplink::open(&umem, &attachment, 0, Options::default()).unwrap();
    uplink.refill(&mut pool);
    assert_eq!(uplink.held().fill, RINGS.recv, "the fill ring is full");

    uplink.held.fill -= BEHIND;
    let left = pool.len();
    uplink.refill(&mut pool);
    assert_eq!(uplink.held().fill, RINGS.recv - BEHIND);
    assert_eq!(pool.len(), left, "no frame was taken for what has no room");
    uplink.held.fill += BEHIND;

    // Once it has released them they are filled again, and every packet comes through.
    let far = PacketSocket::bind("far", ETHERTYPE);
    let mut packets = Vec::with_capacity(RINGS.recv as usize);
    let deadline = Instant::now() + PATIENCE;
    for n in 0..2 * RINGS.recv {
        far.send(&frame(n, 60));
        while packets.is_empty() {
            assert!(Instant::now() < deadline, "packet {n} does not come");
            uplink.recv(&mut pool, &mut packets, 1);
        }
        pool.extend(packets.drain(..).flat_map(|packet| packet.frames));
    }
    uplink.recv(&mut pool, &mut packets, 0);
    assert_eq!(
        uplink.held().fill,
        RINGS.recv,
        "the fill ring is full again"
    );
}

/// `n` packets out of the pool into the uplink; their contents do not matter.
fn send(uplink: &mut XskUplink, pool: &mut FramePool, n: u32) {
    for _ in 0..n {
        uplink.send(Packet {
            frames: pool.take().into_iter().collect(),
            len: 60,
            offload: Offload::default(),
        });
    }
}

/// In copy mode frames come back before their entries of the send ring are said to be free: a device that is slower than its guests
/// has both in between.
#[test]
fn entries_that_the_kernel_has_not_released_are_not_sent_into() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, frames) = Umem::for_af_xdp(3 * RINGS.frames(), RINGS).unwrap();
    let mut pool = FramePool::with_capacity(frames.len());
    pool.extend(frames);
    let mut uplink = XskUplink::open(&umem, &attachment, 0, Options::default()).unwrap();
    send(&mut uplink, &mut pool, RINGS.send - BEHIND);
    uplink.publish();

    uplink.held.send -= RINGS.send - BEHIND;
    assert_eq!(uplink.room(&mut pool), BEHIND as usize);
    send(&mut uplink, &mut pool, RINGS.send);
    assert_eq!(uplink.held.send, BEHIND, "what has no entry is refused");
    uplink.held.send += RINGS.send - BEHIND;

    while !uplink.flush(&mut pool).unwrap() {}
    assert_eq!(uplink.room(&mut pool), RINGS.send as usize, "all were sent");
}

/// Every supported kernel before 6.17 takes so few in a call; newer ones are told to here.
#[test]
fn a_ring_that_takes_many_calls_is_drained_in_one_flush() {
    const SEND: u32 = 256;
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let rings = Rings {
        recv: 64,
        send: SEND,
    };
    let (umem, frames) = Umem::for_af_xdp(2 * rings.frames() + 64, rings).unwrap();
    let mut pool = FramePool::with_capacity(frames.len());
    pool.extend(frames);
    let mut uplink = XskUplink::open(&umem, &attachment, 0, Options::default()).unwrap();
    sockopt::budget(uplink.socket(), PACKETS_PER_KICK).unwrap();
    let far = PacketSocket::bind("far", ETHERTYPE);
    for n in 0..SEND {
        let bytes = frame(n, 60);
        let mut token = pool.take().unwrap();
        umem.data_mut(&mut token)[..bytes.len()].copy_from_slice(&bytes);
        uplink.send(Packet {
            frames: [token].into_iter().collect(),
            len: bytes.len() as u32,
            offload: Offload::default(),
        });
    }
    assert!(uplink.flush(&mut pool).unwrap(), "something was left");
    assert_eq!(uplink.queued(), 0);
    let kicks = uplink.counters().kicks.get();
    assert_eq!(kicks, u64::from(SEND / PACKETS_PER_KICK));
    let deadline = Instant::now() + PATIENCE;
    for n in 0..SEND {
        let bytes = loop {
            if let Some(bytes) = far.recv() {
                break bytes;
            }
            assert!(Instant::now() < deadline, "frame {n} does not come");
        };
        assert_eq!(bytes, frame(n, 60));
    }
}
