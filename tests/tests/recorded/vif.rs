//! The recorded xenstore conversation, with our state machine in the place of the recorder: the machine takes the same steps, and refuses
//! nothing.

use crate::{Recording, recordings};
use netback::vif::handshake::{self, Offer, Paths};
use netback::vif::id::VifId;
use netback::vif::state::{Action, Observation, State, Step, Xenbus, begin, step};
use xen::fake::{Connection, Store};
use xen::grant::DomId;

/// The state machine, its store, and what it did.
struct Replay {
    store: Store,
    connection: Connection,
    paths: Paths,
    state: Option<State>,
    /// States that the machine wrote.
    written: Vec<Xenbus>,
    offers: Vec<Offer>,
}

impl Replay {
    /// Begins with what the toolstack had written when the vif was found.
    fn new(recording: &Recording) -> Self {
        let key = |name: &str| {
            let mut found = recording
                .of("toolstack")
                .filter_map(|line| line.split_once(' '));
            found
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .expect("libxl writes it")
        };
        let frontend = key("frontend");
        let id = VifId {
            domid: DomId(key("frontend-id").parse().expect("a domain's number")),
            devid: key("handle").parse().expect("a device's number"),
        };
        let backend = format!("/local/domain/1/backend/vif/{}/{}", id.domid, id.devid);
        let store = Store::default();
        store.set(&format!("{backend}/frontend"), &frontend);
        let mut connection = store.connect(DomId(1));
        let paths = handshake::paths(&mut connection, &backend, id)
            .expect("libxl's keys are right")
            .expect("the node is there");
        Self {
            store,
            connection,
            paths,
            state: None,
            written: Vec::new(),
            offers: Vec::new(),
        }
    }

    /// Replays one recorded line. What the recorder did itself is left out, but for its first write, which shows that it had seen both
    /// directories: the toolstack makes them in one transaction.
    fn line(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (who, key, value) = (words.next(), words.next().unwrap_or_default(), words.next());
        let directory = match who {
            Some("toolstack") => &self.paths.backend,
            Some("frontend") => &self.paths.frontend,
            Some("backend") if self.state.is_none() => return self.look(),
            _ => return,
        };
        let path = format!("{directory}/{key}");
        match value {
            Some(value) => self.store.set(&path, value),
            None => self.store.remove(&path),
        }
        // The other keys of a transaction come before the state, and the machine must not look before that.
        if self.state.is_some() && (key == "state" || key == "online") {
            self.look();
        }
    }

    /// Has the machine look until nothing changes any more.
    fn look(&mut self) {
        loop {
            let world = handshake::look(&mut self.connection, &self.paths, None)
                .expect("nothing is refused");
            let next = match self.state {
                None => begin(world),
                Some(state) => step(state, Observation::World(world)),
            };
            let settled = self.state == Some(next.state) && next.actions.is_empty();
            self.take(next);
            if settled {
                return;
            }
        }
    }

    fn observe(&mut self, observation: Observation) {
        let state = self.state.expect("a vif that was found has a state");
        self.take(step(state, observation));
    }

    fn take(&mut self, next: Step) {
        self.state = Some(next.state);
        for action in next.actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Advertise => {
                handshake::advertise(&mut self.connection, &self.paths, 1, None)
                    .expect("nothing is refused");
                self.written.push(Xenbus::InitWait);
                self.observe(Observation::Advertised);
                self.observe(Observation::Settled);
            }
            Action::Write(state) => {
                handshake::write_state(&mut self.connection, &self.paths, state)
                    .expect("nothing is refused");
                self.written.push(state);
            }
            Action::Connect => {
                let offer = handshake::offer(&mut self.connection, &self.paths, 1)
                    .expect("a stock handshake is not refused");
                self.offers.push(offer);
                // Our state is written before workers would get the queues.
                self.act(Action::Write(Xenbus::Connected));
                self.observe(Observation::Connected);
            }
            Action::Leave => self.observe(Observation::Left),
            Action::Linger => self.observe(Observation::Lingered),
            Action::RemoveNode => {
                handshake::remove_node(&mut self.connection, &self.paths)
                    .expect("nothing is refused");
            }
            Action::TakeOver => panic!("nobody was there before"),
            Action::Forget => {}
        }
    }
}

#[test]
fn the_state_machine_connects_reconnects_and_closes_as_the_stock_netfront_expects() {
    use Xenbus::{Closed, Closing, Connected, InitWait};
    for recording in recordings() {
        let mut replay = Replay::new(&recording);
        recording.lines.iter().for_each(|line| replay.line(line));
        let name = &recording.name;
        // Connected, closed by the reload, connected again, taken away by the toolstack: Closing is then written by libxl.
        let expected = [
            InitWait, Connected, Closing, Closed, InitWait, Connected, Closed,
        ];
        assert_eq!(replay.written, expected, "{name}");
        assert_eq!(replay.state, Some(State::Gone { leaving: false }), "{name}");
        assert!(
            replay.store.get(&replay.paths.backend).is_none(),
            "{name}: the node stayed"
        );
    }
}

#[test]
fn what_the_stock_netfront_offers_is_understood() {
    for recording in recordings() {
        let mut replay = Replay::new(&recording);
        recording.lines.iter().for_each(|line| replay.line(line));
        assert_eq!(replay.offers.len(), 2, "{}", recording.name);
        for offer in &replay.offers {
            let features = offer.features;
            assert!(
                features.sg && features.gso_tcpv4 && features.gso_tcpv6,
                "{}: {features:?}",
                recording.name
            );
            assert!(
                features.csum_ipv4 && features.csum_ipv6 && features.rx_notify,
                "{}: {features:?}",
                recording.name
            );
            assert!(
                features.split_event_channels,
                "{}: {features:?}",
                recording.name
            );
            assert_eq!(offer.queues.len(), 1, "{}", recording.name);
        }
    }
}
