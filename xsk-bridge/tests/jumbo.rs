//! Frames longer than a frame of the UMEM over AF_XDP on veth pairs: whole both ways beside short ones, and no frame lost to account.
#![cfg(feature = "af-xdp")]
mod support;

use std::collections::VecDeque;
use std::time::Instant;
use support::{ETHERTYPE, Namespace, PATIENCE, PacketSocket, frame, run};
use xsk_bridge::device::xsk::{OpenError, Options, XskDevice};
use xsk_bridge::device::{Device, Sent};
use xsk_bridge::frame::{DATA_CAPACITY, FramePool, Rings, Umem};
use xsk_bridge::link::{Driver, Link};
use xsk_bridge::nic::{self, LengthLimit, MultiBuffer};
use xsk_bridge::packet::{Offload, Packet};
use xsk_bridge::xdp::{self, Attachment, Mode};

const RINGS: Rings = Rings {
    recv: 256,
    send: 128,
};
/// Lengths around what one frame, two and an MTU of 9000 hold.
const LENGTHS: [usize; 9] = [60, 1514, 3839, 3840, 3841, 7680, 7681, 9000, 9014];

/// One queue, with the memory it is on.
struct Bench {
    umem: Umem,
    pool: FramePool,
    device: XskDevice,
    packets: Vec<Packet>,
}

impl Bench {
    fn open(attachment: &Attachment) -> Self {
        let (umem, frames) = Umem::for_af_xdp(RINGS.frames() + 256, RINGS).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        let device = XskDevice::open(&umem, attachment, 0, Options::default()).unwrap();
        Self {
            umem,
            pool,
            device,
            packets: Vec::with_capacity(64),
        }
    }

    /// A packet of these bytes in frames of the pool.
    fn packet(&mut self, bytes: &[u8]) -> Packet {
        let mut chunks = bytes.chunks(DATA_CAPACITY);
        let mut filled = |chunk: &[u8]| {
            let mut frame = self.pool.take().expect("the pool has room for packets");
            self.umem.data_mut(&mut frame)[..chunk.len()].copy_from_slice(chunk);
            frame
        };
        let first = filled(chunks.next().unwrap());
        let mut packet = Packet::new(first, bytes.len() as u32, Offload::default());
        chunks.for_each(|chunk| packet.append(filled(chunk), &self.umem));
        packet
    }

    /// Sends `all` and sees them at the far end, unchanged and in their order.
    fn check_sending(&mut self, far: &PacketSocket, all: &[Vec<u8>]) -> Sent {
        let (mut queue, mut said, mut came) = (VecDeque::new(), Sent::default(), 0);
        let mut waiting = all.iter().peekable();
        let deadline = Instant::now() + PATIENCE;
        while came < all.len() {
            assert!(Instant::now() < deadline, "{came} of {} came", all.len());
            let mut room = self.device.room(&mut self.pool);
            while let Some(bytes) =
                waiting.next_if(|bytes| bytes.len().div_ceil(DATA_CAPACITY) <= room)
            {
                room -= bytes.len().div_ceil(DATA_CAPACITY);
                let packet = self.packet(bytes);
                queue.push_back(packet);
            }
            let sent = self.device.send(&mut queue, &mut self.pool);
            assert!(queue.is_empty(), "it has the room that it said");
            said.packets += sent.packets;
            said.bytes += sent.bytes;
            said.refused += sent.refused + sent.link_down + sent.kick_errors;
            while let Some(bytes) = far.recv() {
                assert!(bytes == all[came], "packet {came}");
                came += 1;
            }
            self.account();
        }
        said
    }

    /// Has `all` come from the far end, looked for `max` frames at a time, unchanged and in their order.
    fn check_receiving(&mut self, far: &PacketSocket, all: &[Vec<u8>], max: usize) {
        let mut came = 0;
        let deadline = Instant::now() + PATIENCE;
        for burst in all.chunks(16) {
            self.device.recv(&mut self.pool, &mut self.packets, 0);
            burst.iter().for_each(|bytes| far.send(bytes));
            let end = came + burst.len();
            while came < end {
                assert!(Instant::now() < deadline, "{came} of {} came", all.len());
                let received = self.device.recv(&mut self.pool, &mut self.packets, max);
                assert_eq!((received.packets, received.bad), (self.packets.len(), 0));
                let waiting: usize = self.packets.iter().map(Packet::frame_count).sum();
                self.account_with(waiting);
                for packet in self.packets.drain(..) {
                    let bytes: Vec<u8> = packet.slices(&self.umem).flatten().copied().collect();
                    assert!(bytes == all[came], "packet {came}");
                    came += 1;
                    self.pool.recycle(packet);
                }
            }
        }
    }

    fn account(&self) {
        self.account_with(0);
    }

    /// Every frame is in the pool, with the device, or one of `elsewhere`.
    fn account_with(&self, elsewhere: usize) {
        let held = self.device.held();
        let found = self.pool.len() + elsewhere + (held.fill + held.send) as usize;
        assert_eq!(found, self.umem.frames() as usize, "{held:?}");
    }
}

fn experiment(count: u32) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| frame(n, LENGTHS[n as usize % LENGTHS.len()]))
        .collect()
}

/// Gives both ends of the pair this MTU.
fn set_mtu(mtu: u32) {
    for end in ["near", "far"] {
        run(&format!("ip link set {end} mtu {mtu}"));
    }
}

/// A veth pair of this MTU with our program on the near end.
fn attached(namespace: &Namespace, mtu: u32) -> Attachment {
    namespace.veth("near", "far", 1);
    set_mtu(mtu);
    xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap()
}

#[test]
fn long_frames_pass_both_ways_between_short_ones() {
    let namespace = Namespace::enter();
    let attachment = attached(&namespace, 9000);
    assert_eq!(attachment.mode(), Mode::Native);
    let mut bench = Bench::open(&attachment);
    assert_eq!(bench.device.frames(), Ok(17));
    assert_eq!(bench.device.capabilities().max_frame, 9018);
    let far = PacketSocket::bind("far", ETHERTYPE);
    let all = experiment(1000);
    let sent = bench.check_sending(&far, &all);
    let bytes: usize = all.iter().map(Vec::len).sum();
    assert_eq!(
        (sent.packets, sent.bytes, sent.refused),
        (1000, bytes as u64, 0)
    );
    bench.check_receiving(&far, &all, 64);
    let kernel = bench.device.kernel_counters().unwrap();
    assert_eq!((kernel.rx_dropped, kernel.rx_ring_full), (0, 0));
    assert_eq!(kernel.tx_invalid_descs, 0);
}

/// A look at the ring that ends in the middle of a packet keeps what came, and the next one completes it.
#[test]
fn a_packet_that_came_in_part_is_completed_by_the_next_look() {
    let namespace = Namespace::enter();
    let attachment = attached(&namespace, 9000);
    let mut bench = Bench::open(&attachment);
    let far = PacketSocket::bind("far", ETHERTYPE);
    for max in [1, 2, 4, 5] {
        bench.check_receiving(&far, &experiment(60), max);
    }
    // One that is never completed is given back with the device.
    far.send(&frame(1, 9014));
    let deadline = Instant::now() + PATIENCE;
    let full = RINGS.recv;
    while !bench.device.pending() {
        assert!(Instant::now() < deadline, "it never comes");
    }
    let received = bench.device.recv(&mut bench.pool, &mut bench.packets, 1);
    assert_eq!((received.packets, received.bad), (0, 0));
    assert_eq!(
        bench.device.held().fill,
        full,
        "two frames in the ring, one here"
    );
    let Bench {
        umem,
        mut pool,
        device,
        ..
    } = bench;
    let held = device.held();
    let free = pool.len() as u32;
    device.close(&mut pool);
    let back = pool.len() as u32 - free;
    assert_eq!(back, held.send + 3);
    assert_eq!(pool.len() as u32 + umem.quarantined(), umem.frames());
}

/// The kernel drops a packet for which there are too few frames as a whole, and those behind it come.
#[test]
fn a_fill_ring_that_starves_costs_whole_packets_only() {
    let namespace = Namespace::enter();
    let attachment = attached(&namespace, 9000);
    let mut bench = Bench::open(&attachment);
    let far = PacketSocket::bind("far", ETHERTYPE);
    let kept: Vec<_> = (0..bench.pool.len() - 4)
        .map(|_| bench.pool.take().unwrap())
        .collect();
    // Four frames to receive into: room for one long packet and a short one.
    bench.device.recv(&mut bench.pool, &mut bench.packets, 0);
    assert_eq!((bench.pool.len(), bench.device.held().fill), (0, 4));
    let sent = [
        frame(1, 9014),
        frame(2, 9014),
        frame(3, 100),
        frame(4, 9014),
    ];
    sent.iter().for_each(|bytes| far.send(bytes));
    let deadline = Instant::now() + PATIENCE;
    let mut came = Vec::new();
    while came.len() < 2 {
        assert!(Instant::now() < deadline, "{} came", came.len());
        let mut nothing = FramePool::new(&bench.umem);
        bench.device.recv(&mut nothing, &mut bench.packets, 2);
        for packet in bench.packets.drain(..) {
            let bytes: Vec<u8> = packet.slices(&bench.umem).flatten().copied().collect();
            came.push(bytes);
            bench.pool.recycle(packet);
        }
    }
    assert!(came == [sent[0].clone(), sent[2].clone()]);
    // The last one may be on its way.
    while bench.device.kernel_counters().unwrap().rx_dropped < 2 {
        assert!(Instant::now() < deadline, "it is not dropped");
    }
    bench.account_with(kept.len());
    bench.pool.extend(kept);
    bench.check_receiving(&far, &experiment(100), 64);
}

#[test]
fn the_mtu_is_raised_and_lowered_while_the_socket_is_bound() {
    let namespace = Namespace::enter();
    let attachment = attached(&namespace, 1500);
    let mut bench = Bench::open(&attachment);
    assert_eq!(bench.device.capabilities().max_frame, 1518);
    let far = PacketSocket::bind("far", ETHERTYPE);
    for (mtu, longest) in [(9000, 9018), (1500, 1518), (65_535, 17 * DATA_CAPACITY)] {
        // What the kernel lets be set on a pair with a program is less than that.
        if mtu <= 9000 {
            set_mtu(mtu);
        }
        bench.device.set_mtu(mtu);
        assert_eq!(bench.device.capabilities().max_frame, longest);
    }
    set_mtu(9000);
    bench.device.set_mtu(9000);
    bench.check_sending(&far, &experiment(100));
    bench.check_receiving(&far, &experiment(100), 64);
}

/// The frames of a device whose driver has no XDP come by the kernel's stack, which carries long ones with any driver.
#[test]
fn long_frames_pass_in_generic_mode() {
    let namespace = Namespace::enter();
    namespace.veth("base", "far", 1);
    run("ip link set base mtu 9000");
    run("ip link set far mtu 9000");
    run("ip link add link base name near type macvlan mode passthru");
    run("ip link set near mtu 9000 up");
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert_eq!(attachment.mode(), Mode::Generic);
    let driver = attachment.multi_buffer().driver;
    assert_eq!(driver, Driver::default(), "macvlan has no XDP");
    nic::check("near", Mode::Native).unwrap();
    let mut bench = Bench::open(&attachment);
    assert_eq!(bench.device.frames(), Ok(17));
    let far = PacketSocket::bind("far", ETHERTYPE);
    bench.check_sending(&far, &experiment(100));
    bench.check_receiving(&far, &experiment(100), 64);
}

/// A TAP's driver has XDP, and receives no packet in several buffers.
#[test]
fn a_driver_that_receives_no_long_frames_says_so() {
    let namespace = Namespace::enter();
    run("ip tuntap add dev near mode tap");
    run("ip link set near up");
    let index = Link::by_name("near").unwrap().unwrap().index;
    let can = MultiBuffer::of(index).unwrap();
    assert!(can.kernel && !can.driver.receives_fragments);
    assert_eq!(can.frames(Mode::Native, false), Err(LengthLimit::Driver));
    let attachment = xdp::install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert_eq!(attachment.mode(), Mode::Native);
    let mut bench = Bench::open(&attachment);
    assert_eq!(bench.device.frames(), Err(LengthLimit::Driver));
    assert_eq!(
        nic::mtu_limit(bench.device.frames()),
        (3822, LengthLimit::Driver)
    );
    bench.device.set_mtu(9000);
    assert_eq!(bench.device.capabilities().max_frame, DATA_CAPACITY);
    drop(bench);

    run("ip link set near mtu 9000");
    let line = "has MTU 9000, and 3822 is the largest that works, for the driver receives no frame in several buffers under XDP: `ip link set dev near mtu 3822`, or say xdp = \"generic\" for its bridge, which is slower";
    let refused = nic::check("near", Mode::Native).unwrap_err();
    assert_eq!(refused.to_string(), format!("near {line}"));
    nic::check("near", Mode::Generic).unwrap();
    let (umem, _frames) = Umem::for_af_xdp(RINGS.frames(), RINGS).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        match XskDevice::open(&umem, &attachment, 0, Options::default()) {
            // The socket before goes in the background.
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(refused.to_string(), format!("interface near {line}"));
}
