//! Guests: the vif's xenbus state machine, queues, Tx, Rx, workers, control.
pub mod hypervisor;
pub mod worker;
