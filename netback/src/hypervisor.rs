//! Which hypervisor the daemon stands on, as one type parameter: the real doors, or a test's.
/// The worker's two doors.
pub trait Hypervisor: 'static {
    /// Guests' memory.
    type Grants: xen::grant::GrantTable;
    /// Event channels.
    type Events: xen::event::EventChannels;
}

/// The real doors, on Linux's device nodes.
pub struct Linux;
impl Hypervisor for Linux {
    type Grants = xen::linux::Gntdev;
    type Events = xen::linux::Evtchn;
}
