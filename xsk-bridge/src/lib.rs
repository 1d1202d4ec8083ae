//! Frames and where they go: UMEM, AF_XDP, the switch, and offloads in software. Knows nothing of Xen.
#[cfg(test)]
extern crate self as xsk_bridge; // By the name that files shared with integration tests use.

pub mod announce;
pub mod device;
pub mod frame;
pub mod header;
pub mod link;
pub mod nic;
pub mod offload;
pub mod packet;
pub mod switch;
pub mod tap;
pub mod xdp;

#[cfg(all(test, feature = "af-xdp"))]
#[path = "../tests/support/mod.rs"]
mod support;
