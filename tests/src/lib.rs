//! What the integration tests share beyond the demo's laboratory, [`lab`]: labs ready for traffic, stock tools with
//! their figures read, and raw frames.
//!
//! Each test makes a lab of its own; nothing of it is left when the test ends. Tests assert outcomes and counts, never how
//! long something took.
pub mod frames;
pub mod hashed;
pub mod keys;
pub mod netback;
pub mod prepare;
pub mod status;
pub mod tools;
pub mod vlan;

/// Waits until `condition` returns true. Returns an error that names `what` after a time that no healthy run needs.
pub fn wait_for(what: &str, condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    lab::interrupt::wait_for(what, std::time::Duration::from_secs(20), condition)
}
