//! A guest that posts no Rx buffers: the packets that wait for it have a bound, and other guests do not suffer.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use std::time::Duration;
use tests::status::{mac, numbers, vif};
use tests::tools::{for_a_while, ping};
use tests::{netback, prepare, wait_for};

/// The bound in this test's configuration, in bytes a queue.
const BOUND: u64 = 100_000;
/// Bytes that the daemon's memory may grow by while a guest is starved, for statistics and logs: far less than the flood would fill.
const SLACK: u64 = 4 << 20;

/// Checks that 200 frames that the first guest sends to the second, not too fast, arrive whole. The first few may meet workers that have
/// just begun.
fn reaches(lab: &mut Lab) -> Result<()> {
    let stream = format!(
        "size=500,rate=2000,count=200,dst-mac={}",
        mac(&lab.guests[1].host)
    );
    wait_for("200 of 200 frames arrive", || {
        let before = lab.guests[1].report()?.sink;
        lab.guests[0].command(&format!("generate {stream}"))?;
        wait_for("the generator is through", || {
            Ok(lab.guests[0].report()?.generator_left == Some(0))
        })?;
        std::thread::sleep(Duration::from_millis(200));
        let after = lab.guests[1].report()?.sink;
        ensure!(after.corrupt == 0, "damaged frames came: {after:?}");
        Ok(after.frames - before.frames == 200)
    })
}

/// A guest that sends what it is told to, and has no stack.
fn generator(name: &str) -> GuestConfig {
    GuestConfig {
        tap: false,
        ..GuestConfig::new(name)
    }
}

#[test]
fn a_starved_guest_fills_its_backlog_to_the_bound_and_no_further() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(generator("flooder"))?;
    lab.add_guest(generator("starved"))?;
    lab.add_guest(GuestConfig::new("bystander"))?;
    let config = prepare::config(
        &lab,
        &format!("[vif]\nbacklog_bytes = {BOUND}\nbacklog_ms = 600000\n"),
    );
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    reaches(&mut lab)?;
    ping(&lab.guests[2].host, &lab.outside[0].host.ipv4, 5, &[])?;
    let starved = lab.guests[1].domid.0;
    let target = mac(&lab.guests[1].host);

    lab.guests[1].command("rx-limit 0")?;
    lab.guests[0].command(&format!("generate size=1500,rate=20000,dst-mac={target}"))?;
    wait_for("drops for a full backlog", || {
        let vif = vif(&mut lab, starved)?;
        Ok(numbers(&vif, "backlog_full").iter().sum::<u64>() > 0)
    })?;
    let pid = lab.daemon()?.process().id();
    let before = netback::resident_bytes(pid)?;
    for_a_while(Duration::from_secs(3), || {
        let vif = vif(&mut lab, starved)?;
        let waiting = numbers(&vif, "backlog_bytes")
            .into_iter()
            .max()
            .context("status has no backlog_bytes")?;
        ensure!(
            waiting <= BOUND,
            "{waiting} bytes wait, over the bound of {BOUND}"
        );
        ensure!(
            waiting > BOUND / 2,
            "only {waiting} bytes wait: the guest is not starved"
        );
        // The other guests go on.
        ping(&lab.guests[2].host, &lab.outside[0].host.ipv4, 5, &[])
    })?;
    let grown = netback::resident_bytes(pid)?.saturating_sub(before);
    ensure!(grown <= SLACK, "the daemon grew by {grown} bytes");

    lab.guests[0].command("generate off")?;
    lab.guests[1].command("rx-limit all")?;
    wait_for("the backlog is delivered", || {
        let vif = vif(&mut lab, starved)?;
        Ok(numbers(&vif, "backlog_bytes").iter().sum::<u64>() == 0)
    })?;
    reaches(&mut lab)
}

#[test]
fn what_has_waited_too_long_is_dropped_under_its_name() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(generator("sender"))?;
    lab.add_guest(generator("starved"))?;
    let config = prepare::config(&lab, "[vif]\nbacklog_ms = 200\n");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    reaches(&mut lab)?;
    let starved = lab.guests[1].domid.0;
    let target = mac(&lab.guests[1].host);
    lab.guests[1].command("rx-limit 0")?;
    // The buffers that are posted are used up first: 256 of them.
    lab.guests[0].command(&format!(
        "generate size=1000,rate=5000,count=400,dst-mac={target}"
    ))?;
    wait_for("the backlog expires", || {
        let vif = vif(&mut lab, starved)?;
        let expired: u64 = numbers(&vif, "backlog_expired").iter().sum();
        Ok(expired > 0 && numbers(&vif, "backlog_bytes").iter().sum::<u64>() == 0)
    })?;
    lab.guests[1].command("rx-limit all")?;
    reaches(&mut lab)
}
