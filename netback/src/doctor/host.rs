//! This domain's own address: on the network card that netback takes, on a bridge of the kernel's, or where it belongs, on the host
//! port.
use super::Finding;
use super::view::View;
use crate::config::Bridge;

/// A bridge of the kernel's that leads to a network card.
pub(super) struct KernelBridge {
    pub name: String,
    pub nic: String,
    /// Addresses of this domain on it, with the length of their prefix.
    pub addresses: Vec<String>,
}

/// Bridges of the kernel's with a network card among their ports.
pub(super) fn kernel_bridges(view: &View) -> Vec<KernelBridge> {
    let nics = view.nics().into_iter();
    let enslaved = nics.filter_map(|nic| {
        let name = view.link(format!("/sys/class/net/{nic}/master"))?;
        let is_bridge = view.exists(format!("/sys/class/net/{name}/bridge"));
        is_bridge.then(|| KernelBridge {
            addresses: view.prefixed_addresses(&name),
            name,
            nic,
        })
    });
    enslaved.collect()
}

impl KernelBridge {
    /// The command that puts a bridge of netback's with a host port in the place of this one: the address moves with it, and the other
    /// commands that the bridge's own configuration needs are in the documents.
    pub fn replacement(&self, view: &View) -> String {
        let Self {
            name,
            nic,
            addresses,
        } = self;
        let addresses: String = addresses.iter().map(|address| add(address, name)).collect();
        format!(
            "this [[bridge]] stands for it: `printf '\\n[[bridge]]\\nname = \"{name}\"\\nuplink = \"{nic}\"\\nhost = true\\n' >> {} && \
             ip link del dev {name} && systemctl restart netback{addresses}`, and in the network configuration {name} is a plain interface \
             from now on, no bridge (driver-domain.md, section 5)",
            view.config.display()
        )
    }
}

/// The end of a command that adds an address.
fn add(address: &str, interface: &str) -> String {
    format!(" && ip address add {address} dev {interface}")
}

/// A host port whose name a bridge of the kernel's has.
pub(super) fn occupied(view: &View, bridge: &Bridge) -> Option<Finding> {
    let name = &bridge.name;
    if !bridge.host || !view.exists(format!("/sys/class/net/{name}/bridge")) {
        return None;
    }
    let addresses = view.prefixed_addresses(name);
    let addresses: String = addresses.iter().map(|address| add(address, name)).collect();
    let what = format!("{name} is a bridge of the kernel, and the host port is to have its name");
    let cure = format!(
        "`ip link del dev {name} && systemctl restart netback{addresses}`, and take the bridge out of the network configuration"
    );
    Some(Finding::error("host-occupied", what, cure))
}

/// An address of this domain on the uplink, which receives nothing because every frame goes to netback.
pub(super) fn deaf_address(view: &View, bridge: &Bridge, nic: &str) -> Option<Finding> {
    let addresses = view.prefixed_addresses(nic);
    if addresses.is_empty() {
        return None;
    }
    let name = &bridge.name;
    let what = format!(
        "{nic} has the address {} of this domain, which receives nothing while netback runs: netback takes every frame",
        addresses.join(", ")
    );
    let flush = format!("ip address flush dev {nic} scope global");
    let elsewhere = format!("or reach this domain by another interface, and: {flush}");
    // What the kernel takes for the name of an interface (IFNAMSIZ).
    if name.len() > 15 || name.contains(['/', ':']) {
        let cure = format!("a bridge of at most 15 bytes can have a host port; {elsewhere}");
        return Some(Finding::warning("uplink-addressed", what, cure));
    }
    let added: String = addresses.iter().map(|address| add(address, name)).collect();
    let ask = match bridge.host {
        true => String::new(),
        false => format!(
            "sed -i '0,/^uplink = \"{nic}\"/s//&\\nhost = true/' {} && systemctl restart netback && ",
            view.config.display()
        ),
    };
    let cure = format!(
        "give it to the host port, with its routes, and there in the network configuration too: `{ask}{flush}{added}`; {elsewhere}"
    );
    Some(Finding::warning("uplink-addressed", what, cure))
}
