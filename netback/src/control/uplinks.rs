//! Uplinks as the control thread keeps them: their queues are with the workers, their links are watched.
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
use xsk_bridge::link::{Link, LinkEvent};
use xsk_bridge::switch::{Bridge, PortId, PortKind};

/// Log lines about one uplink's link at once, and the pause between further ones: a bad cable can flap for days.
const LINES: (u32, Duration) = (20, Duration::from_secs(10));
/// How long a device that is back must be left alone before it is opened: whoever put it back also names it and sets it up.
const SETTLE: Duration = Duration::from_secs(1);

/// A device that is ready: prepared, our program on it, a socket on each queue.
pub struct OpenUplink {
    /// The device as the kernel describes it.
    pub link: Link,
    /// Name of the bridge that the device is for.
    pub bridge: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The driver reads and writes frames itself.
    pub zero_copy: bool,
    /// Queue n of the device, and a second descriptor of its socket for the kernel's counters.
    pub queues: Vec<(Box<dyn Device>, Option<OwnedFd>)>,
}

/// Opens the uplink of a bridge: AF_XDP in the daemon, memory in tests.
pub type OpenDevice = Box<dyn FnMut(&config::Bridge) -> Result<OpenUplink, String>>;

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
    fn of(link: &Link) -> Self {
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
    pub xdp_mode: String,
    pub zero_copy: bool,
    /// The device's index: another device of the same name has another one.
    index: u32,
    /// The device's MTU, in bytes without the Ethernet header.
    pub mtu: u32,
    pub link: LinkState,
    /// What is kept of each queue; the queues themselves are with the workers.
    pub queues: Vec<UplinkQueue>,
    lines: Rate,
}

/// A queue of an uplink, once a worker has it.
pub(super) struct UplinkQueue {
    pub worker: u8,
    pub stats: Arc<UplinkStats>,
    /// A second descriptor of the queue's socket.
    pub socket: Option<OwnedFd>,
}

impl Uplink {
    fn may_log(&mut self) -> bool {
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
        Some(link.mtu)
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

/// A device that was removed and is there again, about to be opened.
pub(super) struct Returned {
    pub ifname: String,
    /// When the device has been left alone for long enough.
    pub settled: Instant,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Puts an opened device into service on `bridge`: its queues go to the workers, spread evenly.
    pub(super) fn add_uplink(
        &mut self,
        bridge: &Arc<Bridge>,
        opened: OpenUplink,
    ) -> Result<(), String> {
        let port_id = self.ports.take().ok_or("every port number is in use")?;
        let workers = self.pool.0.len();
        let first = self.uplinks.len();
        let mut queues = Vec::with_capacity(opened.queues.len());
        for (number, (device, socket)) in opened.queues.into_iter().enumerate() {
            let worker = ((first + number) % workers) as u8;
            let stats = Arc::<UplinkStats>::default();
            queues.push(UplinkQueue {
                worker,
                stats: stats.clone(),
                socket,
            });
            let bridge = bridge.clone();
            self.pool.send(
                worker,
                ToWorker::AddUplink {
                    port_id,
                    bridge,
                    device,
                    stats,
                },
            );
        }
        let place: BTreeSet<u8> = queues.iter().map(|queue| queue.worker).collect();
        let place: Vec<u8> = place.into_iter().collect();
        self.pool
            .send_all(|| ToWorker::SetPort(port_id, ServedBy::Uplink(place.clone())));
        bridge.add_port(port_id, PortKind::Uplink);
        let link = LinkState::of(&opened.link);
        info!(
            uplink = opened.link.name,
            bridge = opened.bridge,
            mode = opened.xdp_mode,
            zero_copy = opened.zero_copy,
            queues = queues.len(),
            ?link,
            "uplink in service"
        );
        self.uplinks.push(Uplink {
            port_id,
            ifname: opened.link.name,
            xdp_mode: opened.xdp_mode,
            zero_copy: opened.zero_copy,
            index: opened.link.index,
            mtu: opened.link.mtu,
            link,
            queues,
            lines: Rate::new(LINES.0, LINES.1, Instant::now()),
        });
        Ok(())
    }

    /// Takes in what the kernel says of network devices since the last call.
    pub(super) fn read_links(&mut self) -> Result<(), Error> {
        let failed = |error| Error::Os("netlink", error);
        let mut events = Vec::new();
        self.links.read(&mut events).map_err(failed)?;
        if events.contains(&LinkEvent::Lost) {
            let there = Link::all().map_err(failed)?;
            let gone = self.uplinks.iter().map(|uplink| uplink.index);
            let gone = gone.filter(|index| there.iter().all(|link| link.index != *index));
            events = gone
                .map(|index| LinkEvent::Removed { index })
                .chain(there.iter().cloned().map(LinkEvent::Changed))
                .collect();
        }
        for event in &events {
            self.link_event(event);
        }
        Ok(())
    }

    /// One event of a network device, which may be no uplink of ours.
    pub(super) fn link_event(&mut self, event: &LinkEvent) {
        match event {
            LinkEvent::Changed(link) => self.link_changed(link),
            LinkEvent::Removed { index } => {
                let mut uplinks = self.uplinks.iter_mut();
                let there = |uplink: &&mut Uplink| {
                    uplink.index == *index && uplink.link != LinkState::Removed
                };
                if let Some(uplink) = uplinks.find(there) {
                    uplink.removed();
                }
            }
            LinkEvent::Lost => {}
        }
    }

    fn link_changed(&mut self, link: &Link) {
        for uplink in &mut self.uplinks {
            if uplink.index == link.index && uplink.link != LinkState::Removed {
                if let Some(mtu) = uplink.update(link) {
                    let port_id = uplink.port_id;
                    self.pool.send_all(|| ToWorker::SetMtu(port_id, mtu));
                }
            } else if uplink.ifname == link.name {
                self.returned = Some(Returned {
                    ifname: link.name.clone(),
                    settled: Instant::now() + SETTLE,
                });
            }
        }
    }

    /// The interface of an uplink that was removed and is there again, left alone for long enough. The sockets died with the
    /// removed device, and so may have the one by which all others share the packet memory: only a new start gets everything back
    /// (xsk_bridge::device::xsk::OpenError::FirstGone).
    pub(super) fn uplink_back(&mut self) -> Option<String> {
        let due = |returned: &mut Returned| returned.settled <= Instant::now();
        let returned = self.returned.take_if(due)?;
        // Removed once more in the meantime: another event tells of its next return.
        let there = Link::by_name(&returned.ifname).ok().flatten();
        there.map(|_| returned.ifname)
    }
}
