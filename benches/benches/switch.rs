//! The switch alone: what one decision costs, by where the frame goes.
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xsk_bridge::switch::{Bridge, Flood, PortId, PortKind, Verdict};

const WIRE: PortId = PortId(1);
const GUEST: PortId = PortId(2);
/// Guests on the bridge, and addresses heard on the wire.
const GUESTS: u16 = 16;
const HEARD: u32 = 1000;

fn header(destination: [u8; 6], source: [u8; 6]) -> [u8; 14] {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12] = 8;
    header
}

fn guest(port: u16) -> [u8; 6] {
    [0x00, 0x16, 0x3e, 0, 0, port as u8]
}

fn host(n: u32) -> [u8; 6] {
    let [_, b, c, d] = n.to_be_bytes();
    [0x52, 0x54, 0, b, c, d]
}

fn decisions(c: &mut Criterion) {
    let bridge = Bridge::new("xenbr0");
    bridge.add_port(WIRE, PortKind::Uplink);
    for port in GUEST.0..GUEST.0 + GUESTS {
        bridge.add_port(PortId(port), PortKind::Guest(guest(port)));
    }
    for n in 0..HEARD {
        bridge.decide(WIRE, &header([0xff; 6], host(n)), 1);
    }
    let mut group = c.benchmark_group("switch");
    group.throughput(Throughput::Elements(1));
    let cases = [
        (
            "guest to guest",
            GUEST,
            header(guest(3), guest(2)),
            Verdict::Unicast(PortId(3)),
        ),
        (
            "guest to wire",
            GUEST,
            header(host(7), guest(2)),
            Verdict::Unicast(WIRE),
        ),
        (
            "wire to guest",
            WIRE,
            header(guest(2), host(7)),
            Verdict::Unicast(GUEST),
        ),
        (
            "broadcast",
            GUEST,
            header([0xff; 6], guest(2)),
            Verdict::Flood(Flood::Group),
        ),
        (
            "unknown unicast",
            GUEST,
            header(host(HEARD + 1), guest(2)),
            Verdict::Flood(Flood::Unknown),
        ),
    ];
    for (name, ingress, header, verdict) in cases {
        assert_eq!(bridge.decide(ingress, &header, 1), verdict, "{name}");
        group.bench_function(name, |b| {
            b.iter(|| bridge.decide(ingress, black_box(&header), 1));
        });
    }
    let mut n = 0;
    group.bench_function("guest to 1000 hosts in turn", |b| {
        b.iter(|| {
            n = (n + 1) % HEARD;
            bridge.decide(GUEST, black_box(&header(host(n), guest(2))), 1)
        });
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
