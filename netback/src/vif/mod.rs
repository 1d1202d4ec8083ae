//! A vif: its name, what its frontend says of it in xenstore, its life, and what outlives a process.
pub mod deaths;
pub mod features;
pub mod file;
pub mod handshake;
pub mod id;
pub(crate) mod mapping;
pub mod multicast;
pub mod state;
