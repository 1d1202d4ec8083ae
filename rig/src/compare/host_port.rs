//! The driver domain's own address on the bridge that guests are on.

use crate::machine::Machine;
use crate::options::Backend;
use crate::place::Place;
use anyhow::{Context, Result};

/// Gives the bridge the driver domain's address, unless it has it already: the kernel's bridge as it is, ours with a host port.
pub fn give(machine: &Machine) -> Result<()> {
    let here = Place::DriverDomain;
    if machine.options.backend == Backend::Netback {
        machine.must(here, HOST_PORT).context("no host port")?;
    }
    let address = format!("ip address replace 10.9.0.{}/24 dev xenbr0", here.tested());
    machine.must(here, &address).map(drop)
}

const HOST_PORT: &str = "grep -q '^host' /etc/netback/netback.toml || sed -i 's/^uplink.*/&\\nhost = true/' /etc/netback/netback.toml
kill -HUP $(cat /run/netback.pid)
n=0; until ip -br link show dev xenbr0 2>/dev/null | grep -q LOWER_UP; do [ $n -lt 100 ] || exit 1; n=$((n+1)); sleep 0.1; done";
