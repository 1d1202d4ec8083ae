//! Uplinks as the control thread keeps them: workers have their queues, and their links are watched.
use super::bulk::BulkWay;
use super::rate::Rate;
use super::{Control, Error};
use crate::config;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::UplinkStats;
use crate::path::ports::ServedBy;
use crate::worker::messages::ToWorker;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use xen::store::XenStore;
use xsk_bridge::device::Device;
use xsk_bridge::device::packet_socket::LargeSender;
use xsk_bridge::link::{Link, LinkEvent};
use xsk_bridge::nic::LengthLimit;
use xsk_bridge::switch::{Bridge, PortId, PortKind};

/// Log lines about one uplink's link that may follow each other at once, and the pause between further ones: a bad cable can flap for days.
pub(super) const LINES: (u32, Duration) = (20, Duration::from_secs(10));
/// How long a device that is back is left alone before it is opened: whoever put it back also names it and sets it up.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// A device that is ready: prepared, our program on it, a socket on each queue.
pub struct OpenUplink {
    /// The device as the kernel describes it.
    pub link: Link,
    /// Name of the bridge that the device is for.
    pub bridge: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The driver reads and writes the packet memory itself (zero-copy).
    pub zero_copy: bool,
    /// The largest MTU that works, in bytes without the Ethernet header, and why none is larger.
    pub mtu_limit: (u32, LengthLimit),
    /// The device's queues, by number.
    pub queues: Vec<OpenQueue>,
}

/// A queue of a device that is ready.
pub struct OpenQueue {
    /// The device's end of the queue.
    pub device: Box<dyn Device>,
    /// A second descriptor of the queue's socket, for the kernel's counters.
    pub socket: Option<OwnedFd>,
    /// The socket of packets that the device segments itself, or why there is none.
    pub large: Result<Box<dyn LargeSender>, String>,
}

/// Opens an interface of a bridge, its uplink or the backup: AF_XDP in the daemon, memory in tests.
pub type OpenDevice = Box<dyn FnMut(&config::Bridge, &str) -> Result<OpenUplink, String>>;

/// Whether frames can go over a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    /// The device is up and has a carrier.
    Up,
    /// The device is there, but is not up or has no carrier.
    Down,
    /// The device is no longer there.
    Removed,
}

impl LinkState {
    pub fn of(link: &Link) -> Self {
        match link.running() {
            true => Self::Up,
            false => Self::Down,
        }
    }
}

/// An uplink in service.
pub(super) struct Uplink {
    pub port_id: PortId,
    pub ifname: String,
    /// The switch whose way out the uplink is.
    pub switch: Arc<Bridge>,
    pub xdp_mode: String,
    pub zero_copy: bool,
    /// Another device carries the frames of the bridge.
    pub standby: bool,
    /// The device's index: another device of the same name has another one.
    pub(super) index: u32,
    /// The device's MTU, in bytes without the Ethernet header.
    pub mtu: u32,
    /// The largest MTU that works, and why none is larger.
    pub mtu_limit: (u32, LengthLimit),
    pub link: LinkState,
    /// What is kept of each queue; the queues themselves are with the workers.
    pub queues: Vec<UplinkQueue>,
    /// The device as the kernel last described it.
    pub device: Link,
    lines: Rate,
}

/// A queue of an uplink or a host port, once a worker has it.
pub(super) struct UplinkQueue {
    pub worker: u8,
    pub stats: Arc<UplinkStats>,
    /// A second descriptor of the queue's socket.
    pub socket: Option<OwnedFd>,
    /// Why there is no socket for packets that the device segments itself, where there is none.
    pub no_lane: Option<String>,
    /// How packets that are to be segmented leave by the queue.
    pub bulk: BulkWay,
}

impl Uplink {
    pub(super) fn may_log(&mut self) -> bool {
        self.lines.take(Instant::now()).is_ok()
    }

    /// Takes over how the device is now. Returns the MTU where it has changed.
    fn update(&mut self, link: &Link) -> Option<u32> {
        let state = LinkState::of(link);
        if state != self.link {
            self.link = state;
            if self.may_log() {
                match state {
                    LinkState::Up => info!(uplink = self.ifname, "link is up"),
                    _ => warn!(
                        uplink = self.ifname,
                        "link is down: guests reach nothing behind it; is the cable in, and the interface up (`ip link show {}`)?",
                        self.ifname
                    ),
                }
            }
        }
        let before = std::mem::replace(&mut self.mtu, link.mtu);
        if before == link.mtu {
            return None;
        }
        if self.may_log() {
            info!(
                uplink = self.ifname,
                "MTU changed from {before} to {}", link.mtu
            );
        }
        self.look_at_mtu();
        Some(link.mtu)
    }

    /// Says so where the MTU is larger than works.
    fn look_at_mtu(&mut self) {
        let (limit, why) = self.mtu_limit;
        if self.mtu > limit && self.may_log() {
            warn!(
                uplink = self.ifname,
                "MTU {} does not work, {limit} at most does, for {why}: longer frames are dropped, and guests are told {limit}; `ip link set dev {} mtu {limit}`{}",
                self.mtu,
                self.ifname,
                why.otherwise()
            );
        }
    }

    /// The MTU that works of the device's.
    pub fn usable_mtu(&self) -> u32 {
        self.mtu.min(self.mtu_limit.0)
    }

    fn removed(&mut self) {
        self.link = LinkState::Removed;
        if self.may_log() {
            warn!(
                uplink = self.ifname,
                "the interface was removed: guests reach nothing behind it until it is back"
            );
        }
    }
}

/// The workers that own a queue of a device.
pub(super) fn workers_of(queues: &[UplinkQueue]) -> Vec<u8> {
    let workers: BTreeSet<u8> = queues.iter().map(|queue| queue.worker).collect();
    workers.into_iter().collect()
}

/// A device that was removed and is there again, or a host port that is to be made again: about to be opened.
pub(super) struct Returned {
    pub ifname: String,
    /// When the device has been left alone for long enough.
    pub settled: Instant,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Opens the interfaces of a bridge and puts them into service: the uplink, and the backup to stand by.
    pub(super) fn open_uplinks(
        &mut self,
        bridge: &Arc<Bridge>,
        wanted: &config::Bridge,
    ) -> Result<(), String> {
        let open = |ifname: &str| (self.open_device)(wanted, ifname);
        // All of them, before one is in service.
        let opened: Vec<OpenUplink> = wanted.interfaces().map(open).collect::<Result<_, _>>()?;
        let mut port_id = None;
        for opened in opened {
            port_id = Some(self.add_uplink(bridge, opened, port_id)?);
        }
        self.fail_over(bridge);
        Ok(())
    }

    /// Puts an opened device into service on `bridge`: its queues go to the workers, spread evenly. Where a device carries the frames of
    /// port `beside` already, this one stands by. Returns the device's port.
    fn add_uplink(
        &mut self,
        bridge: &Arc<Bridge>,
        opened: OpenUplink,
        beside: Option<PortId>,
    ) -> Result<PortId, String> {
        let standby = beside.is_some();
        let port_id = match beside {
            Some(port_id) => port_id,
            None => self.ports.take().ok_or("every port number is in use")?,
        };
        let workers = self.pool.0.len();
        // Where every worker gets a queue, it gets the one of its own number: by the kernel's rule for packet sockets the lane for
        // large packets is then open on each of them.
        let first = match opened.queues.len() < workers {
            true => self.uplinks.len(),
            false => 0,
        };
        let mut queues = Vec::with_capacity(opened.queues.len());
        for (number, queue) in opened.queues.into_iter().enumerate() {
            let worker = ((first + number) % workers) as u8;
            let role = (opened.link.index, standby);
            queues.push(self.serve_device(worker, port_id, role, number as u16, bridge, queue));
        }
        if !standby {
            let place = workers_of(&queues);
            self.pool
                .send_all(|| ToWorker::SetPort(port_id, ServedBy::Uplink(place.clone())));
            bridge.add_port(port_id, PortKind::Uplink);
        }
        let link = LinkState::of(&opened.link);
        info!(
            uplink = opened.link.name,
            bridge = opened.bridge,
            mode = opened.xdp_mode,
            zero_copy = opened.zero_copy,
            queues = queues.len(),
            largest_mtu = opened.mtu_limit.0,
            ?link,
            standby,
            "uplink in service"
        );
        let (largest, why) = opened.mtu_limit;
        if why != LengthLimit::Frames {
            info!(
                uplink = opened.link.name,
                "MTU {largest} is the largest that works, for {why}"
            );
        }
        self.uplinks.push(Uplink {
            port_id,
            ifname: opened.link.name.clone(),
            switch: bridge.clone(),
            xdp_mode: opened.xdp_mode,
            zero_copy: opened.zero_copy,
            standby,
            index: opened.link.index,
            mtu: opened.link.mtu,
            mtu_limit: opened.mtu_limit,
            link,
            queues,
            device: opened.link,
            lines: Rate::new(LINES.0, LINES.1, Instant::now()),
        });
        self.look_at_bulk();
        Ok(port_id)
    }

    /// The device that carries the frames of a switch; `None`: the switch has no uplink.
    pub(super) fn uplink_of(&self, switch: &Arc<Bridge>) -> Option<&Uplink> {
        let mut uplinks = self.uplinks.iter();
        uplinks.find(|uplink| Arc::ptr_eq(&uplink.switch, switch) && !uplink.standby)
    }

    /// Hands queue `number` of the device with this index, which may stand by, to a worker.
    pub(super) fn serve_device(
        &mut self,
        worker: u8,
        port_id: PortId,
        (index, standby): (u32, bool),
        number: u16,
        bridge: &Arc<Bridge>,
        queue: OpenQueue,
    ) -> UplinkQueue {
        let stats = Arc::<UplinkStats>::default();
        let (large, no_lane) = match queue.large {
            Ok(large) => (Some(large), None),
            Err(reason) => (None, Some(reason)),
        };
        let message = ToWorker::AddUplink {
            port_id,
            index,
            standby,
            queue: number,
            bridge: bridge.clone(),
            device: queue.device,
            large,
            stats: stats.clone(),
        };
        self.pool.send(worker, message);
        UplinkQueue {
            worker,
            stats,
            socket: queue.socket,
            no_lane,
            bulk: BulkWay::default(),
        }
    }

    /// Takes in what the kernel says of network devices since the last call.
    pub(super) fn read_links(&mut self) -> Result<(), Error> {
        let failed = |error| Error::Os("netlink", error);
        let mut events = Vec::new();
        self.links.read(&mut events).map_err(failed)?;
        if events.contains(&LinkEvent::Lost) {
            let there = Link::all().map_err(failed)?;
            let uplinks = self.uplinks.iter().map(|uplink| uplink.index);
            let gone = uplinks.chain(self.hosts.iter().map(|host| host.index));
            let gone = gone.filter(|index| there.iter().all(|link| link.index != *index));
            events = gone
                .map(|index| LinkEvent::Removed { index })
                .chain(there.iter().cloned().map(LinkEvent::Changed))
                .collect();
        }
        events.iter().try_for_each(|event| self.link_event(event))
    }

    /// One event of a network device, which may be no uplink of ours.
    pub(super) fn link_event(&mut self, event: &LinkEvent) -> Result<(), Error> {
        match event {
            LinkEvent::Changed(link) => self.link_changed(link)?,
            LinkEvent::Removed { index } => {
                let mut uplinks = self.uplinks.iter_mut();
                let there = |uplink: &&mut Uplink| {
                    uplink.index == *index && uplink.link != LinkState::Removed
                };
                match uplinks.find(there) {
                    Some(uplink) => {
                        uplink.removed();
                        let switch = uplink.switch.clone();
                        self.fail_over(&switch);
                        self.tell_networks(&switch)?;
                    }
                    None => self.host_removed(*index),
                }
            }
            LinkEvent::Lost => {}
        }
        Ok(())
    }

    fn link_changed(&mut self, link: &Link) -> Result<(), Error> {
        if self.host_changed(link) {
            return Ok(());
        }
        let (mut changed, mut follows, mut ours) = (None, None, false);
        for uplink in &mut self.uplinks {
            if uplink.index == link.index && uplink.link != LinkState::Removed {
                ours = true;
                uplink.device = link.clone();
                let before = (uplink.link, uplink.mtu);
                if let Some(mtu) = uplink.update(link) {
                    let index = uplink.index;
                    self.pool.send_all(|| ToWorker::SetMtu(index, mtu));
                    follows = Some((uplink.ifname.clone(), uplink.usable_mtu()));
                }
                if before != (uplink.link, uplink.mtu) {
                    changed = Some(uplink.switch.clone());
                }
            } else if uplink.ifname == link.name {
                self.returned = Some(Returned {
                    ifname: link.name.clone(),
                    settled: Instant::now() + SETTLE,
                });
            }
        }
        if let Some((uplink, mtu)) = follows {
            self.hosts_follow_mtu(&uplink, mtu);
        }
        if ours {
            // ethtool(8) tells of a changed offload in this way.
            self.look_at_bulk();
        }
        let Some(switch) = changed else {
            return Ok(());
        };
        self.fail_over(&switch);
        self.tell_networks(&switch)
    }

    /// The interface of an uplink that was removed and is there again, or of a host port that was removed, left alone for long enough. The
    /// sockets died with the removed device, and so may have the one by which all others share the packet memory: only a new start gets
    /// everything back (xsk_bridge::device::xsk::OpenError::FirstGone).
    pub(super) fn uplink_back(&mut self) -> Option<String> {
        let due = |returned: &mut Returned| returned.settled <= Instant::now();
        let returned = self.returned.take_if(due)?;
        let is_host = self.hosts.iter().any(|host| host.ifname == returned.ifname);
        // An uplink removed once more in the meantime: another event tells of its next return.
        let there = || Link::by_name(&returned.ifname).ok().flatten().is_some();
        (is_host || there()).then_some(returned.ifname)
    }
}
