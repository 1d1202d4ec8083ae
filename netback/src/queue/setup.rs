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
    /// The queue's name.
    pub id: QueueId,
    /// The vif's port on its bridge; the same for all its queues.
    pub port_id: PortId,
    /// The bridge that the port is on.
    pub bridge: Arc<Bridge>,
    /// The vif's MAC address.
    pub mac: [u8; 6],
    /// What was negotiated with the frontend.
    pub features: Features,
    /// The mapped Tx ring.
    pub tx_page: <H::Grants as GrantTable>::Page,
    /// The mapped Rx ring.
    pub rx_page: <H::Grants as GrantTable>::Page,
    /// The local port of the Tx ring's event channel; that of the Rx ring too where the frontend has one event channel for both.
    pub tx_port: Port,
    /// The local port of the Rx ring's event channel.
    pub rx_port: Port,
    /// This queue's part of the vif's file: the shadows of both rings.
    pub file: QueueFile,
    /// The vif's multicast list, the same for all its queues.
    pub multicast: Arc<Multicast>,
    /// What the guest may send; `None`: anything.
    pub filter: Option<Arc<Filter>>,
    /// What the vif may send and receive, the same for all its queues.
    pub limits: Arc<Limits>,
    /// Live rings are taken over by what the vif's file says, instead of started at the indices that the page says.
    pub take_over: bool,
    /// The queue's counters, which the worker alone writes.
    pub stats: Arc<QueueStats>,
    /// How much may wait for this queue.
    pub backlog: BacklogBounds,
}
