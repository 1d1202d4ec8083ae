//! A configuration without a bridge, and what is proposed.
use super::super::Severity::{Error, Warning};
use super::machine::{CONFIG, Machine, NIC, guest, link};

/// A machine whose configuration is the package's, and whose guests want nothing yet.
fn unconfigured() -> Machine {
    let mut machine = Machine::healthy();
    machine.write(CONFIG, include_str!("../../../../packaging/netback.toml"));
    machine.backends = Ok(Vec::new());
    machine
}

#[test]
fn proposes_the_network_card_that_has_no_address() {
    let mut machine = unconfigured();
    let written = "`printf '\\n[[bridge]]\\nname = \"xenbr0\"\\nuplink = \"eth0\"\\n' >> /etc/netback/netback.toml \
                   && systemctl restart netback`";
    machine.must_find(Warning, "no-bridge", written);
    // A second card, by which the domain itself is reached; a vif of Xen's; and one without hardware.
    machine.link("/sys/class/net/enp1s0/device/driver", "../drivers/e1000e");
    machine.link("/sys/class/net/enX0/device/driver", "../drivers/vif");
    machine.write("/sys/class/net/dummy0/mtu", "1500\n");
    machine.links.push(serde_json::json!({
        "ifname": "enp1s0", "addr_info": [{ "local": "192.0.2.7", "scope": "global" }]
    }));
    machine.must_find(Warning, "no-bridge", written);
    machine.must_find(
        Warning,
        "no-bridge",
        "enp1s0 is left out: it has the address 192.0.2.7 of this domain",
    );
    // Two that would do.
    machine.links[1] = link("enp1s0");
    machine.must_find(Warning, "no-bridge", "netback`; or with uplink = \"eth0\"");
}

#[test]
fn proposes_no_card_that_would_cut_the_machine_off() {
    let mut machine = unconfigured();
    machine.links[0]["addr_info"] =
        serde_json::json!([{ "local": "192.0.2.7", "scope": "global" }]);
    machine.must_find(
        Warning,
        "no-bridge",
        "pass another network card through to this domain; or reach this domain by another interface first",
    );
    let report = machine.examine().to_string();
    assert!(!report.contains("printf"), "{report}");
    let machine = unconfigured();
    machine.link(&format!("{NIC}/master"), "../br0");
    machine.must_find(Warning, "no-bridge", "pass a network card through");
}

#[test]
fn proposes_what_stands_for_a_bridge_of_the_kernel() {
    let mut machine = unconfigured();
    machine.link(&format!("{NIC}/master"), "../br0");
    machine.write("/sys/class/net/br0/bridge/x", "");
    machine.links.push(serde_json::json!({
        "ifname": "br0", "addr_info": [{ "local": "192.0.2.7", "prefixlen": 24, "scope": "global" }]
    }));
    machine.must_find(
        Warning,
        "no-bridge",
        "br0 is a bridge of the kernel with eth0; this [[bridge]] stands for it: \
         `printf '\\n[[bridge]]\\nname = \"br0\"\\nuplink = \"eth0\"\\nhost = true\\n' >> /etc/netback/netback.toml \
         && ip link del dev br0 && systemctl restart netback && ip address add 192.0.2.7/24 dev br0`",
    );
    // Asked for, and still there.
    machine.write(CONFIG, "[[bridge]]\nname = \"br0\"\nhost = true\n");
    machine.must_find(
        Error,
        "host-occupied",
        "`ip link del dev br0 && systemctl restart netback && ip address add 192.0.2.7/24 dev br0`",
    );
}

#[test]
fn names_the_bridge_that_guests_wait_for() {
    let mut machine = unconfigured();
    let mut waiting = guest("3", "00:16:3e:00:00:03");
    waiting.bridge = Some("lan".into());
    machine.backends = Ok(vec![waiting]);
    machine.must_find(Error, "no-bridge", "vif 3.0 waits");
    machine.must_find(Error, "no-bridge", "name = \"lan\"");
}
