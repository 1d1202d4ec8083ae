//! A worker dies at any point between two writes that somebody else can see, and a successor goes on from there.
use super::rig::{Guest, OUTSIDE, Rig, frame, mac};
use crate::bounds::TURN_CHAINS;
use crate::crash::{POINTS, in_tests};
use ring::wire::NETIF_RSP_OKAY;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

const ROUNDS: u32 = 6;

/// Traffic in every direction, and what became of it.
struct Story {
    rig: Rig,
    sender: Guest,
    receiver: Guest,
    round: u32,
    sent_out: Vec<Vec<u8>>,
    sent_across: Vec<Vec<u8>>,
    got_out: Vec<Vec<u8>>,
    got_across: Vec<Vec<u8>>,
}

impl Story {
    fn new() -> Self {
        let mut rig = Rig::new();
        let (sender, mut receiver) = (rig.guest(1), rig.guest(2));
        receiver.post(250);
        let (sent_out, sent_across, got_out, got_across) = Default::default();
        Self {
            rig,
            sender,
            receiver,
            round: 0,
            sent_out,
            sent_across,
            got_out,
            got_across,
        }
    }

    fn push_round(&mut self) {
        for n in 0..4 {
            let seed = self.round * 8 + n;
            // One of them has more behind its head than is fetched at once.
            let size = if n == 2 { 3000 } else { 60 + seed as usize };
            let out = frame(OUTSIDE, mac(1), size, seed);
            self.sender.push(&out, &[20, out.len() - 20], 0);
            let len = [100, 2500, 5000, 700][n as usize];
            let across = frame(mac(2), mac(1), len, 10_000 + seed);
            let sizes: &[usize] = if len > 4096 { &[1000, 4000] } else { &[len] };
            self.sender.push(&across, sizes, 0);
            self.sent_out.push(out);
            self.sent_across.push(across);
            self.rig.arrive_from_wire(&frame(mac(1), OUTSIDE, 90, seed));
        }
        let _ = self.sender.tx.publish();
        self.sender.tx.arm();
        self.receiver.rx.arm();
        self.rig.events[0].fire(self.sender.event());
    }

    /// The worker's part of a round: it may die.
    fn serve_round(&mut self) {
        self.rig.turns(1);
        self.rig.workers[0].rest(0);
        self.rig.turns(1);
    }

    fn read(&mut self) {
        self.got_out.extend(self.rig.sent_to_wire());
        self.got_across.extend(
            self.receiver
                .receive()
                .into_iter()
                .map(|packet| packet.bytes),
        );
        self.sender.read_answers();
    }

    /// Another process takes over.
    fn succeed(mut self) -> Self {
        // What had left for the wire is on the wire.
        self.got_out.extend(self.rig.sent_to_wire());
        let mut rig = self.rig.successor();
        rig.admit(&mut self.sender, true);
        rig.admit(&mut self.receiver, true);
        Self { rig, ..self }
    }

    fn run_round(mut self, crashes: &[(&'static str, u64)]) -> (Self, usize) {
        self.push_round();
        let mut died = 0;
        let mut crashes = crashes.iter();
        loop {
            in_tests::at(crashes.next().copied());
            let died_now = catch_unwind(AssertUnwindSafe(|| self.serve_round())).is_err();
            in_tests::at(None);
            if !died_now {
                break;
            }
            died += 1;
            self = self.succeed();
        }
        self.read();
        self.round += 1;
        (self, died)
    }

    /// Every guest got every answer in order (as it reads them it checks), and every packet at least once, in order.
    fn check(mut self, what: &str, deaths: usize) {
        self.rig.settle();
        self.read();
        assert_eq!(self.sender.unanswered(), 0, "{what}");
        assert!(
            self.sender
                .statuses
                .iter()
                .all(|&status| status == NETIF_RSP_OKAY),
            "{what}"
        );
        for (sent, got) in [
            (&self.sent_out, &self.got_out),
            (&self.sent_across, &self.got_across),
        ] {
            assert!(
                got.len() - sent.len() <= deaths * TURN_CHAINS,
                "{what}: more than a turn was sent twice"
            );
            let mut seen = HashSet::new();
            let first: Vec<_> = got
                .iter()
                .filter(|bytes| seen.insert(bytes.to_vec()))
                .collect();
            assert_eq!(
                first,
                sent.iter().collect::<Vec<_>>(),
                "{what}: something was lost, or changed"
            );
        }
        assert_eq!(self.rig.frames_found(), self.rig.frames, "{what}");
    }
}

#[test]
fn a_death_at_every_point_harms_no_guest() {
    for &point in POINTS {
        let mut nth = 1;
        loop {
            let mut story = Story::new();
            let mut deaths = 0;
            for round in 0..ROUNDS {
                let crashes = if round == 2 { &[(point, nth)][..] } else { &[] };
                let died;
                (story, died) = story.run_round(crashes);
                deaths += died;
            }
            story.check(&format!("{point}, pass {nth}"), deaths);
            if deaths == 0 {
                break;
            }
            nth += 1;
        }
        assert!(nth > 1, "{point} is never passed");
    }
}

#[test]
fn a_successor_that_dies_too_harms_no_guest() {
    for &first in POINTS {
        for &second in POINTS {
            let mut story = Story::new();
            let mut deaths = 0;
            for round in 0..ROUNDS {
                let crashes = if round == 2 {
                    &[(first, 2), (second, 1)][..]
                } else {
                    &[]
                };
                let died;
                (story, died) = story.run_round(crashes);
                deaths += died;
            }
            story.check(&format!("{first}, then {second}"), deaths);
        }
    }
}

#[test]
fn a_successor_finds_work_and_tells_guests_without_an_event() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    rig.settle();
    guest.send(&frame(OUTSIDE, guest.mac(), 60, 1));
    let mut rig = rig.successor();
    rig.admit(&mut guest, true);
    rig.turns(1);
    assert_eq!(rig.sent_to_wire().len(), 1);
    assert_eq!(rig.notified(&guest), 1);
    assert_eq!(guest.take_statuses(), [NETIF_RSP_OKAY]);
}
