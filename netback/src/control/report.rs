//! The report of `status`, gathered from counters that workers write.
use super::Control;
use super::bridges::Named;
use super::uplinks::{LinkState, Uplink as Device};
use super::vif::{self, Vif};
use crate::hypervisor::Hypervisor;
use crate::observe::counters::UplinkCounts;
use crate::observe::status::{
    Bridge, Filter, Frames, Host, HostQueue, Queue, Status, Uplink, UplinkQueue, Worker,
};
use crate::vif::id::{QueueId, VifId};
use crate::vif::state::State;
use std::collections::BTreeMap;
#[cfg(feature = "af-xdp")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use xen::store::XenStore;
use xsk_bridge::header::Mac;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Makes the whole report.
    pub(super) fn status(&self) -> Status {
        let uplinks = self.uplinks.iter();
        let uplinks: Vec<Uplink> = uplinks
            .map(|device| uplink(device, &self.bridges))
            .collect();
        let hosts: Vec<Host> = self.hosts.iter().map(host).collect();
        let workers: Vec<Worker> = self
            .pool
            .0
            .iter()
            .enumerate()
            .map(|(index, member)| Worker {
                index,
                counts: (&*member.stats).into(),
            })
            .collect();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            domid: self.domid.0,
            frames: self.frames(&uplinks, &hosts),
            workers,
            bridges: self
                .bridges
                .iter()
                .map(|bridge| self.describe_bridge(bridge))
                .collect(),
            uplinks,
            hosts,
            vifs: self
                .vifs
                .iter()
                .map(|(id, vif)| crate::observe::status::Vif {
                    stalled_seconds: self.stalled(*id, vif),
                    rate_in: self.config.vif.rate_in.map(|rate| rate.to_string()),
                    ..describe(*id, vif)
                })
                .collect(),
        }
    }

    fn describe_bridge(&self, bridge: &Named) -> Bridge {
        let stats = bridge.switch.stats();
        let uplink = self.uplink_of(&bridge.switch);
        Bridge {
            name: bridge.name.clone(),
            uplink: uplink.map(|uplink| uplink.ifname.clone()),
            vlan: bridge.vlan,
            host: self.hosts.iter().any(|host| host.ifname == bridge.name),
            ports: bridge.switch.ports().len(),
            learnt: stats.learnt,
            not_learnt: stats.not_learnt,
        }
    }

    /// How long the vif's guest has taken no packets on one of its queues.
    fn stalled(&self, id: VifId, vif: &Vif) -> Option<u64> {
        let queues = vif
            .service
            .as_ref()
            .map_or(0, |service| service.queues.len());
        let ids = (0..queues as u16).map(|queue| QueueId { vif: id, queue });
        let stalled = ids.filter_map(|id| self.watch.stalled(id, Instant::now()));
        stalled.max().map(|stalled| stalled.as_secs())
    }

    fn frames(&self, uplinks: &[Uplink], hosts: &[Host]) -> Frames {
        let sum = |part: fn(&crate::observe::counters::WorkerStats) -> u64| {
            self.pool.0.iter().map(|member| part(&member.stats)).sum()
        };
        let held = |part: fn(&UplinkCounts) -> u64| {
            let uplinks = uplinks.iter().flat_map(|uplink| &uplink.queues);
            let hosts = hosts.iter().flat_map(|host| &host.queues);
            let uplinks = uplinks.map(|queue| part(&queue.counts));
            uplinks.chain(hosts.map(|queue| part(&queue.counts))).sum()
        };
        let mut frames = Frames {
            total: self.umem.frames().into(),
            free: sum(|stats| stats.frames_free.get()),
            backlog: sum(|stats| stats.frames_backlog.get()),
            travelling: sum(|stats| stats.frames_travelling.get()),
            fill: held(|counts| counts.held_fill),
            send: held(|counts| counts.held_send),
            quarantined: self.umem.quarantined().into(),
            unaccounted: 0,
        };
        let known = frames.free
            + frames.backlog
            + frames.travelling
            + frames.fill
            + frames.send
            + frames.quarantined;
        frames.unaccounted = frames.total as i64 - known as i64;
        frames
    }
}

fn uplink(device: &Device, bridges: &[Named]) -> Uplink {
    let on = |bridge: &&Named| Arc::ptr_eq(&bridge.switch, &device.switch);
    let names: Vec<&str> = bridges
        .iter()
        .filter(on)
        .map(|bridge| &*bridge.name)
        .collect();
    Uplink {
        ifname: device.ifname.clone(),
        bridge: names.join(", "),
        xdp_mode: device.xdp_mode.clone(),
        zero_copy: device.zero_copy,
        standby: device.standby,
        link_up: device.link == LinkState::Up,
        mtu: device.mtu,
        largest_mtu: device.mtu_limit.0,
        largest_mtu_reason: device.mtu_limit.1.to_string(),
        queues: device
            .queues
            .iter()
            .enumerate()
            .map(|(number, queue)| {
                let socket = queue.socket.as_ref();
                UplinkQueue {
                    queue: number as u32,
                    worker: queue.worker,
                    bulk: queue.bulk.report(),
                    counts: (&*queue.stats).into(),
                    kernel: socket.map(kernel_counters).unwrap_or_default(),
                }
            })
            .collect(),
    }
}

fn host(device: &super::hosts::Host) -> Host {
    let queues = device.queues.iter().enumerate();
    Host {
        ifname: device.ifname.clone(),
        link_up: device.link == LinkState::Up,
        mtu: device.mtu,
        mac: text(device.mac),
        queues: queues
            .map(|(number, queue)| HostQueue {
                queue: number as u32,
                worker: queue.worker,
                counts: (&*queue.stats).into(),
            })
            .collect(),
    }
}

/// An address as people write it.
fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn describe(id: VifId, vif: &Vif) -> crate::observe::status::Vif {
    let service = match vif.state {
        State::InitWait { .. } if vif.reason.is_some() => "refused",
        State::Fresh | State::InitWait { .. } | State::TakingOver => "waiting",
        State::Refused(_) => "refused",
        State::Connected => "served",
        State::Disabled { .. } => "disabled",
        State::Closing { .. } => "closing",
        State::Closed { .. } | State::Gone { .. } => "closed",
    };
    let queues = vif
        .service
        .iter()
        .flat_map(|service| service.queues.iter().enumerate());
    let access = vif.service.as_ref().map(|service| &service.access);
    crate::observe::status::Vif {
        vif: id.to_string(),
        domid: id.domid.0,
        devid: id.devid,
        mac: vif.policy.as_ref().map(|policy| text(policy.mac)),
        bridge: vif.policy.as_ref().map(|policy| policy.bridge.clone()),
        rate: vif
            .policy
            .as_ref()
            .and_then(|policy| policy.rate)
            .map(|rate| rate.to_string()),
        rate_in: None,
        service: service.into(),
        vlan: access.and_then(|access| Some(access.rules.vlans.as_ref()?.to_string())),
        filter: access.map(|access| {
            let filter = access.filter.as_deref();
            Filter {
                mac_lock: filter.is_some_and(|filter| filter.mac_lock()),
                ip: filter.and_then(|filter| Some(filter.addresses()?.to_string())),
                isolated: access.rules.isolated,
            }
        }),
        reason: vif.reason.clone(),
        backend_state: vif
            .world
            .own
            .map_or("Gone".into(), |state| state.to_string()),
        frontend_state: vif::name(vif.world.frontend),
        stalled_seconds: None,
        features: vif.service.as_ref().map(|service| service.features),
        queues: queues
            .map(|(number, queue)| Queue {
                queue: number as u16,
                worker: queue.worker,
                counts: (&*queue.stats).into(),
            })
            .collect(),
    }
}

/// The kernel's counters of an AF_XDP socket, by the kernel's names; empty where they cannot be read.
#[cfg(feature = "af-xdp")]
fn kernel_counters(socket: &OwnedFd) -> BTreeMap<String, u64> {
    let counters = xsk_bridge::device::xsk::KernelCounters::read(socket.as_fd()).ok();
    let value = counters.and_then(|counters| serde_json::to_value(counters).ok());
    value
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_default()
}

#[cfg(not(feature = "af-xdp"))]
fn kernel_counters(_socket: &OwnedFd) -> BTreeMap<String, u64> {
    BTreeMap::new()
}
