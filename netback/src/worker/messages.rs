//! What control and workers say to each other, over bounded single-producer queues.
use crate::hypervisor::Hypervisor;
use std::sync::Arc;
use xen::{event::Port, grant::{DomId, GrantTable}};
use xsk_bridge::switch::{Bridge, PortId};

/// A vif: frontend domain and device id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VifId { pub domid: DomId, pub devid: u32 }
/// One queue of a vif.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId { pub vif: VifId, pub queue: u16 }

/// What the frontend can take and asked for (netif.md section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Features {
    pub sg: bool, pub gso_tcpv4: bool, pub gso_tcpv6: bool,
    /// IPv4 blank checksums may be sent to it (default true: feature-no-csum-offload absent or 0).
    pub csum_ipv4: bool, pub csum_ipv6: bool,
    /// Absent: it never notifies after posting Rx buffers, so they are polled for.
    pub rx_notify: bool,
    pub multicast_control: bool,
    pub split_event_channels: bool,
}

/// Everything a worker needs to serve one queue. Made by the control thread, which bound the ports on the worker's event
/// descriptor **before** it mapped the rings.
pub struct QueueSetup<H: Hypervisor> {
    pub id: QueueId,
    pub port_id: PortId,
    pub bridge: Arc<Bridge>,
    pub mac: [u8; 6],
    pub features: Features,
    pub tx_page: <H::Grants as GrantTable>::Page,
    pub rx_page: <H::Grants as GrantTable>::Page,
    /// Local ports; the same one twice where the frontend does not split.
    pub tx_port: Port,
    pub rx_port: Port,
    /// Take over live rings from the vif's file instead of starting at their indices.
    pub take_over: bool,
    // plus: this queue's part of the per-vif file (Shadow for Tx and Rx), its counters (Arc, one writer), backlog bounds
}
