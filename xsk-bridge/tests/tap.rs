//! A TAP made, found again and taken away, and packets through one of its queues.
#![cfg(feature = "af-xdp")]
mod support;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Instant;
use support::{Namespace, PATIENCE, run};
use xsk_bridge::device::tap::TapDevice;
use xsk_bridge::device::{Device, Sent};
use xsk_bridge::frame::{FramePool, Umem};
use xsk_bridge::link::Link;
use xsk_bridge::offload::segment::MAX_SEGMENTS;
use xsk_bridge::packet::{Checksum, Offload, Packet};
use xsk_bridge::tap::{self, TapError};

const NAME: &str = "xenbr0";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

#[test]
fn a_tap_is_made_found_again_and_taken_away() {
    let namespace = Namespace::enter();
    assert!(!tap::remove(NAME).unwrap());
    run("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    let made = tap::open(NAME, 2, Vec::new(), Some((MAC, 1400))).unwrap();
    assert!(made.made && made.queues.len() == 2);
    // The address by which IPv6 speaks is the one that was asked for.
    let addresses = run("ip -6 addr show dev xenbr0");
    assert!(addresses.contains("fe80::ff:fe00:7"), "{addresses}");
    let link = Link::by_name(NAME).unwrap().unwrap();
    assert_eq!((link.mac, link.mtu), (MAC, 1400));
    assert_eq!(link.gso_max_segments, MAX_SEGMENTS as u32);
    assert!(link.running());

    // A successor with the descriptors, and one that serves more and fewer queues.
    let held = made.queues.iter().map(|queue| queue.try_clone().unwrap());
    let held: Vec<_> = held.collect();
    assert!(
        held.iter()
            .all(|queue| tap::is_queue_of(queue.as_fd(), NAME))
    );
    assert!(!tap::is_queue_of(held[0].as_fd(), "other"));
    drop(made);
    let again = tap::open(NAME, 3, held, None).unwrap();
    assert!(!again.made && again.link.running() && again.link.index == link.index);
    assert_eq!(again.queues.len(), 3);
    let fewer = tap::open(NAME, 1, again.queues, None).unwrap();
    assert_eq!(fewer.queues.len(), 1);

    // Without any descriptor it stays, without carrier: once processes that other tests fork have closed their copies.
    drop(fewer);
    let link = || Link::by_name(NAME).unwrap().unwrap();
    namespace.wait_until("the carrier goes", || !link().carrier);
    assert_eq!(link().mac, MAC);
    let last = tap::open(NAME, 1, Vec::new(), None).unwrap();
    assert!(!last.made && Link::by_name(NAME).unwrap().unwrap().carrier);
    assert!(tap::remove(NAME).unwrap());
    assert_eq!(Link::by_name(NAME).unwrap(), None);
    assert!(!tap::is_queue_of(last.queues[0].as_fd(), NAME));
}

#[test]
fn what_is_no_tap_of_netbacks_is_refused_and_not_removed() {
    let _namespace = Namespace::enter();
    for (make, refusal) in [
        (
            "ip link add xenbr0 type bridge",
            "xenbr0 is a bridge of the kernel",
        ),
        (
            "ip link add xenbr0 type veth peer name other",
            "xenbr0 is a veth device",
        ),
        ("ip tuntap add dev xenbr0 mode tun", "another program's"),
        ("ip tuntap add dev xenbr0 mode tap", "another program's"),
    ] {
        run(make);
        let refused = tap::open(NAME, 1, Vec::new(), None).unwrap_err();
        assert!(
            matches!(
                refused,
                TapError::Occupied { .. } | TapError::Foreign { .. }
            ),
            "{make}: {refused}"
        );
        assert!(refused.to_string().contains(refusal), "{refused}");
        if !make.ends_with("tap") {
            assert!(tap::check(NAME).is_err());
            assert!(!tap::remove(NAME).unwrap());
        }
        run("ip link del xenbr0");
    }
}

/// Who has 10.1.1.1? A question by `MAC`.
fn question() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC].concat();
    frame.extend([10, 1, 1, 2, 0, 0, 0, 0, 0, 0, 10, 1, 1, 1]);
    frame
}

#[test]
fn packets_go_to_the_stack_and_come_from_it() {
    let _namespace = Namespace::enter();
    let mut opened = tap::open(NAME, 1, Vec::new(), None).unwrap();
    run("ip addr add 10.1.1.1/24 dev xenbr0");
    let (umem, frames) = Umem::new(64).unwrap();
    let mut pool = FramePool::new(&umem);
    pool.extend(frames);
    let queue = opened.queues.remove(0);
    let mut device = TapDevice::new(queue, &umem, opened.link.mtu);
    let packet = |pool: &mut FramePool, bytes: &[u8], offload| {
        let mut frame = pool.take().unwrap();
        umem.data_mut(&mut frame)[..bytes.len()].copy_from_slice(bytes);
        VecDeque::from([Packet::new(frame, bytes.len() as u32, offload)])
    };
    let (question, plain) = (question(), Offload::default());
    let mut came = Vec::with_capacity(8);
    let deadline = Instant::now() + PATIENCE;
    let mut answer = None;
    while answer.is_none() {
        assert!(Instant::now() < deadline, "no answer");
        let sent = device.send(&mut packet(&mut pool, &question, plain), &mut pool);
        assert_eq!((sent.packets, sent.bytes), (1, question.len() as u64));
        device.recv(&mut pool, &mut came, 8);
        for packet in came.drain(..) {
            let bytes = packet.head(&umem);
            if bytes[12..14] == [8, 6] && bytes[21] == 2 {
                answer = Some(bytes[28..32].to_vec());
            }
            pool.recycle(packet);
        }
    }
    assert_eq!(answer.unwrap(), [10, 1, 1, 1]);
    assert_eq!(pool.len() + device.held().fill as usize, 64, "a leak");

    // A blank checksum that is nowhere is counted, and a port that is down drops everything.
    let blank = Offload {
        checksum: Checksum::Blank,
        gso: None,
    };
    let sent = device.send(&mut packet(&mut pool, &question, blank), &mut pool);
    assert_eq!((sent.unfit, sent.packets), (1, 0));
    run("ip link set xenbr0 down");
    let mut two = packet(&mut pool, &question, plain);
    two.extend(packet(&mut pool, &question, plain));
    let sent = device.send(&mut two, &mut pool);
    let down = Sent {
        link_down: 2,
        kicks: 1,
        ..Sent::default()
    };
    assert_eq!(sent, down);
    assert_eq!(pool.len() + device.held().fill as usize, 64, "a leak");
}
