//! What network cards do for a stack, done in software: pure functions over bytes, for which Linux is the oracle.
pub mod checksum;
pub mod coalesce;
pub mod flows;
pub mod segment;
pub mod sum;

#[cfg(test)]
#[path = "../../tests/support/tcp.rs"]
mod tcp;
