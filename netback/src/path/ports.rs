//! Where each port's packets go from here: a queue or device of this worker, or another worker.
use std::collections::HashMap;
use xsk_bridge::switch::{Flood, PortId};

/// The workers that serve a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServedBy {
    /// A vif: the worker of each of its queues, by queue number.
    Guest(Vec<u8>),
    /// An uplink: the workers that own a queue of the device, at least one.
    Uplink(Vec<u8>),
    /// The port is no longer there.
    Nobody,
}

/// Where a packet goes from this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nobody has asked the switch yet.
    Undecided,
    /// A guest's queue that this worker serves, by slot.
    Queue(u16),
    /// A device queue that this worker serves, by slot.
    Uplink(u16),
    /// A guest's queue that another worker serves.
    QueueOf(u8),
    /// A device queue that another worker serves.
    UplinkOf(u8),
    /// Several ports of the bridge.
    Flood(Flood),
    /// The port has gone, or what serves it is not there (yet, or any more).
    Nowhere,
}

impl Destination {
    /// Whether another worker brings the packet on.
    #[inline]
    pub fn is_elsewhere(self) -> bool {
        matches!(self, Self::QueueOf(_) | Self::UplinkOf(_))
    }

    /// Whether the destination takes a bounded number of packets and then none for a while, so that its senders' requests had better wait.
    #[inline]
    pub fn can_be_full(self) -> bool {
        matches!(self, Self::Uplink(_)) || self.is_elsewhere()
    }
}

/// The ports as one worker sees them. Changed by control's messages, looked up for each packet.
#[derive(Debug)]
pub(crate) struct Ports {
    worker: u8,
    /// By port number: a destination for each queue of a vif, one for an uplink, none for a port that is not there.
    destinations: Vec<Box<[Destination]>>,
    served_by: HashMap<PortId, ServedBy>,
    /// What is served here, by port and queue (0 for an uplink).
    here: HashMap<(PortId, u16), Destination>,
}

impl Ports {
    pub fn new(worker: u8) -> Self {
        Self {
            worker,
            destinations: Vec::new(),
            served_by: HashMap::new(),
            here: HashMap::new(),
        }
    }

    /// Where a packet for `port` goes whose flow has this hash.
    #[inline]
    pub fn destination(&self, port: PortId, hash: u32) -> Destination {
        match self.of(port) {
            [] => Destination::Nowhere,
            [destination] => *destination,
            several => several[hash as usize % several.len()],
        }
    }

    /// Where every packet for `port` goes; `None` where that depends on the flow.
    #[inline]
    pub fn only_destination(&self, port: PortId) -> Option<Destination> {
        match self.of(port) {
            [] => Some(Destination::Nowhere),
            [destination] => Some(*destination),
            _ => None,
        }
    }

    #[inline]
    fn of(&self, port: PortId) -> &[Destination] {
        let destinations = self.destinations.get(usize::from(port.0));
        destinations.map_or(&[], |destinations| destinations)
    }

    /// Notes which workers serve `port`.
    pub fn set(&mut self, port: PortId, served_by: ServedBy) {
        match served_by {
            ServedBy::Nobody => drop(self.served_by.remove(&port)),
            served_by => drop(self.served_by.insert(port, served_by)),
        }
        self.resolve(port);
    }

    /// Notes that this worker serves a queue of `port` (0 for an uplink).
    pub fn add(&mut self, port: PortId, queue: u16, destination: Destination) {
        self.here.insert((port, queue), destination);
        self.resolve(port);
    }

    /// Notes that this worker no longer serves that queue.
    pub fn remove(&mut self, port: PortId, queue: u16) {
        self.here.remove(&(port, queue));
        self.resolve(port);
    }

    fn resolve(&mut self, port: PortId) {
        let to = |worker: u8, queue: u16, other: fn(u8) -> Destination| match self
            .here
            .get(&(port, queue))
        {
            Some(&destination) => destination,
            None if worker == self.worker => Destination::Nowhere,
            None => other(worker),
        };
        let destinations = match self.served_by.get(&port) {
            Some(ServedBy::Guest(workers)) => workers
                .iter()
                .zip(0..)
                .map(|(&worker, queue)| to(worker, queue, Destination::QueueOf))
                .collect(),
            Some(ServedBy::Uplink(workers)) if !workers.is_empty() => {
                // A worker without a queue of its own uses one of the others', spread by its number.
                let other = workers[usize::from(self.worker) % workers.len()];
                let worker = if workers.contains(&self.worker) {
                    self.worker
                } else {
                    other
                };
                [to(worker, 0, Destination::UplinkOf)].into()
            }
            _ => [].into(),
        };
        let at = usize::from(port.0);
        if self.destinations.len() <= at {
            self.destinations.resize(at + 1, [].into());
        }
        self.destinations[at] = destinations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_uplinks_resolve_in_any_order_of_messages() {
        let (guest, uplink) = (PortId(3), PortId(1));
        let mut ports = Ports::new(1);
        let all = |ports: &Ports| [0, 1, 2].map(|hash| ports.destination(guest, hash));
        assert_eq!(all(&ports), [Destination::Nowhere; 3]);
        ports.add(guest, 1, Destination::Queue(7));
        ports.set(guest, ServedBy::Guest(vec![0, 1, 1]));
        let (other, here) = (Destination::QueueOf(0), Destination::Queue(7));
        assert_eq!(all(&ports), [other, here, Destination::Nowhere]);
        assert_eq!(ports.only_destination(guest), None);
        ports.remove(guest, 1);
        assert_eq!(
            all(&ports),
            [other, Destination::Nowhere, Destination::Nowhere]
        );
        ports.set(guest, ServedBy::Nobody);
        assert_eq!(all(&ports), [Destination::Nowhere; 3]);

        ports.set(uplink, ServedBy::Uplink(vec![0, 2]));
        assert_eq!(ports.destination(uplink, 5), Destination::UplinkOf(2));
        ports.set(uplink, ServedBy::Uplink(vec![0, 1]));
        assert_eq!(ports.destination(uplink, 5), Destination::Nowhere);
        ports.add(uplink, 0, Destination::Uplink(4));
        assert_eq!(ports.only_destination(uplink), Some(Destination::Uplink(4)));
    }
}
