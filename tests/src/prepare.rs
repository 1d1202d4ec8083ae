//! Labs ready for traffic.
use crate::tools::wait_reachable;
use anyhow::Result;
use lab::daemon::{Bridge, Daemon};
use lab::guest::GuestConfig;
use lab::{Host, Lab};

/// The driver domain's end of the cable to the outside.
pub const UPLINK: &str = "up0";

/// The bridge xenbr0 on [`UPLINK`].
pub fn bridge() -> Bridge {
    Bridge {
        name: "xenbr0".into(),
        uplink: Some(UPLINK.into()),
    }
}

/// Makes a lab with "outside" behind [`UPLINK`] with `queues` queues, and without a daemon.
pub fn wired(queues: u16) -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.add_outside("outside", UPLINK, queues)?;
    Ok(lab)
}

/// The configuration of a lab with one bridge: two workers, and `more` TOML.
pub fn config(lab: &Lab, more: &str) -> String {
    Daemon::config(lab.directory(), 2, &[bridge()], more)
}

/// Makes a lab with "outside", guests of these names with `queues` queues each, and the daemon between them; all are connected.
pub fn connected(queues: u16, guests: &[&str]) -> Result<Lab> {
    let mut lab = wired(queues)?;
    for name in guests {
        lab.add_guest(GuestConfig {
            queues,
            ..GuestConfig::new(name)
        })?;
    }
    let config = config(&lab, &format!("[vif]\nmax_queues = {queues}\n"));
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    settle(&lab)?;
    Ok(lab)
}

/// Waits until every guest reaches "outside" and the guest after it: workers learn of new ports a moment after their guests do, and a new
/// interface cannot send at once.
pub fn settle(lab: &Lab) -> Result<()> {
    let guests: Vec<&Host> = lab.guests.iter().map(|guest| &guest.host).collect();
    for (number, guest) in guests.iter().enumerate() {
        for other in [&lab.outside[0].host, guests[(number + 1) % guests.len()]] {
            wait_reachable(guest, other)?;
        }
    }
    Ok(())
}
