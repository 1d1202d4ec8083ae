//! Frames of 9000 bytes over AF_XDP on veth: guest to outside and back, beside short ones, and an MTU that is raised while guests run.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use tests::status::{self, numbers};
use tests::tools::{Counters, Server, Stream, ping, run, wait_reachable};
use tests::{keys, prepare, wait_for};

/// Pings of whole frames at an MTU of 9000.
const LONG: [&str; 4] = ["-s", "8900", "-M", "do"];

/// Guest-a has an MTU of 9000, guest-b one of 1500, and both ends of the cable have `mtu`; the host port follows.
fn lab(mtu: u32) -> Result<Lab> {
    let mut lab = prepare::wired(1)?;
    set_mtu(&lab, mtu)?;
    lab.add_guest(GuestConfig {
        arguments: vec!["--mtu".into(), "9000".into()],
        ..GuestConfig::new("guest-a")
    })?;
    lab.add_guest(GuestConfig::new("guest-b"))?;
    let config = prepare::config(&lab, "host = true\n");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    prepare::settle(&lab)?;
    Ok(lab)
}

fn set_mtu(lab: &Lab, mtu: u32) -> Result<()> {
    let mtu = mtu.to_string();
    let uplink = ["link", "set", prepare::UPLINK, "mtu", &mtu];
    lab.driver_namespace().ip(&uplink)?;
    let far = ["link", "set", "eth0", "mtu", &mtu];
    lab.outside[0].host.namespace.ip(&far)
}

/// The sum of a number of the uplinks in the daemon's report.
fn uplink(lab: &mut Lab, name: &str) -> Result<u64> {
    let status = lab.daemon()?.status()?;
    Ok(numbers(&status["uplinks"], name).iter().sum())
}

#[test]
fn frames_of_9000_bytes_pass_between_guest_and_outside_beside_short_ones() -> Result<()> {
    let mut lab = lab(9000)?;
    let status = lab.daemon()?.status()?;
    let shown = &status["uplinks"][0];
    ensure!(
        shown["mtu"] == 9000 && shown["largest_mtu"] == 65_262,
        "{shown}"
    );
    let driver = lab.driver_host("xenbr0")?;
    driver.configure()?;
    ensure!(lab.driver_namespace().link("xenbr0")?.mtu == 9000);
    let (long, short) = (&lab.guests[0].host, &lab.guests[1].host);
    let outside = &lab.outside[0].host;
    for (from, to) in [
        (long, outside),
        (outside, long),
        (long, &driver),
        (outside, &driver),
    ] {
        wait_reachable(from, to)?;
        ping(from, &to.ipv6, 1, &[])?;
        ping(from, &to.ipv4, 10, &LONG)?;
        ping(from, &to.ipv6, 10, &LONG)?;
        // In fragments, each of a whole frame.
        ping(from, &to.ipv4, 3, &["-s", "40000"])?;
    }

    // TCP of whole frames both ways, and short packets to another guest beside it.
    // What is on its way at most fits into the fill ring, however late the worker is.
    const WINDOW: [&str; 2] = ["-w", "256K"];
    for (more, address) in [(&[][..], &outside.ipv4), (&["-R"][..], &outside.ipv6)] {
        let server = Server::start(outside, address)?;
        let stream = Stream::start(long, address, 3, &[more, &WINDOW].concat())?;
        ping(outside, &short.ipv4, 30, &["-s", "1400", "-M", "do"])?;
        ping(short, &outside.ipv4, 30, &["-s", "64"])?;
        let report = stream.finish()?;
        drop(server);
        let segment = report["start"]["tcp_mss_default"].as_u64();
        ensure!(segment >= Some(8900), "{}", report["start"]);
        let bytes = report["end"]["sum_received"]["bytes"].as_u64();
        let bytes = bytes.context("iperf3 counted no bytes")?;
        ensure!(bytes > 3_000_000, "{bytes} bytes");
    }
    for host in [long, short, outside, &driver] {
        ensure!(Counters::of(host)?.checksum_errors()? == 0, "{}", host.name);
    }
    for name in [
        "rx_dropped",
        "tx_invalid_descs",
        "bad_descriptor",
        "too_long",
    ] {
        ensure!(uplink(&mut lab, name)? == 0, "{name}");
    }
    Ok(())
}

/// Packets of guest-a that were too long.
fn too_long(lab: &mut Lab) -> Result<u64> {
    let domid = lab.guests[0].domid.0;
    Ok(numbers(&status::vif(lab, domid)?, "too_long").iter().sum())
}

#[test]
fn the_mtu_is_raised_and_lowered_while_guests_run() -> Result<()> {
    let mut lab = lab(1500)?;
    let told = format!("{}/mtu", keys::frontend(&lab, 0));
    ensure!(keys::get(&mut lab, &told)?.as_deref() == Some("1500"));
    let quick = ["-n", "-q", "-c", "2", "-i", "0.2", "-W", "1"];
    for (mtu, passes) in [(1500, false), (9000, true), (1500, false), (9000, true)] {
        set_mtu(&lab, mtu)?;
        wait_for("the new MTU", || {
            Ok(keys::get(&mut lab, &told)? == Some(mtu.to_string()))
        })?;
        let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
        match passes {
            true => {
                wait_for("long frames pass", || {
                    let all = [&quick[..], &LONG, &[&outside.ipv4]].concat();
                    Ok(run(guest, "ping", &all)?.status.success())
                })?;
                ping(guest, &outside.ipv6, 5, &LONG)?;
                ping(outside, &guest.ipv4, 5, &LONG)?;
            }
            false => {
                let before = too_long(&mut lab)?;
                let guest = &lab.guests[0].host;
                let outside = &lab.outside[0].host;
                let all = [&quick[..], &LONG, &[&outside.ipv4]].concat();
                ensure!(!run(guest, "ping", &all)?.status.success(), "MTU {mtu}");
                ensure!(too_long(&mut lab)? >= before + 2);
            }
        }
        let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
        ping(guest, &outside.ipv4, 5, &["-s", "1400"])?;
    }
    Ok(())
}
