//! The checksum alone: sums, with a copy of the bytes in the same pass too, and a blank TCP checksum completed in a packet in one piece.
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xsk_bridge::offload::checksum::{complete, verify};
use xsk_bridge::offload::sum::Sum;

/// Ethernet, IPv4 and TCP headers in front of `len` bytes in all.
fn packet(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
    packet[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    packet[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    packet[20..24].copy_from_slice(&[0x40, 0, 64, 6]);
    packet[46] = 0x50;
    packet
}

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [64usize, 512, 1500, 65_000] {
        let bytes = packet(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("sum", len), &bytes, |b, bytes| {
            b.iter(|| {
                let mut sum = Sum::default();
                sum.add(black_box(bytes));
                sum.finish()
            });
        });
        let mut copy = vec![0; len];
        group.bench_with_input(BenchmarkId::new("copy and sum", len), &bytes, |b, bytes| {
            b.iter(|| {
                let mut sum = Sum::default();
                sum.add_copied(black_box(bytes), &mut copy);
                sum.finish()
            });
        });
        let mut blank = bytes.clone();
        group.bench_function(BenchmarkId::new("complete", len), |b| {
            b.iter(|| complete(black_box(&mut blank), std::iter::empty()).expect("a TCP packet"));
        });
        group.bench_with_input(BenchmarkId::new("verify", len), &bytes, |b, bytes| {
            b.iter(|| verify(black_box(bytes), std::iter::empty()).expect("a TCP packet"));
        });
    }
    group.finish();
}

criterion_group!(benches, sums);
criterion_main!(benches);
