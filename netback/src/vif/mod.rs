//! A vif: its name, what its frontend says of it in xenstore, its life, and what outlives a process.
pub mod features;
pub mod file;
pub mod handshake;
pub mod id;
pub mod multicast;
pub mod state;
