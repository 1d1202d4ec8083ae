//! A host on the network behind an uplink, on the other end of a veth pair.
use super::{Host, Namespace, process};
use anyhow::Result;

/// The host, and the uplink's name in the driver domain.
pub struct Outside {
    /// Its stack.
    pub host: Host,
    /// The driver domain's end of the cable.
    pub uplink: String,
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
        let interface = "eth0".to_owned();
        let mac = [0x02, 0x00, 0x00, 0xff, 0x00, number];
        let queues = queues.to_string();
        driver.ip(&[
            "link",
            "add",
            uplink,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "type",
            "veth",
            "peer",
            "name",
            &interface,
            "address",
            &mac.map(|byte| format!("{byte:02x}")).join(":"),
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "netns",
            namespace.name(),
        ])?;
        driver.ip(&["link", "set", uplink, "up"])?;
        // AF_XDP hands on what the peer's stack left unfinished: it must finish checksums and tags itself.
        process::run(
            namespace
                .command("ethtool")
                .args(["-K", &interface, "tx", "off", "txvlan", "off"]),
        )?;
        let last = 254 - number;
        let host = Host {
            name: name.into(),
            namespace,
            interface,
            mac,
            ipv4: format!("10.77.0.{last}"),
            ipv6: format!("fd77::{last}"),
        };
        host.configure()?;
        Ok(Self {
            host,
            uplink: uplink.into(),
        })
    }
}
