//! A bridge with two network cards: one takes over from the other.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use serde_json::Value;
use std::process::{Child, Stdio};
use tests::tools::{self, ping, wait_reachable};
use tests::{prepare, status, wait_for};

/// The backup's end of its cable in the driver domain.
const BACKUP: &str = "up1";

/// "outside", behind a switch that both cables lead to; `more` is in the bridge's table.
fn wired_twice(more: &str) -> Result<Lab> {
    let mut lab = prepare::wired(1)?;
    let far = lab.outside[0].host.namespace.name().to_owned();
    let driver = lab.driver_namespace();
    driver.ip(&[
        "link", "add", BACKUP, "type", "veth", "peer", "name", "far1", "netns", &far,
    ])?;
    driver.ip(&["link", "set", BACKUP, "up"])?;
    let outside = &lab.outside[0].host;
    let inside = &outside.namespace;
    tools::stdout(
        outside,
        "ethtool",
        &["-K", "far1", "tx", "off", "txvlan", "off"],
    )?;
    inside.ip(&["addr", "flush", "dev", "eth0"])?;
    // The switch, which knows where an address is only by what it has learnt.
    inside.ip(&[
        "link",
        "add",
        "switch",
        "type",
        "bridge",
        "forward_delay",
        "0",
        "ageing_time",
        "600000",
    ])?;
    for port in ["eth0", "far1"] {
        inside.ip(&["link", "set", port, "master", "switch", "up"])?;
    }
    inside.ip(&[
        "addr",
        "add",
        &format!("{}/24", outside.ipv4),
        "dev",
        "switch",
    ])?;
    inside.ip(&["link", "set", "switch", "up"])?;
    tools::stdout(outside, "ethtool", &["-K", "switch", "tx", "off"])?;
    let config = prepare::config(&lab, more);
    let uplink = format!("uplink = {:?}", prepare::UPLINK);
    let config = config.replace(&uplink, &format!("{uplink}\nbackup = {BACKUP:?}"));
    lab.add_guest(GuestConfig::new("guest"))?;
    lab.add_guest(GuestConfig::new("silent"))?;
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    Ok(lab)
}

/// Returns the interface that carries the bridge's frames.
fn carrying(lab: &mut Lab) -> Result<String> {
    let status: Value = lab.daemon()?.status()?;
    let uplink = status["bridges"][0]["uplink"].as_str();
    Ok(uplink.context("the bridge has no uplink")?.to_owned())
}

/// Waits until the network's switch knows this MAC address behind the backup.
fn wait_until_announced(lab: &Lab, mac: &str) -> Result<()> {
    wait_for("the announcement", || {
        let outside = &lab.outside[0].host;
        let known = tools::stdout(outside, "bridge", &["fdb", "show", "br", "switch"])?;
        let there = format!("{mac} dev far1");
        Ok(known.lines().any(|line| line.starts_with(&there)))
    })
}

/// Sixty pings from outside to the guest, ten a second.
struct Pings(Child);

impl Pings {
    fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.outside[0].host.namespace.command("ping");
        command.args([
            "-n",
            "-q",
            "-i",
            "0.1",
            "-c",
            "60",
            "-W",
            "2",
            &lab.guests[0].host.ipv4,
        ]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(child.spawn()?))
    }

    /// Waits for the last ping. Returns how many were lost.
    fn finish(self) -> Result<u64> {
        let output = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let received = text
            .split(" received")
            .next()
            .and_then(|text| text.rsplit(' ').next());
        let received: u64 = received
            .and_then(|n| n.parse().ok())
            .with_context(|| text.clone())?;
        Ok(60 - received)
    }
}

#[test]
fn a_backup_takes_over_within_a_second_and_the_network_learns_of_it() -> Result<()> {
    let mut lab = wired_twice("")?;
    ensure!(carrying(&mut lab)? == prepare::UPLINK);
    let pings = Pings::start(&lab)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    // The far end of the cable goes down: the near one loses its carrier, and says nothing to the switch that knows the guest there.
    lab.outside[0]
        .host
        .namespace
        .ip(&["link", "set", "eth0", "down"])?;
    wait_for(
        "the backup carries on",
        || Ok(carrying(&mut lab)? == BACKUP),
    )?;
    let lost = pings.finish()?;
    ensure!(
        lost <= 10,
        "{lost} of 60 pings were lost, a tenth of a second each"
    );

    // The network finds a guest that has sent nothing since, for netback has announced it.
    wait_until_announced(&lab, &status::mac(&lab.guests[1].host))?;

    // The link is back: the backup goes on, and no frame is received twice.
    lab.outside[0]
        .host
        .namespace
        .ip(&["link", "set", "eth0", "up"])?;
    wait_for("the link is back", || {
        let status = lab.daemon()?.status()?;
        Ok(status["uplinks"][0]["link_up"] == true)
    })?;
    ensure!(carrying(&mut lab)? == BACKUP);
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 10, &[])?;
    let status = lab.daemon()?.status()?;
    ensure!(
        status["uplinks"][0]["standby"] == true && status["uplinks"][1]["standby"] == false,
        "{status}"
    );

    // The first uplink takes over when the backup fails.
    lab.outside[0]
        .host
        .namespace
        .ip(&["link", "set", "far1", "down"])?;
    wait_for("the uplink carries on", || {
        Ok(carrying(&mut lab)? == prepare::UPLINK)
    })?;
    wait_reachable(&lab.outside[0].host, &lab.guests[0].host)
}

#[test]
fn the_host_port_goes_over_to_the_backup_with_the_guests() -> Result<()> {
    let mut lab = wired_twice("host = true\n")?;
    wait_for("the host port is in service", || {
        let status = lab.daemon()?.status()?;
        Ok(status["hosts"][0]["link_up"] == true)
    })?;
    let driver = lab.driver_host("xenbr0")?;
    driver.configure()?;
    wait_reachable(&lab.outside[0].host, &driver)?;
    let before = tools::stdout(&driver, "ip", &["-br", "addr", "show", "dev", "xenbr0"])?;
    let far = lab.outside[0].host.namespace.alias();
    far.ip(&["link", "set", "eth0", "down"])?;
    wait_for(
        "the backup carries on",
        || Ok(carrying(&mut lab)? == BACKUP),
    )?;
    // With the address that it had: netback announces it where the backup leads.
    wait_until_announced(&lab, &status::mac(&driver))?;
    ping(&lab.outside[0].host, &driver.ipv4, 10, &[])?;
    ping(&driver, &lab.outside[0].host.ipv4, 10, &[])?;
    ping(&driver, &lab.guests[0].host.ipv4, 10, &[])?;
    let after = tools::stdout(&driver, "ip", &["-br", "addr", "show", "dev", "xenbr0"])?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}
