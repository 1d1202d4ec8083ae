//! A worker's turn: the order of the stages, from the rings and devices to the rings and devices.
use crate::hypervisor::Hypervisor;
use crate::worker::Worker;

impl<H: Hypervisor> Worker<H> {
    /// Moves everything that can be moved now. False: there was nothing.
    pub(crate) fn turn(&mut self) -> bool {
        self.begin();
        let told = self.read_messages() | self.take_events();

        // Ingress: packets of other workers are the oldest.
        self.take_parcels();
        self.collect();
        self.fetch_heads();
        self.receive();

        self.decide();
        self.egress();
        let moved = self.deliver();

        // Sent before it is answered: what dies in between is sent twice rather than never.
        self.send();
        self.answer();
        self.notify();

        let worked = told | moved | !self.batch.jobs.is_empty();
        self.end(worked);
        worked
    }
}
