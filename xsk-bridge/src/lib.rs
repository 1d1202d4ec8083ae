//! Frames and where they go: UMEM, AF_XDP, the switch, and offloads in software. Knows nothing of Xen.
pub mod frame;
pub mod packet;
pub mod switch;
pub mod uplink;
pub mod nic;
pub mod xdp;
#[cfg(feature = "af-xdp")]
pub mod xsk;
