//! What `netback status` shows, as the control socket sends it: one JSON object.
use super::counters::{QueueCounts, UplinkCounts, WorkerCounts};
use crate::vif::features::Features;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The process and everything it serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process number of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// The domain that the daemon runs in.
    pub domid: u16,
    /// The UMEM's frames, by holder.
    pub frames: Frames,
    /// Threads of the data plane.
    pub workers: Vec<Worker>,
    /// Bridges, in the configuration's order.
    pub bridges: Vec<Bridge>,
    /// Devices.
    pub uplinks: Vec<Uplink>,
    /// Host ports: the driver domain's own interfaces.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Guests' interfaces.
    pub vifs: Vec<Vif>,
}

/// Frames of the UMEM by holder. The counts are read one after the other while packets move, so they add up to `total` only when nothing moves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Frames {
    /// Frames of the process.
    pub total: u64,
    /// On free lists.
    pub free: u64,
    /// In backlogs of guests' queues.
    pub backlog: u64,
    /// Between workers.
    pub travelling: u64,
    /// With the kernel, to receive into.
    pub fill: u64,
    /// With the kernel, being sent.
    pub send: u64,
    /// Lost to the kernel with a socket.
    pub quarantined: u64,
    /// In none of these places: inside a worker's turn, or leaked where it stays so at rest.
    pub unaccounted: i64,
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// The worker's number.
    pub index: usize,
    /// What the worker counts.
    #[serde(flatten)]
    pub counts: WorkerCounts,
}

/// A bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bridge {
    /// Name of the bridge.
    pub name: String,
    /// Interface of the bridge's uplink, if it has one.
    pub uplink: Option<String>,
    /// The VLAN of the uplink that the bridge is; none where its frames have no tag.
    pub vlan: Option<u16>,
    /// Whether the driver domain itself has an interface on the bridge: the host port, of the bridge's name.
    #[serde(default)]
    pub host: bool,
    /// Ports of the switch: uplinks, host ports and vifs. Bridges with one uplink share a switch.
    pub ports: usize,
    /// Addresses in the forwarding database that were learnt.
    pub learnt: usize,
    /// Times an address was not learnt for lack of room.
    pub not_learnt: u64,
}

/// An address that a bridge knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FdbEntry {
    /// Name of the bridge.
    pub bridge: String,
    /// The address.
    pub mac: String,
    /// The VLAN; 0 where frames have no tag.
    pub vlan: u16,
    /// The port that the address is behind: a vif, or the interface of an uplink.
    pub port: String,
    /// `guest`: a vif's own address; `learnt`; `static`: made by `netback fdb add`.
    pub kind: String,
    /// For how many seconds a learnt address has not been heard of.
    pub age_seconds: Option<u32>,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Uplink {
    /// The interface.
    pub ifname: String,
    /// The bridge that the device is on; several, with commas between them, where each is a VLAN of it.
    pub bridge: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The driver reads and writes frames itself.
    pub zero_copy: bool,
    /// Another device carries the frames of the bridge.
    pub standby: bool,
    /// The device is up and has a carrier.
    pub link_up: bool,
    /// The device's MTU, in bytes without the Ethernet header.
    pub mtu: u32,
    /// The largest MTU that works.
    pub largest_mtu: u32,
    /// Why no larger MTU works.
    pub largest_mtu_reason: String,
    /// The device's queues.
    pub queues: Vec<UplinkQueue>,
}

/// A queue of a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UplinkQueue {
    /// The queue's number on the device.
    pub queue: u32,
    /// The worker that serves the queue.
    pub worker: u8,
    /// How packets that are to be segmented leave by the queue.
    pub bulk: Bulk,
    /// What the worker counts of the queue.
    #[serde(flatten)]
    pub counts: UplinkCounts,
    /// What the kernel counts of the queue's socket, by the kernel's names.
    pub kernel: BTreeMap<String, u64>,
}

/// How packets that are to be segmented leave by a queue of a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bulk {
    /// `device`: through a packet socket, for the device to segment them. `netback`: segmented here, sent over AF_XDP.
    pub segmented_by: String,
    /// Why netback segments them.
    pub reason: Option<String>,
}

/// The driver domain's own interface on a bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// The interface, a TAP with the bridge's name.
    pub ifname: String,
    /// The interface is up and has a carrier.
    pub link_up: bool,
    /// The interface's MTU, in bytes without the Ethernet header.
    pub mtu: u32,
    /// The interface's address.
    pub mac: String,
    /// The interface's queues, one a worker.
    pub queues: Vec<HostQueue>,
}

/// A queue of a host port. *recv* is from the driver domain's own stack, *send* to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostQueue {
    /// The queue's number on the interface.
    pub queue: u32,
    /// The worker that serves the queue.
    pub worker: u8,
    /// What the worker counts of the queue.
    #[serde(flatten)]
    pub counts: UplinkCounts,
}

/// A guest's interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vif {
    /// `<domid>/<devid>`, as `netback disconnect` takes it.
    pub vif: String,
    /// The guest.
    pub domid: u16,
    /// The interface's number in the guest.
    pub devid: u32,
    /// The guest's MAC.
    pub mac: Option<String>,
    /// The bridge that the toolstack wants the interface on.
    pub bridge: Option<String>,
    /// The VLANs that the interface is in, as the toolstack writes them; none where it is in that of frames without a tag.
    pub vlan: Option<String>,
    /// What the guest may send; none where the interface is not served.
    pub filter: Option<Filter>,
    /// What the guest may send, as its `rate` key says; none: as much as it can.
    pub rate: Option<String>,
    /// What the guest may receive, as `rate_in` says; none: as much as it can.
    pub rate_in: Option<String>,
    /// `served`, `waiting`, `refused`, `disabled`, `closing`, `closed`.
    pub service: String,
    /// Why the interface is refused or disabled.
    pub reason: Option<String>,
    /// Our state in xenstore.
    pub backend_state: String,
    /// The frontend's state in xenstore.
    pub frontend_state: String,
    /// The features negotiated with the frontend; none where the interface is not served.
    pub features: Option<Features>,
    /// For how many seconds the guest has taken none of the packets that wait for it on one of its queues; none where it takes
    /// them, or has not failed to for a minute.
    pub stalled_seconds: Option<u64>,
    /// Queues in service.
    pub queues: Vec<Queue>,
}

/// What a guest may send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filter {
    /// From its own MAC only.
    pub mac_lock: bool,
    /// The addresses that it may use; none: any.
    pub ip: Option<String>,
    /// To the wire and the host only.
    pub isolated: bool,
}

/// A queue of a guest's interface; Tx and Rx are the guest's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Queue {
    /// The queue's number in the vif.
    pub queue: u16,
    /// The worker that serves the queue.
    pub worker: u8,
    /// What the worker counts of the queue.
    #[serde(flatten)]
    pub counts: QueueCounts,
}
