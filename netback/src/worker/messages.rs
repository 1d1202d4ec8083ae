//! What control and workers say to each other, over bounded single-producer queues.
//!
//! Order matters and is kept: what control sends to one worker arrives in the order sent. To bring a vif up, control sends
//! [`ToWorker::AddQueue`] to the workers that serve its queues, then [`ToWorker::SetPort`] to **every** worker. To take it
//! down: `Bridge::remove_port`, `SetPort` with [`ServedBy::Nobody`] to every worker, then `RemoveQueue` to those that serve it.
use crate::hypervisor::Hypervisor;
use crate::observe::counters::UplinkStats;
use crate::path::lane::LaneTerms;
use crate::path::ports::ServedBy;
use crate::queue::Remains;
use crate::queue::setup::QueueSetup;
use crate::vif::id::QueueId;
use ring::packet::Fatal;
use std::sync::Arc;
use xsk_bridge::announce::ANNOUNCEMENT;
use xsk_bridge::device::Device;
use xsk_bridge::device::packet_socket::LargeSender;
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::{Bridge, PortId};

/// Control to worker.
pub enum ToWorker<H: Hypervisor> {
    /// Serve this queue. Answered by nothing, or by `FromWorker::Rogue` where its rings are beyond use.
    AddQueue(Box<QueueSetup<H>>),
    /// Stop serving it; answered by `FromWorker::Removed`, also for a queue that is not (no longer) there: then without remains.
    RemoveQueue(QueueId),
    /// Look at this queue's rings now and notify its guest on both channels, whatever the rings say.
    Kick(QueueId),
    /// Which workers serve a port from now on.
    SetPort(PortId, ServedBy),
    /// Serve this queue of a device.
    AddUplink {
        /// The uplink's port; the same for all its queues, and for those of its backup.
        port_id: PortId,
        /// The device's index.
        index: u32,
        /// Another device carries the port's frames.
        standby: bool,
        /// The queue's number on the device.
        queue: u16,
        /// The bridge it is on.
        bridge: Arc<Bridge>,
        /// The socket.
        device: Box<dyn Device>,
        /// The socket for packets that the device segments itself, where there is one. No packet takes it before `SetLane`.
        large: Option<Box<dyn LargeSender>>,
        /// Written by the worker alone.
        stats: Arc<UplinkStats>,
    },
    /// The MTU of the device with this index has changed to this many bytes, Ethernet header not included.
    SetMtu(u32, u32),
    /// Of the devices of a port, the one with this index carries the port's frames from now on. `SetPort` follows.
    SwitchUplink(PortId, u32),
    /// Send frames by a device that this worker serves, as far as it has room: those of a port, by the device that carries its frames.
    Announce(PortId, Vec<[u8; ANNOUNCEMENT]>),
    /// What the guest of this port may send from now on; `None`: anything.
    SetFilter(PortId, Option<Arc<Filter>>),
    /// From now on packets that the device with this index segments itself go to its queue of this number on these terms; `None`: they
    /// are cut here.
    SetLane(u32, u16, Option<LaneTerms>),
    /// Leave the loop without touching a guest's ring state; answered by `FromWorker::Stopped`.
    Stop,
}

/// Worker to control. Control is woken when one was posted.
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
    /// The last word of a worker.
    Stopped,
}
