//! The notification protocol under every interleaving: nobody sleeps on work.
//! `RUSTFLAGS="--cfg loom" cargo test -p netif-ring --release --test loom`
#![cfg(loom)]
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use ring::back::BackRing;
use ring::front::FrontRing;
use ring::page::PageWords;
use ring::shadow::{RegionShadow, shadow_words};
use ring::wire::{Rx, RxRequest, RxResponse};

type Page = std::sync::Arc<PageWords>;
type Region = std::sync::Arc<[AtomicU32]>;

fn page() -> Page {
    std::sync::Arc::new(std::array::from_fn(|_| AtomicU32::new(0)))
}

fn region() -> Region {
    (0..shadow_words::<Rx>())
        .map(|_| AtomicU32::new(0))
        .collect()
}

/// Every interleaving; zeroing a page alone takes 1024 of the branches.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.check(body);
}

fn request(n: u16) -> RxRequest {
    RxRequest {
        id: n,
        pad: 0,
        gref: u32::from(n) + 1000,
    }
}

/// An event channel: an event stays pending until whom it wakes takes it.
#[derive(Clone)]
struct Channel(Arc<AtomicBool>);

impl Channel {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }
    fn notify(&self) {
        self.0.store(true, Ordering::Release);
    }
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// The guest pushes `pushes` requests one by one; the backend consumes what it sees and sleeps. Once both have stopped, a
/// backend that sleeps on requests must have an event pending.
fn requests(pushes: u16, extra: u32) {
    model(move || {
        let (page, channel) = (page(), Channel::new());
        let mut front = FrontRing::<Rx, _>::init(page.clone());
        let mut back =
            BackRing::<Rx, _, _>::connect(page, RegionShadow::new(region()).unwrap()).unwrap();
        let guest = thread::spawn({
            let channel = channel.clone();
            move || {
                for n in 0..pushes {
                    front.push(request(n));
                    if front.publish() {
                        channel.notify();
                    }
                }
            }
        });
        let mut taken = 0;
        while back.arm(extra).unwrap() {
            // Awake: an event that came so far is spent.
            channel.take();
            taken = consume(&mut back, taken);
        }
        guest.join().unwrap();
        if u32::from(pushes - taken) > extra {
            assert!(channel.take(), "sleeps on {} requests", pushes - taken);
        }
        consume(&mut back, taken);
    });
}

fn consume(back: &mut BackRing<Rx, Page, RegionShadow<Rx, Region>>, mut taken: u16) -> u16 {
    let waiting = back.unconsumed().unwrap();
    for _ in 0..waiting {
        assert_eq!(
            back.look(0),
            request(taken),
            "what the guest wrote before it published"
        );
        back.consume(1);
        taken += 1;
    }
    taken
}

#[test]
fn requests_one_by_one() {
    requests(2, 0);
}

#[test]
fn requests_for_a_packet_of_two_slots() {
    requests(3, 1);
}

/// The backend answers one by one; the guest reads what it sees and sleeps.
#[test]
fn responses() {
    model(|| {
        let (page, channel) = (page(), Channel::new());
        let mut front = FrontRing::<Rx, _>::init(page.clone());
        for n in 0..2 {
            front.push(request(n));
        }
        let _ = front.publish();
        let mut back =
            BackRing::<Rx, _, _>::connect(page, RegionShadow::new(region()).unwrap()).unwrap();
        let backend = thread::spawn({
            let channel = channel.clone();
            move || {
                for n in 0..2 {
                    back.consume(1);
                    back.respond(RxResponse {
                        id: n,
                        offset: 7,
                        flags: 0,
                        status: 60,
                    });
                    if back.publish() {
                        channel.notify();
                    }
                }
            }
        });
        let mut read = 0;
        while front.arm() {
            channel.take();
            while let Some((index, response)) = front.pop() {
                assert_eq!(
                    (index, response.id, response.offset),
                    (read, read as u16, 7)
                );
                read += 1;
            }
        }
        backend.join().unwrap();
        if read < 2 {
            assert!(channel.take(), "sleeps on {} responses", 2 - read);
        }
    });
}
