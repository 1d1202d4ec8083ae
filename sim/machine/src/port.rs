//! Event-channel ports in shared memory, so that a notification is one compare-and-swap and one write to the pipe of whoever
//! waits, without the hypervisor process.
//!
//! A port's state is `handle << 32 | bits`: the handle is the open of `/dev/xen/evtchn` (or the guest) that owns the port, and
//! 0 while it is closed. Bits: MASKED, its number goes to the handle's pipe and was not unmasked since; UNWRITTEN, it may not
//! have got there; PENDING, notified while masked. So each port is in a pipe once, and a notification between read and unmask is
//! delivered again. On Xen all this is one hypercall; here the notifier may be killed in the middle of it, and then the
//! hypervisor, who finds UNWRITTEN where it closes the notifier's port, writes the number for it ([`Slot::is_unwritten`]).
use std::sync::atomic::{AtomicU64, Ordering};

/// Ports of a domain; 0 is never used. Sixteen bytes of pipe hold four, so a pipe of 64 KiB holds them all.
pub const PORTS: usize = 4096;

const MASKED: u64 = 1;
const PENDING: u64 = 2;
const UNWRITTEN: u64 = 4;
const BITS: u64 = MASKED | PENDING | UNWRITTEN;
const BOUND: u64 = 1 << 63;

/// A port where it lies.
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    state: AtomicU64,
    peer: AtomicU64,
}

/// The other end of a bound port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its domain.
    pub domid: u16,
    /// Its port.
    pub port: u32,
}

impl Slot {
    /// The handle that owns the port; 0: closed.
    pub fn handle(&self) -> u32 {
        (self.state.load(Ordering::SeqCst) >> 32) as u32
    }

    /// The other end, where one is bound.
    pub fn peer(&self) -> Option<Peer> {
        let peer = self.peer.load(Ordering::SeqCst);
        (peer & BOUND != 0).then_some(Peer {
            domid: (peer >> 32) as u16,
            port: peer as u32,
        })
    }

    /// The hypervisor opens the port for `handle`, or closes it for 0.
    pub fn open(&self, handle: u32) {
        self.peer.store(0, Ordering::SeqCst);
        self.state.store(u64::from(handle) << 32, Ordering::SeqCst);
    }

    /// The hypervisor binds the port's other end, or unbinds it.
    pub fn bind(&self, peer: Option<Peer>) {
        let word = peer.map_or(0, |peer| {
            BOUND | u64::from(peer.domid) << 32 | u64::from(peer.port)
        });
        self.peer.store(word, Ordering::SeqCst);
    }

    /// An event for this port. The handle to whose pipe the caller must write the port's number, if it must; then it says
    /// [`Self::written`].
    pub fn raise(&self) -> Option<u32> {
        self.step(|state| match state & BITS {
            _ if state >> 32 == 0 => state,
            0 => state | MASKED | UNWRITTEN,
            _ => state | PENDING,
        })
        .filter(|(old, _)| old & BITS == 0 && old >> 32 != 0)
        .map(|(old, _)| (old >> 32) as u32)
    }

    /// The number that [`Self::raise`] asked for is in the pipe.
    pub fn written(&self) {
        self.state.fetch_and(!UNWRITTEN, Ordering::SeqCst);
    }

    /// Whoever raised the last event has not said that its number is in the pipe.
    pub fn is_unwritten(&self) -> bool {
        self.state.load(Ordering::SeqCst) & UNWRITTEN != 0
    }

    /// The owner `handle` unmasks. True: it was pending, is masked again, and its number goes to the pipe once more.
    pub fn unmask(&self, handle: u32) -> bool {
        const AGAIN: u64 = MASKED | PENDING;
        // Who unmasks has read the number, so it was written, whether or not its writer has said so yet.
        self.step(|state| match state & AGAIN {
            _ if (state >> 32) as u32 != handle => state,
            MASKED => state & !BITS,
            AGAIN => state & !BITS | MASKED,
            _ => state,
        })
        .is_some_and(|(old, new)| old & AGAIN == AGAIN && new & AGAIN == MASKED)
    }

    /// The state before and after `change`. Sequentially consistent, so that a notifier's ring writes are seen by whoever is woken.
    fn step(&self, change: impl Fn(u64) -> u64) -> Option<(u64, u64)> {
        let old = self
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                Some(change(state))
            })
            .ok()?;
        Some((old, change(old)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        let slot = Slot {
            state: AtomicU64::new(0),
            peer: AtomicU64::new(0),
        };
        slot.open(7);
        slot
    }

    #[test]
    fn an_event_is_delivered_once_until_unmasked() {
        let slot = slot();
        assert_eq!(slot.raise(), Some(7));
        assert_eq!((slot.raise(), slot.raise()), (None, None));
        assert!(slot.unmask(7), "raised while masked: delivered again");
        assert!(!slot.unmask(7));
        assert_eq!(slot.raise(), Some(7));
        assert!(!slot.unmask(7));
    }

    #[test]
    fn only_the_owner_unmasks_and_a_closed_port_hears_nothing() {
        let slot = slot();
        assert_eq!((slot.raise(), slot.raise()), (Some(7), None));
        assert!(!slot.unmask(8));
        assert!(slot.unmask(7));
        slot.open(0);
        assert_eq!(slot.raise(), None);
        assert!(!slot.unmask(0));
    }

    #[test]
    fn a_number_is_owed_until_it_is_written_or_read() {
        let slot = slot();
        assert!(!slot.is_unwritten());
        assert_eq!(slot.raise(), Some(7));
        assert!(slot.is_unwritten());
        assert_eq!(slot.raise(), None);
        assert!(slot.is_unwritten(), "still owed, by who raised it first");
        slot.written();
        assert!(!slot.is_unwritten());
        assert!(slot.unmask(7));
        assert!(!slot.is_unwritten(), "who unmasks writes its own");
        assert!(!slot.unmask(7));
        assert_eq!(slot.raise(), Some(7));
        assert!(!slot.unmask(7), "read before its writer said so");
        assert!(!slot.is_unwritten());
    }

    #[test]
    fn peers_are_what_was_bound() {
        let slot = slot();
        assert_eq!(slot.peer(), None);
        slot.bind(Some(Peer { domid: 0, port: 0 }));
        assert_eq!(slot.peer(), Some(Peer { domid: 0, port: 0 }));
        slot.bind(None);
        assert_eq!(slot.peer(), None);
    }
}
