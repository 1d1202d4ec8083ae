//! What a queue owes its event channels, and what they owe it.
use std::time::Duration;
use xen::event::Port;

/// Events in a row that brought no work and that nobody minds: some race with what we found without them.
const FREE_SPURIOUS: u32 = 8;
/// First delay before a port that keeps sending such events is unmasked; doubled with each up to 64 times.
const SPURIOUS_DELAY: Duration = Duration::from_millis(1);

/// What a queue owes its event channels and they it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueEvents {
    pub tx_port: Port,
    pub rx_port: Port,
    pub masked_tx: bool,
    pub masked_rx: bool,
    /// Its rings are looked at every turn.
    pub active: bool,
    /// There may be requests that it is not its turn to have taken: no use in waiting for an event.
    pub held: bool,
    pub idle_turns: u32,
    /// Something was moved since the last event.
    progress: bool,
    spurious: u32,
    /// Notify at the end of the turn.
    pub notify_tx: bool,
    pub notify_rx: bool,
}

impl QueueEvents {
    /// `kick`: after a take-over an event may have been lost either way, so the guest is told once.
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

    /// Something was moved for this queue.
    #[inline]
    pub fn worked(&mut self) {
        self.idle_turns = 0;
        self.progress = true;
    }

    /// At rest: how long its masked ports are to stay so.
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
