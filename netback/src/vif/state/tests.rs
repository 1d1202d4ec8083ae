//! Every state against every observation, known conversations, and random walks beside a model of toolstack, netfront and workers.
use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn states() -> Vec<State> {
    let both = [false, true];
    let mut states = vec![State::Fresh, State::TakingOver, State::Connected];
    states.extend(both.map(|lingered| State::Closed { lingered }));
    states.extend(both.map(|settled| State::InitWait { settled }));
    states.extend(Xenbus::ALL.map(State::Refused));
    states.extend(both.map(|leaving| State::Disabled { leaving }));
    states.extend(both.map(|leaving| State::Closing { leaving }));
    states.extend(both.map(|leaving| State::Gone { leaving }));
    states
}

fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for frontend in Xenbus::ALL
        .map(Frontend::Is)
        .into_iter()
        .chain([Frontend::Gone])
    {
        for online in [false, true] {
            for own in Xenbus::ALL.map(Some).into_iter().chain([None]) {
                worlds.push(World {
                    frontend,
                    online,
                    own,
                });
            }
        }
    }
    worlds
}

fn observations() -> Vec<Observation> {
    use Observation::*;
    let mut all = vec![
        Advertised, Settled, Lingered, Connected, Retry, Rogue, Left, Disconnect,
    ];
    all.extend(Xenbus::ALL.map(Refused));
    all.extend(worlds().into_iter().map(World));
    all
}

/// What xenstore shows in a state, as far as we wrote it.
fn shown(state: State) -> Option<Xenbus> {
    match state {
        State::Fresh => Some(Xenbus::Initialising),
        State::InitWait { .. } | State::Refused(_) => Some(Xenbus::InitWait),
        State::TakingOver | State::Connected | State::Disabled { .. } => Some(Xenbus::Connected),
        State::Closing { .. } => Some(Xenbus::Closing),
        State::Closed { .. } => Some(Xenbus::Closed),
        State::Gone { .. } => None,
    }
}

fn serves(state: State) -> bool {
    matches!(state, State::Connected)
}
fn leaving(state: State) -> bool {
    matches!(
        state,
        State::Disabled { leaving: true }
            | State::Closing { leaving: true }
            | State::Gone { leaving: true }
    )
}

/// The sequences a frontend may see (xenbus.h, and what Linux's backend writes).
fn is_legal(from: Xenbus, to: Xenbus) -> bool {
    use Xenbus::*;
    matches!(
        (from, to),
        (Initialising, InitWait | Closing)
            | (InitWait, Connected | Closing)
            | (Connected, Closing)
            | (Closing | Closed, Closed)
            | (Closed, InitWait)
    )
}

#[test]
fn every_pair_writes_a_legal_sequence_and_shows_what_its_state_says() {
    let mut pairs = 0;
    let mut reached = HashSet::new();
    for state in states() {
        for observation in observations() {
            pairs += 1;
            let next = step(state, observation);
            reached.insert(next.state);
            let Some(mut now) = shown(state) else {
                assert!(matches!(next.state, State::Gone { .. }));
                assert!(next.actions.iter().all(|action| *action == Action::Forget));
                continue;
            };
            // The toolstack's own write is the one thing that moves the state besides ours.
            if let Observation::World(World {
                own: Some(Xenbus::Closing),
                ..
            }) = observation
            {
                now = Xenbus::Closing;
            }
            // `Connect` writes Connected before it says so.
            let connects = matches!(state, State::InitWait { .. });
            if connects && observation == Observation::Connected {
                now = Xenbus::Connected;
            }
            // So does `Advertise` with InitWait.
            let advertises = matches!(state, State::Fresh | State::Closed { .. });
            if advertises && observation == Observation::Advertised {
                assert!(is_legal(now, Xenbus::InitWait));
                now = Xenbus::InitWait;
            }
            for action in &next.actions {
                let written = match action {
                    Action::Write(written) => *written,
                    _ => continue,
                };
                assert!(
                    is_legal(now, written),
                    "{state:?} {observation:?} {next:?}: {now} to {written}"
                );
                now = written;
            }
            if let Some(shown) = shown(next.state) {
                assert_eq!(shown, now, "{state:?} {observation:?} {next:?}");
            }
        }
    }
    assert_eq!(pairs, states().len() * (200 + 9 + 8));
    // Whatever is not a beginning is reached from somewhere; Refused is by what the frontend was then.
    for state in states() {
        assert!(reached.contains(&state), "{state:?} is never reached");
    }
}

#[test]
fn every_pair_keeps_queues_and_actions_in_step() {
    for state in states() {
        for observation in observations() {
            let Step {
                state: next,
                actions,
            } = step(state, observation);
            let what = format!("{state:?} {observation:?} {next:?} {actions:?}");
            let does = |action| actions.contains(&action);
            // Queues are taken from workers exactly where they were served and no longer are.
            assert_eq!(
                does(Action::Leave),
                serves(state) && !serves(next),
                "{what}"
            );
            let was_leaving = leaving(state) || does(Action::Leave);
            assert_eq!(
                leaving(next),
                was_leaving && observation != Observation::Left,
                "{what}"
            );
            // They are handed out only by Connected, and only where they were asked for.
            if serves(next) && !serves(state) {
                assert_eq!(observation, Observation::Connected, "{what}");
                assert!(
                    matches!(state, State::InitWait { .. } | State::TakingOver),
                    "{what}"
                );
            }
            if does(Action::Connect) {
                let settled = State::InitWait { settled: true };
                assert_eq!(next, settled, "{what}");
            }
            // Nothing is forgotten that workers still hold, and a node is removed only when nobody is to be served.
            if does(Action::Forget) {
                assert_eq!(next, State::Gone { leaving: false }, "{what}");
                assert_eq!(actions.last(), Some(&Action::Forget), "{what}");
            }
            if does(Action::RemoveNode) {
                assert_eq!(state, State::Closed { lingered: true }, "{what}");
            }
            let again = state == State::TakingOver && observation == Observation::Retry;
            assert_eq!(does(Action::TakeOver), again, "{what}");
        }
    }
}

/// Feeding the same world again and again, with our own writes in it, comes to rest.
#[test]
fn every_beginning_comes_to_rest() {
    for world in worlds() {
        let first = begin(world);
        let (mut state, mut world, mut actions) = (first.state, world, first.actions);
        for round in 0.. {
            for action in &actions {
                match action {
                    Action::Write(own) => world.own = Some(*own),
                    Action::Advertise => world.own = Some(Xenbus::InitWait),
                    Action::RemoveNode => world.own = None,
                    _ => {}
                }
            }
            let observation = match actions
                .iter()
                .find(|a| matches!(a, Action::Connect | Action::TakeOver))
            {
                Some(_) => Observation::Refused(match world.frontend {
                    Frontend::Is(state) => state,
                    Frontend::Gone => Xenbus::Unknown,
                }),
                None if actions.contains(&Action::Leave) => Observation::Left,
                None if actions.contains(&Action::Advertise) => Observation::Advertised,
                None if actions.contains(&Action::Linger) => Observation::Lingered,
                None => Observation::World(world),
            };
            let next = step(state, observation);
            if matches!(observation, Observation::World(_))
                && next.actions.is_empty()
                && next.state == state
            {
                break;
            }
            (state, actions) = (next.state, next.actions);
            assert!(round < 8, "{world:?} does not rest: {state:?}");
        }
    }
}

/// Steps by what xenstore shows, one after the other: (frontend, own state, expected actions).
fn converse(mut state: State, online: bool, script: &[(Xenbus, Xenbus, &[Action])]) -> State {
    for (frontend, own, expected) in script {
        let world = World {
            frontend: Frontend::Is(*frontend),
            online,
            own: Some(*own),
        };
        let next = step(state, Observation::World(world));
        assert_eq!(next.actions, *expected, "in {state:?} with {world:?}");
        state = next.state;
        if expected.contains(&Action::Leave) {
            state = step(state, Observation::Left).state;
        }
        if expected.contains(&Action::Advertise) {
            state = step(state, Observation::Advertised).state;
            assert!(matches!(state, State::InitWait { .. }));
        }
        if expected.contains(&Action::Linger) {
            // A look before the time is over changes nothing.
            let closed = World {
                own: Some(Xenbus::Closed),
                ..world
            };
            if *frontend != Xenbus::Initialising {
                assert_eq!(step(state, Observation::World(closed)), to(state, &[]));
            }
            state = step(state, Observation::Lingered).state;
        }
        if expected.contains(&Action::Connect) {
            state = step(state, Observation::Connected).state;
            assert_eq!(state, State::Connected);
        }
    }
    state
}

#[test]
fn linux_netfront_connects_reloads_and_connects_again() {
    use Action::*;
    use Xenbus::{Closed, Closing, Connected, InitWait, Initialising};
    let begun = begin(World {
        frontend: Frontend::Is(Initialising),
        online: true,
        own: Some(Initialising),
    });
    assert_eq!(begun, to(State::Fresh, &[]));
    let waiting = converse(
        State::Fresh,
        true,
        &[
            (Initialising, Initialising, &[Advertise]),
            (Connected, InitWait, &[]),
        ],
    );
    let settled = step(waiting, Observation::Settled).state;
    let end = converse(
        settled,
        true,
        &[
            (Connected, InitWait, &[Connect]),
            (Connected, Connected, &[]),
            (Closing, Connected, &[Write(Closing), Leave]),
            (Closing, Closing, &[]),
            (Closed, Closing, &[Write(Closed), Linger]),
            (Closed, Closed, &[]),
            (Initialising, Closed, &[Advertise]),
            (Initialising, InitWait, &[]),
            (Connected, InitWait, &[Connect]),
            // A kexec: no goodbye.
            (Initialising, Connected, &[Write(Closing), Leave]),
            (Initialising, Closing, &[Write(Closed), Linger]),
            (Initialising, Closed, &[Advertise]),
            (Connected, InitWait, &[Connect]),
        ],
    );
    assert_eq!(end, State::Connected);
}

#[test]
fn a_detach_does_not_wait_for_the_guest() {
    use Action::*;
    use Xenbus::{Closed, Closing, Connected, InitWait, Initialising};
    for (state, frontend, first) in [
        (State::Connected, Connected, &[Leave][..]),
        (State::Disabled { leaving: false }, Connected, &[]),
        (State::Refused(Connected), Connected, &[]),
        (State::InitWait { settled: true }, Initialising, &[]),
        (State::InitWait { settled: false }, InitWait, &[]),
        (State::Fresh, Initialising, &[]),
    ] {
        let end = converse(
            state,
            false,
            &[
                (frontend, Closing, first),
                (frontend, Closing, &[Write(Closed), Linger]),
                (frontend, Closed, &[RemoveNode, Forget]),
            ],
        );
        assert_eq!(end, State::Gone { leaving: false });
    }
    // After we had closed: libxl waits for 6 all the same.
    converse(
        State::Closed { lingered: true },
        false,
        &[
            (Connected, Closing, &[Write(Closed), Linger]),
            (Connected, Closed, &[RemoveNode, Forget]),
        ],
    );
}

#[test]
fn a_rogue_stays_connected_in_xenstore_and_revives() {
    use Action::*;
    use Xenbus::{Closed, Closing, Connected, Initialising};
    let rogue = step(State::Connected, Observation::Rogue);
    assert_eq!(rogue, to(State::Disabled { leaving: true }, &[Leave]));
    assert_eq!(step(rogue.state, Observation::Rogue), to(rogue.state, &[]));
    let state = step(rogue.state, Observation::Left).state;
    let state = converse(
        state,
        true,
        &[
            (Connected, Connected, &[]),
            (Closing, Connected, &[Write(Closing)]),
            (Closed, Closing, &[Write(Closed), Linger]),
            (Initialising, Closed, &[Advertise]),
            (Connected, Xenbus::InitWait, &[Connect]),
        ],
    );
    assert_eq!(state, State::Connected);
}

#[test]
fn a_refused_handshake_is_not_tried_again_until_something_changes() {
    use Xenbus::{Connected, InitWait, Initialising};
    let settled = State::InitWait { settled: true };
    let refused = step(settled, Observation::Refused(Connected)).state;
    assert_eq!(
        converse(refused, true, &[(Connected, InitWait, &[])]),
        refused
    );
    assert_eq!(
        converse(refused, true, &[(Initialising, InitWait, &[])]),
        settled
    );
    assert_eq!(step(refused, Observation::Retry).state, settled);
}

#[test]
fn live_vifs_are_taken_over_without_a_key_written() {
    use Xenbus::Connected;
    let world = World {
        frontend: Frontend::Is(Connected),
        online: true,
        own: Some(Connected),
    };
    assert_eq!(begin(world), to(State::TakingOver, &[Action::TakeOver]));
    assert_eq!(
        step(State::TakingOver, Observation::World(world)),
        to(State::TakingOver, &[])
    );
    assert_eq!(
        step(State::TakingOver, Observation::Connected),
        to(State::Connected, &[])
    );
    assert_eq!(
        step(State::TakingOver, Observation::Refused(Connected)),
        to(State::Disabled { leaving: false }, &[])
    );
}

#[test]
fn only_a_plain_number_is_a_state() {
    assert_eq!(Xenbus::parse("4"), Xenbus::Connected);
    for text in [
        "",
        " 4",
        "04",
        "+4",
        "4 ",
        "9",
        "four",
        "18446744073709551620",
    ] {
        assert_eq!(Xenbus::parse(text), Xenbus::Unknown, "{text:?}");
    }
}

/// Everything around the state machine: xenstore, a frontend, the toolstack, workers.
#[derive(Debug)]
struct Model {
    state: State,
    world: World,
    /// Queues are with workers; asked back; in this order.
    served: bool,
    asked_back: bool,
    forgotten: bool,
}
impl Model {
    fn new() -> Self {
        let world = World {
            frontend: Frontend::Is(Xenbus::Initialising),
            online: true,
            own: Some(Xenbus::Initialising),
        };
        Self {
            state: begin(world).state,
            world,
            served: false,
            asked_back: false,
            forgotten: false,
        }
    }
    fn observe(&mut self, observation: Observation, accepted: bool) {
        if self.forgotten {
            return;
        }
        let next = step(self.state, observation);
        self.state = next.state;
        for action in next.actions {
            self.act(action, accepted);
        }
    }
    fn act(&mut self, action: Action, accepted: bool) {
        match action {
            Action::Advertise => {
                if accepted {
                    self.world.own = Some(Xenbus::InitWait);
                    self.observe(Observation::Advertised, accepted);
                }
            }
            Action::Write(own) => self.world.own = Some(own),
            Action::Connect | Action::TakeOver => {
                assert!(!self.served, "queues handed out twice");
                self.served = accepted;
                if accepted && action == Action::Connect {
                    self.world.own = Some(Xenbus::Connected);
                }
                let Frontend::Is(frontend) = self.world.frontend else {
                    panic!("connected to nobody")
                };
                self.observe(
                    if accepted {
                        Observation::Connected
                    } else {
                        Observation::Refused(frontend)
                    },
                    accepted,
                );
            }
            Action::Leave => {
                assert!(
                    self.served && !self.asked_back,
                    "asked back what is not out"
                );
                self.asked_back = true;
            }
            Action::Linger => {}
            Action::RemoveNode => self.world.own = None,
            Action::Forget => {
                assert!(!self.served, "forgot queues that workers hold");
                self.forgotten = true;
            }
        }
    }
    fn look(&mut self, accepted: bool) {
        for _ in 0..6 {
            self.observe(Observation::World(self.world), accepted);
        }
    }
    fn workers_answer(&mut self) {
        if std::mem::take(&mut self.asked_back) {
            self.served = false;
            self.observe(Observation::Left, true);
        }
    }
    /// What a well-behaved netfront does when it sees the backend's state: Linux's `netback_changed`.
    fn netfront(&mut self) {
        use Xenbus::*;
        let Frontend::Is(mine) = self.world.frontend else {
            return;
        };
        let next = match (self.world.own, mine) {
            (Some(InitWait), Initialising) => Connected,
            (Some(Closing | Closed), Connected | Initialising) => Closed,
            (Some(Closing | Closed), Closing) => Closed,
            _ => return,
        };
        self.world.frontend = Frontend::Is(next);
    }
}

#[derive(Debug, Clone)]
enum Move {
    /// The guest writes anything into its state key.
    Wild(usize),
    Netfront,
    Look(bool),
    Settle,
    Workers,
    Rogue,
    Retry,
    Disconnect,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (0..9usize).prop_map(Move::Wild),
        4 => Just(Move::Netfront),
        6 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Move::Look),
        2 => Just(Move::Settle),
        3 => Just(Move::Workers),
        1 => Just(Move::Rogue),
        1 => Just(Move::Retry),
        1 => Just(Move::Disconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever the guest wrote before: a frontend that starts anew is connected, and a detach then ends with the node gone.
    #[test]
    fn any_history_ends_in_service_and_in_a_clean_removal(history in proptest::collection::vec(moves(), 0..60)) {
        let mut model = Model::new();
        for step in history {
            match step {
                Move::Wild(state) => model.world.frontend = Frontend::Is(Xenbus::ALL[state]),
                Move::Netfront => model.netfront(),
                Move::Look(accepted) => model.look(accepted),
                Move::Settle => model.observe(Observation::Settled, true),
                Move::Workers => model.workers_answer(),
                Move::Rogue => model.observe(Observation::Rogue, true),
                Move::Retry => model.observe(Observation::Retry, true),
                Move::Disconnect => model.observe(Observation::Disconnect, true),
            }
            prop_assert!(!model.forgotten);
        }
        // The guest's driver is loaded anew: it says goodbye as Linux does, then begins.
        for state in [Xenbus::Closing, Xenbus::Closed, Xenbus::Initialising] {
            model.world.frontend = Frontend::Is(state);
            model.look(true);
            model.workers_answer();
            model.look(true);
        }
        model.observe(Observation::Settled, true);
        model.netfront();
        model.look(true);
        prop_assert_eq!(model.state, State::Connected);
        prop_assert_eq!(model.world.own, Some(Xenbus::Connected));
        prop_assert!(model.served);

        model.world.online = false;
        model.world.own = Some(Xenbus::Closing);
        model.look(true);
        model.workers_answer();
        model.look(true);
        prop_assert!(!model.forgotten);
        model.observe(Observation::Lingered, true);
        model.look(true);
        prop_assert!(model.forgotten && model.world.own.is_none() && !model.served);
    }
}
