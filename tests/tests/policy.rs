//! What the toolstack's keys ask for: honoured, or the vif does not connect and says why.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use tests::tools::{ping, tcp_rate, wait_reachable};
use tests::{keys, prepare, status, wait_for};

/// A lab with a guest whose vif has these keys beside libxl's default ones, and the daemon with `more` configuration.
fn guest(keys: &[(&str, &str)], queues: u16, more: &str) -> Result<Lab> {
    let mut lab = prepare::wired(queues)?;
    lab.add_guest(GuestConfig {
        queues,
        ..GuestConfig::new("guest")
    })?;
    for (key, value) in keys {
        keys::set(&mut lab, 0, key, Some(value))?;
    }
    let config = prepare::config(&lab, &format!("[vif]\nmax_queues = {queues}\n{more}"));
    lab.start_daemon(&config)?;
    Ok(lab)
}

/// As [`guest`], and the guest is connected.
fn connected(keys: &[(&str, &str)], queues: u16, more: &str) -> Result<Lab> {
    let mut lab = guest(keys, queues, more)?;
    lab.connect_guests()?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    Ok(lab)
}

fn reason(lab: &mut Lab) -> Result<String> {
    let domid = lab.guests[0].domid.0;
    let reason = &status::vif(lab, domid)?["reason"];
    Ok(reason.as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_key_that_cannot_be_honoured_keeps_the_vif_from_connecting() -> Result<()> {
    let mut lab = guest(&[("rate", "10Mb/s")], 1, "")?;
    let error = format!("{}/hotplug-error", keys::backend(&lab, 0));
    wait_for("the reason in hotplug-error", || {
        Ok(keys::get(&mut lab, &error)?.is_some())
    })?;
    let said = keys::get(&mut lab, &error)?.unwrap_or_default();
    ensure!(said.contains("rate is \"10Mb/s\""), "{said}");
    let state = format!("{}/hotplug-status", keys::backend(&lab, 0));
    ensure!(keys::get(&mut lab, &state)?.as_deref() == Some("error"));
    wait_for("the reason in status", || Ok(reason(&mut lab)? == said))?;
    // The frontend has done its part, and the backend stays where it was.
    let domid = lab.guests[0].domid.0;
    wait_for("the refusal", || {
        let vif = status::vif(&mut lab, domid)?;
        Ok(vif["frontend_state"] == "Connected" && vif["service"] == "refused")
    })?;
    let vif = status::vif(&mut lab, domid)?;
    ensure!(vif["backend_state"] == "InitWait", "{vif}");

    keys::set(&mut lab, 0, "rate", Some("625000,50000"))?;
    lab.connect_guests()?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    ensure!(keys::get(&mut lab, &error)?.is_none() && reason(&mut lab)?.is_empty());
    Ok(())
}

#[test]
fn a_guest_sends_no_more_than_its_rate_on_all_queues_together() -> Result<()> {
    // rate=40Mb/s, as libxl writes it.
    let mut lab = connected(&[("rate", "250000,50000")], 2, "")?;
    let domid = lab.guests[0].domid.0;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let rate = tcp_rate(guest, outside, &outside.ipv4, 10)?;
    ensure!(
        (3_500_000.0..5_500_000.0).contains(&rate),
        "{rate} bytes a second where 5000000 are allowed"
    );
    let vif = status::vif(&mut lab, domid)?;
    ensure!(vif["rate"] == "40Mb/s", "{vif}");
    ensure!(
        status::numbers(&vif, "tx_paced").iter().sum::<u64>() > 0,
        "{vif}"
    );

    // A new rate counts at once.
    keys::set(&mut lab, 0, "rate", Some("50000,50000"))?;
    wait_for("the new rate", || {
        Ok(status::vif(&mut lab, domid)?["rate"] == "8Mb/s")
    })?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let rate = tcp_rate(guest, outside, &outside.ipv4, 5)?;
    ensure!(
        rate < 1_200_000.0,
        "{rate} bytes a second where 1000000 are allowed"
    );

    keys::set(&mut lab, 0, "rate", None)?;
    wait_for("no rate", || {
        Ok(status::vif(&mut lab, domid)?["rate"].is_null())
    })?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let rate = tcp_rate(guest, outside, &outside.ipv4, 2)?;
    ensure!(rate > 5_500_000.0, "{rate} bytes a second without a limit");
    Ok(())
}

#[test]
fn a_guest_receives_no_more_than_rate_in_and_a_reload_changes_it() -> Result<()> {
    let mut lab = connected(&[], 2, "rate_in = \"40Mb/s\"\n")?;
    let domid = lab.guests[0].domid.0;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let rate = tcp_rate(outside, guest, &guest.ipv4, 10)?;
    ensure!(
        (3_500_000.0..5_500_000.0).contains(&rate),
        "{rate} bytes a second where 5000000 are allowed"
    );
    ping(outside, &guest.ipv4, 5, &[])?;

    let file = lab.directory().file("netback.toml");
    let config = std::fs::read_to_string(&file)?.replace("rate_in = \"40Mb/s\"\n", "");
    std::fs::write(&file, config)?;
    let process = lab.daemon.as_mut().context("no daemon")?.process();
    process.signal(rustix::process::Signal::HUP);
    wait_for("no rate", || {
        Ok(status::vif(&mut lab, domid)?["rate_in"].is_null())
    })?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let rate = tcp_rate(outside, guest, &guest.ipv4, 2)?;
    ensure!(rate > 5_500_000.0, "{rate} bytes a second without a limit");
    Ok(())
}

#[test]
fn guests_are_told_the_mtu_of_their_uplink_and_whether_it_has_a_link() -> Result<()> {
    let mut lab = connected(&[], 1, "")?;
    let mtu = format!("{}/mtu", keys::frontend(&lab, 0));
    ensure!(keys::get(&mut lab, &mtu)?.as_deref() == Some("1500"));
    lab.driver_namespace()
        .ip(&["link", "set", prepare::UPLINK, "mtu", "1400"])?;
    wait_for("the new MTU", || {
        Ok(keys::get(&mut lab, &mtu)?.as_deref() == Some("1400"))
    })?;
    let carrier = format!("{}/carrier", keys::backend(&lab, 0));
    for (state, value) in [("down", "0"), ("up", "1")] {
        lab.outside[0]
            .host
            .namespace
            .ip(&["link", "set", "eth0", state])?;
        wait_for("the carrier", || {
            Ok(keys::get(&mut lab, &carrier)?.as_deref() == Some(value))
        })?;
    }
    Ok(())
}

#[test]
fn an_mtu_key_counts_both_ways_and_at_once() -> Result<()> {
    let mut lab = connected(&[("mtu", "1000")], 1, "")?;
    let domid = lab.guests[0].domid.0;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    ping(guest, &outside.ipv4, 3, &["-s", "972", "-M", "do"])?;
    // A packet that is too long is dropped when the guest sends it, and when an answer to the guest is.
    let long = ["-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", "-s", "1000"];
    for (from, to) in [(guest, outside), (outside, guest)] {
        tests::tools::run(from, "ping", &[&long[..], &[&to.ipv4]].concat())?;
    }
    let vif = status::vif(&mut lab, domid)?;
    let drops = |way: &str| vif["queues"][0][way]["too_long"].as_u64().unwrap_or(0);
    ensure!(drops("tx_drops") >= 3 && drops("rx_drops") >= 3, "{vif}");
    keys::set(&mut lab, 0, "mtu", None)?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    wait_for("no limit", || {
        let output = tests::tools::run(
            guest,
            "ping",
            &[
                "-n",
                "-q",
                "-c",
                "1",
                "-W",
                "1",
                "-s",
                "1400",
                &outside.ipv4,
            ],
        )?;
        Ok(output.status.success())
    })
}
