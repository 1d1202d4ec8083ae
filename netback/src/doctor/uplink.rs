//! The uplink of a bridge: whether it is there, free, up, and fit for XDP.

use super::Finding;
use super::drivers::driver;
use super::host::deaf_address;
use super::view::View;
use crate::config::{Bridge, XdpMode};
use std::path::{Path, PathBuf};
use xsk_bridge::nic::{self, LengthLimit};

/// Bit of `/sys/class/net/*/flags` (linux/if.h).
const IFF_UP: u64 = 1;
/// Bit of the same for promiscuous mode.
const IFF_PROMISC: u64 = 0x100;

/// The largest MTU of a bridge's interface, and why none is larger, where the driver's own limit for a program does not count; without a
/// reason where the interface could not be asked.
pub(super) fn mtu_limit(view: &View, bridge: &Bridge, name: &str) -> (u64, Option<LengthLimit>) {
    match view.multi_buffer.get(name) {
        Some(can) => {
            let (limit, why) = nic::mtu_limit(can.expected(bridge.xdp.wanted()));
            (limit.into(), Some(why))
        }
        None => (nic::largest_mtu(1).into(), None),
    }
}

pub(super) fn check(view: &View, bpf_dir: &Path, bridge: &Bridge) -> Vec<Finding> {
    let interfaces = bridge.interfaces();
    let findings = interfaces.map(|name| check_interface(view, bpf_dir, bridge, name));
    findings.flatten().collect()
}

fn check_interface(view: &View, bpf_dir: &Path, bridge: &Bridge, name: &str) -> Vec<Finding> {
    let nic = Nic {
        view,
        name,
        bridge,
        pins: bpf_dir.join(name),
    };
    if !view.exists(nic.file("")) {
        return vec![nic.absent()];
    }
    let checks = [
        nic.stacked(),
        nic.enslaved(),
        nic.foreign_program(),
        nic.mode(),
        nic.mtu(),
        nic.long_frames(),
        nic.down(),
        nic.promiscuous(),
        nic.offloads(),
        deaf_address(view, bridge, name),
        nic.queues(),
        nic.virtual_function(),
        nic.frontend(),
    ];
    checks.into_iter().flatten().collect()
}

struct Nic<'a> {
    view: &'a View,
    name: &'a str,
    bridge: &'a Bridge,
    /// Where our own program is pinned while it is on the NIC.
    pins: PathBuf,
}

impl Nic<'_> {
    fn file(&self, file: &str) -> String {
        format!("/sys/class/net/{}/{file}", self.name)
    }

    fn ours_attached(&self) -> bool {
        self.view.exists(&self.pins)
    }

    fn absent(&self) -> Finding {
        let others: Vec<String> = self
            .view
            .list("/sys/class/net")
            .into_iter()
            .filter(|n| n != "lo")
            .collect();
        let what = format!(
            "bridge {} wants uplink {}, which is not there",
            self.bridge.name, self.name
        );
        let cure = match others.as_slice() {
            [] => {
                "pass a NIC through to this domain (pci= in its configuration) and load its driver"
                    .into()
            }
            others => match self.view.nics().as_slice() {
                // There is one NIC: the configuration must have meant it.
                [nic] => format!(
                    "`sed -i 's/^uplink = \"{}\"/uplink = \"{nic}\"/' {} && systemctl restart netback`; or pass the NIC through",
                    self.name,
                    self.view.config.display()
                ),
                _ => format!(
                    "correct uplink (there are {}), or pass the NIC through",
                    others.join(", ")
                ),
            },
        };
        Finding::error("uplink-missing", what, cure)
    }

    fn enslaved(&self) -> Option<Finding> {
        let master = self.view.link(self.file("master"))?;
        let what = format!(
            "{} belongs to {master}, which would see no more of its frames",
            self.name
        );
        Some(Finding::error(
            "uplink-enslaved",
            what,
            format!("`ip link set dev {} nomaster`", self.name),
        ))
    }

    fn foreign_program(&self) -> Option<Finding> {
        let program = self.view.ip(self.name)?.get("xdp")?;
        if self.ours_attached() {
            return None;
        }
        let id = program["prog"]["id"]
            .as_u64()
            .map_or(String::new(), |id| format!(" (id {id})"));
        let what = format!("another XDP program{id} is attached to {}", self.name);
        // Without the mode it was attached in, `off` takes nothing off (linux/if_link.h, XDP_ATTACHED_*).
        let flavour = match program["mode"].as_u64() {
            Some(2) => "xdpgeneric",
            Some(3) => "xdpoffload",
            _ => "xdpdrv",
        };
        let cure = format!(
            "end what attached it, then: `ip link set dev {} {flavour} off`",
            self.name
        );
        Some(Finding::error("uplink-in-use", what, cure))
    }

    fn mode(&self) -> Option<Finding> {
        if self.bridge.xdp == XdpMode::Generic {
            return None;
        }
        let name = self.view.link(self.file("device/driver"))?;
        let Some(driver) = driver(&name) else {
            let what = format!(
                "whether driver {name} of {} has native XDP is not known",
                self.name
            );
            return Some(Finding::info(
                "xdp-unknown",
                what,
                "netback status tells the mode once it runs",
            ));
        };
        let kernel = self.view.read("/proc/sys/kernel/osrelease");
        let kernel = kernel.as_deref().and_then(super::kernel::major_minor);
        let lacks = match driver.native_since {
            None => format!("driver {name} of {} has no native XDP", self.name),
            Some(since) if kernel.is_some_and(|kernel| kernel < since) => {
                format!(
                    "driver {name} of {} has native XDP from Linux {}.{} on",
                    self.name, since.0, since.1
                )
            }
            Some(_) => return None,
        };
        if self.bridge.xdp == XdpMode::Native {
            let cure = format!(
                "xdp = \"auto\" for bridge {}, or another NIC",
                self.bridge.name
            );
            return Some(Finding::error("xdp-native", lacks, cure));
        }
        let cure = "it works in generic mode, slower; another NIC if that is too slow";
        Some(Finding::warning("xdp-generic", lacks, cure))
    }

    fn mtu(&self) -> Option<Finding> {
        let mtu = self.view.number(self.file("mtu"))?;
        let what = |limit| format!("{} has MTU {mtu}, {limit} at most", self.name);
        let cure = |limit| format!("`ip link set dev {} mtu {limit}`, or less", self.name);
        let name = self.view.link(self.file("device/driver"));
        let (most, why) = mtu_limit(self.view, self.bridge, self.name);
        let one_buffer = self.bridge.xdp != XdpMode::Generic
            && matches!(why, None | Some(LengthLimit::Kernel | LengthLimit::Driver));
        let by_driver = name
            .as_deref()
            .and_then(driver)
            .and_then(|driver| driver.mtu_limit)
            .filter(|_| one_buffer);
        // Where the interface could not be asked, no limit is known.
        if let Some(why) = why
            && mtu > most
        {
            let what = format!(
                "{} has MTU {mtu}, AF_XDP takes {most} at most, for {why}",
                self.name
            );
            let limit = by_driver.map_or(most, |limit| limit.min(most));
            let cure = format!("{}{}", cure(limit), why.otherwise());
            return Some(Finding::error("uplink-mtu", what, cure));
        }
        if let Some(served) = self.served_with_less(mtu) {
            return Some(served);
        }
        let (name, limit) = (name?, by_driver?);
        if mtu <= limit {
            return None;
        }
        let what = what(format!("native XDP of {name} takes {limit}"));
        if self.bridge.xdp == XdpMode::Native {
            return Some(Finding::error("uplink-mtu", what, cure(limit)));
        }
        let cure = format!("{}; as it is, the slower generic mode is used", cure(limit));
        Some(Finding::warning("uplink-mtu", what, cure))
    }

    /// The MTU would work, but not as the netback that runs has opened the interface.
    fn served_with_less(&self, mtu: u64) -> Option<Finding> {
        let mut uplinks = self.view.uplinks.iter();
        let served = uplinks.find(|uplink| uplink.ifname == self.name)?;
        if mtu <= served.largest_mtu.into() {
            return None;
        }
        let what = format!(
            "{} has MTU {mtu}, netback carries {} at most until it is restarted, for {}",
            self.name, served.largest_mtu, served.largest_mtu_reason
        );
        let cure = "`systemctl restart netback`, which guests do not notice";
        Some(Finding::error("uplink-mtu", what, cure))
    }

    /// Frames in several buffers do not pass: the largest MTU is that of one.
    fn long_frames(&self) -> Option<Finding> {
        let (limit, why) = mtu_limit(self.view, self.bridge, self.name);
        let why = why.filter(|why| *why != LengthLimit::Frames)?;
        if self.view.number(self.file("mtu"))? > limit {
            // That is a finding of its own.
            return None;
        }
        let what = format!(
            "{}: an MTU of {limit} is the largest that works, for {why}",
            self.name
        );
        Some(Finding::info("uplink-mtu-limit", what, ""))
    }

    /// The uplink is down although netback has brought it up, or it has no carrier.
    fn down(&self) -> Option<Finding> {
        let flags = self.view.number(self.file("flags"))?;
        if flags & IFF_UP == 0 {
            let what = format!("{} is down", self.name);
            let cure = format!("`ip link set dev {} up`", self.name);
            return self
                .ours_attached()
                .then(|| Finding::error("uplink-down", what, cure));
        }
        if self.view.number(self.file("carrier")) == Some(0) {
            let what = format!("{} has no carrier", self.name);
            let cure = "look at the cable and at the switch";
            return Some(Finding::warning("no-carrier", what, cure));
        }
        None
    }

    /// A bridge or a bond, which carries no XDP program of its own.
    fn stacked(&self) -> Option<Finding> {
        let kinds = ["bridge", "bonding"];
        let kind = kinds
            .iter()
            .find(|kind| self.view.exists(self.file(kind)))?;
        let what = format!("{} is a {kind} device, not a NIC", self.name);
        let cure = match *kind {
            "bonding" => {
                "take its NICs out of it, and name two of them as uplink and backup of the [[bridge]]"
            }
            _ => "name the NIC beneath it as uplink, and take that out of it",
        };
        Some(Finding::error("uplink-stacked", what, cure))
    }

    /// A virtual function: what its host lets it do cannot be seen from this domain.
    fn virtual_function(&self) -> Option<Finding> {
        if !self.view.exists(self.file("device/physfn")) {
            return None;
        }
        let what = format!(
            "{} is a virtual function: guests' frames pass only where its host trusts it",
            self.name
        );
        let cure =
            "on its host: ip link set dev <physical function> vf <number> trust on spoofchk off";
        Some(Finding::warning("virtual-function", what, cure))
    }

    /// A vif of another domain's backend: AF_XDP takes no packet larger than a frame, and nobody tells an XDP program that a checksum is
    /// blank. What the other end sends cannot be seen from here.
    fn frontend(&self) -> Option<Finding> {
        let driver = self.view.link(self.file("device/driver"))?;
        if driver != "vif" {
            return None;
        }
        let what = format!(
            "{} is itself a vif: packets that dom0 sends it larger than a frame are lost, and those without a checksum reach guests so",
            self.name
        );
        let cure = "unless it was done, in dom0 on its interface vif<domid>.<devid>: ethtool -K vif<domid>.<devid> tx off tso off gso off";
        Some(Finding::info("uplink-vif", what, cure))
    }

    /// The uplink is not promiscuous although netback has made it so.
    fn promiscuous(&self) -> Option<Finding> {
        let flags = self.view.number(self.file("flags"))?;
        if !self.ours_attached() || flags & IFF_PROMISC != 0 {
            return None;
        }
        let what = format!(
            "{} is not promiscuous, so it drops what is sent to guests",
            self.name
        );
        Some(Finding::error(
            "not-promiscuous",
            what,
            format!("`ip link set dev {} promisc on`", self.name),
        ))
    }

    /// Offloads that netback has switched off are on again.
    fn offloads(&self) -> Option<Finding> {
        let on = self
            .view
            .offloads
            .get(self.name)
            .filter(|_| self.ours_attached())?;
        let (_, why) = on.first()?;
        let names: Vec<&str> = on.iter().map(|(name, _)| *name).collect();
        let what = format!("{} has {} on: {why}", self.name, names.join(", "));
        Some(Finding::error(
            "uplink-offloads",
            what,
            "`systemctl restart netback` switches them off, and guests do not notice",
        ))
    }

    fn queues(&self) -> Option<Finding> {
        let queues = self
            .view
            .list(self.file("queues"))
            .iter()
            .filter(|name| name.starts_with("rx-"))
            .count();
        let what = format!(
            "{} has one receive queue: one core does all its work",
            self.name
        );
        (queues == 1).then(|| Finding::info("one-queue", what, ""))
    }
}
