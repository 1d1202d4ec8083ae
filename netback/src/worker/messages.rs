//! What control and workers say to each other, over bounded single-producer queues.
//!
//! Order matters and is kept: what control sends to one worker arrives in the order sent. To bring a vif up, control sends
//! [`ToWorker::AddQueue`] to the workers that serve its queues, then [`ToWorker::SetPort`] to **every** worker. To take it
//! down: `Bridge::remove_port`, `SetPort` with [`PortPlace::Gone`] to every worker, then `RemoveQueue` to those that serve it.
use crate::hypervisor::Hypervisor;
use crate::queue::Remains;
use crate::queue::multicast::Multicast;
use crate::stats::{QueueStats, UplinkStats};
use crate::vif_file::QueueFile;
use ring::packet::Fatal;
use std::sync::Arc;
use std::time::Duration;
use xen::event::Port;
use xen::grant::{DomId, GrantTable};
use xsk_bridge::frame::Frame;
use xsk_bridge::switch::{Bridge, PortId};
use xsk_bridge::uplink::Uplink;

/// A vif: frontend domain and device id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VifId {
    /// The frontend's domain.
    pub domid: DomId,
    /// The vif's number in that domain.
    pub devid: u32,
}

/// One queue of a vif.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// Whose queue.
    pub vif: VifId,
    /// Its number, from 0.
    pub queue: u16,
}

/// What the frontend can take and asked for (xen/include/public/io/netif.h, the feature keys).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Features {
    /// `feature-sg`: packets of several slots.
    pub sg: bool,
    /// `feature-gso-tcpv4`.
    pub gso_tcpv4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_tcpv6: bool,
    /// IPv4 blank checksums may be sent to it (default true: `feature-no-csum-offload` absent or 0).
    pub csum_ipv4: bool,
    /// `feature-ipv6-csum-offload`.
    pub csum_ipv6: bool,
    /// `feature-rx-notify`. Absent: it never notifies after posting Rx buffers, so they are polled for.
    pub rx_notify: bool,
    /// `request-multicast-control`, which may change at any time.
    pub multicast_control: bool,
    /// It wrote `event-channel-tx` and `event-channel-rx`.
    pub split_event_channels: bool,
}

/// What may wait for one guest queue; more is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogBounds {
    /// Packet bytes.
    pub bytes: u32,
    /// Longest wait.
    pub age: Duration,
}

impl Default for BacklogBounds {
    /// 512 KiB (Linux since XSA-392) and 10 s (its rx_drain_timeout).
    fn default() -> Self {
        Self {
            bytes: 512 * 1024,
            age: Duration::from_secs(10),
        }
    }
}

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
    /// Take over live rings from the vif's file instead of starting at the indices the page says.
    pub take_over: bool,
    /// Written by the worker alone.
    pub stats: Arc<QueueStats>,
    /// What may wait for this queue.
    pub backlog: BacklogBounds,
}

/// Where a port's traffic is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortPlace {
    /// A vif: the worker of each of its queues, by queue number.
    Guest(Vec<u8>),
    /// An uplink: the workers that own a queue of the device, at least one.
    Uplink(Vec<u8>),
    /// No longer there.
    Gone,
}

/// Control to worker.
pub enum ToWorker<H: Hypervisor> {
    /// Serve this queue. Answered by nothing, or by `FromWorker::Rogue` where its rings are beyond use.
    AddQueue(Box<QueueSetup<H>>),
    /// Stop serving it; answered by `FromWorker::Removed`, also for a queue that is not (no longer) there: then without remains.
    RemoveQueue(QueueId),
    /// Where a port lives from now on.
    SetPort(PortId, PortPlace),
    /// Serve this queue of a device.
    AddUplink {
        /// The uplink's port; the same for all its queues.
        port_id: PortId,
        /// The bridge it is on.
        bridge: Arc<Bridge>,
        /// The socket.
        uplink: Box<dyn Uplink>,
        /// Written by the worker alone.
        stats: Arc<UplinkStats>,
    },
    /// Stop serving it; answered by `FromWorker::UplinkRemoved`.
    RemoveUplink(PortId),
    /// Frames for the pool: the ones a dead socket's kernel side has let go.
    Frames(Vec<Frame>),
    /// Leave the loop without touching a guest's ring state; answered by `FromWorker::Stopped`.
    Stop,
}

/// Worker to control. Control's bell rings when one was posted.
pub enum FromWorker<H: Hypervisor> {
    /// The queue is out of the loop. Dropping the remains unmaps its rings; its ports are still bound.
    Removed {
        /// Which.
        id: QueueId,
        /// None where it was gone already.
        remains: Option<Remains<H>>,
    },
    /// The frontend broke the protocol: the queue is out of the loop already, its vif is to be disabled with this reason.
    Rogue {
        /// Which.
        id: QueueId,
        /// What it did.
        reason: Fatal,
        /// As in `Removed`; None where the queue could not even be added (its setup was dropped, which unmapped the rings).
        remains: Remains<H>,
    },
    /// The uplink queue is out of the loop; frames that its kernel side holds stay with it (`Uplink::held`).
    UplinkRemoved {
        /// Which.
        port_id: PortId,
        /// To be closed by control; None where there was none.
        uplink: Option<Box<dyn Uplink>>,
    },
    /// The last word of a worker.
    Stopped,
}
