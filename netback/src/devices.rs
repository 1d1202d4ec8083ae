//! Opens what a bridge has beside guests: its uplink and its host port.
use crate::config::{self, Config, XdpMode};
use crate::control::{OpenDevice, OpenHost, OpenHostPort, OpenQueue, OpenUplink};
use crate::descriptors::Descriptors;
use crate::uninstall;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::rc::Rc;
use tracing::{info, warn};
use xsk_bridge::device::Device;
use xsk_bridge::device::tap::TapDevice;
use xsk_bridge::frame::Umem;
use xsk_bridge::link::Link;
use xsk_bridge::nic;
use xsk_bridge::tap::{self, TapError};

/// Opens an interface of a bridge: device prepared, our program installed or adopted, a socket on each queue.
#[cfg(feature = "af-xdp")]
pub(crate) fn uplink_opener(config: &Config, umem: &Umem) -> OpenDevice {
    use xsk_bridge::device::packet_socket::{LargeSender, PacketSocket};
    use xsk_bridge::device::xsk::{Options, XskDevice};
    use xsk_bridge::nic::LengthLimit;
    use xsk_bridge::xdp;
    let (daemon, umem) = (config.daemon.clone(), umem.clone());
    let hosted = config.bridges.iter().filter(|bridge| bridge.host);
    let with_hosts = hosted.flat_map(config::Bridge::interfaces);
    let with_hosts: BTreeSet<String> = with_hosts.map(str::to_owned).collect();
    let copy = kernel_copies(&config.bridges);
    Box::new(move |bridge: &config::Bridge, ifname: &str| {
        let prepared = nic::prepare(ifname, bridge.xdp.wanted(), None, &daemon.run_dir)
            .map_err(|error| error.to_string())?;
        for warning in &prepared.warnings {
            warn!(uplink = ifname, "{warning}");
        }
        let silent = bridge.host || with_hosts.contains(ifname);
        nic::silence_ipv6(ifname, silent, &daemon.run_dir).map_err(|error| error.to_string())?;
        let attachment =
            xdp::install_or_adopt(ifname, &daemon.bpf_dir).map_err(|error| error.to_string())?;
        let mode = attachment.mode().name();
        match bridge.xdp {
            XdpMode::Native if mode != "native" => {
                return Err(format!(
                    "{ifname}: bridge {:?} asks for native XDP, but only {mode} mode works; say xdp = \"auto\", or take the program off with `netback uninstall {ifname}` and try again",
                    bridge.name
                ));
            }
            _ => {}
        }
        let mut queues = Vec::with_capacity(prepared.queues as usize);
        let (mut zero_copy, mut frames) = (true, Err(LengthLimit::Kernel));
        for queue in 0..prepared.queues {
            let options = Options {
                copy: copy || bridge.xdp == XdpMode::Generic,
            };
            let device = XskDevice::open(&umem, &attachment, queue, options)
                .map_err(|error| error.to_string())?;
            zero_copy &= device.zero_copy();
            // All queues of a device say the same.
            frames = device.frames();
            let large = PacketSocket::open(ifname, prepared.ifindex)
                .map(|socket| -> Box<dyn LargeSender> { Box::new(socket) })
                .map_err(|error| format!("no packet socket: {error}"));
            queues.push(OpenQueue {
                socket: device.duplicate_fd().ok(),
                device: Box::new(device),
                large,
            });
        }
        let link = Link::by_name(ifname).ok().flatten();
        Ok(OpenUplink {
            link: link.ok_or_else(|| format!("{ifname} was removed while it was opened"))?,
            bridge: bridge.name.clone(),
            xdp_mode: mode.into(),
            zero_copy,
            mtu_limit: nic::mtu_limit(frames),
            queues,
        })
    })
}

/// Whether the kernel is to copy the frames of all interfaces, since one of them has no zero-copy: all share one memory, and sockets of one
/// memory are all zero-copy or none. A kernel before Linux 6.3 does not say what its drivers can do.
#[cfg(feature = "af-xdp")]
fn kernel_copies(bridges: &[config::Bridge]) -> bool {
    use xsk_bridge::link::Driver;
    let (mut with, mut without) = (None, None);
    for bridge in bridges {
        for interface in bridge.interfaces() {
            let Ok(Some(link)) = Link::by_name(interface) else {
                continue;
            };
            let driver = Driver::of(link.index).unwrap_or_default();
            let can = driver.zero_copy_fragments.is_some() && bridge.xdp != XdpMode::Generic;
            *(if can { &mut with } else { &mut without }) = Some(interface);
        }
    }
    let (Some(with), Some(without)) = (with, without) else {
        return false;
    };
    warn!(
        "the kernel copies the frames of all interfaces: {without} has no zero-copy, and {with}, which has it, shares its packet memory"
    );
    true
}

#[cfg(not(feature = "af-xdp"))]
pub(crate) fn uplink_opener(_config: &Config, _umem: &Umem) -> OpenDevice {
    Box::new(|bridge: &config::Bridge, _: &str| {
        Err(format!(
            "bridge {:?}: this netback was built without AF_XDP (cargo feature af-xdp)",
            bridge.name
        ))
    })
}

/// The beginning of the names under which the descriptors of the host port `name` are kept.
fn kept_as(name: &str) -> String {
    format!("{KEPT}{name}-")
}

/// The beginning of every such name.
const KEPT: &str = "host-";

fn refused(name: &str, error: &TapError) -> String {
    format!("host port of bridge {name}: {error}")
}

/// Opens a bridge's host port: the TAP is made or found again, and its descriptors are kept beside the process.
pub(crate) fn host_opener(
    config: &Config,
    umem: &Umem,
    descriptors: &Rc<RefCell<Descriptors>>,
) -> OpenHostPort {
    let (run_dir, umem) = (config.daemon.run_dir.clone(), umem.clone());
    let (workers, descriptors) = (config.worker_count(), descriptors.clone());
    Box::new(move |bridge: &config::Bridge, beside: Option<&Link>| {
        let (name, kept) = (&bridge.name, kept_as(&bridge.name));
        let mut descriptors = descriptors.borrow_mut();
        // Bridges that share an uplink may have had none before; others are silenced when they are opened.
        for interface in bridge.interfaces() {
            if nic::is_prepared(interface, &run_dir) {
                nic::silence_ipv6(interface, true, &run_dir).map_err(|error| error.to_string())?;
            }
        }
        let held = descriptors.take(&kept, |fd| tap::is_queue_of(fd.as_fd(), name));
        let opened = tap::open(
            name,
            workers.into(),
            held,
            beside.map(|link| (link.mac, link.mtu)),
        );
        let opened = opened.map_err(|error| refused(name, &error))?;
        uninstall::note_host(&run_dir, name).map_err(|error| error.to_string())?;
        descriptors.keep(&kept, &opened.queues);
        let mtu = opened.link.mtu;
        let queues = opened.queues.into_iter();
        let queues =
            queues.map(|queue| -> Box<dyn Device> { Box::new(TapDevice::new(queue, &umem, mtu)) });
        Ok(OpenHost {
            link: opened.link,
            bridge: name.clone(),
            made: opened.made,
            queues: queues.collect(),
        })
    })
}

/// Takes away the host ports that an earlier configuration had and `config` has not, with their descriptors.
pub(crate) fn remove_forgotten_hosts(config: &Config, descriptors: &RefCell<Descriptors>) {
    let bridges = config.bridges.iter().filter(|bridge| bridge.host);
    let mut descriptors = descriptors.borrow_mut();
    for kept in descriptors.prefixes() {
        let is_wanted = bridges.clone().any(|bridge| kept == kept_as(&bridge.name));
        if kept.starts_with(KEPT) && !is_wanted {
            descriptors.forget(&kept);
        }
    }
    for name in uninstall::noted_hosts(&config.daemon).unwrap_or_default() {
        if bridges.clone().any(|bridge| bridge.name == name) {
            continue;
        }
        match uninstall::take_host_away(&config.daemon, &name) {
            Ok(()) => info!(host = name, "no longer a host port: removed"),
            Err(failure) => warn!(host = name, "not removed: {}", failure.line()),
        }
    }
}
