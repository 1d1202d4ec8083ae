//! Events of a queue: when its guest is notified, and when events of the guest are waited for.
use std::time::Duration;
use xen::event::Port;

/// Events in a row without work that cost the guest nothing: some events cross with work that was found without them.
const FREE_SPURIOUS: u32 = 8;
/// First delay before a port that keeps sending such events is unmasked; doubled with each up to 64 times.
const SPURIOUS_DELAY: Duration = Duration::from_millis(1);

/// The state of a queue's event channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueEvents {
    pub tx_port: Port,
    pub rx_port: Port,
    pub masked_tx: bool,
    pub masked_rx: bool,
    /// The queue's rings are looked at every turn.
    pub active: bool,
    /// Requests may be left that are not to be taken yet, so that no event tells of them.
    pub held: bool,
    pub idle_turns: u32,
    /// A packet was moved since the last event.
    progress: bool,
    spurious: u32,
    /// The guest is notified at the end of the turn.
    pub notify_tx: bool,
    pub notify_rx: bool,
}

impl QueueEvents {
    /// The state of a queue that a worker was just given. `kick`: the guest is notified once, for an event may have been lost either way in a
    /// take-over.
    pub fn new(tx_port: Port, rx_port: Port, kick: bool) -> Self {
        Self {
            tx_port,
            rx_port,
            // An event that came between control's bind and now was read, and left masked, before anybody knew its port.
            masked_tx: true,
            masked_rx: true,
            active: false,
            held: false,
            idle_turns: 0,
            progress: false,
            spurious: 0,
            notify_tx: kick,
            notify_rx: kick,
        }
    }

    /// Notes that a packet of this queue was moved.
    #[inline]
    pub fn worked(&mut self) {
        self.idle_turns = 0;
        self.progress = true;
    }

    /// Puts the queue to rest. Returns how long its masked ports are to stay masked.
    pub fn penalty(&mut self) -> Duration {
        if self.progress || !(self.masked_tx || self.masked_rx) {
            self.spurious = 0;
        } else {
            self.spurious = self.spurious.saturating_add(1);
        }
        self.progress = false;
        match self.spurious.checked_sub(FREE_SPURIOUS) {
            None | Some(0) => Duration::ZERO,
            Some(more) => SPURIOUS_DELAY * (1 << more.min(7)) / 2,
        }
    }
}
