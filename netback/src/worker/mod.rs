//! A worker: one thread, run to completion, nothing shared on the packet path.
pub mod messages;
