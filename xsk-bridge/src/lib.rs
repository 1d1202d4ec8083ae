//! Frames and where they go: UMEM, AF_XDP, the switch, and offloads in software. Knows nothing of Xen.
pub mod device;
pub mod frame;
pub mod header;
pub mod link;
pub mod nic;
pub mod offload;
pub mod packet;
pub mod switch;
pub mod xdp;

#[cfg(all(test, feature = "af-xdp"))]
#[path = "../tests/support/mod.rs"]
mod support;
