//! Host ports as the control thread keeps them: TAPs, of which each worker has one queue.
use super::Control;
use super::rate::Rate;
use super::uplinks::{LINES, LinkState, OpenQueue, Returned, SETTLE, UplinkQueue};
use crate::config;
use crate::hypervisor::Hypervisor;
use crate::path::ports::ServedBy;
use crate::worker::messages::ToWorker;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use xen::store::XenStore;
use xsk_bridge::device::Device;
use xsk_bridge::header::Mac;
use xsk_bridge::link::{Change, Link};
use xsk_bridge::switch::vlan::Vlans;
use xsk_bridge::switch::{Bridge, PortId, PortKind, Rules};

/// For how long the address of a TAP that was just made is set again where something else changes it: udev gives new interfaces an
/// address of its own choice (systemd.link(5), MACAddressPolicy), in a race with whoever made them.
const ADDRESS_GUARD: Duration = Duration::from_secs(5);

/// A host port that is ready: a TAP with the bridge's name, a descriptor for each worker.
pub struct OpenHost {
    /// The TAP as the kernel describes it.
    pub link: Link,
    /// Name of the bridge that the TAP is a port of.
    pub bridge: String,
    /// The TAP was not there before.
    pub made: bool,
    /// The TAP's queues, by the number of the worker that serves each.
    pub queues: Vec<Box<dyn Device>>,
}

/// Opens the host port of a bridge, beside an uplink that is as described: a TAP in the daemon, memory in tests.
pub type OpenHostPort = Box<dyn FnMut(&config::Bridge, Option<&Link>) -> Result<OpenHost, String>>;

/// A host port in service.
pub(super) struct Host {
    pub port_id: PortId,
    /// The TAP's name, and the bridge's.
    pub ifname: String,
    pub index: u32,
    pub mac: Mac,
    pub mtu: u32,
    pub link: LinkState,
    pub queues: Vec<UplinkQueue>,
    /// Until when the TAP's address is set again where something changes it, and the address.
    guarded: Option<(Instant, Mac)>,
    lines: Rate,
}

impl Host {
    /// Keeps what the kernel says of the link, and logs it where it is new.
    fn set_link(&mut self, state: LinkState) {
        if std::mem::replace(&mut self.link, state) == state
            || self.lines.take(Instant::now()).is_err()
        {
            return;
        }
        match state {
            LinkState::Up => info!(host = self.ifname, "the host port is up"),
            LinkState::Down => warn!(
                host = self.ifname,
                "the host port is down: this domain is not reached by it (`ip link set dev {} up`)",
                self.ifname
            ),
            LinkState::Removed => warn!(
                host = self.ifname,
                "the host port was removed: it is made anew, without the addresses that it had"
            ),
        }
    }
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Opens the host port of a bridge, beside its uplink if it has one.
    pub(super) fn open_host(&mut self, wanted: &config::Bridge) -> Result<OpenHost, String> {
        let uplink = wanted.uplink.as_deref();
        let mut beside = uplink.and_then(|uplink| Link::by_name(uplink).ok().flatten());
        let served = self
            .uplinks
            .iter()
            .find(|served| Some(&*served.ifname) == uplink);
        if let (Some(link), Some(served)) = (&mut beside, served) {
            link.mtu = link.mtu.min(served.mtu_limit.0);
        }
        (self.open_host)(wanted, beside.as_ref())
    }

    /// Puts an opened host port into service on a bridge of the switch: each worker gets a queue.
    pub(super) fn add_host(
        &mut self,
        wanted: &config::Bridge,
        switch: &Arc<Bridge>,
        opened: OpenHost,
    ) -> Result<(), String> {
        let port_id = self.ports.take().ok_or("every port number is in use")?;
        let mut queues = Vec::with_capacity(opened.queues.len());
        for (worker, device) in opened.queues.into_iter().enumerate() {
            let worker = worker as u8;
            let role = (opened.link.index, false);
            let queue = OpenQueue {
                device,
                socket: None,
                large: Err("a host port takes large packets whole".into()),
            };
            queues.push(self.serve_device(worker, port_id, role, worker.into(), switch, queue));
        }
        let workers: Vec<u8> = queues.iter().map(|queue| queue.worker).collect();
        self.pool
            .send_all(|| ToWorker::SetPort(port_id, ServedBy::Uplink(workers.clone())));
        let Link {
            mac, mtu, index, ..
        } = opened.link;
        switch.add_port_with(port_id, PortKind::Host(mac), &rules(wanted.vlan));
        let link = LinkState::of(&opened.link);
        info!(
            host = opened.link.name,
            queues = queues.len(),
            made = opened.made,
            ?link,
            "host port in service"
        );
        self.hosts.push(Host {
            port_id,
            ifname: opened.link.name,
            index,
            mac,
            mtu,
            link,
            queues,
            guarded: opened.made.then(|| (Instant::now() + ADDRESS_GUARD, mac)),
            lines: Rate::new(LINES.0, LINES.1, Instant::now()),
        });
        Ok(())
    }

    /// Takes note of how the TAP of a host port is now. Returns false where the link is that of no host port.
    pub(super) fn host_changed(&mut self, link: &Link) -> bool {
        let mut hosts = self.hosts.iter_mut();
        let Some(host) = hosts.find(|host| host.index == link.index) else {
            return false;
        };
        host.set_link(LinkState::of(link));
        if host.mtu != link.mtu {
            host.mtu = link.mtu;
            let (index, mtu) = (host.index, link.mtu);
            self.pool.send_all(|| ToWorker::SetMtu(index, mtu));
        }
        if let Some((until, mac)) = host.guarded
            && Instant::now() < until
            && link.mac != mac
        {
            change(
                host,
                Change {
                    mac: Some(mac),
                    ..Change::default()
                },
            );
        } else if host.mac != link.mac {
            host.mac = link.mac;
            let mut bridges = self.bridges.iter();
            if let Some(bridge) = bridges.find(|bridge| bridge.name == host.ifname) {
                let kind = PortKind::Host(link.mac);
                let rules = rules(bridge.vlan);
                bridge.switch.add_port_with(host.port_id, kind, &rules);
            }
        }
        true
    }

    /// Takes note that the TAP with this index was removed: everything begins anew a while later, for whoever removed the TAP may have more
    /// to do.
    pub(super) fn host_removed(&mut self, index: u32) {
        let mut hosts = self.hosts.iter_mut();
        let there = |host: &&mut Host| host.index == index && host.link != LinkState::Removed;
        if let Some(host) = hosts.find(there) {
            host.set_link(LinkState::Removed);
            self.returned = Some(Returned {
                ifname: host.ifname.clone(),
                settled: Instant::now() + SETTLE,
            });
        }
    }

    /// Gives the host ports of the bridges with this uplink its MTU.
    pub(super) fn hosts_follow_mtu(&self, uplink: &str, mtu: u32) {
        let bridges = self.bridges.iter();
        let bridges = bridges.filter(|bridge| bridge.uplink.as_deref() == Some(uplink));
        let host = |name: &str| self.hosts.iter().find(|host| host.ifname == name);
        for host in bridges.filter_map(|bridge| host(&bridge.name)) {
            change(
                host,
                Change {
                    mtu: Some(mtu),
                    ..Change::default()
                },
            );
        }
    }

    /// Gives the host port of `bridge`, if it has one, the MTU and address of the device that was plugged in beside it.
    pub(super) fn host_follows_device(&mut self, bridge: &str, link: &Link) {
        let mut hosts = self.hosts.iter_mut();
        if let Some(host) = hosts.find(|host| host.ifname == bridge) {
            let (mac, mtu) = (Some(link.mac), Some(link.mtu));
            host.guarded = Some((Instant::now() + ADDRESS_GUARD, link.mac));
            change(
                host,
                Change {
                    mac,
                    mtu,
                    ..Change::default()
                },
            );
        }
    }
}

/// What the driver domain may do on a bridge: it is untagged in the bridge's VLAN, and on a bridge without one it is in every VLAN, as the
/// wire is.
fn rules(vlan: Option<u16>) -> Rules {
    Rules {
        vlans: vlan.map(Vlans::access),
        isolated: false,
    }
}

/// Changes the TAP. An event of the kernel's tells of the change afterwards.
fn change(host: &Host, change: Change) {
    if let Err(error) = change.apply(host.index) {
        warn!(
            host = host.ifname,
            "the host port does not follow its uplink: {error}"
        );
    }
}
