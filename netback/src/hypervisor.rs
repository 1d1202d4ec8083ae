//! Which hypervisor the daemon stands on, as one type parameter: the real doors, or a test's.
use xen::grant::GrantedMemory;

/// The worker's two doors to guests.
pub trait Hypervisor: 'static {
    /// Guests' memory.
    type Grants: xen::grant::GrantTable;
    /// Event channels.
    type Events: xen::event::EventChannels;
}

/// One worker's own.
pub struct Doors<H: Hypervisor> {
    /// Its descriptor of gntdev.
    pub grants: H::Grants,
    /// Its descriptor of evtchn.
    pub events: H::Events,
    /// Pages for its bounce buffers, [`STAGING_PAGES`](crate::bounds::STAGING_PAGES) of them, where the kernel gives some.
    pub granted: Option<Box<dyn GrantedMemory>>,
}

/// The doors of a test's hypervisor.
#[cfg(test)]
pub enum Fake {}

#[cfg(test)]
impl Hypervisor for Fake {
    type Grants = xen::fake::Grants;
    type Events = xen::fake::Events;
}

/// The real doors, on Linux's device nodes.
pub struct Linux;
impl Hypervisor for Linux {
    type Grants = xen::linux::Gntdev;
    type Events = xen::linux::Evtchn;
}
