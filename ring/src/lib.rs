//! The netif protocol as data: the ring page, its slots, its notification rules, and how slots make a packet.
#![cfg_attr(not(test), warn(missing_docs))]
pub mod back;
pub mod front;
pub mod page;
pub mod packet;
pub mod wire;
