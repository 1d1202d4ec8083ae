//! Guests: the vif's xenbus state machine, queues, Tx, Rx, workers, control.
pub mod config;
pub mod crash;
pub mod doctor;
pub mod hypervisor;
pub mod queue;
pub mod stats;
pub mod vif;
pub mod vif_file;
pub mod worker;
