//! Multicast control: multicast that a guest did not subscribe to is kept from it, also after a restart of the daemon.
use anyhow::{Result, ensure};
use lab::Lab;
use std::time::Duration;
use tests::frames::{Tap, frame};
use tests::status::{numbers, vif};
use tests::{prepare, wait_for};

/// How long a frame that must not arrive is waited for, once the daemon has counted it as dropped.
const QUIET: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
const WANTED: [u8; 6] = group(1);
const OTHER: [u8; 6] = group(2);
const BROADCAST: [u8; 6] = [0xff; 6];
/// XenbusStateClosed (xen/include/public/io/xenbus.h).
const CLOSED: u32 = 6;
/// Addresses on a full list (Linux: XEN_NETBK_MCAST_MAX).
const LIST: u8 = 64;

const fn group(last: u8) -> [u8; 6] {
    [0x01, 0x00, 0x5e, 0x00, 0x77, last]
}

/// The lab. Its guest-a asks for multicast control, and guest-b never does.
struct Groups {
    lab: Lab,
    outside: Tap,
    taps: [Tap; 2],
    sent: u8,
}

impl Groups {
    fn new() -> Result<Self> {
        let lab = prepare::connected(2, &["guest-a", "guest-b"])?;
        Ok(Self {
            outside: Tap::open(&lab.outside[0].host)?,
            taps: [
                Tap::open(&lab.guests[0].host)?,
                Tap::open(&lab.guests[1].host)?,
            ],
            lab,
            sent: 0,
        })
    }

    /// Packets for guest-a that were filtered out.
    fn filtered(&mut self) -> Result<u64> {
        let domid = self.lab.guests[0].domid.0;
        let vif = vif(&mut self.lab, domid)?;
        Ok(numbers(&vif, "multicast_filtered").iter().sum())
    }

    /// Sends a frame to `destination` from the outside, and checks that guest-b receives it, and whether guest-a does. (The hosts' own
    /// multicast is filtered too, so the counter shows only that there was some.)
    fn check(&mut self, destination: [u8; 6], heard: bool) -> Result<()> {
        let before = self.filtered()?;
        self.sent += 1;
        let source = self.lab.outside[0].host.mac;
        let bytes = frame(destination, source, None, 100, self.sent);
        self.outside.send(&bytes)?;
        ensure!(self.taps[1].receive()? == bytes, "guest-b got another");
        if heard {
            ensure!(self.taps[0].receive()? == bytes, "guest-a got another");
            return Ok(());
        }
        wait_for(&format!("{destination:02x?} is filtered"), || {
            Ok(self.filtered()? > before)
        })?;
        let came = self.taps[0].drain(QUIET)?.len();
        ensure!(came == 0, "{destination:02x?} was filtered and came");
        Ok(())
    }

    /// Has guest-a run a command, and waits until its requests are answered.
    fn tell(&mut self, command: &str) -> Result<()> {
        let guest = &mut self.lab.guests[0];
        guest.command(command)?;
        wait_for("its requests are answered", || {
            Ok(guest.report()?.tx_pending == 0)
        })
    }

    fn subscribe(&mut self, address: [u8; 6]) -> Result<()> {
        self.tell(&format!("subscribe {}", text(address)))
    }

    /// Has guest-a write `request-multicast-control`, and waits until the daemon has read it.
    fn control(&mut self, on: bool) -> Result<()> {
        self.tell(if on { "multicast on" } else { "multicast off" })?;
        self.wait_control(on)
    }

    fn wait_control(&mut self, on: bool) -> Result<()> {
        let domid = self.lab.guests[0].domid.0;
        wait_for("the daemon has sampled the wish", || {
            // A daemon that has only just begun does not answer yet.
            Ok(vif(&mut self.lab, domid).is_ok_and(|vif| {
                vif["features"]["multicast_control"] == on && vif["service"] == "served"
            }))
        })
    }
}

fn text(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn a_guest_that_asks_hears_what_it_subscribed_to_and_the_list_survives_a_kill() -> Result<()> {
    let mut groups = Groups::new()?;
    groups.check(OTHER, true)?;
    groups.control(true)?;
    groups.check(OTHER, false)?;
    groups.check(BROADCAST, true)?;
    groups.subscribe(WANTED)?;
    groups.check(WANTED, true)?;
    groups.check(OTHER, false)?;

    groups.lab.daemon()?.kill_and_restart()?;
    groups.wait_control(true)?;
    groups.check(WANTED, true)?;
    groups.check(OTHER, false)?;
    groups.check(BROADCAST, true)?;

    groups.tell(&format!("unsubscribe {}", text(WANTED)))?;
    groups.check(WANTED, false)?;
    groups.control(false)?;
    groups.check(WANTED, true)?;
    groups.check(OTHER, true)?;
    let report = groups.lab.guests[0].report()?;
    ensure!(report.connects == 1, "{report:?}");
    ensure!(
        report.total.protocol_errors + report.total.multicast_refused == 0,
        "{report:?}"
    );
    Ok(())
}

#[test]
fn the_list_has_an_end_and_does_not_outlive_the_rings() -> Result<()> {
    let mut groups = Groups::new()?;
    groups.control(true)?;
    for last in 1..=LIST + 1 {
        groups.subscribe(group(last))?;
    }
    let report = groups.lab.guests[0].report()?;
    ensure!(report.total.multicast_refused == 1, "{report:?}");
    groups.check(group(LIST), true)?;
    groups.check(group(LIST + 1), false)?;

    let (backend, domid) = (groups.lab.driver_domain().id(), groups.lab.guests[0].domid);
    groups.lab.guests[0].command("close")?;
    groups
        .lab
        .toolstack
        .wait_backend_state(backend, domid, 0, CLOSED, PATIENCE)?;
    wait_for("the vif is closed", || {
        Ok(groups.lab.guests[0].report()?.state == CLOSED)
    })?;
    groups.lab.guests[0].command("reconnect")?;
    groups.lab.connect_guests()?;
    groups.wait_control(true)?;
    prepare::settle(&groups.lab)?;
    groups.check(group(LIST), false)
}
