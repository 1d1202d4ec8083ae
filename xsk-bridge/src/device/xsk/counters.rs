//! What the kernel counts of one socket (linux/if_xdp.h, struct xdp_statistics).
use rustix::net::sockopt::xdp_statistics;
use std::io;
use std::os::fd::BorrowedFd;

/// struct xdp_statistics: what the kernel counts of one socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct KernelCounters {
    /// Dropped on receive: no frame in the fill ring, or longer than a frame.
    pub rx_dropped: u64,
    /// Addresses in the fill ring that were no frame.
    pub rx_invalid_descs: u64,
    /// Descriptors in the send ring that were no packet.
    pub tx_invalid_descs: u64,
    /// Dropped because we did not take packets out of the receive ring.
    pub rx_ring_full: u64,
    /// Times the fill ring was found empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the send ring was found empty.
    pub tx_ring_empty_descs: u64,
}

impl KernelCounters {
    /// Reads those of an AF_XDP socket.
    pub fn read(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let counted = xdp_statistics(socket)?;
        Ok(Self {
            rx_dropped: counted.rx_dropped,
            rx_invalid_descs: counted.rx_invalid_descs,
            tx_invalid_descs: counted.tx_invalid_descs,
            rx_ring_full: counted.rx_ring_full.unwrap_or_default(),
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs.unwrap_or_default(),
            tx_ring_empty_descs: counted.tx_ring_empty_descs.unwrap_or_default(),
        })
    }
}
