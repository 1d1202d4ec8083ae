//! Front against back, one step at a time in any order: nothing lost, nothing doubled, and whoever sleeps is woken.
#![cfg(not(loom))]
mod common;
use common::{Back, Front, ends};
use proptest::prelude::*;
use ring::back::Rogue;
use ring::page::REQ_PROD;
use ring::wire::{
    Ctrl, CtrlRequest, CtrlResponse, Protocol, Rx, RxRequest, RxResponse, Tx, TxRequest, TxResponse,
};
use std::sync::atomic::Ordering::Relaxed;

/// Requests and responses that tell their index.
trait Told:
    Protocol<Request: std::fmt::Debug + PartialEq, Response: std::fmt::Debug + PartialEq>
{
    fn ask(index: u32) -> Self::Request;
    fn reply(index: u32) -> Self::Response;
}

impl Told for Tx {
    fn ask(index: u32) -> TxRequest {
        TxRequest {
            gref: index,
            offset: 1,
            flags: 2,
            id: index as u16,
            size: 3,
        }
    }
    fn reply(index: u32) -> TxResponse {
        TxResponse {
            id: index as u16,
            status: (index >> 16) as i16,
        }
    }
}

impl Told for Rx {
    fn ask(index: u32) -> RxRequest {
        RxRequest {
            id: index as u16,
            pad: 0,
            gref: index,
        }
    }
    fn reply(index: u32) -> RxResponse {
        RxResponse {
            id: index as u16,
            offset: (index >> 16) as u16,
            flags: 5,
            status: -1,
        }
    }
}

impl Told for Ctrl {
    fn ask(index: u32) -> CtrlRequest {
        CtrlRequest {
            id: index as u16,
            kind: 3,
            data: [index, 1, !index],
        }
    }
    fn reply(index: u32) -> CtrlResponse {
        CtrlResponse {
            id: index as u16,
            kind: 3,
            status: index,
            data: !index,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push(u32),
    FrontPublish,
    Pop(u32),
    FrontSleep,
    Look(u32),
    Consume(u32),
    Respond(u32),
    BackPublish,
    /// Sleep unless more than so many requests wait.
    BackSleep(u32),
}

/// Both ends and what an observer knows of them.
struct Model<D: Protocol> {
    front: Front<D>,
    back: Back<D>,
    pushed: u32,
    published: u32,
    popped: u32,
    answered: u32,
    front_sleeps: bool,
    back_sleeps: Option<u32>,
    events_to_back: u32,
    events_to_front: u32,
    pushes_to_back: u32,
    pushes_to_front: u32,
}

impl<D: Told> Model<D> {
    fn new(start: u32) -> Self {
        let (front, back) = ends(start);
        Self {
            front,
            back,
            pushed: start,
            published: start,
            popped: start,
            answered: start,
            front_sleeps: false,
            back_sleeps: None,
            events_to_back: 0,
            events_to_front: 0,
            pushes_to_back: 0,
            pushes_to_front: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(_) | Step::FrontPublish | Step::Pop(_) | Step::FrontSleep
                if self.front_sleeps => {}
            Step::Look(_)
            | Step::Consume(_)
            | Step::Respond(_)
            | Step::BackPublish
            | Step::BackSleep(_)
                if self.back_sleeps.is_some() => {}
            Step::Push(n) => self.push(n),
            Step::FrontPublish => self.front_publish(),
            Step::Pop(n) => self.pop(n),
            Step::FrontSleep => self.front_sleeps = !self.front.arm(),
            Step::Look(n) => self.look(n),
            Step::Consume(n) => self.consume(n),
            Step::Respond(n) => self.respond(n),
            Step::BackPublish => self.back_publish(),
            Step::BackSleep(extra) => {
                let extra = extra % D::ENTRIES;
                if !self.back.arm(extra).expect("honest") {
                    self.back_sleeps = Some(extra);
                }
            }
        }
        self.nobody_oversleeps();
    }

    fn push(&mut self, n: u32) {
        for _ in 0..n.min(self.front.free()) {
            assert_eq!(self.front.push(D::ask(self.pushed)), self.pushed);
            self.pushed = self.pushed.wrapping_add(1);
        }
    }

    fn front_publish(&mut self) {
        let progress = self.published != self.pushed;
        self.published = self.pushed;
        self.pushes_to_back += u32::from(progress);
        if self.front.publish() {
            assert!(progress, "an event without a new request");
            self.events_to_back += 1;
            self.back_sleeps = None;
        }
    }

    fn pop(&mut self, n: u32) {
        for _ in 0..n {
            let Some((index, response)) = self.front.pop() else {
                return;
            };
            assert_eq!((index, response), (self.popped, D::reply(self.popped)));
            self.popped = self.popped.wrapping_add(1);
        }
    }

    fn look(&mut self, n: u32) {
        let known = self.back.unconsumed().expect("honest");
        assert_eq!(
            known,
            self.published.wrapping_sub(self.back.req_cons()),
            "an honest guest's bound is req_prod"
        );
        if known > 0 {
            let n = n % known;
            assert_eq!(
                self.back.look(n),
                D::ask(self.back.req_cons().wrapping_add(n))
            );
        }
    }

    fn consume(&mut self, n: u32) {
        let first = self.back.req_cons();
        let n = n.min(self.back.unconsumed().expect("honest"));
        self.back.consume(n);
        for index in (0..n).map(|n| first.wrapping_add(n)) {
            assert_eq!(self.back.consumed_request(index), D::ask(index));
        }
    }

    fn respond(&mut self, n: u32) {
        for _ in 0..n.min(self.back.unanswered()) {
            let index = self.back.next_response();
            self.back.respond(D::reply(index));
        }
    }

    fn back_publish(&mut self) {
        let progress = self.answered != self.back.next_response();
        self.answered = self.back.next_response();
        self.pushes_to_front += u32::from(progress);
        if self.back.publish() {
            assert!(
                progress,
                "an event without a new response: a guest takes it for spurious"
            );
            self.events_to_front += 1;
            self.front_sleeps = false;
        }
    }

    fn nobody_oversleeps(&self) {
        if let Some(extra) = self.back_sleeps {
            assert!(
                self.published.wrapping_sub(self.back.req_cons()) <= extra,
                "the backend sleeps on requests"
            );
        }
        if self.front_sleeps {
            assert_eq!(
                self.answered, self.popped,
                "the frontend sleeps on responses"
            );
        }
        assert!(
            self.events_to_back <= self.pushes_to_back
                && self.events_to_front <= self.pushes_to_front
        );
    }

    /// Wake both and finish everything.
    fn drain(&mut self) {
        (self.front_sleeps, self.back_sleeps) = (false, None);
        for step in [
            Step::FrontPublish,
            Step::Consume(256),
            Step::Respond(256),
            Step::BackPublish,
            Step::Pop(256),
        ] {
            self.step(step);
        }
        assert_eq!(
            (self.popped, self.front.unanswered(), self.back.unanswered()),
            (self.pushed, 0, 0)
        );
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u32..120).prop_map(Step::Push),
        4 => Just(Step::FrontPublish),
        3 => (1u32..200).prop_map(Step::Pop),
        1 => Just(Step::FrontSleep),
        2 => (0u32..256).prop_map(Step::Look),
        4 => (1u32..120).prop_map(Step::Consume),
        4 => (1u32..120).prop_map(Step::Respond),
        3 => Just(Step::BackPublish),
        2 => prop_oneof![Just(0), 0u32..255].prop_map(Step::BackSleep),
    ];
    proptest::collection::vec(step, 1..200)
}

/// Indices near the wrap as often as anywhere else.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), u32::MAX - 600..=u32::MAX]
}

fn run<D: Told>(start: u32, steps: &[Step]) {
    let mut model = Model::<D>::new(start);
    for &step in steps {
        model.step(step);
    }
    model.drain();
}

proptest! {
    #[test]
    fn front_against_back(start in start(), steps in steps()) {
        run::<Tx>(start, &steps);
        run::<Rx>(start, &steps);
        run::<Ctrl>(start, &steps);
    }
}

/// CVE-2010-4247, XSA-39: req_prod beyond the ring is refused, at once and for good.
#[test]
fn req_prod_out_of_bounds() {
    for start in [0, u32::MAX - 3] {
        for ahead in [257, 1 << 31, u32::MAX] {
            let (front, mut back) = ends::<Tx>(start);
            let req_prod = start.wrapping_add(ahead);
            front.page()[REQ_PROD].store(req_prod, Relaxed);
            let rogue = Err(Rogue::RequestsAhead {
                req_prod,
                req_cons: start,
            });
            assert_eq!(back.unconsumed(), rogue);
            assert_eq!(back.arm(0).map(u32::from), rogue);
            assert_eq!(back.known(), 0);
        }
    }
}

/// A frontend that reuses slots before their answers are published gets no more than the ring holds.
#[test]
fn consumption_is_bounded_by_what_is_unanswered() {
    let (front, mut back) = ends::<Rx>(5);
    front.page()[REQ_PROD].store(5 + 256, Relaxed);
    assert_eq!(back.unconsumed(), Ok(256));
    back.consume(200);
    front.page()[REQ_PROD].store(5 + 456, Relaxed);
    assert_eq!(back.unconsumed(), Ok(56));
    back.consume(56);
    assert_eq!(back.unconsumed(), Ok(0));
    for _ in 0..10 {
        back.respond(Rx::reply(0));
    }
    assert_eq!(back.unconsumed(), Ok(0), "answered but not published");
    let _ = back.publish();
    assert_eq!(back.unconsumed(), Ok(10));
}

#[test]
fn connect_starts_at_rsp_prod_with_requests_waiting() {
    let page = common::page();
    let mut front = Front::<Tx>::init_at(page.clone(), 77);
    for index in 77..80 {
        front.push(Tx::ask(index));
    }
    let _ = front.publish();
    let mut back = Back::<Tx>::connect(page, Default::default()).unwrap();
    assert_eq!(back.known(), 3);
    assert_eq!(back.look(2), Tx::ask(79));
    let indices = back.indices();
    assert_eq!(
        (
            indices.req_cons,
            indices.rsp_prod,
            indices.req_prod,
            indices.req_event
        ),
        (77, 77, 80, 78)
    );
}

/// The worker that needs five slots is woken by the fifth, not by each.
#[test]
fn arm_for_several() {
    let (mut front, mut back) = ends::<Rx>(u32::MAX - 1);
    assert_eq!(back.arm(4), Ok(false));
    let mut events = vec![];
    for n in 0..6 {
        front.push(Rx::ask(n));
        events.push(front.publish());
    }
    assert_eq!(events, [false, false, false, false, true, false]);
    assert_eq!(back.arm(5), Ok(true));
    assert_eq!(back.arm(6), Ok(false));
}

#[test]
#[should_panic(expected = "before consuming it")]
fn answering_what_was_not_consumed_is_our_bug() {
    let (_front, mut back) = ends::<Tx>(0);
    back.respond(Tx::reply(0));
}

/// A backend that publishes more than was asked for is a broken one.
#[test]
fn front_reads_no_response_too_many() {
    let (mut front, _back) = ends::<Tx>(0);
    front.push(Tx::ask(0));
    let _ = front.publish();
    front.page()[ring::page::RSP_PROD].store(2, Relaxed);
    assert_eq!(front.responses(), 2);
    assert_eq!(front.pop(), None);
}
