//! Linux is the oracle: the same segments arrive at an interface with GRO, and what the kernel makes of them is compared with what we make
//! of them. What the kernel does not merge, we do not; what it merges and we do not is named here and in docs/offloads.md.
#[path = "support/coalesce.rs"]
mod driver;
mod support;
#[path = "support/tcp.rs"]
mod tcp;
#[path = "support/vnet.rs"]
mod vnet;

use driver::{Left, merged, stream};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::Instant;
use support::{Namespace, PATIENCE, run};
use tcp::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Tcp, URG, payload, streams, sum};
use vnet::VnetSocket;
use xsk_bridge::device::vnet::VnetHeader;
use xsk_bridge::header::Transport;
use xsk_bridge::packet::Checksum;

/// How long the kernel keeps a packet open, in nanoseconds.
const KEPT_OPEN: u64 = 10_000_000;
/// The kernel also lets go of a packet when its clock ticks (every few milliseconds) between two segments; the same is tried again then.
const ATTEMPTS: usize = 50;

/// Two ends of a cable: what arrives at the far one goes through GRO.
struct Kernel {
    _namespace: Namespace,
    near: VnetSocket,
    far: VnetSocket,
}

/// A packet as the kernel hands it up.
type Theirs = (VnetHeader, Vec<u8>);

impl Kernel {
    fn new() -> Self {
        let namespace = Namespace::enter();
        namespace.veth("near", "far", 1);
        for end in ["near", "far"] {
            run(&format!("ip link set {end} mtu 9100"));
            namespace.ethtool(&format!("-K {end} tso off gso off tx off txvlan off"));
        }
        namespace.ethtool("-K far gro on");
        namespace.write("/sys/class/net/far/gro_flush_timeout", KEPT_OPEN);
        let [near, far] = ["near", "far"].map(VnetSocket::bind);
        Self {
            _namespace: namespace,
            near,
            far,
        }
    }

    /// What the kernel hands up of packets that arrive one behind the other.
    fn merges(&self, packets: &[Vec<u8>]) -> Vec<Theirs> {
        for packet in packets {
            self.near.send(VnetHeader::default(), packet).unwrap();
        }
        let weights = packets.iter().map(|packet| weight(packet));
        let (expected, deadline) = (weights.sum::<usize>(), Instant::now() + PATIENCE);
        let (mut received, mut seen) = (Vec::new(), 0);
        while seen < expected {
            assert!(Instant::now() < deadline, "{seen} of {expected} came");
            match self.far.recv() {
                Some(packet) => {
                    seen += weight(&packet.1);
                    received.push(packet);
                }
                None => std::thread::yield_now(),
            }
        }
        received
    }

    /// The kernel makes of these packets what we make of them, whichever stream it hands up first.
    fn agrees(&self, packets: &[Vec<u8>], what: &str) {
        let mut ours = merged(packets);
        ours.sort_by(|a, b| stream(&a.bytes).cmp(&stream(&b.bytes)));
        let mut theirs = Vec::new();
        for _ in 0..ATTEMPTS {
            theirs = self.merges(packets);
            theirs.sort_by(|(_, a), (_, b)| stream(a).cmp(&stream(b)));
            if is_same(&ours, &theirs) {
                return;
            }
            // The clock splits packets and never joins them; as many of other lengths may be its work too.
            if theirs.len() < ours.len() {
                break;
            }
        }
        let ours: Vec<_> = ours
            .iter()
            .map(|left| (left.bytes.len(), left.offload))
            .collect();
        let theirs = theirs.iter().map(|(header, bytes)| (bytes.len(), header));
        panic!(
            "{what}: {ours:?}, the kernel {:?}",
            theirs.collect::<Vec<_>>()
        );
    }

    /// The kernel makes fewer packets of these than we do, and that is meant.
    fn merges_more(&self, packets: &[Vec<u8>], kernel: usize, ours: usize) {
        assert_eq!(merged(packets).len(), ours);
        let made: Vec<_> = (0..ATTEMPTS).map(|_| self.merges(packets).len()).collect();
        assert_eq!(made.iter().min(), Some(&kernel), "{:?}", flow(&packets[0]));
    }
}

/// Payload bytes of a TCP packet; 1 of anything else.
fn weight(packet: &[u8]) -> usize {
    flow(packet).map_or(1, |(.., len)| (len as usize).max(1))
}

/// Port, sequence number and payload bytes of a TCP packet.
fn flow(packet: &[u8]) -> Option<(u16, u32, u32)> {
    let transport = Transport::parse(packet, packet.len()).ok()?;
    let tcp = &packet[transport.l4..];
    let header = usize::from(tcp[12] >> 4) * 4;
    let port = u16::from_be_bytes([tcp[0], tcp[1]]);
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    Some((port, sequence, transport.l4_len.checked_sub(header)? as u32))
}

fn is_same(ours: &[Left], theirs: &[Theirs]) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(ours, theirs)| is_same_packet(ours, theirs))
}

fn is_same_packet(ours: &Left, (header, bytes): &Theirs) -> bool {
    let marked = VnetHeader::of(&ours.bytes, ours.bytes.len(), ours.offload).unwrap();
    // Of what goes alone and was not verified, nothing is said here; the kernel may have verified it.
    let says_nothing = marked == VnetHeader::default() && header.gso_type == 0;
    // The kernel's hint of where payload begins is how its memory lies.
    let header = VnetHeader {
        header_len: marked.header_len,
        ..*header
    };
    (header == marked || says_nothing) && ours.bytes == *bytes
}

/// Everything that we merged, the kernel merged too, with more around it perhaps.
fn is_within(ours: &[Left], theirs: &[Theirs]) -> bool {
    let merged = ours.iter().filter(|left| left.segments > 1);
    merged.into_iter().all(|left| {
        let (port, sequence, len) = flow(&left.bytes).unwrap();
        theirs
            .iter()
            .filter_map(|(_, bytes)| flow(bytes))
            .any(|(other, from, theirs)| {
                let offset = sequence.wrapping_sub(from);
                other == port && offset < theirs && offset + len <= theirs
            })
    })
}

fn both() -> [Tcp; 2] {
    [false, true].map(|ipv6| Tcp {
        ipv6,
        ..Tcp::default()
    })
}

/// Makes both checksums right again.
fn mend(packet: &mut [u8]) {
    if packet[12..14] == [8, 0] {
        packet[24..26].fill(0);
        let header = sum(&packet[14..34]);
        packet[24..26].copy_from_slice(&(!header).to_be_bytes());
    }
    if let Ok(transport) = Transport::parse(packet, packet.len()) {
        let at = transport.checksum();
        let pseudo = xsk_bridge::offload::checksum::pseudo_header(&transport, packet);
        packet[at..at + 2].copy_from_slice(&pseudo);
        let total = sum(&packet[transport.l4..transport.l4 + transport.l4_len]);
        packet[at..at + 2].copy_from_slice(&(!total).to_be_bytes());
    }
}

/// Segments of these lengths, one behind the other.
fn segments(tcp: &Tcp, lens: &[usize]) -> Vec<Vec<u8>> {
    let mut own = tcp.clone();
    let mut packets = Vec::new();
    for &len in lens {
        packets.push(own.packet(&payload(len)));
        own.sequence = own.sequence.wrapping_add(len as u32);
        own.id = own.id.wrapping_add(1);
    }
    packets
}

#[test]
fn streams_of_every_length_and_options() {
    let kernel = Kernel::new();
    for tcp in both() {
        for lens in [
            &[1448; 2][..],
            &[1448; 45],
            &[1448; 46],
            &[1448; 100],
            &[100; 60],
            &[1, 1, 1],
            &[1448, 1448, 7, 1448],
            &[700, 1448, 1448],
            &[1448, 700, 700],
            &[1448, 0, 1448, 1448],
            &[8948; 8],
        ] {
            kernel.agrees(&segments(&tcp, lens), &format!("{lens:?}, {tcp:?}"));
        }
        for words in 0..=10 {
            let tcp = Tcp {
                options: vec![1; 4 * words],
                ..tcp.clone()
            };
            kernel.agrees(
                &segments(&tcp, &[1400; 5]),
                &format!("{words} words of options"),
            );
        }
        for sequence in [u32::MAX - 1448, u32::MAX - 2000, u32::MAX] {
            let tcp = Tcp {
                sequence,
                id: u16::MAX - 1,
                ..tcp.clone()
            };
            kernel.agrees(&segments(&tcp, &[1448; 5]), "numbers that wrap");
        }
    }
}

/// One bit of the headers of the third of four segments is another, with checksums made right.
#[test]
fn every_bit_of_the_headers() {
    let kernel = Kernel::new();
    for tcp in both() {
        let four = segments(&tcp, &[500; 4]);
        for bit in 12 * 8..tcp.header() * 8 {
            let (byte, l4) = (bit / 8, tcp.l4());
            let mut packets = four.clone();
            packets[2][byte] ^= 1 << (bit % 8);
            mend(&mut packets[2]);
            let what = format!("byte {byte}, bit {}: {tcp:?}", bit % 8);
            let same_flow = match tcp.ipv6 {
                // Type of service, identification, time to live.
                false => [15, 18, 19, 22].contains(&byte),
                true => byte == 21,
            };
            // What is of another flow, or no TCP at all, overtakes what is open; a data offset may lie beyond the packet.
            match byte >= l4 + 4 && byte != l4 + 12 || same_flow {
                true => kernel.agrees(&packets, &what),
                false => kernel.covers(&packets, &what),
            }
        }
    }
}

impl Kernel {
    /// The kernel merges at least what we merge.
    fn covers(&self, packets: &[Vec<u8>], what: &str) {
        let ours = merged(packets);
        let covered = (0..ATTEMPTS).any(|_| is_within(&ours, &self.merges(packets)));
        assert!(covered, "{what}: the kernel does not merge what we merge");
    }
}

#[test]
fn every_set_of_flags() {
    let kernel = Kernel::new();
    for tcp in both() {
        for flags in 0..=255 {
            for only in [0, 1, 2, 3] {
                let mut packets = segments(&tcp, &[300; 3]);
                for (n, packet) in packets.iter_mut().enumerate() {
                    if only == 3 || n == only {
                        packet[tcp.l4() + 13] = flags;
                        mend(packet);
                    }
                }
                let what = format!("flags {flags:#x} on {only}: {tcp:?}");
                match flags & CWR {
                    0 => kernel.agrees(&packets, &what),
                    // Kernels with accurate ECN merge it where all have it, others do not.
                    _ => kernel.covers(&packets, &what),
                }
            }
        }
    }
    // By name, for the reader: these are never merged, those end a packet, and this one is merged where all have it.
    for (flag, expected) in [(SYN, 3), (RST, 3), (URG, 3), (FIN, 3), (PSH, 3), (ECE, 1)] {
        let tcp = Tcp {
            flags: ACK | flag,
            ..Tcp::default()
        };
        assert_eq!(merged(&segments(&tcp, &[300; 3])).len(), expected);
    }
}

#[test]
fn identifications() {
    let kernel = Kernel::new();
    for fragment in [0, 0x4000] {
        for ids in [
            [7, 8, 9, 10],
            [65_534, 65_535, 0, 1],
            [7, 9, 10, 11],
            [7, 6, 5, 4],
            [7, 7, 8, 9],
            [7, 7, 8, 8],
            [7, 8, 8, 8],
            [7, 7, 7, 7],
        ] {
            // Newer kernels merge the same identification again and again where fragments are allowed, others do not.
            let repeats = ids[0] == ids[1] || ids[2] == ids[3];
            if fragment == 0 && repeats {
                continue;
            }
            let mut tcp = Tcp {
                fragment,
                ..Tcp::default()
            };
            let mut packets = Vec::new();
            for id in ids {
                tcp.id = id;
                packets.push(tcp.packet(&payload(100)));
                tcp.sequence += 100;
            }
            kernel.agrees(&packets, &format!("{ids:?}, {fragment:#x}"));
        }
    }
}

#[test]
fn a_wrong_checksum_padding_and_a_wrong_ip_header() {
    let kernel = Kernel::new();
    for tcp in both() {
        for n in 0..5 {
            let good = segments(&tcp, &[500; 5]);
            for kind in 0..4 {
                let mut packets = good.clone();
                let packet = &mut packets[n];
                match kind {
                    0 => *packet.last_mut().unwrap() ^= 1,
                    1 => packet[tcp.l4() + 16] ^= 1,
                    2 => packet.extend([0; 6]),
                    _ => packet[24] ^= 1,
                }
                kernel.covers(&packets, &format!("{kind} on {n}: {tcp:?}"));
            }
        }
    }
}

#[test]
fn neither_vouches_for_a_wrong_one() {
    let kernel = Kernel::new();
    for tcp in both() {
        let mut packets = segments(&tcp, &[500; 2]);
        *packets[1].last_mut().unwrap() ^= 1;
        let theirs = kernel.merges(&packets);
        let ours = merged(&packets);
        let wrong = theirs
            .iter()
            .find(|(_, bytes)| *bytes == packets[1])
            .unwrap();
        assert_eq!(wrong.0.flags, 0);
        assert_eq!(ours[1].offload.checksum, Checksum::Unverified);
        assert_eq!(ours[0].offload.checksum, Checksum::Valid);
    }
}

/// As many segments of each of these streams, in turn.
fn in_turn(streams: &[Tcp], count: usize) -> Vec<Vec<u8>> {
    let cut = |tcp: &Tcp| segments(tcp, &vec![500; count]);
    tcp::in_turn(&streams.iter().map(cut).collect::<Vec<_>>())
}

#[test]
fn streams_in_turn() {
    let kernel = Kernel::new();
    // A ninth one takes the place of the first: all of these have one hash, for a veth has none.
    for count in [2, 5, 8, 9, 17] {
        kernel.agrees(&in_turn(&streams(count), 4), &format!("{count} streams"));
    }
    // An ACK of one stream ends the packet of that one, and of no other.
    let two = streams(2);
    let mut packets = in_turn(&two, 4);
    packets.insert(4, two[0].packet(&[]));
    assert_eq!(merged(&packets).len(), 4);
    kernel.agrees(&packets, "an ACK between");
    // Streams that come in unequal parts.
    let mut parts = Vec::new();
    let all: Vec<_> = two.iter().map(|tcp| segments(tcp, &[500; 9])).collect();
    for (from, to) in [(0, 1), (1, 4), (4, 9)] {
        parts.extend(all.iter().flat_map(|stream| stream[from..to].to_vec()));
    }
    kernel.agrees(&parts, "unequal parts");
}

/// The rows of docs/offloads.md: the kernel merges these, and we do not.
#[test]
fn what_the_kernel_merges_and_we_do_not() {
    let kernel = Kernel::new();
    let plain = Tcp::default();
    let extended = Tcp {
        ipv6: true,
        extensions: vec![(0, 8)],
        ..plain.clone()
    };
    kernel.merges_more(&segments(&extended, &[500; 3]), 1, 3);
    // More than 128 segments.
    kernel.merges_more(&segments(&plain, &[10; 140]), 1, 2);
    // Up to 65 535 bytes of IP packet, where Ethernet's header is counted too.
    let edge = segments(&plain, &[1393; 47]);
    let total = 47 * 1393 + plain.header();
    assert!(total > 65_535 && total - 14 <= 65_535);
    kernel.merges_more(&edge, 1, 2);
}

/// Streams in turn, to which everything happens that ends a packet: the kernel and we cut them at the same places.
#[test]
fn whatever_happens_to_streams() {
    let kernel = Kernel::new();
    let len = prop::sample::select(vec![0usize, 1, 700, 1448, 1448, 1448, 1448]);
    let steps = prop::collection::vec((0..3usize, 0..24usize, len), 1..60);
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(
        &(1..=3usize, steps, any::<bool>(), any::<u32>()),
        |(count, steps, ipv6, sequence)| {
            let mut streams = [0, 1, 2].map(|n| Tcp {
                port: 4000 + n,
                ipv6,
                sequence,
                ..Tcp::default()
            });
            let mut packets = Vec::new();
            for (n, event, len) in steps {
                let tcp = &mut streams[n % count];
                match event {
                    0 => tcp.ack = tcp.ack.wrapping_add(1),
                    1 => tcp.window ^= 1,
                    2 => tcp.ttl ^= 1,
                    3 => tcp.tos ^= 1,
                    4 => tcp.flags ^= PSH,
                    5 => tcp.flags ^= FIN,
                    6 => tcp.sequence = tcp.sequence.wrapping_sub(3),
                    7 => *tcp.options.last_mut().unwrap() ^= 1,
                    8 => tcp.id = tcp.id.wrapping_add(1),
                    9 => tcp.flags ^= ECE,
                    _ => {}
                }
                packets.push(tcp.packet(&payload(len)));
                tcp.id = tcp.id.wrapping_add(1);
                tcp.sequence = tcp.sequence.wrapping_add(len as u32);
            }
            kernel.agrees(&packets, "streams");
            Ok(())
        },
    );
    result.unwrap();
}
