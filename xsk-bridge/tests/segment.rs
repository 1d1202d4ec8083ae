//! Linux is the oracle: a packet that asks for segmentation goes out of an interface that cannot segment, and what the kernel makes of it is
//! compared with what we make of it, byte for byte.
mod support;
#[path = "support/tcp.rs"]
mod tcp;
#[path = "support/vnet.rs"]
mod vnet;

use std::time::Instant;
use support::{Namespace, PATIENCE, run};
use tcp::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Tcp, URG, payload};
use vnet::VnetSocket;
use xsk_bridge::device::vnet::VnetHeader;
use xsk_bridge::offload::segment::{Cutter, GsoHead, Slices};
use xsk_bridge::packet::{Checksum, Gso};

/// What a sender says of a packet to be cut, even of one that we would not cut.
fn asks_for_segments(tcp: &Tcp, size: u16) -> VnetHeader {
    VnetHeader {
        flags: 1,
        gso_type: if tcp.ipv6 { 4 } else { 1 },
        header_len: tcp.header() as u16,
        gso_size: size,
        checksum_start: tcp.l4() as u16,
        checksum_offset: 16,
    }
}

/// Two ends of a cable: what is sent with a vnet header at the near one, the kernel segments.
struct Kernel {
    _namespace: Namespace,
    near: VnetSocket,
    far: VnetSocket,
}

impl Kernel {
    fn new() -> Self {
        let namespace = Namespace::enter();
        namespace.veth("near", "far", 1);
        for end in ["near", "far"] {
            run(&format!("ip link set {end} mtu 65535"));
            namespace.ethtool(&format!(
                "-K {end} tso off gso off tx off gro off txvlan off"
            ));
        }
        let [near, far] = ["near", "far"].map(VnetSocket::bind);
        Self {
            _namespace: namespace,
            near,
            far,
        }
    }

    fn segments(&self, tcp: &Tcp, packet: &[u8], size: u16, count: usize) -> Vec<Vec<u8>> {
        let header = asks_for_segments(tcp, size);
        self.near.send(header, packet).unwrap();
        let segments = self.receive(count);
        assert!(
            segments
                .iter()
                .all(|(header, _)| *header == VnetHeader::default())
        );
        segments.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// The next `count` packets; fewer where no more come.
    fn receive(&self, count: usize) -> Vec<(VnetHeader, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let mut packets = Vec::new();
        while packets.len() < count && Instant::now() < deadline {
            match self.far.recv() {
                Some(packet) => packets.push(packet),
                None => std::thread::yield_now(),
            }
        }
        packets
    }

    fn check(&self, tcp: &Tcp, len: usize, size: u16) {
        let packet = tcp.blank(&payload(len));
        let ours = cut(&packet, tcp, size);
        let theirs = self.segments(tcp, &packet, size, ours.len());
        assert_same(
            &ours,
            &theirs,
            &format!("{tcp:?}, {len} bytes in segments of {size}"),
        );
        assert_eq!(
            self.far.recv(),
            None,
            "the kernel made more segments: {tcp:?}"
        );
    }
}

fn cut(packet: &[u8], tcp: &Tcp, segment: u16) -> Vec<Vec<u8>> {
    let gso = Gso {
        segment,
        ipv6: tcp.ipv6,
    };
    let (head, rest) = packet.split_at(packet.len().min(256));
    let shape = GsoHead::parse(head, packet.len(), gso, Checksum::Blank).unwrap();
    let mut cutter = Cutter::new(shape, head);
    let mut payload = Slices::new(rest.chunks(67));
    let mut frame = vec![0; shape.longest()];
    let mut segments = Vec::new();
    while let Some(len) = cutter.next(&mut payload, [frame.as_mut_slice()]) {
        segments.push(frame[..len].to_vec());
    }
    segments
}

/// Panics with the first difference.
fn assert_same(ours: &[Vec<u8>], theirs: &[Vec<u8>], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "number of segments: {what}");
    for (n, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        assert!(
            ours == theirs,
            "segment {n} differs from byte {same} on, {:x?} for {:x?}: {what}",
            ours.get(same),
            theirs.get(same),
        );
    }
}

fn both() -> [Tcp; 2] {
    [false, true].map(|ipv6| Tcp {
        ipv6,
        ..Tcp::default()
    })
}

#[test]
fn every_set_of_flags() {
    let kernel = Kernel::new();
    for tcp in both() {
        for flags in 0..=255 {
            kernel.check(
                &Tcp {
                    flags,
                    urgent: 3,
                    ..tcp.clone()
                },
                700,
                300,
            );
        }
    }
    // By name, for the reader: each alone beside ACK.
    for flag in [FIN, SYN, RST, PSH, URG, ECE, CWR] {
        kernel.check(
            &Tcp {
                flags: ACK | flag,
                ..Tcp::default()
            },
            700,
            300,
        );
    }
}

#[test]
fn tags_options_and_extension_headers() {
    let kernel = Kernel::new();
    let tags = [
        vec![],
        vec![(0x8100, 0x2005)],
        vec![(0x88a8, 7), (0x8100, 0xe00f)],
    ];
    let extensions = [
        vec![],
        vec![(0, 8)],
        vec![(60, 16)],
        vec![(43, 8)],
        vec![(0, 8), (43, 16), (60, 24)],
    ];
    for tags in &tags {
        for words in 0..=10 {
            let base = Tcp {
                tags: tags.clone(),
                options: vec![1; 4 * words],
                ..Tcp::default()
            };
            kernel.check(&base, 4000, 1448);
            kernel.check(
                &Tcp {
                    ip_options: words,
                    ..base.clone()
                },
                4000,
                1448,
            );
            for extensions in &extensions {
                kernel.check(
                    &Tcp {
                        ipv6: true,
                        extensions: extensions.clone(),
                        ..base.clone()
                    },
                    4000,
                    1448,
                );
            }
        }
    }
}

#[test]
fn odd_lengths_and_sizes() {
    let kernel = Kernel::new();
    for tcp in both() {
        for len in 301..372 {
            kernel.check(&tcp, len, 300);
        }
        for size in 1..80 {
            kernel.check(&tcp, usize::from(size) + 40, size);
        }
        for (len, size) in [
            (65_160, 1448),
            (65_100, 8948),
            (65_001, 1447),
            (64_000, 536),
            (65_000, 32_767),
        ] {
            kernel.check(&tcp, len, size);
        }
    }
}

#[test]
fn numbers_wrap() {
    let kernel = Kernel::new();
    for tcp in both() {
        for id in [0, u16::MAX - 2, u16::MAX] {
            for sequence in [0, u32::MAX - 4000, u32::MAX - 1447, u32::MAX] {
                for fragment in [0, 0x4000] {
                    kernel.check(
                        &Tcp {
                            id,
                            sequence,
                            fragment,
                            ..tcp.clone()
                        },
                        6000,
                        1448,
                    );
                }
            }
        }
    }
}

/// The payload's first word takes every value: sums that fold to nothing and to all ones are among them.
#[test]
fn checksums_at_the_edges() {
    let kernel = Kernel::new();
    let tcp = Tcp::default();
    let mut bytes = payload(300);
    // The word that makes the first segment's sum zero, and its neighbours.
    bytes[..2].fill(0);
    let first = &tcp.segments(&bytes, 200)[0];
    let edge = u16::from_be_bytes([first[50], first[51]]);
    for knob in (0..=8)
        .map(|n| edge.wrapping_add(n).wrapping_sub(4))
        .chain([0, u16::MAX])
    {
        bytes[..2].copy_from_slice(&knob.to_be_bytes());
        let packet = tcp.blank(&bytes);
        let ours = cut(&packet, &tcp, 200);
        let theirs = kernel.segments(&tcp, &packet, 200, 2);
        assert_same(&ours, &theirs, &format!("{knob:#x}"));
    }
}

/// Where Linux refuses, nothing comes out of it; we refuse too.
#[test]
fn what_linux_does_not_segment_is_refused() {
    let kernel = Kernel::new();
    let fragment = Tcp {
        ipv6: true,
        extensions: vec![(44, 8)],
        ..Tcp::default()
    };
    let signed = Tcp {
        ipv6: true,
        extensions: vec![(51, 16)],
        ..Tcp::default()
    };
    for tcp in [fragment, signed] {
        let mut packet = tcp.blank(&payload(3000));
        // An atomic fragment, and an authentication header of four words.
        packet[55..58].fill(0);
        packet[55] = if tcp.extensions[0].0 == 51 { 2 } else { 0 };
        let header = asks_for_segments(&tcp, 1448);
        let _ = kernel.near.send(header, &packet);
        let gso = Gso {
            segment: 1448,
            ipv6: true,
        };
        assert!(GsoHead::parse(&packet, packet.len(), gso, Checksum::Blank).is_err());
    }
    // A packet that is segmented comes behind them, and it comes first.
    kernel.check(&Tcp::default(), 3000, 1448);
}
