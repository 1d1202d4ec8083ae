//! The life of a vif as a pure function: what is so and what was seen give what is so next and what is to be done.
//!
//! States are those of xen/include/public/io/xenbus.h. What a frontend's state asks of a backend is Linux's
//! (drivers/net/xen-netback/xenbus.c, `frontend_changed` and `set_backend_state`), but for four points:
//! - Initialised counts as Connected, as in NetBSD and FreeBSD: everything needed is in xenstore by then, or the handshake is refused.
//! - A refused handshake never reaches Connected.
//! - A vif that its guest broke (`Disabled`) revives when the frontend connects anew.
//! - Closing that the toolstack asks for does not wait for the guest.
use std::fmt;

/// A xenbus state, `enum xenbus_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Xenbus {
    /// 0, or a key that is missing or no state.
    Unknown,
    /// 1
    Initialising,
    /// 2
    InitWait,
    /// 3
    Initialised,
    /// 4
    Connected,
    /// 5
    Closing,
    /// 6
    Closed,
    /// 7
    Reconfiguring,
    /// 8
    Reconfigured,
}
impl Xenbus {
    /// Every state, by number.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];
    /// What a `state` key says; anything but a plain number of a state is Unknown.
    pub fn parse(text: &str) -> Self {
        let state = Self::ALL
            .into_iter()
            .find(|state| text == state.number().to_string());
        state.unwrap_or(Self::Unknown)
    }
    /// Its number in xenstore.
    pub fn number(self) -> u8 {
        self as u8
    }
}
impl fmt::Display for Xenbus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Where a vif is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The toolstack made it, we wrote nothing yet.
    Fresh,
    /// Features are advertised. Not `settled`: the toolstack may not have seen the state yet, for which it waits (libxl: exactly 2),
    /// so it must not change.
    InitWait {
        /// The toolstack had its time.
        settled: bool,
    },
    /// Still InitWait in xenstore: the frontend's handshake was refused while it was in this state.
    Refused(Xenbus),
    /// A predecessor connected it: its rings are being taken over.
    TakingOver,
    /// Workers serve its queues.
    Connected,
    /// Connected in xenstore, but nothing is served: the guest broke the protocol, or its rings could not be taken over.
    Disabled {
        /// Workers still have queues of it.
        leaving: bool,
    },
    /// No longer served, the frontend has not closed yet.
    Closing {
        /// Workers still have queues of it.
        leaving: bool,
    },
    /// Ready to be connected anew, or removed. Not `lingered`: the toolstack may not have read the state yet, so its node stays.
    Closed {
        /// The toolstack had its time.
        lingered: bool,
    },
    /// Its node is gone, or another of the same name is in its place.
    Gone {
        /// Workers still have queues of it.
        leaving: bool,
    },
}

impl State {
    /// Workers still have queues of it that were asked back.
    pub fn is_leaving(self) -> bool {
        matches!(
            self,
            Self::Disabled { leaving: true }
                | Self::Closing { leaving: true }
                | Self::Gone { leaving: true }
        )
    }
}

/// What the frontend shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frontend {
    /// Its directory is not there (any more).
    Gone,
    /// Its `state` key.
    Is(Xenbus),
}

/// What xenstore says now, all of it: several changes at once are one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    /// The frontend's directory and state.
    pub frontend: Frontend,
    /// `online` is 1.
    pub online: bool,
    /// Our own `state` key, which the toolstack sets to Closing to have the vif removed; `None`: our node is gone.
    pub own: Option<Xenbus>,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observation {
    /// xenstore, looked at anew.
    World(World),
    /// `Advertise` succeeded.
    Advertised,
    /// The time for which InitWait is held is over.
    Settled,
    /// The time for which a Closed node is kept is over.
    Lingered,
    /// `Connect` or `TakeOver` succeeded.
    Connected,
    /// `Connect` or `TakeOver` was not possible, while the frontend was in this state.
    Refused(Xenbus),
    /// What stood in the way of the vif may have changed: time has passed, or the configuration was read anew.
    Retry,
    /// A worker found that the guest broke the protocol.
    Rogue,
    /// The last queue is out of its worker, rings unmapped, ports unbound.
    Left,
    /// The operator wants it disconnected.
    Disconnect,
}

/// What is to be done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// One transaction: features, `hotplug-status`, state InitWait. Say `Advertised`, and `Settled` after a while.
    Advertise,
    /// Write our state.
    Write(Xenbus),
    /// Read the frontend's keys, open its rings, write our state Connected, and only then hand its queues to workers; say
    /// `Connected` or `Refused`. Whatever a worker does to the rings is so found by a successor in state Connected.
    Connect,
    /// The same as `Connect` with live rings: no key is written.
    TakeOver,
    /// Take its queues from the workers; say `Left`.
    Leave,
    /// Say `Lingered` after a while.
    Linger,
    /// Remove our node.
    RemoveNode,
    /// Drop all that is known of it, and look whether a node of its name is there anew.
    Forget,
}

/// A step's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is so next.
    pub state: State,
    /// What is to be done, in order.
    pub actions: Vec<Action>,
}

fn to(state: State, actions: &[Action]) -> Step {
    Step {
        state,
        actions: actions.to_vec(),
    }
}

/// Where a vif begins that is found when the daemon starts or the toolstack makes it: what a predecessor left is gone on from.
pub fn begin(world: World) -> Step {
    use Xenbus::{Closed, Closing, Connected, InitWait, Initialised};
    match (world.own, world.frontend) {
        (None, _) => to(State::Gone { leaving: false }, &[Action::Forget]),
        (Some(Connected), Frontend::Is(Connected | Initialised)) => {
            to(State::TakingOver, &[Action::TakeOver])
        }
        // The frontend went on while nobody served it: what follows is the same as for one that is disabled.
        (Some(Connected), _) => to(State::Disabled { leaving: false }, &[]),
        // What a predecessor advertised stands, for the frontend may have read it.
        (Some(InitWait), _) => to(State::InitWait { settled: true }, &[]),
        (Some(Closing), _) => to(State::Closing { leaving: false }, &[]),
        (Some(Closed), _) => to(State::Closed { lingered: false }, &[Action::Linger]),
        _ => to(State::Fresh, &[]),
    }
}

/// One step. Every pair is legal; what means nothing in a state changes nothing.
pub fn step(state: State, observation: Observation) -> Step {
    match observation {
        Observation::World(world) => look(state, world),
        Observation::Advertised => match state {
            State::Fresh => to(State::InitWait { settled: false }, &[]),
            State::Closed { .. } => to(State::InitWait { settled: true }, &[]),
            _ => to(state, &[]),
        },
        Observation::Settled => match state {
            State::InitWait { .. } => to(State::InitWait { settled: true }, &[]),
            _ => to(state, &[]),
        },
        Observation::Lingered => match state {
            State::Closed { .. } => to(State::Closed { lingered: true }, &[]),
            _ => to(state, &[]),
        },
        Observation::Connected => match state {
            State::InitWait { .. } | State::TakingOver => to(State::Connected, &[]),
            _ => to(state, &[]),
        },
        Observation::Refused(frontend) => match state {
            State::InitWait { .. } => to(State::Refused(frontend), &[]),
            State::TakingOver => to(State::Disabled { leaving: false }, &[]),
            _ => to(state, &[]),
        },
        Observation::Retry => match state {
            State::Refused(_) => to(State::InitWait { settled: true }, &[]),
            State::TakingOver => to(state, &[Action::TakeOver]),
            _ => to(state, &[]),
        },
        Observation::Rogue => match state {
            State::Connected => to(State::Disabled { leaving: true }, &[Action::Leave]),
            _ => to(state, &[]),
        },
        Observation::Left => left(state),
        Observation::Disconnect => match state {
            State::Closing { .. } | State::Closed { .. } | State::Gone { .. } => to(state, &[]),
            _ => close(state, true),
        },
    }
}

fn left(state: State) -> Step {
    match state {
        State::Disabled { .. } => to(State::Disabled { leaving: false }, &[]),
        State::Closing { .. } => to(State::Closing { leaving: false }, &[]),
        State::Gone { leaving: true } => to(State::Gone { leaving: false }, &[Action::Forget]),
        _ => to(state, &[]),
    }
}

/// xenstore was looked at.
fn look(state: State, world: World) -> Step {
    let Some(own) = world.own else {
        return gone(state);
    };
    if own == Xenbus::Initialising && state != State::Fresh {
        // The toolstack removed the node and made another of the same name before we looked.
        return gone(state);
    }
    // Only the toolstack writes Closing where we did not.
    let asked = own == Xenbus::Closing;
    match state {
        State::Gone { .. } => to(state, &[]),
        State::Closing { leaving } => closing(leaving, world),
        State::Closed { lingered } => closed(lingered, asked, world),
        _ if asked => close(state, false),
        State::Fresh => fresh(world),
        State::InitWait { settled } => init_wait(settled, world),
        State::Refused(at) => match world.frontend {
            Frontend::Is(frontend) if frontend == at => to(state, &[]),
            Frontend::Is(Xenbus::Reconfiguring | Xenbus::Reconfigured) => to(state, &[]),
            _ => init_wait(true, world),
        },
        State::TakingOver | State::Connected | State::Disabled { .. } => connected(state, world),
    }
}

/// Begin to close: `write` the state, unless somebody did.
fn close(state: State, write: bool) -> Step {
    let (serving, leaving) = match state {
        State::Connected => (true, true),
        State::Disabled { leaving } => (false, leaving),
        _ => (false, false),
    };
    let mut actions = Vec::with_capacity(2);
    if write {
        actions.push(Action::Write(Xenbus::Closing));
    }
    if serving {
        actions.push(Action::Leave);
    }
    Step {
        state: State::Closing { leaving },
        actions,
    }
}

fn gone(state: State) -> Step {
    match state {
        State::Gone { .. } => to(state, &[]),
        State::Connected => to(State::Gone { leaving: true }, &[Action::Leave]),
        _ if state.is_leaving() => to(State::Gone { leaving: true }, &[]),
        _ => to(State::Gone { leaving: false }, &[Action::Forget]),
    }
}

fn fresh(world: World) -> Step {
    if world.online && world.frontend != Frontend::Gone {
        return to(State::Fresh, &[Action::Advertise]);
    }
    close(State::Fresh, true)
}

fn init_wait(settled: bool, world: World) -> Step {
    use Xenbus::{Closed, Closing, Connected, Initialised};
    let state = State::InitWait { settled };
    match world.frontend {
        Frontend::Is(Connected | Initialised) if settled => to(state, &[Action::Connect]),
        Frontend::Is(Closing | Closed) | Frontend::Gone => close(state, true),
        Frontend::Is(_) => to(state, &[]),
    }
}

/// Connected in xenstore.
fn connected(state: State, world: World) -> Step {
    use Xenbus::{Closed, Closing, Initialising, Unknown};
    match world.frontend {
        // Initialising: it starts anew (a reload, a crash, a resume) with other rings.
        Frontend::Is(Unknown | Initialising | Closing | Closed) | Frontend::Gone => {
            close(state, true)
        }
        // Reconfiguring is for headroom, which we never offered.
        Frontend::Is(_) => to(state, &[]),
    }
}

fn closing(leaving: bool, world: World) -> Step {
    let state = State::Closing { leaving };
    let waits = world.frontend == Frontend::Is(Xenbus::Closing) && world.online;
    if leaving || waits {
        to(state, &[])
    } else {
        to(State::Closed { lingered: false }, CLOSE)
    }
}

/// What leads to Closed.
const CLOSE: &[Action] = &[Action::Write(Xenbus::Closed), Action::Linger];

fn closed(lingered: bool, asked: bool, world: World) -> Step {
    let state = State::Closed { lingered };
    if asked {
        // A removal asked for after we had closed waits for this very state.
        return to(State::Closed { lingered: false }, CLOSE);
    }
    if !world.online || world.frontend == Frontend::Gone {
        return match lingered {
            true => to(
                State::Gone { leaving: false },
                &[Action::RemoveNode, Action::Forget],
            ),
            false => to(state, &[]),
        };
    }
    match world.frontend {
        Frontend::Is(Xenbus::Initialising) => to(state, &[Action::Advertise]),
        _ => to(state, &[]),
    }
}

#[cfg(test)]
mod tests;
