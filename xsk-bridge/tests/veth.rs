//! The uplink on veth pairs: what goes in at one end comes out at the other, byte for byte, and no frame is lost to account.
#![cfg(feature = "af-xdp")]
mod support;

use std::collections::HashSet;
use std::time::Instant;
use support::{ETHERTYPE, Namespace, PATIENCE, PacketSocket, frame, length, run};
use xsk_bridge::frame::{FramePool, Rings, Umem};
use xsk_bridge::link::Link;
use xsk_bridge::packet::{Offload, Packet};
use xsk_bridge::uplink::Uplink;
use xsk_bridge::xdp::{self, Attachment, Mode, XdpError};
use xsk_bridge::xsk::{BusyPoll, OpenError, Options, XskUplink};

const RINGS: Rings = Rings {
    recv: 512,
    send: 256,
};
const FRAMES: u32 = 1000;

/// A UMEM with room for `sockets` sockets and some packets beside, and all its frames.
fn memory(sockets: u32) -> (Umem, FramePool) {
    let (umem, frames) = Umem::for_af_xdp(sockets * RINGS.frames() + 512, RINGS).unwrap();
    let mut pool = FramePool::with_capacity(frames.len());
    pool.extend(frames);
    (umem, pool)
}

fn open(umem: &Umem, attachment: &Attachment, queues: u32) -> Vec<XskUplink> {
    (0..queues)
        .map(|queue| XskUplink::open(umem, attachment, queue, Options::default()).unwrap())
        .collect()
}

/// Every frame is in the pool or with the kernel.
fn assert_all_accounted(umem: &Umem, pool: &FramePool, uplinks: &[XskUplink]) {
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

fn send_one(umem: &Umem, pool: &mut FramePool, uplink: &mut XskUplink, bytes: &[u8]) {
    let mut token = pool.take().expect("the pool has room for packets");
    umem.data_mut(&mut token)[..bytes.len()].copy_from_slice(bytes);
    uplink.send(Packet {
        frames: [token].into_iter().collect(),
        len: bytes.len() as u32,
        offload: Offload::default(),
    });
}

/// Send `expected` out of the uplinks by turns and see them all, unchanged, at the far end.
fn check_sending(
    umem: &Umem,
    pool: &mut FramePool,
    uplinks: &mut [XskUplink],
    far: &PacketSocket,
    expected: &[Vec<u8>],
) {
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
            let uplink = &mut uplinks[turn];
            if uplink.room(pool) == 0 {
                break;
            }
            send_one(umem, pool, uplink, bytes);
            waiting.next();
        }
        for uplink in &mut *uplinks {
            uplink.flush(pool).unwrap();
        }
        while let Some(bytes) = far.recv() {
            assert!(
                missing.remove(bytes.as_slice()),
                "a frame nobody sent, or twice"
            );
        }
    }
}

/// Receive on all uplinks until every one of `expected` has come in unchanged; how many each queue had.
fn check_receiving(
    umem: &Umem,
    pool: &mut FramePool,
    uplinks: &mut [XskUplink],
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
            let n = uplink.recv(pool, &mut packets, 64);
            assert_eq!(n, packets.len());
            for packet in packets.drain(..) {
                let bytes = &umem.data(&packet.frames[0])[..packet.len as usize];
                assert!(missing.remove(bytes), "a frame nobody sent, or twice");
                pool.extend(packet.frames);
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

fn settle(umem: &Umem, pool: &mut FramePool, uplinks: &mut [XskUplink]) {
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
    assert_eq!(uplinks[0].max_frame(), 1518);
    let far = PacketSocket::bind("far", ETHERTYPE);

    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);

    let counters = uplinks[0].counters();
    let bytes: u64 = (0..FRAMES).map(|n| length(n) as u64).sum();
    assert_eq!(counters.send_packets.get(), u64::from(FRAMES));
    assert_eq!(counters.send_bytes.get(), bytes);
    assert_eq!(counters.recv_packets.get(), u64::from(FRAMES));
    assert_eq!(counters.recv_bytes.get(), bytes);
    assert!(
        counters.kicks.get() < u64::from(FRAMES) / 4,
        "a kick a packet"
    );
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
    let mut uplinks: Vec<XskUplink> = ["one", "two"]
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

#[test]
fn a_queue_without_a_socket_stays_with_the_kernel() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let _attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let near = PacketSocket::bind("near", ETHERTYPE);
    let far = PacketSocket::bind("far", ETHERTYPE);
    let sent = frame(7, 333);
    far.send(&sent);
    let deadline = Instant::now() + PATIENCE;
    let seen = loop {
        if let Some(bytes) = near.recv() {
            break bytes;
        }
        assert!(Instant::now() < deadline, "the kernel never saw the frame");
    };
    assert_eq!(seen, sent);
}

#[test]
fn a_successor_adopts_the_program_and_gets_the_queue() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let far = PacketSocket::bind("far", ETHERTYPE);
    let program = || run("ip -d link show near");
    let carrier_changes = || run("ip -d -s link show near").matches("carrier").count();
    let first = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let before = (program(), carrier_changes());
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
        (program(), carrier_changes()),
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
    let refused = XskUplink::open(&other, &attachment, 0, Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        "interface near queue 0 is in use by another AF_XDP socket (another netback?)"
    );
    let refused = XskUplink::open(&umem, &attachment, 0, Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    let refused = XskUplink::open(&umem, &attachment, 5, Options::default()).unwrap_err();
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
    let refused = XskUplink::open(&plain, &attachment, 0, Options::default()).unwrap_err();
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
    // The kernel tells of a lost carrier a moment after it dropped the first packet for it.
    let deadline = Instant::now() + PATIENCE;
    while Link::by_name("near").unwrap().unwrap().flags & libc::IFF_RUNNING as u32 != 0 {
        assert!(Instant::now() < deadline, "the link does not go down");
    }
    let counters = uplinks[0].counters();
    let kicks = counters.kicks.get();
    for n in 0..5000 {
        assert!(
            uplinks[0].room(&mut pool) > 0,
            "a link that is down holds guests up"
        );
        send_one(&umem, &mut pool, &mut uplinks[0], &frame(n, 100));
        if n % 32 == 31 {
            assert!(uplinks[0].flush(&mut pool).unwrap());
        }
    }
    assert_eq!(counters.link_down.get(), 1);
    assert!(counters.send_link_down.get() > 4000);
    assert!(
        counters.kicks.get() - kicks < 100,
        "kicks at a link that is down"
    );
    assert_all_accounted(&umem, &pool, &uplinks);

    run(up);
    let deadline = Instant::now() + PATIENCE;
    let far = PacketSocket::bind("far", ETHERTYPE);
    // Whatever was in the ring goes out late; then everything is as before.
    while counters.link_down.get() == 1 && far.recv().is_none() {
        assert!(
            Instant::now() < deadline,
            "nothing passes after the link came back"
        );
        send_one(&umem, &mut pool, &mut uplinks[0], &frame(0, 60));
        uplinks[0].flush(&mut pool).unwrap();
        uplinks[0].room(&mut pool);
    }
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
    for n in 0..1000 {
        assert!(gone[0].room(&mut pool) > 0);
        send_one(&umem, &mut pool, &mut gone[0], &frame(n, 100));
        assert!(gone[0].flush(&mut pool).unwrap());
        assert_eq!(gone[0].recv(&mut pool, &mut Vec::with_capacity(4), 4), 0);
        assert!(!gone[0].pending());
    }
    assert_eq!(gone[0].counters().link_down.get(), 1);
    assert!(gone[0].counters().kicks.get() < 10);
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

#[test]
fn what_does_not_fit_is_refused_and_counted() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let mut uplinks = open(&umem, &attachment, 1);
    let counters = uplinks[0].counters();
    send_one(&umem, &mut pool, &mut uplinks[0], &frame(1, 1519));
    let chain: Vec<_> = (0..2).map(|_| pool.take().unwrap()).collect();
    uplinks[0].send(Packet {
        frames: chain.into_iter().collect(),
        len: 1000,
        offload: Offload::default(),
    });
    assert_eq!(counters.send_refused.get(), 2);
    assert_eq!(counters.send_packets.get(), 0);
    uplinks[0].flush(&mut pool).unwrap();
    // More than there is room for, by a caller that does not ask.
    for n in 0..RINGS.send + 10 {
        send_one(&umem, &mut pool, &mut uplinks[0], &frame(n, 60));
    }
    assert_eq!(counters.send_refused.get(), 12);
    uplinks[0].flush(&mut pool).unwrap();
    settle(&umem, &mut pool, &mut uplinks);
}

#[test]
fn busy_polling_carries_both_ways() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    let (umem, mut pool) = memory(1);
    let options = Options {
        copy: true,
        busy_poll: Some(BusyPoll {
            microseconds: 20,
            budget: 64,
        }),
    };
    let mut uplinks = vec![XskUplink::open(&umem, &attachment, 0, options).unwrap()];
    let far = PacketSocket::bind("far", ETHERTYPE);
    check_sending(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    check_receiving(&umem, &mut pool, &mut uplinks, &far, &experiment(length));
    settle(&umem, &mut pool, &mut uplinks);
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
        if uplinks[0].room(&mut pool) > 0 {
            send_one(&umem, &mut pool, &mut uplinks[0], &frame(n, 60));
        }
        uplinks[0].flush(&mut pool).unwrap();
        uplinks[0].recv(&mut pool, &mut packets, 64);
        pool.extend(packets.drain(..).flat_map(|packet| packet.frames));
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
        let refused = XskUplink::open(&umem, &attachment, 0, Options::default()).unwrap_err();
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
