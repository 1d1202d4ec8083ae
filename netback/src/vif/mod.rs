//! A vif towards xenstore: its life, and what its frontend says of it.
pub mod state;
