//! What a worker is given to serve one queue of a vif.
use super::backlog::BacklogBounds;
use super::limits::Limits;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::QueueStats;
use crate::vif::features::Features;
use crate::vif::file::QueueFile;
use crate::vif::id::QueueId;
use crate::vif::multicast::Multicast;
use std::sync::Arc;
use xen::event::Port;
use xen::grant::GrantTable;
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::{Bridge, PortId};

/// Everything a worker needs to serve one queue. Made by the control thread, which bound the ports on the worker's event
/// descriptor **before** it mapped the rings.
pub struct QueueSetup<H: Hypervisor> {
    /// Which queue.
    pub id: QueueId,
    /// The vif's port on its bridge; the same for all its queues.
    pub port_id: PortId,
    /// The bridge it is on.
    pub bridge: Arc<Bridge>,
    /// The vif's MAC.
    pub mac: [u8; 6],
    /// What was negotiated.
    pub features: Features,
    /// The mapped Tx ring.
    pub tx_page: <H::Grants as GrantTable>::Page,
    /// The mapped Rx ring.
    pub rx_page: <H::Grants as GrantTable>::Page,
    /// Local ports; the same one twice where the frontend does not split.
    pub tx_port: Port,
    /// See `tx_port`.
    pub rx_port: Port,
    /// This queue's part of the vif's file: the shadows of both rings.
    pub file: QueueFile,
    /// The vif's multicast list, the same for all its queues.
    pub multicast: Arc<Multicast>,
    /// What the guest may send; `None`: anything.
    pub filter: Option<Arc<Filter>>,
    /// What the vif may send and receive, the same for all its queues.
    pub limits: Arc<Limits>,
    /// Take over live rings from the vif's file instead of starting at the indices the page says.
    pub take_over: bool,
    /// Written by the worker alone.
    pub stats: Arc<QueueStats>,
    /// What may wait for this queue.
    pub backlog: BacklogBounds,
}
