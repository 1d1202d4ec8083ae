//! A vif: its name, what toolstack and frontend say of it in xenstore, the states of its life, and the file that outlives a process.
pub mod bandwidth;
pub mod deaths;
pub mod features;
pub mod file;
pub mod handshake;
pub mod id;
pub(crate) mod mapping;
pub mod multicast;
pub mod policy;
pub mod state;
