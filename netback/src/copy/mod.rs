//! Grant copies: the operations of a call, planned as runs of bytes, and the memory of ours that they go through.
//!
//! An operation costs as much as moving ten kilobytes, so plans count operations: a fragment of a guest's packet is fetched by one
//! operation, and a posted page is filled by one.
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod runs;
pub(crate) mod staging;
