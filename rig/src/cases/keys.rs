//! A guest whose `vif=` says more than an address and a bridge, in xl's own words: each word is in force.

use super::lifecycle::xl;
use super::traffic::serve_iperf;
use crate::domain;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const GUEST: Place = Place::Guest(2);
/// The vif with words, and its number.
const KEYED: (&str, u8) = ("00:16:3e:0b:00:02", 2);
/// The vif in a VLAN, and its number.
const TAGGED: (&str, u8) = ("00:16:3e:0c:00:02", 3);
const WORDS: &str = "rate=16Mb/s,mtu=1300,ip=10.9.1.2";
/// The words as libxl writes them.
const WRITTEN: [(&str, &str); 3] = [
    ("rate", "100000,50000"),
    ("mtu", "1300"),
    ("ip", "10.9.1.2"),
];
/// `rate` in bytes a second.
const RATE: f64 = 2e6;

/// Create the guest with both vifs. The xl of Xen 4.17 has no word for a VLAN: its key is written while the guest is paused.
pub fn create(machine: &Machine) -> Result<()> {
    let keyed = format!("{},{WORDS}", domain::tested_vif(machine, KEYED.0));
    let tagged = domain::tested_vif(machine, TAGGED.0);
    let key = format!("xenstore-write {}/vlan 10", backend(machine, TAGGED.1));
    domain::start_guest_with(machine, 2, &[keyed, tagged], Some(&key))
}

/// Shell: the backend's directory of a vif of the guest, for dom0.
fn backend(machine: &Machine, vif: u8) -> String {
    let driver = machine.kind().driver_domain();
    format!("/local/domain/$(xl domid {driver})/backend/vif/$(xl domid {GUEST})/{vif}")
}

/// What the guest may send by the first vif, its rate, its longest packet, and where the second vif's frames go.
pub fn in_force(machine: &Machine) -> Result<String> {
    let vifs = machine.run(Place::Dom0, &format!("xl network-list {GUEST} 2>&1"))?;
    if !String::from_utf8_lossy(&vifs.stdout).contains(KEYED.0) {
        if vifs.status == 0 {
            xl(machine, &format!("destroy {GUEST}"))?;
        }
        create(machine)?;
    }
    written(machine)?;
    machine.must(Place::Peer, PEER)?;
    machine.must(GUEST, INTERFACES)?;
    machine.must(GUEST, &ping("keyed", "-s 1272 10.9.1.1"))?;
    // A tag of four bytes has room.
    let long = format!("! {}", ping("keyed", "-M do -s 1277 10.9.1.1"));
    let long = dropped(machine, "too_long", &long)?;
    let spoofed = dropped(machine, "filter_ipv4", SPOOF)?;
    let claimed = dropped(machine, "filter_arp", CLAIM)?;
    let rate = rate(machine)?;
    machine.must(GUEST, &ping("tagged", "10.9.10.1"))?;
    let outsider = machine.run(Place::Guest(1), OUTSIDER)?;
    ensure!(
        outsider.status == 0,
        "a guest without a VLAN is answered from VLAN 10"
    );
    machine.must(
        Place::Peer,
        "ip link del vlan10; ip address del 10.9.1.1/24 dev peer0",
    )?;
    Ok(format!(
        "{:.1} Mbit/s of 16; dropped: {long} too long, {spoofed} from and {claimed} ARP for another's address; VLAN 10 apart",
        rate * 8.0 / 1e6
    ))
}

/// The keys are in xenstore as libxl writes them, netback reads them so, and tells the guest its MTU.
fn written(machine: &Machine) -> Result<()> {
    for (key, value) in WRITTEN {
        let path = format!("{}/{key}", backend(machine, KEYED.1));
        let there = machine.must(Place::Dom0, &format!("xenstore-read {path}"))?;
        ensure!(there.trim() == value, "{key} is {there}");
    }
    let vif = show(machine)?;
    ensure!(
        vif["rate"] == "16Mb/s" && vif["filter"]["ip"] == "10.9.1.2",
        "{vif}"
    );
    let told = format!("xenstore-read device/vif/{}/mtu", KEYED.1);
    let told = machine.must(GUEST, &told)?;
    ensure!(told.trim() == "1300", "the guest is told an MTU of {told}");
    Ok(())
}

/// At the peer: an address for each of the vifs. The kernel of dom0, where the peer is, has its modules by name.
const PEER: &str = "modprobe 8021q; ip address replace 10.9.1.1/24 dev peer0; \
    ip link add link peer0 name vlan10 type vlan id 10; ip address add 10.9.10.1/24 dev vlan10; ip link set vlan10 up";

/// In the guest: both vifs, by their addresses. Each answers for its own address only. The kernel does not keep to what the vif takes.
const INTERFACES: &str = "sysctl -qw net.ipv4.conf.all.arp_ignore=1
for i in /sys/class/net/eth*; do
	n=${i##*/}
	case $(cat $i/address) in
	00:16:3e:0b:*) ip link set $n name keyed ;;
	00:16:3e:0c:*) ip link set $n name tagged ;;
	esac
done
ip address add 10.9.1.2/24 dev keyed; ip link set keyed up
ip address add 10.9.10.2/24 dev tagged; ip link set tagged up
sleep 1; ping -q -c 1 -W 2 10.9.1.1; ping -q -c 1 -W 2 10.9.10.1; true";

/// Pings that nothing may be lost of.
fn ping(interface: &str, arguments: &str) -> String {
    format!("ping -q -c 5 -i 0.2 -W 2 -I {interface} {arguments} | grep ' 0% packet loss'")
}

/// As a host that the guest is not; ARP, which would be dropped before, is not needed.
const SPOOF: &str = "ip address add 10.9.1.99/24 dev keyed
ip neighbour replace 10.9.1.1 lladdr $(ip neighbour show 10.9.1.1 dev keyed | sed 's/.*lladdr \\([^ ]*\\).*/\\1/') dev keyed
ping -q -c 5 -i 0.2 -W 2 -I 10.9.1.99 10.9.1.1; s=$?
ip address del 10.9.1.99/24 dev keyed; [ $s = 1 ]";

/// Says by ARP that it is such a host.
const CLAIM: &str =
    "ip address add 10.9.1.98/24 dev keyed; arping -q -U -c 3 -w 5 -I keyed 10.9.1.98
ip address del 10.9.1.98/24 dev keyed";

/// From a guest on the same bridge that is in no VLAN: no answer.
const OUTSIDER: &str =
    "ip address add 10.9.10.3/24 dev test0; ping -q -c 3 -i 0.3 -W 1 10.9.10.1; s=$?
ip address del 10.9.10.3/24 dev test0; [ $s = 1 ]";

/// How many packets netback drops for `reason` during `attempt`.
fn dropped(machine: &Machine, reason: &str, attempt: &str) -> Result<u64> {
    let count = || -> Result<u64> {
        let vif = show(machine)?;
        let queues = vif["queues"].as_array().context("the vif has no queues")?;
        let counts = queues
            .iter()
            .filter_map(|queue| queue["tx_drops"][reason].as_u64());
        Ok(counts.sum())
    };
    let before = count()?;
    machine.must(GUEST, attempt)?;
    let dropped = count()? - before;
    ensure!(dropped >= 3, "{dropped} packets dropped as {reason}");
    Ok(dropped)
}

/// Bytes a second of a TCP stream from the guest, on the guest's clock: the rate, and no other.
fn rate(machine: &Machine) -> Result<f64> {
    serve_iperf(machine, Place::Peer)?;
    let said = machine
        .run(
            GUEST,
            "ip link set keyed mtu 1300; iperf3 -J -c 10.9.1.1 -B 10.9.1.2 -t 5",
        )?
        .stdout;
    let report: Value = serde_json::from_slice(&said).context("iperf3 printed no JSON")?;
    let sum = &report["end"]["sum_received"]["bits_per_second"];
    let rate = sum.as_f64().with_context(|| report.to_string())? / 8.0;
    ensure!(
        (RATE * 0.5..RATE * 1.3).contains(&rate),
        "{rate:.0} bytes a second where {RATE:.0} are allowed"
    );
    let vif = show(machine)?;
    let paced = vif["queues"][0]["tx_paced"].as_u64().unwrap_or(0);
    ensure!(paced > 0, "the guest never waited: {vif}");
    Ok(rate)
}

/// The vif with words, as netback shows it.
fn show(machine: &Machine) -> Result<Value> {
    let domid = machine.must(Place::Dom0, &format!("xl domid {GUEST}"))?;
    let show = format!("netback vif show {}/{} --json", domid.trim(), KEYED.1);
    let said = machine.must(Place::DriverDomain, &show)?;
    serde_json::from_str(&said).context("netback printed no JSON")
}
