//! A small hypervisor in a process of its own, and guests in it, for tests and the demo.
pub mod domain;
pub mod toolstack;
