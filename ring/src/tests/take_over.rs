//! A backend killed between any two of its stores: its successor consumes each unanswered request exactly once more, as
//! the guest wrote it, and the guest gets each answer once, in order, with the right id.
use super::page;
use crate::back::{BackRing, Rogue};
use crate::front::FrontRing;
use crate::page::{PageWords, REQ_PROD, RSP_PROD};
use crate::shadow::{RegionShadow, Shadow, shadow_words};
use crate::sync::AtomicU32;
use crate::sync::Ordering::Relaxed;
use crate::sync::counted::{Killed, die_before_store};
use crate::wire::{Protocol, Rx, RxRequest, RxResponse, Tx, TxRequest, TxResponse};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Requests that tell their index, answers that destroy every word of them.
trait Told: Protocol {
    fn ask(index: u32) -> Self::Request;
    fn told(request: Self::Request) -> u32;
    fn reply(index: u32) -> Self::Response;
    fn id(response: Self::Response) -> u16;
}

impl Told for Tx {
    fn ask(index: u32) -> TxRequest {
        TxRequest {
            gref: index,
            offset: index as u16,
            flags: 0,
            id: index as u16,
            size: !index as u16,
        }
    }
    fn told(request: TxRequest) -> u32 {
        assert_eq!(
            request,
            Self::ask(request.gref),
            "a request as the guest wrote it"
        );
        request.gref
    }
    fn reply(index: u32) -> TxResponse {
        TxResponse {
            id: index as u16,
            status: -7,
        }
    }
    fn id(response: TxResponse) -> u16 {
        assert_eq!(response.status, -7);
        response.id
    }
}

impl Told for Rx {
    fn ask(index: u32) -> RxRequest {
        RxRequest {
            id: index as u16,
            pad: 0x1111,
            gref: index,
        }
    }
    fn told(request: RxRequest) -> u32 {
        assert_eq!(
            request,
            Self::ask(request.gref),
            "a request as the guest wrote it"
        );
        request.gref
    }
    fn reply(index: u32) -> RxResponse {
        RxResponse {
            id: index as u16,
            offset: 0x2222,
            flags: 0x3333,
            status: 0x4444,
        }
    }
    fn id(response: RxResponse) -> u16 {
        assert_eq!(
            (response.offset, response.flags, response.status),
            (0x2222, 0x3333, 0x4444)
        );
        response.id
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push(u32),
    Pop,
    Look(u32),
    Consume(u32),
    Respond(u32),
    Publish,
}

type Region = Arc<[AtomicU32]>;
type Ring<D> = BackRing<D, Arc<PageWords>, RegionShadow<D, Region>>;

/// The memory that outlives the backend, and the guest.
struct World<D> {
    page: Arc<PageWords>,
    region: Region,
    front: FrontRing<D, Arc<PageWords>>,
    popped: u32,
}

impl<D: Told> World<D> {
    fn new(start: u32) -> (Self, Ring<D>) {
        let page = page();
        let region: Region = (0..shadow_words::<D>())
            .map(|_| AtomicU32::new(0))
            .collect();
        let front = FrontRing::init_at(page.clone(), start);
        let world = Self {
            page,
            region,
            front,
            popped: start,
        };
        let ring = BackRing::connect(world.page.clone(), world.shadow()).expect("sound");
        (world, ring)
    }

    fn shadow(&self) -> RegionShadow<D, Region> {
        RegionShadow::new(self.region.clone()).expect("long enough")
    }

    fn successor(&self) -> Ring<D> {
        let ring =
            BackRing::take_over(self.page.clone(), self.shadow()).expect("the guest is honest");
        assert_eq!(
            ring.req_cons(),
            self.page[RSP_PROD].load(Relaxed),
            "starts at the first unanswered request"
        );
        ring
    }

    fn push(&mut self, n: u32) {
        for _ in 0..n.min(self.front.free()) {
            let index = self.popped.wrapping_add(self.front.unanswered());
            assert_eq!(self.front.push(D::ask(index)), index);
        }
        let _ = self.front.publish();
    }

    fn pop(&mut self) {
        while let Some((index, response)) = self.front.pop() {
            assert_eq!(index, self.popped, "answers in order");
            assert_eq!(
                D::id(response),
                index as u16,
                "a wrong id would disable the guest's vif"
            );
            self.popped = self.popped.wrapping_add(1);
        }
    }

    /// One step of the backend or the guest; only the backend's stores count towards its death.
    fn step(&mut self, ring: &mut Ring<D>, step: Step) {
        match step {
            Step::Push(n) => alive(|| self.push(n)),
            Step::Pop => alive(|| self.pop()),
            Step::Look(n) => {
                let known = ring.unconsumed().expect("honest");
                for n in 0..n.min(known) {
                    assert_eq!(D::told(ring.look(n)), ring.req_cons().wrapping_add(n));
                }
            }
            Step::Consume(n) => {
                let n = n.min(ring.unconsumed().expect("honest"));
                let first = ring.req_cons();
                ring.consume(n);
                for n in 0..n {
                    let index = first.wrapping_add(n);
                    assert_eq!(D::told(ring.consumed_request(index)), index);
                }
            }
            Step::Respond(n) => {
                for _ in 0..n.min(ring.unanswered()) {
                    let index = ring.next_response();
                    assert_eq!(D::told(ring.consumed_request(index)), index);
                    ring.respond(D::reply(index));
                }
            }
            Step::Publish => _ = ring.publish(),
        }
    }
}

/// Run the guest's part with the count of the backend's stores on hold.
fn alive(guest: impl FnOnce()) {
    let left = die_before_store(None);
    guest();
    die_before_store(left);
}

/// Run `steps` with a backend that dies after each of `lives` stores, then drain the ring.
fn run<D: Told>(start: u32, steps: &[Step], lives: &[u64]) -> usize {
    let (mut world, mut ring) = World::<D>::new(start);
    let (mut lives, mut deaths, mut at) = (lives.iter(), 0, 0);
    loop {
        let died = catch_unwind(AssertUnwindSafe(|| {
            die_before_store(lives.next().copied());
            while at < steps.len() {
                world.step(&mut ring, steps[at]);
                at += 1;
            }
        }));
        die_before_store(None);
        match died {
            Ok(()) => break,
            Err(why) if why.is::<Killed>() => deaths += 1,
            Err(why) => std::panic::resume_unwind(why),
        }
        ring = world.successor();
    }
    for step in [
        Step::Consume(256),
        Step::Respond(256),
        Step::Publish,
        Step::Pop,
    ] {
        world.step(&mut ring, step);
    }
    assert_eq!(world.front.unanswered(), 0, "every request is answered");
    deaths
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u32..200).prop_map(Step::Push),
        2 => Just(Step::Pop),
        1 => (1u32..40).prop_map(Step::Look),
        4 => (1u32..60).prop_map(Step::Consume),
        4 => (1u32..60).prop_map(Step::Respond),
        3 => Just(Step::Publish),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn killed_anywhere(start in prop_oneof![any::<u32>(), u32::MAX - 300..=u32::MAX], steps in steps(),
                       lives in proptest::collection::vec(0u64..400, 1..8)) {
        run::<Tx>(start, &steps, &lives);
        run::<Rx>(start, &steps, &lives);
    }
}

/// Every store of one busy script, and every pair of near deaths.
#[test]
fn killed_before_every_store() {
    let script = [
        Step::Push(6),
        Step::Look(3),
        Step::Consume(4),
        Step::Respond(2),
        Step::Publish,
        Step::Pop,
        Step::Push(3),
        Step::Respond(2),
        Step::Consume(3),
        Step::Respond(1),
        Step::Publish,
        Step::Pop,
    ];
    let mut deaths = [0; 2];
    for first in 0..60 {
        for second in 0..24 {
            deaths[0] += run::<Tx>(u32::MAX - 2, &script, &[first, second]);
            deaths[1] += run::<Rx>(u32::MAX - 2, &script, &[first, second]);
        }
    }
    assert!(
        deaths.iter().all(|&n| n > 900),
        "{deaths:?}: the script has too few stores"
    );
}

#[test]
fn indices_that_contradict_each_other_are_refused() {
    let (mut world, ring) = World::<Tx>::new(10);
    drop(ring);
    world.push(5);
    let take_over =
        |world: &World<Tx>| BackRing::take_over(world.page.clone(), world.shadow()).map(|_| ());
    let consumed =
        |world: &World<Tx>, value| Shadow::<Tx>::consumed(&world.shadow()).store(value, Relaxed);
    for (value, sound) in [
        (10, true),
        (15, true),
        (16, false),
        (9, false),
        (0x8000_000a, false),
    ] {
        consumed(&world, value);
        let refused = Err(Rogue::TakeOver {
            consumed: value,
            rsp_prod: 10,
            req_prod: 15,
        });
        assert_eq!(take_over(&world), if sound { Ok(()) } else { refused });
    }
    world.page[REQ_PROD].store(10 + 257, Relaxed);
    assert_eq!(
        take_over(&world),
        Err(Rogue::Attach {
            req_prod: 267,
            rsp_prod: 10
        })
    );
    assert_eq!(
        BackRing::connect(world.page.clone(), world.shadow())
            .map(|_: Ring<Tx>| ())
            .unwrap_err(),
        Rogue::Attach {
            req_prod: 267,
            rsp_prod: 10
        }
    );
}
