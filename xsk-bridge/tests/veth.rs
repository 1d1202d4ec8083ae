//! A device over AF_XDP on veth pairs: what goes in at one end comes out at the other, byte for byte, and no frame is lost to account.
#![cfg(feature = "af-xdp")]
mod support;

use std::collections::{HashSet, VecDeque};
use std::time::Instant;
use support::{ETHERTYPE, Namespace, PATIENCE, PacketSocket, frame, length, run};
use xsk_bridge::device::xsk::{OpenError, Options, XskDevice};
use xsk_bridge::device::{Device, Rest, Sent};
use xsk_bridge::frame::{FramePool, Rings, Umem};
use xsk_bridge::packet::{Offload, Packet};
use xsk_bridge::xdp::{self, Attachment, Mode, XdpError};

const RINGS: Rings = Rings {
    recv: 512,
    send: 256,
};
const FRAMES: u32 = 1000;

/// A UMEM with room for `sockets` sockets and some packets beside, and all its frames.
fn memory(sockets: u32) -> (Umem, FramePool) {
    let (umem, frames) = Umem::for_af_xdp(sockets * RINGS.frames() + 512, RINGS).unwrap();
    let mut pool = FramePool::new(&umem);
    pool.extend(frames);
    (umem, pool)
}

fn open(umem: &Umem, attachment: &Attachment, queues: u32) -> Vec<XskDevice> {
    (0..queues)
        .map(|queue| XskDevice::open(umem, attachment, queue, Options::default()).unwrap())
        .collect()
}

/// Every frame is in the pool or with the kernel.
fn assert_all_accounted(umem: &Umem, pool: &FramePool, uplinks: &[XskDevice]) {
    let held: u32 = uplinks
        .iter()
        .map(|uplink| uplink.held().fill + uplink.held().send)
        .sum();
    assert_eq!(
        pool.len() as u32 + held + umem.quarantined(),
        umem.frames(),
        "frames leaked"
    );
}

/// A packet of `bytes` in a frame of the pool's.
fn packet(umem: &Umem, pool: &mut FramePool, bytes: &[u8]) -> Packet {
    let mut token = pool.take().expect("the pool has room for packets");
    umem.data_mut(&mut token)[..bytes.len()].copy_from_slice(bytes);
    Packet::new(token, bytes.len() as u32, Offload::default())
}

/// Sends `count` packets of 100 bytes each, in bursts of 32, whatever becomes of them; what the device said in all.
fn send_into_the_void(
    umem: &Umem,
    pool: &mut FramePool,
    device: &mut XskDevice,
    count: u32,
) -> Sent {
    let (mut queue, mut said) = (VecDeque::new(), Sent::default());
    for n in 0..count {
        assert!(device.room(pool) > 0, "a link that is down holds guests up");
        queue.push_back(packet(umem, pool, &frame(n, 100)));
        if n % 32 == 31 || n + 1 == count {
            let sent = device.send(&mut queue, pool);
            assert_eq!((queue.len(), sent.rest), (0, Rest::Nothing));
            add(&mut said, sent);
        }
    }
    said
}

fn add(all: &mut Sent, one: Sent) {
    all.packets += one.packets;
    all.bytes += one.bytes;
    all.link_down += one.link_down;
    all.refused += one.refused;
    all.kicks += one.kicks;
    all.kick_errors += one.kick_errors;
}

/// Send `expected` out of the uplinks by turns and see them all, unchanged, at the far end.
fn check_sending(
    umem: &Umem,
    pool: &mut FramePool,
    uplinks: &mut [XskDevice],
    far: &PacketSocket,
    expected: &[Vec<u8>],
) -> Sent {
    let mut said = Sent::default();
    let mut queues: Vec<_> = uplinks.iter().map(|_| VecDeque::new()).collect();
    let mut missing: HashSet<&[u8]> = expected.iter().map(Vec::as_slice).collect();
    let mut waiting = expected.iter().enumerate().peekable();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        assert!(
            Instant::now() < deadline,
            "{} frames missing",
            missing.len()
        );
        while let Some((i, bytes)) = waiting.peek() {
            let turn = i % uplinks.len();
            if uplinks[turn].room(pool) == queues[turn].len() {
                break;
            }
            queues[turn].push_back(packet(umem, pool, bytes));
            waiting.next();
        }
        for (uplink, queue) in uplinks.iter_mut().zip(&mut queues) {
            add(&mut said, uplink.send(queue, pool));
            assert!(queue.is_empty(), "it has the room that it said");
        }
        while let Some(bytes) = far.recv() {
            assert!(
                missing.remove(bytes.as_slice()),
                "a frame nobody sent, or twice"
            );
        }
    }
    said
}

/// Receive on all uplinks until every one of `expected` has come in unchanged; how many each queue had.
fn check_receiving(
    umem: &Umem,
    pool: &mut FramePool,
    uplinks: &mut [XskDevice],
    far: &PacketSocket,
    expected: &[Vec<u8>],
) -> Vec<usize> {
    let mut missing: HashSet<&[u8]> = expected.iter().map(Vec::as_slice).collect();
    let mut counts = vec![0; uplinks.len()];
    let mut packets = Vec::with_capacity(64);
    let mut chunks = expected.chunks(100);
    let mut in_flight = 0;
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        assert!(
            Instant::now() < deadline,
            "{} frames missing",
            missing.len()
        );
        if in_flight == 0 {
            for uplink in &mut *uplinks {
                uplink.recv(pool, &mut packets, 0);
            }
            for bytes in chunks.next().unwrap_or_default() {
                far.send(bytes);
                in_flight += 1;
            }
        }
        for (uplink, count) in uplinks.iter_mut().zip(&mut counts) {
            let received = uplink.recv(pool, &mut packets, 64);
            let n = received.packets;
            let bytes = packets.iter().map(|packet| u64::from(packet.len));
            assert_eq!((n, received.bytes), (packets.len(), bytes.sum()));
            assert_eq!(received.bad, 0);
            for packet in packets.drain(..) {
                let bytes = &umem.data(packet.first())[..packet.len as usize];
                assert!(missing.remove(bytes), "a frame nobody sent, or twice");
                pool.recycle(packet);
            }
            *count += n;
            in_flight -= n;
        }
    }
    counts
}

fn experiment(lengths: impl Fn(u32) -> usize) -> Vec<Vec<u8>> {
    (0..FRAMES).map(|n| frame(n, lengths(n))).collect()
}

fn settle(umem: &Umem, pool: &mut FramePool, uplinks: &mut [XskDevice]) {
    let deadline = Instant::now() + PATIENCE;
    while uplinks.iter().any(|uplink| uplink.held().send > 0) {
        assert!(Instant::now() < deadline, "frames were never completed");
        for uplink in &mut *uplinks {
            uplink.room(pool);
        }
    }
    assert_all_accounted(umem, pool, uplinks);
}

#[test]
fn one_queue_carries_every_length_both_ways() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert_eq!(attachment.mode(), Mode::Native);
    assert!(!attachment.adopted());
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    assert!(!uplinks[0].zero_copy(), "veth has no zero-copy");
    let can = uplinks[0].capabilities();
    assert_eq!(
        (can.max_frame, can.blank_checksum, can.gso),
        (1518, false, false)
    );
    let far = PacketSocket::bind("far", ETHERTYPE);

    let sent = check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);

    let bytes: u64 = (0..FRAMES).map(|n| length(n) as u64).sum();
    assert_eq!((sent.packets, sent.bytes), (FRAMES.into(), bytes));
    assert_eq!((sent.link_down, sent.refused, sent.kick_errors), (0, 0, 0));
    assert!(sent.kicks < u64::from(FRAMES) / 4, "a kick a packet");
    let kernel = uplinks[0].kernel_counters().unwrap();
    assert_eq!((kernel.rx_dropped, kernel.tx_invalid_descs), (0, 0));
}

/// An IPv4 UDP frame of flow `n`, so that the far end's hash spreads them over its queues.
fn udp_frame(n: u32) -> Vec<u8> {
    let mut bytes = frame(n, 100);
    bytes[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
    let ip = [
        0x45, 0, 0, 86, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    bytes[14..34].copy_from_slice(&ip);
    bytes[34..36].copy_from_slice(&(n as u16).to_be_bytes());
    bytes[36..42].copy_from_slice(&[0, 9, 0, 66, 0, 0]);
    bytes[42..46].copy_from_slice(&n.to_be_bytes());
    bytes
}

#[test]
fn four_queues_share_the_memory_and_the_traffic() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 4);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(4);
    let mut uplinks = open(&umem, &attachment, 4);
    let far = PacketSocket::bind("far", ETHERTYPE);
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));

    // The kernel takes a flow's hash only where the socket says that it sends IPv4.
    let far = PacketSocket::bind("far", 0x0800);
    let flows: Vec<_> = (0..FRAMES).map(udp_frame).collect();
    let counts = check_receiving(&umem, &mut pool, &mut uplinks, &far, &flows);
    assert_eq!(counts.iter().sum::<usize>(), FRAMES as usize);
    assert!(
        counts.iter().all(|n| *n > 0),
        "every queue has a share: {counts:?}"
    );
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
fn two_devices_share_one_memory() {
    let namespace = Namespace::enter();
    namespace.veth("one", "far1", 1);
    namespace.veth("two", "far2", 1);
    let (umem, mut pool) = memory(2);
    let mut uplinks: Vec<XskDevice> = ["one", "two"]
        .iter()
        .flat_map(|name| {
            let attachment = xdp::install_or_adopt(name, &namespace.bpf_dir()).unwrap();
            open(&umem, &attachment, 1)
        })
        .collect();
    for (i, name) in ["far1", "far2"].iter().enumerate() {
        let far = PacketSocket::bind(name, ETHERTYPE);
        let one = &mut uplinks[i..=i];
        check_sending(&umem, &mut pool, one, &far, &experiment(length));
        check_receiving(&umem, &mut pool, one, &far, &experiment(length));
    }
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
fn a_driver_that_refuses_native_mode_serves_in_generic_mode() {
    let namespace = Namespace::enter();
    // veth refuses a native program where the far end has more send queues than we receive on.
    run(
        "ip link add near numrxqueues 1 numtxqueues 1 type veth peer name far numrxqueues 4 numtxqueues 4",
    );
    run("ip link set near up");
    run("ip link set far up");
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert_eq!(attachment.mode(), Mode::Generic);
    assert!(attachment.native_refusal().is_some());
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let far = PacketSocket::bind("far", ETHERTYPE);
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);
    let again = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert_eq!((again.mode(), again.adopted()), (Mode::Generic, true));
}

/// Between two processes, and on queues that nobody serves, nobody hears what is for guests.
#[test]
fn what_no_socket_takes_is_dropped_and_the_stack_hears_nothing() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let near = PacketSocket::bind("near", ETHERTYPE);
    let far = PacketSocket::bind("far", ETHERTYPE);
    let check_drops = || {
        let before = namespace.xdp_drops("near");
        namespace.wait_until("the program drops", || {
            far.send(&frame(1, 333));
            namespace.xdp_drops("near") >= before + 10
        });
        assert!(near.recv().is_none(), "the driver domain heard a frame");
    };
    check_drops();

    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    // The first socket of a UMEM is open for as long as the UMEM is.
    drop((uplinks, umem, pool));
    check_drops();
    assert!(xdp::uninstall("near", &namespace.bpf_dir()).unwrap());
    namespace.wait_until("the stack has the device again", || {
        far.send(&frame(7, 333));
        near.recv() == Some(frame(7, 333))
    });
}

#[test]
fn a_successor_adopts_the_program_and_gets_the_queue() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let far = PacketSocket::bind("far", ETHERTYPE);
    // All but the number of the program, which the successor replaces in its link.
    let device = || -> Vec<String> {
        let shown = run("ip -d link show near");
        let lines = shown.lines().filter(|line| !line.contains("prog/xdp"));
        lines.map(str::to_owned).collect()
    };
    let carrier_changes = || std::fs::read_to_string("/sys/class/net/near/carrier_changes").ok();
    let first = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let before = (device(), carrier_changes());
    {
        let (umem, mut pool) = memory(1);
        let mut uplinks = open(&umem, &first, 1);
        check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    }
    drop(first);
    let second = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert!(second.adopted());
    assert_eq!(second.mode(), Mode::Native);
    assert_eq!(
        (device(), carrier_changes()),
        before,
        "the device was touched"
    );
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &second, 1);
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
fn a_second_open_of_a_queue_names_who_has_it() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let (other, _frames) = memory(1);
    let refused = XskDevice::open(&other, &attachment, 0, Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        "interface near queue 0 is in use by another AF_XDP socket (another netback?)"
    );
    let refused = XskDevice::open(&umem, &attachment, 0, Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    let refused = XskDevice::open(&umem, &attachment, 5, Options::default()).unwrap_err();
    assert_eq!(refused.to_string(), "interface near has no queue 5");
    // The one that has it is none the worse.
    let far = PacketSocket::bind("far", ETHERTYPE);
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
fn somebody_elses_program_is_named_and_left_alone() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let elsewhere = namespace.run_dir().join("other");
    let _theirs = xdp::install_or_adopt("near", &elsewhere).unwrap();
    let refused = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap_err();
    assert!(matches!(refused, XdpError::Occupied { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(
        text.starts_with("near already has an XDP program (id "),
        "{text}"
    );
    assert!(
        text.ends_with("remove it with `ip link set dev near xdp off`"),
        "{text}"
    );
    assert!(!xdp::uninstall("near", &namespace.bpf_dir()).unwrap());
    assert!(xdp::uninstall("near", &elsewhere).unwrap());
    run(&format!("umount {}", elsewhere.display()));
    assert!(
        !xdp::install_or_adopt("near", &namespace.bpf_dir())
            .unwrap()
            .adopted()
    );
}

#[test]
fn uninstall_leaves_nothing_and_a_stale_pin_is_replaced() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    drop(xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap());
    assert!(run("ip link show near").contains("xdp"));
    assert!(xdp::uninstall("near", &namespace.bpf_dir()).unwrap());
    assert!(!run("ip link show near").contains("xdp"));
    assert!(!namespace.bpf_dir().join("near").exists());
    assert!(!xdp::uninstall("near", &namespace.bpf_dir()).unwrap());

    drop(xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap());
    run("ip link del near");
    namespace.veth("near", "far", 1);
    let fresh = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert!(!fresh.adopted(), "the pin was of the device that is gone");
    assert!(run("ip link show near").contains("xdp"));
}

#[test]
fn no_interface_and_plain_memory_are_named() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let refused = xdp::install_or_adopt("eth9", &namespace.bpf_dir()).unwrap_err();
    assert_eq!(refused.to_string(), "no interface eth9");
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (plain, _frames) = Umem::new(8).unwrap();
    let refused = XskDevice::open(&plain, &attachment, 0, Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::PlainMemory));
}

/// Take `device` down in the middle of sending, go on meanwhile, and bring it up again.
fn check_down_and_up(down: &str, up: &str) {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let far = PacketSocket::bind("far", ETHERTYPE);
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));

    run(down);
    let sent = send_into_the_void(&umem, &mut pool, &mut uplinks[0], 5000);
    assert!(sent.link_down > 4000, "{sent:?}");
    assert_eq!((sent.refused, sent.kick_errors), (0, 0));
    assert_eq!(sent.packets + sent.link_down, 5000, "each has one end");
    assert_eq!(sent.bytes, 100 * sent.packets);
    assert!(sent.kicks < 100, "kicks at a link that is down: {sent:?}");
    assert_all_accounted(&umem, &pool, &uplinks);

    run(up);
    let deadline = Instant::now() + PATIENCE;
    let far = PacketSocket::bind("far", ETHERTYPE);
    // Whatever was in the ring goes out late, and was counted as sent; then everything is as before.
    let mut late = 0;
    loop {
        assert!(
            Instant::now() < deadline,
            "nothing passes after the link came back"
        );
        let mut queue = [packet(&umem, &mut pool, &frame(0, 60))].into();
        uplinks[0].send(&mut queue, &mut pool);
        let heard: Vec<_> = std::iter::from_fn(|| far.recv()).collect();
        late += heard.iter().filter(|bytes| bytes.len() == 100).count();
        if heard.iter().any(|bytes| bytes.len() == 60) {
            break;
        }
    }
    assert_eq!(late as u64, sent.packets, "what was sent, and no more");
    settle(&umem, &mut pool, &mut uplinks);
    while far.recv().is_some() {}
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
fn a_device_that_goes_down_and_comes_up_again_is_survived() {
    check_down_and_up("ip link set near down", "ip link set near up");
}

#[test]
fn a_carrier_that_goes_and_comes_again_is_survived() {
    check_down_and_up("ip link set far down", "ip link set far up");
}

#[test]
fn a_device_that_is_removed_stops_nothing_else() {
    let namespace = Namespace::enter();
    namespace.veth("gone", "far1", 1);
    namespace.veth("near", "far2", 1);
    let (umem, mut pool) = memory(2);
    let near = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let gone = xdp::install_or_adopt("gone", &namespace.bpf_dir()).unwrap();
    let mut near = open(&umem, &near, 1);
    let mut gone = open(&umem, &gone, 1);
    run("ip link del gone");
    let sent = send_into_the_void(&umem, &mut pool, &mut gone[0], 1000);
    assert!(sent.link_down > 900 && sent.kicks < 10, "{sent:?}");
    let mut packets = Vec::with_capacity(4);
    assert_eq!(gone[0].recv(&mut pool, &mut packets, 4).packets, 0);
    assert!(!gone[0].pending());
    let far = PacketSocket::bind("far2", ETHERTYPE);
    check_sending(&umem, &mut pool, &mut near, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut near, &far, &experiment(length));
    near.append(&mut gone);
    assert_all_accounted(&umem, &pool, &near);
}

#[test]
fn closing_gives_frames_back_and_quarantines_the_rest() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let far = PacketSocket::bind("far", ETHERTYPE);
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    far.send(&frame(1, 60));
    let held = uplinks[0].held().fill;
    uplinks.remove(0).close(&mut pool);
    assert!(umem.quarantined() > 0 && umem.quarantined() <= held);
    assert_all_accounted(&umem, &pool, &[]);
}

/// Zero-copy drivers do not pad, and the hardware under them takes no frame that is shorter.
#[test]
fn short_frames_are_padded_with_zeros_to_the_shortest_that_ethernet_has() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let far = PacketSocket::bind("far", ETHERTYPE);
    for len in 14..=61 {
        let (bytes, mut token) = (frame(len, 64), pool.take().unwrap());
        // What somebody else's packet left behind.
        umem.data_mut(&mut token).fill(0xaa);
        pool.give(token);
        let bytes = &bytes[..len as usize];
        let mut queue = [packet(&umem, &mut pool, bytes)].into();
        let sent = uplinks[0].send(&mut queue, &mut pool);
        let on_the_wire = len.max(60);
        assert_eq!((sent.packets, sent.bytes), (1, on_the_wire.into()));
        let mut expected = bytes.to_vec();
        expected.resize(on_the_wire as usize, 0);
        let deadline = Instant::now() + PATIENCE;
        let seen = loop {
            if let Some(seen) = far.recv() {
                break seen;
            }
            assert!(Instant::now() < deadline, "{len} bytes do not come");
        };
        assert_eq!(seen, expected);
    }
}

#[test]
fn what_there_is_no_room_for_waits_with_its_sender() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let mut queue: VecDeque<_> = (0..RINGS.send + 10)
        .map(|n| packet(&umem, &mut pool, &frame(n, 60)))
        .collect();
    let sent = uplinks[0].send(&mut queue, &mut pool);
    assert_eq!((sent.packets, queue.len()), (RINGS.send.into(), 10));
    while !queue.is_empty() {
        uplinks[0].send(&mut queue, &mut pool);
    }
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
#[should_panic(expected = "1519 bytes for a device of 1518")]
fn a_frame_longer_than_the_device_said_is_a_bug_of_its_sender() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut queue = [packet(&umem, &mut pool, &frame(1, 1519))].into();
    open(&umem, &attachment, 1)[0].send(&mut queue, &mut pool);
}

/// Not a test of its own: the process that the next test kills. It opens the queue, says so, and sends until it dies.
#[test]
#[ignore = "runs as a child of the test below"]
fn victim() {
    let Ok(bpf_dir) = std::env::var("VICTIM_BPF_DIR") else {
        return;
    };
    let attachment = xdp::install_or_adopt("near", bpf_dir.as_ref()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let mut packets = Vec::with_capacity(64);
    std::fs::write(std::env::var("VICTIM_READY").unwrap(), "").unwrap();
    for n in 0.. {
        let mut queue = VecDeque::new();
        if uplinks[0].room(&mut pool) > 0 {
            queue.push_back(packet(&umem, &mut pool, &frame(n, 60)));
        }
        uplinks[0].send(&mut queue, &mut pool);
        uplinks[0].recv(&mut pool, &mut packets, 64);
        packets.drain(..).for_each(|packet| pool.recycle(packet));
    }
}

/// A process that does not outlive the test.
struct Child(std::process::Child);

impl Child {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn after_a_kill_the_successor_opens_the_queue_and_the_program_stayed() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    // Mounted here, so that it outlives the victim.
    let program = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    drop(program);
    let ready = namespace.run_dir().join("ready");
    for _ in 0..3 {
        let mut victim = Child(
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "victim", "--ignored"])
                .env("VICTIM_BPF_DIR", namespace.bpf_dir())
                .env("VICTIM_READY", &ready)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap(),
        );
        let deadline = Instant::now() + PATIENCE;
        while !ready.exists() {
            assert!(
                Instant::now() < deadline,
                "the victim never opened the queue"
            );
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
        assert!(attachment.adopted());
        let (umem, mut pool) = memory(1);
        let refused = XskDevice::open(&umem, &attachment, 0, Options::default()).unwrap_err();
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
        victim.kill();
        std::fs::remove_file(&ready).unwrap();

        let mut uplinks = open(&umem, &attachment, 1);
        let far = PacketSocket::bind("far", ETHERTYPE);
        check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
        check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
        settle(&umem, &mut pool, &mut uplinks);
    }
}
