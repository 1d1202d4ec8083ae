//! Workers on fakes: no kernel, no hypervisor, no threads but where a test is about them.
mod bulk;
mod coalesce;
mod cost;
mod events;
mod fairness;
mod faults;
mod fidelity;
mod filter;
mod flood;
mod jumbo;
mod lane;
mod mesh;
mod multicast;
mod offload;
mod rate;
mod rig;
mod room;
mod rx;
mod segments;
mod staging;
mod streams;
mod take_over;
mod tx;
mod vlan;

#[path = "../../../../xsk-bridge/tests/support/tcp.rs"]
mod tcp;
