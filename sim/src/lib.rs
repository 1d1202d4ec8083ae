//! A small hypervisor in a process of its own, and guests in it, for tests and the demo.
pub mod client;
pub mod domain;
pub mod guest;
pub mod hypervisor;
pub mod namespace;
pub mod toolstack;
