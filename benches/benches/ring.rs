//! The ring alone: a slot's way from request to response, and slots becoming packets. Throughput is slots, so that
//! criterion prints what one slot costs.
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ring::back::BackRing;
use ring::front::FrontRing;
use ring::packet::{Chain, TxPacket, answer, next_chain};
use ring::page::PageWords;
use ring::shadow::HeapShadow;
use ring::wire::{NETTXF_MORE_DATA, Rx, RxRequest, RxResponse, Tx, TxRequest};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Slots a turn: what a busy worker takes at once.
const BATCH: u32 = 64;

fn page() -> Arc<PageWords> {
    Arc::new(std::array::from_fn(|_| AtomicU32::new(0)))
}

/// Both ends on one core: push, publish, consume, respond, publish, pop.
fn round(c: &mut Criterion) {
    let page = page();
    let mut front = FrontRing::<Rx, _>::init(page.clone());
    let mut back =
        BackRing::<Rx, _, _>::connect(page, HeapShadow::default()).expect("a sound ring");
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function("round of 64 slots, both ends", |b| {
        b.iter(|| {
            for n in 0..BATCH {
                front.push(RxRequest {
                    id: n as u16,
                    pad: 0,
                    gref: n,
                });
            }
            black_box(front.publish());
            let waiting = back.unconsumed().expect("honest");
            for n in 0..waiting {
                black_box(back.look(n).gref);
            }
            back.consume(waiting);
            for _ in 0..waiting {
                let id = back.consumed_request(back.next_response()).id;
                back.respond(RxResponse {
                    id,
                    offset: 0,
                    flags: 0,
                    status: 60,
                });
            }
            black_box(back.publish());
            while let Some(answer) = front.pop() {
                black_box(answer);
            }
        });
    });
    group.finish();
}

/// What the backend pays for a batch of packets of `slots` slots: parse, consume, answer, publish. The guest's part is not
/// in the figure.
fn chains(c: &mut Criterion) {
    let mut group = c.benchmark_group("slots to packets");
    for (slots, each) in [(1u32, 64u16), (3, 500), (18, 3600)] {
        let packets = BATCH / slots;
        group.throughput(Throughput::Elements(u64::from(packets * slots)));
        let page = page();
        let mut front = FrontRing::<Tx, _>::init(page.clone());
        let mut back =
            BackRing::<Tx, _, _>::connect(page, HeapShadow::default()).expect("a sound ring");
        group.bench_function(format!("{packets} packets of {slots} slots"), |b| {
            // The setup of one turn fills the ring, the measured part empties it: one turn at a time.
            let front = std::cell::RefCell::new(&mut front);
            b.iter_batched(
                || fill(&mut front.borrow_mut(), packets, slots, each),
                |()| serve(&mut back),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn fill(front: &mut FrontRing<Tx, Arc<PageWords>>, packets: u32, slots: u32, each: u16) {
    while front.pop().is_some() {}
    for _ in 0..packets {
        for slot in 0..slots {
            let size = if slot == 0 { slots as u16 * each } else { each };
            let flags = if slot + 1 < slots {
                NETTXF_MORE_DATA
            } else {
                0
            };
            front.push(TxRequest {
                gref: slot,
                offset: 0,
                flags,
                id: slot as u16,
                size,
            });
        }
    }
    let _ = front.publish();
}

fn serve(back: &mut BackRing<Tx, Arc<PageWords>, HeapShadow<Tx>>) {
    let mut room = TxPacket::default();
    while let Some(chain) = next_chain(back, &mut room).expect("honest") {
        let Chain::Packet(packet) = &chain else {
            unreachable!("well-formed")
        };
        black_box(packet.fragments());
        answer(back, chain.slots(), |_| 0);
        if back.known() == 0 {
            break;
        }
    }
    black_box(back.publish());
}

criterion_group!(benches, round, chains);
criterion_main!(benches);
