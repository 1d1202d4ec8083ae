//! Where each port's packets go from here: a queue or uplink of this worker, or another worker.
use super::messages::PortPlace;
use std::collections::HashMap;
use xsk_bridge::switch::PortId;

/// The next step of a packet from this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// A guest's queue that this worker serves, by slot.
    Queue(u16),
    /// An uplink queue that this worker serves, by slot.
    Wire(u16),
    /// Another worker.
    Worker(u8),
    /// The port has gone, or what serves it is not there (yet, or any more).
    Nowhere,
}

/// The ports as one worker sees them. Changed by control's messages, looked up for each packet.
#[derive(Debug)]
pub(crate) struct Ports {
    worker: u8,
    /// By port number: a hop for each queue of a vif, one hop for an uplink, none for a port that is not there.
    hops: Vec<Box<[Hop]>>,
    told: HashMap<PortId, PortPlace>,
    /// What is served here, by port and queue (0 for an uplink).
    here: HashMap<(PortId, u16), Hop>,
}

impl Ports {
    pub fn new(worker: u8) -> Self {
        Self {
            worker,
            hops: Vec::new(),
            told: HashMap::new(),
            here: HashMap::new(),
        }
    }

    /// The next step towards `port` of a packet whose flow has this hash.
    #[inline]
    pub fn hop(&self, port: PortId, hash: u32) -> Hop {
        match self.of(port) {
            [] => Hop::Nowhere,
            [hop] => *hop,
            hops => hops[hash as usize % hops.len()],
        }
    }

    /// Whether the flow decides which way a packet for `port` goes.
    #[inline]
    pub fn has_queues(&self, port: PortId) -> bool {
        self.of(port).len() > 1
    }

    #[inline]
    fn of(&self, port: PortId) -> &[Hop] {
        self.hops.get(usize::from(port.0)).map_or(&[], |hops| hops)
    }

    /// Control says where `port` lives.
    pub fn set(&mut self, port: PortId, place: PortPlace) {
        match place {
            PortPlace::Gone => drop(self.told.remove(&port)),
            place => drop(self.told.insert(port, place)),
        }
        self.resolve(port);
    }

    /// A queue of `port` (0 for an uplink) is served here.
    pub fn add(&mut self, port: PortId, queue: u16, hop: Hop) {
        self.here.insert((port, queue), hop);
        self.resolve(port);
    }

    /// It is not served here any more.
    pub fn remove(&mut self, port: PortId, queue: u16) {
        self.here.remove(&(port, queue));
        self.resolve(port);
    }

    fn resolve(&mut self, port: PortId) {
        let hop = |worker: u8, queue: u16| match self.here.get(&(port, queue)) {
            Some(&hop) => hop,
            None if worker == self.worker => Hop::Nowhere,
            None => Hop::Worker(worker),
        };
        let hops = match self.told.get(&port) {
            Some(PortPlace::Guest(workers)) => workers
                .iter()
                .zip(0..)
                .map(|(&worker, queue)| hop(worker, queue))
                .collect(),
            Some(PortPlace::Uplink(workers)) if !workers.is_empty() => {
                // A worker without a queue of its own uses one of the others', spread by its number.
                let other = workers[usize::from(self.worker) % workers.len()];
                let worker = if workers.contains(&self.worker) {
                    self.worker
                } else {
                    other
                };
                [hop(worker, 0)].into()
            }
            _ => [].into(),
        };
        let at = usize::from(port.0);
        if self.hops.len() <= at {
            self.hops.resize(at + 1, [].into());
        }
        self.hops[at] = hops;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_uplinks_resolve_in_any_order_of_messages() {
        let (guest, uplink) = (PortId(3), PortId(1));
        let mut ports = Ports::new(1);
        let all = |ports: &Ports| [0, 1, 2].map(|hash| ports.hop(guest, hash));
        assert_eq!(all(&ports), [Hop::Nowhere; 3]);
        ports.add(guest, 1, Hop::Queue(7));
        ports.set(guest, PortPlace::Guest(vec![0, 1, 1]));
        assert_eq!(all(&ports), [Hop::Worker(0), Hop::Queue(7), Hop::Nowhere]);
        assert!(ports.has_queues(guest));
        ports.remove(guest, 1);
        assert_eq!(all(&ports), [Hop::Worker(0), Hop::Nowhere, Hop::Nowhere]);
        ports.set(guest, PortPlace::Gone);
        assert_eq!(all(&ports), [Hop::Nowhere; 3]);

        ports.set(uplink, PortPlace::Uplink(vec![0, 2]));
        assert_eq!(ports.hop(uplink, 5), Hop::Worker(2));
        ports.set(uplink, PortPlace::Uplink(vec![0, 1]));
        assert_eq!(ports.hop(uplink, 5), Hop::Nowhere);
        ports.add(uplink, 0, Hop::Wire(4));
        assert_eq!(ports.hop(uplink, 5), Hop::Wire(4));
    }
}
