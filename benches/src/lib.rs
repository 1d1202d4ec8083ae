//! What the benches share.
pub mod live;
pub mod median;
pub mod place;
pub mod sender;
pub mod station;
pub mod usage;
