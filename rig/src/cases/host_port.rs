//! The driver domain's own interface on the bridge: its addresses and its connections live through ends of netback.

use super::Case;
use super::document::{self, HOST_PORT};
use super::traffic::await_listener;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};

const HERE: Place = Place::DriverDomain;

pub fn cases() -> Vec<Case> {
    vec![Case::new("host-port/kill", kill)]
}

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

/// Kills netback, and waits for the next process.
const KILL: &str = "process() { systemctl show -p MainPID --value netback; }
p=$(process); kill -9 $p
for n in $(seq 600); do
	q=$(process); [ $q != 0 ] && [ $q != $p ] && netback status >/dev/null 2>&1 && exit 0; sleep 0.1
done; exit 1";
