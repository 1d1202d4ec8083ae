//! Guests come and go, orderly or as in a power cut: nothing of them stays, and others notice nothing.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use std::time::Duration;
use tests::tools::{Flood, Server, Stream, ping};
use tests::{prepare, wait_for};
use xen::store::{StoreError, Transaction, XenStore};

/// How long `xl` waits for a vif to close before it complains.
const XL: Duration = Duration::from_secs(10);

/// XenbusStateConnected, XenbusStateClosed (xen/include/public/io/xenbus.h).
const CONNECTED: u32 = 4;
const CLOSED: u32 = 6;

/// What must be the same before a guest comes and after it has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    /// Ports of the driver domain.
    ports: u64,
    /// Ring pages of guests that the driver domain has mapped.
    mapped: u64,
    /// Domains that the hypervisor remembers, dead ones with mapped pages too.
    domains: usize,
    /// xenstore nodes and watches.
    nodes: u64,
    watches: u64,
    /// Vifs in the daemon's report.
    vifs: usize,
    /// Files of live vifs.
    files: usize,
}

fn holdings(lab: &mut Lab) -> Result<Holdings> {
    let counts = lab.counts()?;
    let driver = lab.driver_counts()?;
    let status = lab.daemon()?.status()?;
    let run_dir = std::fs::read_dir(lab.directory().file("run"))?;
    let vif_files = run_dir
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vif-"));
    Ok(Holdings {
        ports: driver.ports,
        mapped: counts.domains.iter().map(|domain| domain.mapped).sum(),
        domains: counts.domains.len(),
        nodes: counts.nodes,
        watches: counts.watches,
        vifs: status["vifs"]
            .as_array()
            .context("status has no vifs")?
            .len(),
        files: vif_files.count(),
    })
}

/// Checks that every frame of the pool is in one of the places where frames may be. A moving frame may be between two of them.
fn no_frame_is_lost(lab: &mut Lab) -> Result<()> {
    let mut last = None;
    let result = wait_for("every frame is accounted for", || {
        let frames = lab.daemon()?.status()?["frames"].take();
        let place = |name: &str| {
            frames[name]
                .as_i64()
                .with_context(|| format!("no frames.{name} in status"))
        };
        let lost = place("unaccounted")?.abs() + place("quarantined")?;
        let at_rest = lost == 0 && place("travelling")? == 0 && place("free")? > 0;
        last = Some(frames);
        Ok(at_rest)
    });
    result.with_context(|| format!("frames: {last:?}"))
}

/// Waits until the daemon holds what it held `before`.
fn settles_to(lab: &mut Lab, before: &Holdings) -> Result<()> {
    let mut last = None;
    let result = wait_for("everything is given back", || {
        let now = holdings(lab)?;
        let same = now == *before;
        last = Some(now);
        Ok(same)
    });
    result.with_context(|| format!("before: {before:?}, now: {last:?}"))
}

/// Ends the last guest as a power cut would. The backend notices, and removes its node before any toolstack does.
fn destroy_last_guest(lab: &mut Lab) -> Result<()> {
    let guest = lab.guests.pop().context("no guest left")?;
    let (domid, backend) = (guest.domid, lab.driver_domain().id());
    drop(guest);
    let node = format!("/local/domain/{backend}/backend/vif/{domid}/0");
    let store = lab.toolstack.store();
    wait_for("the backend's node is gone", || {
        match store.read(Transaction::NONE, &node) {
            Err(StoreError::Missing(_)) => Ok(true),
            other => Ok(other.map(|_| false)?),
        }
    })?;
    Ok(lab.toolstack.destroy_vif(backend, domid, 0)?)
}

/// Waits until the first guest receives packets of a stream.
fn load_flows(lab: &mut Lab) -> Result<()> {
    let before = lab.guests[0].report()?.total.rx_packets;
    wait_for("the load flows", || {
        Ok(lab.guests[0].report()?.total.rx_packets > before + 100)
    })
}

fn add_guest(lab: &mut Lab, name: &str) -> Result<()> {
    lab.add_guest(GuestConfig {
        queues: 2,
        ..GuestConfig::new(name)
    })?;
    lab.connect_guests()
}

fn one_guest_and_room_for_another() -> Result<Lab> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(GuestConfig::new("stays"))?;
    let config = prepare::config(&lab, "[vif]\nmax_queues = 2\n");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 3, &[])?;
    Ok(lab)
}

#[test]
fn a_guest_that_is_killed_leaves_nothing_and_costs_others_nothing() -> Result<()> {
    let mut lab = one_guest_and_room_for_another()?;
    let before = holdings(&mut lab)?;
    add_guest(&mut lab, "dies")?;
    // The guest dies under load, while another guest's stream runs.
    let (stays, dies, outside) = (
        &lab.guests[0].host,
        &lab.guests[1].host,
        &lab.outside[0].host,
    );
    ping(dies, &outside.ipv4, 3, &[])?;
    let _server = Server::start(outside, &outside.ipv4)?;
    let stream = Stream::start(stays, &outside.ipv4, 3, &[])?;
    let _load = Flood::start(dies, &stays.ipv4)?;
    load_flows(&mut lab)?;
    destroy_last_guest(&mut lab)?;
    let report = stream.finish()?;
    ensure!(
        report["end"]["sum_received"]["bytes"].as_u64() > Some(100_000),
        "the other guest's stream carried nothing"
    );
    settles_to(&mut lab, &before)?;
    no_frame_is_lost(&mut lab)?;
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])
}

/// Rounds of [`rounds_of_kill_and_restart_leak_nothing`]: a few here, as many as asked for in `cargo xtask soak`.
fn rounds() -> u32 {
    let asked = std::env::var("NETBACK_TEST_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[test]
fn rounds_of_kill_and_restart_leak_nothing() -> Result<()> {
    let mut lab = one_guest_and_room_for_another()?;
    let before = holdings(&mut lab)?;
    for round in 0..rounds() {
        add_guest(&mut lab, &format!("guest-{round}")).with_context(|| format!("round {round}"))?;
        ping(&lab.guests[1].host, &lab.outside[0].host.ipv4, 2, &[])
            .with_context(|| format!("round {round}"))?;
        let _load = Flood::start(&lab.guests[1].host, &lab.guests[0].host.ipv4)?;
        load_flows(&mut lab)?;
        destroy_last_guest(&mut lab).with_context(|| format!("round {round}"))?;
    }
    settles_to(&mut lab, &before)?;
    no_frame_is_lost(&mut lab)?;
    let report = lab.guests[0].report()?;
    ensure!(
        report.disabled.is_none() && report.total.protocol_errors == 0,
        "{report:?}"
    );
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])
}

#[test]
fn a_driver_that_is_unloaded_and_loaded_again_has_its_network_back() -> Result<()> {
    let mut lab = one_guest_and_room_for_another()?;
    let (backend, domid) = (lab.driver_domain().id(), lab.guests[0].domid);
    for connects in 2..=4 {
        // Linux's netfront waits for the backend's state when it goes, and when it comes.
        lab.guests[0].command("close")?;
        lab.toolstack
            .wait_backend_state(backend, domid, 0, CLOSED, XL)?;
        wait_for("the guest is closed", || {
            Ok(lab.guests[0].report()?.state == CLOSED)
        })?;
        lab.guests[0].command("reconnect")?;
        wait_for("the guest is connected again", || {
            let report = lab.guests[0].report()?;
            Ok(report.connects == connects && report.state == CONNECTED && report.queues > 0)
        })?;
        lab.toolstack
            .wait_backend_state(backend, domid, 0, CONNECTED, XL)?;
        ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 5, &[])?;
    }
    Ok(())
}

#[test]
fn a_vif_is_detached_and_attached_by_the_toolstack() -> Result<()> {
    let mut lab = one_guest_and_room_for_another()?;
    let (backend, domid) = (lab.driver_domain().id(), lab.guests[0].domid);
    ensure!(
        lab.toolstack.detach_vif(backend, domid, 0, XL)?,
        "detaching took over 10 s"
    );
    wait_for("the vif is gone from the report", || {
        Ok(holdings(&mut lab)?.vifs == 0)
    })?;
    ensure!(
        holdings(&mut lab)?.files == 0,
        "the vif's file is still there"
    );
    let config = lab.guests[0]
        .vif_configs()
        .next()
        .context("the guest has no vif")?;
    lab.toolstack.create_vif(backend, domid, 0, &config)?;
    lab.guests[0].command("reconnect")?;
    lab.connect_guests()?;
    prepare::settle(&lab)?;
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])
}
