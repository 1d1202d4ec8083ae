//! The laboratory of demo and tests: a hypervisor, guests, namespaces and the real daemon, all gone when it is dropped.
pub mod interrupt;
pub mod namespace;
pub mod process;
