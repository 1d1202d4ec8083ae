//! What the benches share.
pub mod place;
pub mod sender;
