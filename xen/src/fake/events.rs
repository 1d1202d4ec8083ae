//! Event channels: ports that guests offer, and opens of the device on which the driver domain binds them.
use super::lock;
use crate::event::{EventChannels, Port};
use crate::grant::DomId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// A guest's port, as the driver domain names it.
type Remote = (u16, u32);

#[derive(Debug, Default)]
struct Offers {
    offered: BTreeSet<Remote>,
    /// Who of the driver domain has a guest's port bound: a local port, or somebody else's.
    bound: HashMap<Remote, Port>,
    /// Attempts to bind since the last time somebody asked.
    binds: Vec<Remote>,
    last: u32,
}

/// The ports of all guests, as the test sees them. Clones are the same ports.
#[derive(Debug, Clone, Default)]
pub struct Ports(Arc<Mutex<Offers>>);

/// The local port of a binding that is not the driver domain's.
const STOLEN: Port = Port(u32::MAX);

impl Ports {
    /// A guest offers the driver domain an unbound port.
    pub fn offer(&self, domid: u16, port: u32) {
        lock(&self.0).offered.insert((domid, port));
    }

    /// Somebody else binds a guest's port.
    pub fn steal(&self, domid: u16, port: u32) {
        lock(&self.0).bound.insert((domid, port), STOLEN);
    }

    /// Whoever has a guest's port bound lets go of it.
    pub fn release(&self, domid: u16, port: u32) {
        lock(&self.0).bound.remove(&(domid, port));
    }

    /// Number of guests' ports that are bound.
    pub fn bound(&self) -> usize {
        lock(&self.0).bound.len()
    }

    /// Guests' ports that somebody tried to bind since the last time this was asked, in order.
    pub fn take_binds(&self) -> Vec<Remote> {
        std::mem::take(&mut lock(&self.0).binds)
    }

    /// An open of the device.
    pub fn open(&self) -> Events {
        let (reader, writer) = UnixStream::pair().expect("a socket pair");
        Events {
            ports: self.clone(),
            state: Mutex::default(),
            reader,
            writer,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    ours: BTreeSet<u32>,
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    notified: BTreeMap<u32, u64>,
    /// A byte is in the socket.
    readable: bool,
}

impl State {
    /// The first port that is pending and not masked.
    fn deliverable(&self) -> Option<u32> {
        self.pending.difference(&self.masked).next().copied()
    }
}

/// One open of the event-channel device: what it has bound is unbound when it is dropped.
#[derive(Debug)]
pub struct Events {
    ports: Ports,
    state: Mutex<State>,
    reader: UnixStream,
    writer: UnixStream,
}

impl Default for Events {
    fn default() -> Self {
        Ports::default().open()
    }
}

impl Events {
    /// The other end sends an event to a local port.
    #[inline(never)]
    pub fn fire(&self, port: Port) {
        let mut state = lock(&self.state);
        state.pending.insert(port.0);
        self.show(&mut state);
    }

    /// Events sent to the other end of a local port since the last time this was asked.
    pub fn take_notified(&self, port: Port) -> u64 {
        lock(&self.state).notified.insert(port.0, 0).unwrap_or(0)
    }

    /// Makes the descriptor readable exactly while there is something to deliver.
    fn show(&self, state: &mut State) {
        let readable = state.deliverable().is_some();
        if readable != state.readable {
            state.readable = readable;
            let moved = match readable {
                true => (&self.writer).write(&[0]),
                false => (&self.reader).read(&mut [0]),
            };
            moved.expect("a socket between two ends of ours");
        }
    }

    /// [`EventChannels::pending`]. Never inlined, as the others below, so that a profile tells its cost from the caller's.
    #[inline(never)]
    fn take_pending(&self, ports: &mut [Port]) -> usize {
        let mut state = lock(&self.state);
        let mut count = 0;
        while let (Some(place), Some(port)) = (ports.get_mut(count), state.deliverable()) {
            state.pending.remove(&port);
            state.masked.insert(port);
            *place = Port(port);
            count += 1;
        }
        self.show(&mut state);
        count
    }

    #[inline(never)]
    fn count_event(&self, port: Port) {
        *lock(&self.state).notified.entry(port.0).or_insert(0) += 1;
    }

    #[inline(never)]
    fn clear_masks(&self, ports: &[Port]) {
        let mut state = lock(&self.state);
        for port in ports {
            state.masked.remove(&port.0);
        }
        self.show(&mut state);
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl EventChannels for Events {
    fn bind(&self, remote: DomId, remote_port: Port) -> io::Result<Port> {
        let mut offers = lock(&self.ports.0);
        let remote = (remote.0, remote_port.0);
        offers.binds.push(remote);
        if !offers.offered.contains(&remote) || offers.bound.contains_key(&remote) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        offers.last += 1;
        let port = Port(offers.last);
        offers.bound.insert(remote, port);
        lock(&self.state).ours.insert(port.0);
        Ok(port)
    }

    fn unbind(&self, port: Port) -> io::Result<()> {
        let mut state = lock(&self.state);
        if !state.ours.remove(&port.0) {
            // drivers/xen/evtchn.c says ENOTCONN.
            return Err(io::ErrorKind::NotConnected.into());
        }
        state.pending.remove(&port.0);
        state.masked.remove(&port.0);
        self.show(&mut state);
        lock(&self.ports.0).bound.retain(|_, bound| *bound != port);
        Ok(())
    }

    fn notify(&self, port: Port) -> io::Result<()> {
        self.count_event(port);
        Ok(())
    }

    fn pending(&self, ports: &mut [Port]) -> io::Result<usize> {
        Ok(self.take_pending(ports))
    }

    fn unmask(&self, ports: &[Port]) -> io::Result<()> {
        self.clear_masks(ports);
        Ok(())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let ours = std::mem::take(&mut lock(&self.state).ours);
        let mut offers = lock(&self.ports.0);
        offers.bound.retain(|_, bound| !ours.contains(&bound.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(events: &Events) -> Vec<u32> {
        let mut ports = [Port(0); 8];
        let count = events.pending(&mut ports).unwrap();
        ports[..count].iter().map(|port| port.0).collect()
    }

    fn readable(events: &Events) -> bool {
        events.reader.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let there = (&events.reader).read(&mut byte).is_ok();
        if there {
            (&events.writer).write_all(&byte).unwrap();
        }
        events.reader.set_nonblocking(false).unwrap();
        there
    }

    #[test]
    fn a_guest_s_port_is_bound_once_and_free_again_when_the_device_is_closed() {
        let ports = Ports::default();
        let (first, second) = (ports.open(), ports.open());
        assert!(first.bind(DomId(1), Port(5)).is_err(), "not offered");
        ports.offer(1, 5);
        let port = first.bind(DomId(1), Port(5)).unwrap();
        assert!(second.bind(DomId(1), Port(5)).is_err());
        assert!(second.unbind(port).is_err(), "another's");
        drop(first);
        assert_eq!(ports.bound(), 0);
        ports.steal(1, 5);
        assert!(second.bind(DomId(1), Port(5)).is_err());
        ports.release(1, 5);
        let port = second.bind(DomId(1), Port(5)).unwrap();
        second.unbind(port).unwrap();
        assert_eq!(ports.bound(), 0);
        assert_eq!(ports.take_binds(), [(1, 5); 5]);
    }

    #[test]
    fn an_event_masks_its_port_until_it_is_unmasked() {
        let events = Events::default();
        assert!(!readable(&events));
        events.fire(Port(3));
        events.fire(Port(3));
        assert!(readable(&events));
        assert_eq!(pending(&events), [3]);
        events.fire(Port(3));
        events.fire(Port(4));
        assert_eq!(pending(&events), [4]);
        assert!(!readable(&events));
        events.unmask(&[Port(3), Port(4)]).unwrap();
        assert!(readable(&events));
        assert_eq!(pending(&events), [3]);
    }

    #[test]
    fn notifications_are_counted() {
        let events = Events::default();
        events.notify(Port(3)).unwrap();
        events.notify(Port(3)).unwrap();
        assert_eq!(
            (events.take_notified(Port(3)), events.take_notified(Port(3))),
            (2, 0)
        );
    }
}
