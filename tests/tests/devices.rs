//! What an operator does to a running daemon: the configuration changed, another uplink plugged in, a NIC pulled and put back.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::daemon::{Bridge, Daemon};
use lab::guest::GuestConfig;
use tests::status::numbers;
use tests::tools::{no_ping, ping, wait_reachable};
use tests::{prepare, wait_for};

/// Writes another configuration and has the running daemon read it.
fn reload(lab: &mut Lab, config: &str) -> Result<()> {
    std::fs::write(lab.directory().file("netback.toml"), config)?;
    let pid = lab.daemon()?.status()?["pid"]
        .as_i64()
        .context("status has no pid")?;
    let status = std::process::Command::new("kill")
        .args(["-HUP", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -HUP {pid}: {status}");
    Ok(())
}

/// Counts the lines of the daemon's log that hold `text`.
fn logged(lab: &Lab, text: &str) -> Result<usize> {
    let log = std::fs::read_to_string(lab.directory().file("netback.log"))?;
    Ok(log.lines().filter(|line| line.contains(text)).count())
}

fn wait_logged(lab: &Lab, text: &str) -> Result<()> {
    wait_for(&format!("the log says {text:?}"), || {
        Ok(logged(lab, text)? == 1)
    })
}

#[test]
fn a_reload_adds_bridges_and_uplinks_and_names_what_it_does_not_take_on() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_outside("outside-2", "up1", 1)?;
    lab.add_guest(GuestConfig::new("guest-a"))?;
    let lost = lab.add_guest(GuestConfig {
        bridge: "dmz".into(),
        ..GuestConfig::new("guest-b")
    })?;
    let plain = |name: &str, uplink: Option<&str>| Bridge {
        name: name.into(),
        uplink: uplink.map(str::to_owned),
    };
    let first = prepare::bridge();
    let config = |lab: &Lab, bridges: &[Bridge], more: &str| {
        Daemon::config(lab.directory(), 2, bridges, more)
    };
    let begin = config(&lab, &[first.clone(), plain("spare", None)], "");
    lab.start_daemon(&begin)?;
    lab.guests[0].wait_connected()?;
    lab.guests[0].configure()?;
    let domid = lab.guests[lost].domid.0;
    wait_for("guest-b is refused", || {
        Ok(tests::status::vif(&mut lab, domid)?["service"] == "refused")
    })?;

    // A bridge with its uplink, and a bound for guests to come.
    let bridges = [
        first.clone(),
        plain("spare", None),
        plain("dmz", Some("up1")),
    ];
    let more = config(&lab, &bridges, "[vif]\nmax_queues = 1\n");
    reload(&mut lab, &more)?;
    lab.connect_guests()?;
    wait_reachable(&lab.guests[lost].host, &lab.outside[1].host)?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    no_ping(&lab.guests[0].host, &lab.guests[lost].host.ipv4)?;
    wait_logged(
        &lab,
        "[vif]: what guests may send and receive counts at once",
    )?;

    // The daemon begins anew for what it does not change while it runs, and guests stay connected.
    let fewer = config(
        &lab,
        &[plain("xenbr0", None), plain("dmz", Some("up1"))],
        "",
    );
    reload(&mut lab, &fewer)?;
    wait_logged(
        &lab,
        "beginning anew, guests stay connected: the reload changes the uplink of bridge xenbr0, the removal of bridge spare",
    )?;
    wait_logged(&lab, "no longer an uplink: given back to the kernel")?;
    let up0 = String::from_utf8(
        lab.driver_namespace()
            .command("ip")
            .args(["-d", "link", "show", "up0"])
            .output()?
            .stdout,
    )?;
    ensure!(!up0.contains("xdp") && !up0.contains("PROMISC"), "{up0}");
    wait_reachable(&lab.guests[lost].host, &lab.outside[1].host)?;
    no_ping(&lab.guests[0].host, &lab.outside[0].host.ipv4)?;
    reload(&mut lab, &more)?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    for guest in &mut lab.guests {
        ensure!(guest.report()?.connects == 1, "it reconnected");
    }
    Ok(())
}

#[test]
fn a_reload_that_cannot_be_served_leaves_the_configuration_before_in_force() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    let right = std::fs::read_to_string(lab.directory().file("netback.toml"))?;
    let wrong = right.replace(prepare::UPLINK, "nosuch0");
    reload(&mut lab, &wrong)?;
    wait_logged(
        &lab,
        "the reloaded configuration cannot be served, the one before stays in force: no interface nosuch0",
    )?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    reload(&mut lab, &right)?;
    wait_logged(&lab, "nothing in the configuration has changed")?;
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 5, &[])?;
    ensure!(lab.guests[0].report()?.connects == 1, "it reconnected");
    Ok(())
}

#[test]
fn a_link_that_goes_down_and_an_mtu_that_changes_are_noticed() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    let set = |lab: &Lab, arguments: &[&str]| {
        lab.driver_namespace()
            .ip(&[&["link", "set", prepare::UPLINK], arguments].concat())
    };
    let wait_uplink = |lab: &mut Lab, key: &str, value: serde_json::Value| {
        wait_for(&format!("the uplink's {key} is {value}"), || {
            Ok(lab.daemon()?.status()?["uplinks"][0][key] == value)
        })
    };
    set(&lab, &["down"])?;
    wait_logged(&lab, "link is down")?;
    wait_uplink(&mut lab, "link_up", false.into())?;
    set(&lab, &["up"])?;
    wait_logged(&lab, "link is up")?;
    wait_uplink(&mut lab, "link_up", true.into())?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;

    // A frame that is too long for the device is dropped by name, until the device carries it again.
    let long = ["-s", "1450"];
    let outside = lab.outside[0].host.ipv4.clone();
    ping(&lab.guests[0].host, &outside, 5, &long)?;
    let too_long = |lab: &mut Lab| -> Result<u64> {
        let status = lab.daemon()?.status()?;
        Ok(numbers(&status, "too_long").iter().sum())
    };
    ensure!(too_long(&mut lab)? == 0, "nothing was too long before");
    set(&lab, &["mtu", "1400"])?;
    wait_logged(&lab, "MTU changed from 1500 to 1400")?;
    wait_uplink(&mut lab, "mtu", 1400.into())?;
    ensure!(
        ping(&lab.guests[0].host, &outside, 5, &long).is_err(),
        "it is too long"
    );
    ensure!(
        too_long(&mut lab)? >= 5,
        "it was dropped under another name"
    );
    set(&lab, &["mtu", "1500"])?;
    wait_logged(&lab, "MTU changed from 1400 to 1500")?;
    ping(&lab.guests[0].host, &outside, 5, &long)
}

#[test]
fn an_uplink_is_plugged_into_a_bridge_that_had_none() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_outside("outside-2", "up1", 1)?;
    lab.add_guest(GuestConfig::new("guest-a"))?;
    let bridge = |name: &str, uplink: Option<&str>| Bridge {
        name: name.into(),
        uplink: uplink.map(str::to_owned),
    };
    let lonely = [bridge("xenbr0", None), bridge("other", Some("up1"))];
    let begin = Daemon::config(lab.directory(), 2, &lonely, "");
    lab.start_daemon(&begin)?;
    lab.connect_guests()?;
    no_ping(&lab.guests[0].host, &lab.outside[0].host.ipv4)?;
    let wired = [bridge("xenbr0", Some("up0")), bridge("other", Some("up1"))];
    let wired = Daemon::config(lab.directory(), 2, &wired, "");
    reload(&mut lab, &wired)?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    ensure!(lab.guests[0].report()?.connects == 1, "it reconnected");
    Ok(())
}

#[test]
fn a_first_uplink_is_plugged_in_by_a_reload() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(GuestConfig::new("guest-a"))?;
    let lonely = Bridge {
        uplink: None,
        ..prepare::bridge()
    };
    let begin = Daemon::config(lab.directory(), 2, &[lonely], "");
    lab.start_daemon(&begin)?;
    lab.connect_guests()?;
    let wired = prepare::config(&lab, "");
    reload(&mut lab, &wired)?;
    wait_logged(&lab, "the reload changes the first uplink")?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    ensure!(lab.guests[0].report()?.connects == 1, "it reconnected");
    Ok(())
}

#[test]
fn a_nic_that_is_pulled_and_put_back_serves_again() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a", "guest-b"])?;
    let pid = lab.daemon()?.status()?["pid"].clone();
    for _ in 0..2 {
        lab.outside[0].unplug(lab.driver_namespace())?;
        // Guests of the bridge go on without it.
        ping(&lab.guests[0].host, &lab.guests[1].host.ipv4, 5, &[])?;
        let down = lab.daemon()?.status()?["uplinks"][0]["link_up"].clone();
        ensure!(down == false, "its link is up: {down}");
        lab.outside[0].plug(lab.driver_namespace())?;
        wait_for("the uplink is in service", || {
            let status = lab.daemon()?.status();
            Ok(status.is_ok_and(|status| status["uplinks"][0]["link_up"] == true))
        })?;
        wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
        ping(&lab.guests[1].host, &lab.outside[0].host.ipv4, 5, &[])?;
        ping(&lab.outside[0].host, &lab.guests[1].host.ipv6, 5, &[])?;
    }
    let status = lab.daemon()?.status()?;
    ensure!(status["pid"] == pid, "another process serves");
    ensure!(status["frames"]["quarantined"] == 0, "{}", status["frames"]);
    for guest in &mut lab.guests {
        let report = guest.report()?;
        ensure!(
            report.connects == 1 && report.disabled.is_none(),
            "{report:?}"
        );
    }
    Ok(())
}

#[test]
fn without_gntalloc_it_serves_and_with_it_a_restart_leaves_no_page_behind() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    let without = lab.directory().file("without-gntalloc");
    std::fs::write(&without, "")?;
    for name in ["guest-a", "guest-b"] {
        lab.add_guest(GuestConfig::new(name))?;
    }
    let config = prepare::config(&lab, "");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    let talk = |lab: &mut Lab| -> Result<u64> {
        prepare::settle(lab)?;
        ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])?;
        ping(&lab.guests[0].host, &lab.guests[1].host.ipv6, 10, &[])?;
        Ok(lab.driver_counts()?.granted)
    };
    ensure!(talk(&mut lab)? == 0);
    wait_logged(&lab, "no bounce buffers")?;
    std::fs::remove_file(&without)?;
    lab.daemon()?.kill_and_restart()?;
    let granted = talk(&mut lab)?;
    ensure!(granted > 0, "no page is granted to ourselves");
    lab.daemon()?.kill_and_restart()?;
    let again = talk(&mut lab)?;
    ensure!(
        again == granted,
        "{granted} pages before a kill, {again} after"
    );
    lab.daemon()?.process().kill();
    wait_for("all pages are given back", || {
        Ok(lab.driver_counts()?.granted == 0)
    })
}
