//! The three doors to the hypervisor as traits, and the real ones on libc.
pub mod event;
pub mod grant;
pub mod store;
