//! Guests: the vif's xenbus state machine, queues, Tx, Rx, workers, control.
pub mod bounds;
pub mod cli;
pub mod config;
pub mod control;
pub(crate) mod copy;
pub mod crash;
pub mod daemon;
pub mod doctor;
pub mod hypervisor;
pub mod life;
pub mod observe;
pub(crate) mod path;
pub mod queue;
pub mod uninstall;
pub mod vif;
pub mod worker;
