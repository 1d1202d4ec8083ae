//! What only shows from inside: states that the kernel is in between two of its writes.
use super::{DESCRIPTORS_PER_KICK, Options, XskDevice, sockopt};
use crate::device::{Device, Rest, Sent};
use crate::frame::{FramePool, Rings, Umem};
use crate::packet::{Offload, Packet};
use crate::support::{ETHERTYPE, Namespace, PATIENCE, PacketSocket, frame};
use crate::xdp;
use std::collections::VecDeque;
use std::time::Instant;

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
    let mut pool = FramePool::new(&umem);
    pool.extend(frames);
    let mut device = XskDevice::open(&umem, &attachment, 0, Options::default()).unwrap();
    device.refill(&mut pool);
    assert_eq!(device.held().fill, RINGS.recv, "the fill ring is full");

    device.held.fill -= BEHIND;
    let left = pool.len();
    device.refill(&mut pool);
    assert_eq!(device.held().fill, RINGS.recv - BEHIND);
    assert_eq!(pool.len(), left, "no frame was taken for what has no room");
    device.held.fill += BEHIND;

    // Once it has released them they are filled again, and every packet comes through.
    let far = PacketSocket::bind("far", ETHERTYPE);
    let mut packets = Vec::with_capacity(RINGS.recv as usize);
    let deadline = Instant::now() + PATIENCE;
    for n in 0..2 * RINGS.recv {
        far.send(&frame(n, 60));
        while packets.is_empty() {
            assert!(Instant::now() < deadline, "packet {n} does not come");
            device.recv(&mut pool, &mut packets, 1);
        }
        packets.drain(..).for_each(|packet| pool.recycle(packet));
    }
    device.recv(&mut pool, &mut packets, 0);
    assert_eq!(
        device.held().fill,
        RINGS.recv,
        "the fill ring is full again"
    );
}

/// `n` packets out of the pool; their contents do not matter.
fn packets(pool: &mut FramePool, n: u32) -> VecDeque<Packet> {
    let packet = |_| Packet::new(pool.take().unwrap(), 60, Offload::default());
    (0..n).map(packet).collect()
}

/// In copy mode frames come back before their entries of the send ring are said to be free: a device that is slower than its guests
/// has both in between.
#[test]
fn entries_that_the_kernel_has_not_released_are_not_sent_into() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, frames) = Umem::for_af_xdp(3 * RINGS.frames(), RINGS).unwrap();
    let mut pool = FramePool::new(&umem);
    pool.extend(frames);
    let mut device = XskDevice::open(&umem, &attachment, 0, Options::default()).unwrap();
    let mut sent = Sent::default();
    device.stage(&mut packets(&mut pool, RINGS.send - BEHIND), &mut sent);

    device.held.send -= RINGS.send - BEHIND;
    assert_eq!(device.room(&mut pool), BEHIND as usize);
    let mut queue = packets(&mut pool, RINGS.send);
    device.stage(&mut queue, &mut sent);
    assert_eq!(sent.packets, u64::from(RINGS.send));
    let waiting = RINGS.send - BEHIND;
    assert_eq!(queue.len(), waiting as usize, "what has no entry waits");
    device.held.send += RINGS.send - BEHIND;

    while !queue.is_empty() || device.held.send > 0 {
        device.send(&mut queue, &mut pool);
    }
    assert_eq!(device.room(&mut pool), RINGS.send as usize, "all were sent");
}

/// Every supported kernel before 6.17 takes so few in a call; newer ones are told to here.
#[test]
fn a_ring_that_takes_many_calls_is_drained_in_one_call() {
    const SEND: u32 = 256;
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let rings = Rings {
        recv: 64,
        send: SEND,
    };
    let (umem, frames) = Umem::for_af_xdp(2 * rings.frames() + 64, rings).unwrap();
    let mut pool = FramePool::new(&umem);
    pool.extend(frames);
    let mut device = XskDevice::open(&umem, &attachment, 0, Options::default()).unwrap();
    sockopt::budget(device.socket(), DESCRIPTORS_PER_KICK).unwrap();
    let far = PacketSocket::bind("far", ETHERTYPE);
    let mut queue = VecDeque::new();
    for n in 0..SEND {
        let bytes = frame(n, 60);
        let mut token = pool.take().unwrap();
        umem.data_mut(&mut token)[..bytes.len()].copy_from_slice(&bytes);
        queue.push_back(Packet::new(token, bytes.len() as u32, Offload::default()));
    }
    let sent = device.send(&mut queue, &mut pool);
    assert_eq!((sent.packets, sent.rest), (SEND.into(), Rest::Nothing));
    assert_eq!(device.queued(), 0);
    assert_eq!(sent.kicks, u64::from(SEND / DESCRIPTORS_PER_KICK));
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
