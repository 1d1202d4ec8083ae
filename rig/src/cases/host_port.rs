//! The driver domain's own interface on the bridge: its addresses, its leases and its connections live through ends of netback.

use super::Case;
use super::document::{self, HOST_PORT};
use super::traffic::await_listener;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};

const HERE: Place = Place::DriverDomain;

pub fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("host-port/kill", kill)];
    for client in [NETWORKD, IFUPDOWN] {
        let (name, daily) = (format!("host-port/{}", client.name), client.daily);
        let case = Case::new(name, move |machine| leased(machine, &client));
        cases.push(if daily { case } else { case.long() });
    }
    cases
}

/// What configures a network by DHCP, as an operator has it do that for the host port.
pub struct Client {
    name: &'static str,
    daily: bool,
    /// Has it ask for a lease, by what the table of docs/driver-domain.md says.
    start: &'static str,
    /// Has it let go of the interface.
    stop: &'static str,
}

pub const NETWORKD: Client = Client {
    name: "networkd",
    daily: true,
    start: "printf '[Match]\\nName=xenbr0\\n\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/xenbr0.network
systemctl restart systemd-networkd",
    stop: "systemctl stop systemd-networkd systemd-networkd.socket; rm /etc/systemd/network/xenbr0.network",
};

const IFUPDOWN: Client = Client {
    name: "ifupdown",
    daily: false,
    start: "printf 'allow-hotplug xenbr0\\niface xenbr0 inet dhcp\\n' > /etc/network/interfaces
ifup xenbr0",
    stop: "ifdown xenbr0; rm /etc/network/interfaces",
};

/// How the interface was, and a TCP connection to the guest on which little is said.
pub struct Before(String);

impl Before {
    /// Now.
    pub fn note(machine: &Machine) -> Result<Self> {
        let echo = format!(
            "setsid socat TCP-LISTEN:5500,reuseaddr,fork EXEC:cat </dev/null >/dev/null 2>&1 & {}",
            await_listener("-t", 5500)
        );
        machine.must(Place::Guest(1), &echo)?;
        machine
            .must(HERE, CONNECT)
            .context("a connection by the host port")?;
        Ok(Self(state(machine)?))
    }

    /// Fails unless the interface is as it was, and the connection goes on.
    pub fn must_be_now(&self, machine: &Machine) -> Result<()> {
        machine
            .must(HERE, SPEAK)
            .context("the connection by the host port does not go on")?;
        let now = state(machine)?;
        ensure!(
            now == self.0,
            "the host port was {:?} and is {now:?}",
            self.0
        );
        Ok(())
    }
}

/// Number, address and carrier of the interface, and what the domain has on it.
fn state(machine: &Machine) -> Result<String> {
    machine.must(
        HERE,
        "cd /sys/class/net/xenbr0; cat ifindex address carrier carrier_changes; \
         ip -br address show dev xenbr0; ip route show dev xenbr0",
    )
}

/// A line is said and heard, and another one when the file is there.
const CONNECT: &str = r"rm -f /run/rig-said /run/rig-speak
setsid bash -c '
	exec 3<>/dev/tcp/10.9.0.10/5500
	echo one >&3; read -t 60 -u 3 line; echo $line > /run/rig-said
	until [ -e /run/rig-speak ]; do sleep 0.1; done
	echo two >&3; read -t 60 -u 3 line; echo $line > /run/rig-said
' </dev/null >/dev/null 2>&1 &
for n in $(seq 600); do grep -qx one /run/rig-said 2>/dev/null && exit 0; sleep 0.1; done; exit 1";
const SPEAK: &str = "touch /run/rig-speak
for n in $(seq 600); do grep -qx two /run/rig-said && exit 0; sleep 0.1; done; exit 1";

/// Address, route and a connection of the interface that the document sets up live through a kill -9 of netback.
fn kill(machine: &Machine) -> Result<String> {
    document::walk(machine, HOST_PORT)?;
    let before = Before::note(machine)?;
    machine
        .must(HERE, KILL)
        .context("netback does not come back")?;
    before.must_be_now(machine)?;
    let ping = "ping -q -c 5 -i 0.2 -W 2 10.9.0.2";
    machine.must(Place::Peer, ping)?;
    machine.must(Place::Guest(1), ping)?;
    Ok("address, route, carrier and a connection kept over a kill -9".into())
}

/// A death of netback takes nothing of a client's lease away.
fn leased(machine: &Machine, client: &Client) -> Result<String> {
    document::walk(machine, HOST_PORT)?;
    let lease = with_lease(machine, client, |lease| {
        let before = Before::note(machine)?;
        machine
            .must(HERE, KILL)
            .context("netback does not come back")?;
        before.must_be_now(machine)?;
        let ping = format!("ping -q -c 5 -i 0.2 -W 2 {lease}");
        machine.must(Place::Peer, &ping)?;
        machine.must(Place::Guest(1), &ping)?;
        Ok(lease.to_owned())
    })?;
    Ok(format!(
        "lease of {lease}, route, carrier and a connection kept over a kill -9"
    ))
}

/// Does `work` while the interface has an address that the client got from the peer's DHCP server.
pub fn with_lease<T>(
    machine: &Machine,
    client: &Client,
    work: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    machine.must(Place::Peer, SERVE_DHCP)?;
    machine
        .must(HERE, client.start)
        .with_context(|| format!("{} does not start", client.name))?;
    let done = machine
        .must(HERE, AWAIT_LEASE)
        .with_context(|| format!("{} gets no lease by the host port", client.name))
        .and_then(|lease| work(lease.trim()));
    machine.must(HERE, client.stop)?;
    // As the document left it, for what comes after.
    let again = format!(
        "ip link set dev xenbr0 up; ip address replace 10.9.0.{}/24 dev xenbr0",
        HERE.tested()
    );
    machine.must(HERE, &again)?;
    done
}

/// At the peer: serves addresses that no domain has, and nothing else.
const SERVE_DHCP: &str = r"ss -Hlun 'sport = :67' | grep -q . && exit 0
printf '%s\n' 'interface peer0' 'start 10.9.0.200' 'end 10.9.0.210' 'option subnet 255.255.255.0' 'option lease 3600' \
	'lease_file /run/udhcpd.leases' 'pidfile /run/udhcpd.pid' > /run/udhcpd.conf
: > /run/udhcpd.leases; setsid busybox udhcpd -f /run/udhcpd.conf </dev/null >/run/udhcpd.log 2>&1 &
for n in $(seq 100); do ss -Hlun 'sport = :67' | grep -q . && exit 0; sleep 0.1; done; cat /run/udhcpd.log >&2; exit 1";

/// Prints the address that is leased.
const AWAIT_LEASE: &str = r#"for n in $(seq 600); do
	address=$(ip -4 -o address show dev xenbr0 | sed -n 's/.* inet \(10\.9\.0\.2[0-9][0-9]\)\/.*/\1/p')
	[ -n "$address" ] && echo $address && exit 0; sleep 0.1
done; ip address show dev xenbr0 >&2; exit 1"#;

/// Kills netback, and waits for the next process.
const KILL: &str = "process() { systemctl show -p MainPID --value netback; }
p=$(process); kill -9 $p
for n in $(seq 600); do
	q=$(process); [ $q != 0 ] && [ $q != $p ] && netback status >/dev/null 2>&1 && exit 0; sleep 0.1
done; exit 1";
