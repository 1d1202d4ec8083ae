//! What an operator sees of the process: counters, and the answer to `netback status`.
pub mod counters;
mod declare;
pub mod status;
pub mod table;
