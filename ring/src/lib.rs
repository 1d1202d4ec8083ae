//! The netif protocol as data: the ring page, its slots, its notification rules, and how slots make a packet.
//!
//! Tx and Rx are always the guest's, as in xen/include/public/io/netif.h. Everything the guest writes is read word by
//! word through atomics, each request word once, into private memory ([`shadow`]), and only that copy is looked at.
#![cfg_attr(not(test), warn(missing_docs))]
pub mod back;
pub mod front;
pub mod malformation;
pub mod packet;
pub mod page;
pub mod shadow;
mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
pub mod wire;
