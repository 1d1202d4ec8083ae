//! The hypervisor that several daemons, one after the other, are started on.
use crate::hypervisor::{Doors, Fake};
use std::sync::atomic::Ordering;
use xen::fake::{Access, Grants, Page, Ports};

#[derive(Default)]
pub struct Machine {
    grants: Grants,
    ports: Ports,
}

impl Machine {
    /// A guest grants a ring.
    pub fn grant(&self, domid: u16, gref: u32) -> Page {
        let page = self
            .grants
            .grant(domid, gref, 0, &[0; 4096], Access::ReadWrite);
        // A frontend's shared ring begins with both events at 1 (ring.h, SHARED_RING_INIT).
        page[1].store(1, Ordering::Relaxed);
        page[3].store(1, Ordering::Relaxed);
        page
    }

    /// Has a worker panic that copies this page of a guest's.
    pub fn poison(&self, domid: u16, gref: u32) {
        self.grants.poison(domid, gref);
    }

    /// The guests' ports.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Ports bound and pages mapped now.
    pub fn held(&self) -> (usize, usize) {
        (self.ports.bound(), self.grants.mapped())
    }

    /// What a daemon with this many workers opens.
    pub fn doors(&self, workers: usize) -> Vec<Doors<Fake>> {
        let doors = || Doors {
            grants: self.grants.clone(),
            events: self.ports.open(),
            granted: None,
        };
        (0..workers).map(|_| doors()).collect()
    }
}
