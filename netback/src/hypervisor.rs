//! Which hypervisor the daemon stands on, as one type parameter: the real doors, or a test's.
/// The worker's two doors.
pub trait Hypervisor: 'static {
    /// Guests' memory.
    type Grants: xen::grant::GrantTable;
    /// Event channels.
    type Events: xen::event::EventChannels;
}
