//! A host on the network behind an uplink, on the other end of a veth pair.
use super::{Host, Namespace, process};
use anyhow::Result;

/// The host, and the cable to it.
pub struct Outside {
    /// Its stack.
    pub host: Host,
    /// The driver domain's end of the cable.
    pub uplink: String,
    /// Queues at both ends.
    queues: String,
}

impl Outside {
    /// Lay the cable. `number` makes its addresses: they count down from the top of the lab's subnets.
    pub fn connect(
        name: &str,
        namespace: Namespace,
        driver: &Namespace,
        uplink: &str,
        queues: u16,
        number: u8,
    ) -> Result<Self> {
        let last = 254 - number;
        let outside = Self {
            host: Host {
                name: name.into(),
                namespace,
                interface: "eth0".into(),
                mac: [0x02, 0x00, 0x00, 0xff, 0x00, number],
                ipv4: format!("10.77.0.{last}"),
                ipv6: format!("fd77::{last}"),
            },
            uplink: uplink.into(),
            queues: queues.to_string(),
        };
        outside.plug(driver)?;
        Ok(outside)
    }

    /// Pull the cable: both ends are gone, as of a NIC that was removed.
    pub fn unplug(&self, driver: &Namespace) -> Result<()> {
        driver.ip(&["link", "del", &self.uplink])
    }

    /// Lay it (again), with the same names and addresses.
    pub fn plug(&self, driver: &Namespace) -> Result<()> {
        let (uplink, queues) = (&self.uplink, &self.queues);
        let Host {
            namespace,
            interface,
            mac,
            ..
        } = &self.host;
        driver.ip(&[
            "link",
            "add",
            uplink,
            "numtxqueues",
            queues,
            "numrxqueues",
            queues,
            "type",
            "veth",
            "peer",
            "name",
            interface,
            "address",
            &mac.map(|byte| format!("{byte:02x}")).join(":"),
            "numtxqueues",
            queues,
            "numrxqueues",
            queues,
            "netns",
            namespace.name(),
        ])?;
        driver.ip(&["link", "set", uplink, "up"])?;
        // AF_XDP hands on what the peer's stack left unfinished: it must finish checksums and tags itself.
        process::run(
            namespace
                .command("ethtool")
                .args(["-K", interface, "tx", "off", "txvlan", "off"]),
        )?;
        self.host.configure()
    }
}
