//! Event channels: a port for each side, pending and masked bits, one file descriptor for all ports of a worker.
use crate::grant::DomId;
use std::io;
use std::os::fd::AsFd;

/// An event-channel port of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Port(pub u32);

/// The door to event channels. Reading the descriptor yields pending ports as native-endian u32, which are then masked until unmasked.
pub trait EventChannels: AsFd + Send + Sync + 'static {
    /// Bind to the unbound port `remote_port` that `remote` made for us; our local port. A bound port is refused: the fence
    /// against two backends.
    fn bind(&self, remote: DomId, remote_port: Port) -> io::Result<Port>;
    /// Close our end; the remote's port is unbound again and can be bound by a successor.
    fn unbind(&self, port: Port) -> io::Result<()>;
    /// Send an event to the other end.
    fn notify(&self, port: Port) -> io::Result<()>;
    /// Read pending ports without blocking; how many were filled in. They stay masked until [`Self::unmask`].
    fn pending(&self, ports: &mut [Port]) -> io::Result<usize>;
    /// Unmask ports; one that became pending meanwhile is delivered again.
    fn unmask(&self, ports: &[Port]) -> io::Result<()>;
}
