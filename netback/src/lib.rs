//! Guests: the vif's xenbus state machine, queues, Tx, Rx, workers, control.
pub mod config;
pub mod hypervisor;
pub mod stats;
pub mod worker;
