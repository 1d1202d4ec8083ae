//! The life of a packet, in four stages, each over a whole burst.
//!
//! | stage | what it does |
//! |---|---|
//! | [`ingress`] | takes packets from Tx rings, devices and other workers, and fetches their heads |
//! | [`decide`] | asks the switch where each packet goes |
//! | [`egress`] | prepares packets for what their receiver can do, and hands them to it |
//! | [`deliver`] | copies into guests' pages, responses, backlogs |
//!
//! [`turn`] is their order. A source and a receiver are the same for a guest's queue, a device and another worker.
pub(crate) mod answer;
pub(crate) mod batch;
mod decide;
mod deliver;
mod egress;
pub(crate) mod fabric;
mod flow;
mod ingress;
pub(crate) mod job;
pub mod lane;
pub(crate) mod ports;
mod retag;
mod turn;
pub(crate) mod uplink;
