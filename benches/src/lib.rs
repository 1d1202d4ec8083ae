//! What the benches share.
pub mod cost;
pub mod live;
pub mod median;
pub mod pinger;
pub mod place;
pub mod sender;
pub mod station;
pub mod usage;
