//! The daemon dies, in every way and at every point, and its successor goes on: guests do not notice.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Duration;
use tests::hashed::HashedStream;
use tests::status::numbers;
use tests::tools::{Counters, Flood, Server, Stream, ping, wait_reachable};
use tests::{netback, prepare, wait_for};
use xen::store::{StoreError, Transaction, XenStore};

/// Reads every key of every guest's vif, on both sides.
fn keys(lab: &mut Lab) -> Result<BTreeMap<String, String>> {
    let backend = lab.driver_domain().id();
    let mut paths = vec![format!("/local/domain/{backend}/backend")];
    paths.extend(
        lab.guests
            .iter()
            .map(|guest| format!("/local/domain/{}/device", guest.domid)),
    );
    let store = lab.toolstack.store();
    let mut found = BTreeMap::new();
    while let Some(path) = paths.pop() {
        let children = store.directory(Transaction::NONE, &path)?;
        paths.extend(children.iter().map(|child| format!("{path}/{child}")));
        match store.read(Transaction::NONE, &path) {
            Ok(value) => found.insert(path, value),
            Err(StoreError::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(found)
}

/// Returns the number of TCP connections that were reset on any host.
fn resets(lab: &Lab) -> Result<u64> {
    let hosts = lab
        .guests
        .iter()
        .map(|guest| &guest.host)
        .chain([&lab.outside[0].host]);
    hosts
        .map(|host| Counters::of(host)?.get("TcpEstabResets"))
        .sum()
}

/// Checks that no netfront has disabled itself, or was given anything that Linux's would complain about.
fn guests_noticed_nothing(lab: &mut Lab) -> Result<()> {
    for guest in &mut lab.guests {
        let report = guest.report()?;
        let name = &guest.host.name;
        ensure!(
            report.disabled.is_none(),
            "{name} disabled itself: {:?}",
            report.disabled
        );
        ensure!(
            report.connects == 1,
            "{name} connected {} times",
            report.connects
        );
        let complaints = report.total.protocol_errors + report.total.rx_wrong_ids;
        ensure!(
            complaints == 0,
            "{name}: {:?}: {:?}",
            report.last_protocol_error,
            report.total
        );
    }
    Ok(())
}

fn all_reach_all(lab: &Lab) -> Result<()> {
    let (a, b, outside) = (
        &lab.guests[0].host,
        &lab.guests[1].host,
        &lab.outside[0].host,
    );
    for (from, to) in [
        (a, outside),
        (outside, a),
        (a, b),
        (b, a),
        (b, outside),
        (outside, b),
    ] {
        wait_reachable(from, to)?;
        ping(from, &to.ipv4, 5, &[])?;
        ping(from, &to.ipv6, 5, &[])?;
    }
    Ok(())
}

/// Kills the daemon three times under streams both ways, with `queues` queues a guest.
fn streams_survive(queues: u16) -> Result<()> {
    let mut lab = prepare::connected(queues, &["guest-a", "guest-b"])?;
    all_reach_all(&lab)?;
    let before = keys(&mut lab)?;
    let (a, b, outside) = (
        &lab.guests[0].host,
        &lab.guests[1].host,
        &lab.outside[0].host,
    );
    let _servers = [
        Server::start(outside, &outside.ipv4)?,
        Server::start(b, &b.ipv4)?,
    ];
    let streams = [
        Stream::start(a, &outside.ipv4, 8, &[])?,
        Stream::start(outside, &b.ipv4, 8, &["-R"])?,
    ];
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1300));
        lab.daemon()?.kill_and_restart()?;
    }
    std::thread::sleep(Duration::from_millis(1000));
    // Counted while the streams run: iperf3 resets some connections itself when it ends.
    ensure!(resets(&lab)? == 0, "a connection was reset");
    for stream in streams {
        let report = stream.finish()?;
        let intervals = report["intervals"]
            .as_array()
            .context("iperf3 printed no intervals")?;
        let last = intervals
            .last()
            .and_then(|interval| interval["sum"]["bytes"].as_u64());
        ensure!(
            last > Some(0),
            "a stream carried nothing in its last second: {last:?}"
        );
    }
    all_reach_all(&lab)?;
    let after = keys(&mut lab)?;
    ensure!(
        before == after,
        "keys changed: {:?}",
        changed(&before, &after)
    );
    guests_noticed_nothing(&mut lab)
}

fn changed<'a>(
    before: &'a BTreeMap<String, String>,
    after: &'a BTreeMap<String, String>,
) -> Vec<(&'a String, Option<&'a String>, Option<&'a String>)> {
    let paths = before
        .keys()
        .chain(after.keys().filter(|path| !before.contains_key(*path)));
    paths
        .map(|path| (path, before.get(path), after.get(path)))
        .filter(|(_, before, after)| before != after)
        .collect()
}

#[test]
fn streams_survive_kill_9_of_the_daemon_with_one_queue() -> Result<()> {
    streams_survive(1)
}

#[test]
fn streams_survive_kill_9_of_the_daemon_with_four_queues() -> Result<()> {
    streams_survive(4)
}

#[test]
fn guests_that_come_while_no_daemon_runs_are_served_by_the_next() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    lab.daemon = None;
    lab.add_guest(lab::guest::GuestConfig::new("guest-b"))?;
    let config = prepare::config(&lab, "");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    all_reach_all(&lab)
}

#[test]
fn guests_that_died_while_no_daemon_ran_are_cleaned_up_by_the_next() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a", "guest-b"])?;
    lab.daemon = None;
    let dead = lab.guests.pop().context("there were two")?.domid;
    let config = prepare::config(&lab, "");
    lab.start_daemon(&config)?;
    let backend = lab.driver_domain().id();
    ensure!(
        lab.toolstack
            .detach_vif(backend, dead, 0, Duration::from_secs(10))?,
        "its node is still there after 10 s"
    );
    wait_for("its file is gone", || {
        Ok(!lab
            .directory()
            .file("run")
            .join(format!("vif-{dead}-0"))
            .exists())
    })?;
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])
}

#[test]
fn a_second_daemon_on_the_same_vifs_is_refused_with_one_line() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    let config = lab.directory().file("netback.toml");
    let config = config
        .to_str()
        .context("the lab's directory is not UTF-8")?;
    let output = netback::output(&lab, &["run", "--config", config])?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2),
        "{}: {error}",
        output.status
    );
    ensure!(error.trim().lines().count() == 1, "not one line: {error}");
    // The first daemon goes on.
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])?;
    guests_noticed_nothing(&mut lab)
}

/// Returns the names of the points at which the daemon can be made to die.
fn crash_points(lab: &Lab) -> Result<Vec<String>> {
    let output = netback::command(lab, "netback-crash-points", &["crash-points"])?.output()?;
    let names: Vec<String> = String::from_utf8(output.stdout)?
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    ensure!(names.len() > 5, "only these crash points: {names:?}");
    Ok(names)
}

/// Waits until a daemon that was made to die has died by SIGKILL.
fn died(daemon: &mut Child, point: &str) -> Result<()> {
    wait_for(&format!("the daemon dies at {point}"), || {
        Ok(daemon.try_wait()?.is_some())
    })?;
    let status = daemon.wait()?;
    ensure!(
        status.signal() == Some(9),
        "the daemon ended at {point} with {status}"
    );
    Ok(())
}

#[test]
fn a_death_at_any_point_of_the_worker_goes_unnoticed() -> Result<()> {
    let mut lab = prepare::connected(2, &["guest-a", "guest-b"])?;
    all_reach_all(&lab)?;
    let points = crash_points(&lab)?;
    let config = std::fs::read_to_string(lab.directory().file("netback.toml"))?;
    let before = keys(&mut lab)?;
    // The daemon dies the first time it comes to the point, in the take-over itself, and then at a later time, in the midst of traffic.
    for pass in [1, 40] {
        for point in &points {
            let place = format!("{point}:{pass}");
            // The stream begins while a daemon serves, and goes on after the death.
            let (a, outside) = (&lab.guests[0].host, &lab.outside[0].host);
            let large = HashedStream::start(a, outside)?;
            lab.daemon = None;
            let mut daemon = netback::start_to_crash(&lab, &config, &place)?;
            let traffic = traffic(&lab)?;
            let death = died(&mut daemon, &place);
            // Whatever the result is, no process of ours must outlive the test.
            let _ = daemon.kill();
            death?;
            lab.start_daemon(&config)?;
            drop(traffic);
            let reached = large.finish().and_then(|()| all_reach_all(&lab));
            let state = format!(
                "after a death at {place}, with {}",
                lab.daemon()?.command(&["status"])?
            );
            reached.context(state)?;
            guests_noticed_nothing(&mut lab)
                .with_context(|| format!("after a death at {place}"))?;
            let after = keys(&mut lab)?;
            ensure!(
                before == after,
                "after a death at {place}: {:?}",
                changed(&before, &after)
            );
        }
    }
    Ok(())
}

#[test]
fn what_streams_carry_is_right_after_a_death_at_any_point_under_large_packets() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a", "guest-b"])?;
    let points = crash_points(&lab)?;
    let config = std::fs::read_to_string(lab.directory().file("netback.toml"))?;
    let (a, b) = (&lab.guests[0].host, &lab.guests[1].host);
    let outside = &lab.outside[0].host;
    let streams = [(a, outside), (outside, b), (a, b), (b, a)];
    let streams = streams.map(|(from, to)| HashedStream::start(from, to));
    for point in &points {
        let place = format!("{point}:15");
        lab.daemon = None;
        let mut daemon = netback::start_to_crash(&lab, &config, &place)?;
        let death = died(&mut daemon, &place);
        let _ = daemon.kill();
        death?;
    }
    lab.start_daemon(&config)?;
    for stream in streams {
        stream?.finish()?;
    }
    let status = lab.daemon()?.status()?;
    let large = numbers(&status["uplinks"], "lane_packets");
    ensure!(
        large.iter().sum::<u64>() > 0,
        "no packet went whole: {status}"
    );
    guests_noticed_nothing(&mut lab)
}

/// Has a guest connect to a daemon that dies as `environment` says, and the successor serve the guest.
fn dies_while_a_guest_connects(environment: &[(&str, &str)]) -> Result<()> {
    let mut lab = prepare::wired(1)?;
    let config = prepare::config(&lab, "");
    let mut daemon = netback::start_crashing(&lab, &config, environment)?;
    lab.add_guest(lab::guest::GuestConfig::new("guest-a"))?;
    // The frontend is connected as soon as it has seen InitWait; its stack speaks when its interface comes up.
    let connected = lab.connect_guests();
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let traffic = Flood::start(guest, &outside.ipv4)?;
    let death = connected.and_then(|()| died(&mut daemon, "a connection"));
    let _ = daemon.kill();
    death?;
    lab.start_daemon(&config)?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let reached = wait_reachable(guest, outside).and_then(|()| ping(outside, &guest.ipv4, 5, &[]));
    drop(traffic);
    reached.with_context(|| {
        lab.daemon
            .as_ref()
            .map_or_else(String::new, |d| d.log_tail())
    })?;
    guests_noticed_nothing(&mut lab)
}

#[test]
fn a_death_at_any_point_of_a_connection_goes_unnoticed() -> Result<()> {
    for point in ["opened", "filed", "connected", "handed-out"] {
        dies_while_a_guest_connects(&[("NETBACK_CRASH_AT", point)])
            .with_context(|| format!("with a death at {point}"))?;
    }
    // The worker dies when it has written its first answer, before the control thread has done anything more.
    dies_while_a_guest_connects(&[
        ("NETBACK_HOLD_AT", "handed-out"),
        ("NETBACK_CRASH_AT", "tx-response"),
    ])
    .context("with a worker's death at its first answer")
}

#[test]
fn a_guest_at_whose_packets_the_daemon_panics_three_times_is_disabled_and_the_others_go_on()
-> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a", "guest-b"])?;
    let config = std::fs::read_to_string(lab.directory().file("netback.toml"))?;
    lab.daemon = None;
    for death in 1..=3 {
        // The daemon dies at the first packet that it answers, and only one guest sends.
        let environment = [
            ("NETBACK_CRASH_AT", "tx-response"),
            ("NETBACK_CRASH_BY", "panic"),
        ];
        let mut daemon = netback::start_crashing(&lab, &config, &environment)?;
        let traffic = Flood::start(&lab.guests[0].host, &lab.outside[0].host.ipv4)?;
        let ended = wait_for("the daemon panics", || Ok(daemon.try_wait()?.is_some()));
        let _ = daemon.kill();
        ended.with_context(|| format!("death {death}"))?;
        drop(traffic);
    }
    lab.start_daemon(&config)?;
    let name = format!("{}/0", lab.guests[0].domid);
    wait_for("the guest's vif is disabled", || {
        // The daemon may not listen yet.
        let status = lab.daemon()?.status().unwrap_or_default();
        let vifs = status["vifs"].as_array().map_or(&[][..], Vec::as_slice);
        let vif = vifs.iter().find(|vif| vif["vif"] == name.as_str());
        let reason = vif.and_then(|vif| vif["reason"].as_str()).unwrap_or("");
        Ok(reason.starts_with("netback crashed three times"))
    })?;
    let (guest, outside) = (&lab.guests[1].host, &lab.outside[0].host);
    wait_reachable(guest, outside)?;
    ping(outside, &guest.ipv4, 5, &[])?;
    // A death from outside leaves the guest disabled.
    lab.daemon()?.kill_and_restart()?;
    let (guest, outside) = (&lab.guests[1].host, &lab.outside[0].host);
    wait_reachable(guest, outside)
}

/// Traffic from guest to guest, to the wire and from it, until this is dropped.
fn traffic(lab: &Lab) -> Result<Vec<Flood>> {
    let (a, b, outside) = (
        &lab.guests[0].host,
        &lab.guests[1].host,
        &lab.outside[0].host,
    );
    let paths = [(a, outside), (outside, b), (a, b), (b, a)];
    paths
        .iter()
        .map(|(from, to)| Flood::start(from, &to.ipv4))
        .collect()
}
