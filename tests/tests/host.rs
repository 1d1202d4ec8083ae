//! The host port: a TAP with the bridge's name, by which the driver domain's own stack is on the bridge.
use anyhow::{Context, Result, ensure};
use lab::{Host, Lab};
use std::time::Duration;
use tests::status::{mac, numbers};
use tests::tools::{
    Counters, Server, Stream, no_ping, ping, run, stdout, tcp, udp, wait_reachable,
};
use tests::{netback, prepare, wait_for};

/// The bridge, and the host port on it.
const HOST: &str = "xenbr0";

/// A lab with "outside", guests of these names, and a daemon with a host port, which has addresses.
fn hosted(queues: u16, guests: &[&str]) -> Result<Lab> {
    let mut lab = prepare::wired(queues)?;
    for name in guests {
        lab.add_guest(lab::guest::GuestConfig {
            queues,
            ..lab::guest::GuestConfig::new(name)
        })?;
    }
    let config = prepare::config(
        &lab,
        &format!("host = true\n[vif]\nmax_queues = {queues}\n"),
    );
    lab.start_daemon(&config)?;
    wait_for_host(&mut lab)?;
    lab.driver_host(HOST)?.configure()?;
    lab.connect_guests()?;
    if !guests.is_empty() {
        prepare::settle(&lab)?;
    }
    Ok(lab)
}

fn wait_for_host(lab: &mut Lab) -> Result<()> {
    wait_for("the host port is in service", || {
        let status = lab.daemon()?.status();
        Ok(status.is_ok_and(|status| status["hosts"][0]["link_up"] == true))
    })
}

/// The sum of a counter over the host port's queues.
fn counted(lab: &mut Lab, name: &str) -> Result<u64> {
    let status = lab.daemon()?.status()?;
    Ok(numbers(&status["hosts"], name).iter().sum())
}

/// A number of the driver domain's interface, as /sys/class/net has it.
fn system(host: &Host, interface: &str, file: &str) -> Result<String> {
    let path = format!("/sys/class/net/{interface}/{file}");
    Ok(stdout(host, "cat", &[&path])?.trim().to_owned())
}

fn ipv6_is_off(host: &Host, interface: &str) -> Result<bool> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    Ok(stdout(host, "cat", &[&path])?.trim() == "1")
}

#[test]
fn the_host_port_is_reached_from_guests_and_from_outside() -> Result<()> {
    let mut lab = hosted(1, &["guest-a", "guest-b"])?;
    let driver = lab.driver_host(HOST)?;
    let outside = &lab.outside[0].host;
    let guest = &lab.guests[0].host;
    // The host port has the network card's address, and the card itself has none that it answers for.
    let card = lab.driver_namespace().link(prepare::UPLINK)?;
    ensure!(card.mac == driver.mac, "{:?} {:?}", card.mac, driver.mac);
    ensure!(ipv6_is_off(&driver, prepare::UPLINK)? && !ipv6_is_off(&driver, HOST)?);
    let local = stdout(&driver, "ip", &["-br", "-6", "addr", "show", "dev", HOST])?;
    let [.., last] = card.mac;
    ensure!(local.contains(&format!("{last:x}/64")), "{local}: {card:?}");
    let shown = stdout(
        &driver,
        "ip",
        &["-o", "addr", "show", "dev", prepare::UPLINK],
    )?;
    ensure!(!shown.contains("inet"), "{shown}");
    for (from, to) in [
        (guest, &driver),
        (&driver, guest),
        (outside, &driver),
        (&driver, outside),
    ] {
        wait_reachable(from, to)?;
        // Long packets that wait for a neighbour's address fill ping's buffer.
        ping(from, &to.ipv6, 1, &[])?;
        ping(from, &to.ipv4, 20, &["-s", "1400"])?;
        ping(from, &to.ipv6, 20, &["-s", "1400"])?;
        // Pings that go in fragments.
        ping(from, &to.ipv4, 5, &["-s", "9000"])?;
        let (sent, lost) = udp(from, to, &to.ipv4, 1000, "2M", 1)?;
        ensure!(sent > 100 && lost * 50 <= sent, "{lost} of {sent} lost");
    }
    // Guests reach each other and the wire as before.
    ping(guest, &lab.guests[1].host.ipv6, 10, &[])?;
    ping(guest, &outside.ipv4, 10, &[])?;
    for host in [guest, outside, &driver] {
        ensure!(Counters::of(host)?.checksum_errors()? == 0, "{}", host.name);
    }
    let status = lab.daemon()?.status()?;
    ensure!(status["bridges"][0]["host"] == true, "{status}");
    ensure!(status["hosts"][0]["mac"] == mac(&driver), "{status}");
    let drops = &status["hosts"][0]["queues"];
    ensure!(numbers(drops, "gso_refused").is_empty(), "{drops}");
    Ok(())
}

#[test]
fn large_packets_go_whole_to_and_from_the_host() -> Result<()> {
    let mut lab = hosted(2, &["guest-a"])?;
    let driver = lab.driver_host(HOST)?;
    let (outside, guest) = (&lab.outside[0].host, &lab.guests[0].host);
    wait_reachable(guest, &driver)?;
    wait_reachable(outside, &driver)?;
    for ipv6 in [false, true] {
        let address = |host: &Host| match ipv6 {
            true => host.ipv6.clone(),
            false => host.ipv4.clone(),
        };
        for (from, to) in [
            (guest, &driver),
            (&driver, guest),
            (&driver, outside),
            (outside, &driver),
        ] {
            let (bytes, _) = tcp(from, to, &address(to), 2)?;
            ensure!(bytes > 1 << 20, "{} to {}: {bytes}", from.name, to.name);
        }
    }
    for host in [guest, outside, &driver] {
        ensure!(Counters::of(host)?.checksum_errors()? == 0, "{}", host.name);
    }
    let report = |name: &str| format!("{name} is too small");
    let mean = |bytes: u64, packets: u64| bytes / packets.max(1);
    // Mostly data went each way, so that packets whose mean is longer than the MTU went whole.
    let (received, sent) = (
        counted(&mut lab, "recv_packets")?,
        counted(&mut lab, "send_packets")?,
    );
    let (received_gso, sent_gso) = (
        counted(&mut lab, "recv_gso_packets")?,
        counted(&mut lab, "send_gso_packets")?,
    );
    ensure!(
        received_gso > 100,
        "{}: {received_gso} of {received}",
        report("recv_gso_packets")
    );
    ensure!(
        sent_gso > 100,
        "{}: {sent_gso} of {sent}",
        report("send_gso_packets")
    );
    let received = mean(counted(&mut lab, "recv_bytes")?, received);
    ensure!(
        received > 1514,
        "{}: {received}",
        report("a packet from the host")
    );
    let status = lab.daemon()?.status()?;
    let whole: u64 = numbers(&status["vifs"], "rx_gso_packets").iter().sum();
    ensure!(whole > 100, "{}: {whole}", report("rx_gso_packets"));
    // Either the device segments them, by the bulk lane, or netback cuts them.
    let of_uplinks = |name| numbers(&status["uplinks"], name).iter().sum::<u64>();
    let large = of_uplinks("cut_packets") + of_uplinks("lane_packets");
    ensure!(
        large > 100,
        "{}: {large}",
        report("large packets to the wire")
    );
    ensure!(counted(&mut lab, "gso_refused")? == 0);
    Ok(())
}

#[test]
fn addresses_routes_and_streams_of_the_host_outlive_kill_9() -> Result<()> {
    let mut lab = hosted(1, &["guest-a"])?;
    let driver = lab.driver_host(HOST)?;
    wait_reachable(&lab.outside[0].host, &driver)?;
    let gateway = lab.outside[0].host.ipv4.clone();
    lab.driver_namespace()
        .ip(&["route", "add", "default", "via", &gateway])?;
    let state = |driver: &Host| -> Result<(String, String, String, String)> {
        Ok((
            stdout(driver, "ip", &["-br", "addr", "show", "dev", HOST])?,
            stdout(driver, "ip", &["route"])?,
            stdout(driver, "ip", &["-6", "route", "show", "dev", HOST])?,
            system(driver, HOST, "carrier_changes")?,
        ))
    };
    let before = state(&driver)?;
    let (outside, guest) = (&lab.outside[0].host, &lab.guests[0].host);
    let _servers = [
        Server::start(outside, &outside.ipv4)?,
        Server::start(&driver, &driver.ipv4)?,
    ];
    let streams = [
        Stream::start(&driver, &outside.ipv4, 8, &[])?,
        Stream::start(guest, &driver.ipv4, 8, &[])?,
    ];
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1300));
        lab.daemon()?.kill_and_restart()?;
    }
    std::thread::sleep(Duration::from_millis(1000));
    for host in [&driver, &lab.outside[0].host, &lab.guests[0].host] {
        let resets = Counters::of(host)?.get("TcpEstabResets")?;
        ensure!(
            resets == 0,
            "{}: {resets} connections were reset",
            host.name
        );
    }
    for stream in streams {
        stream.finish()?;
    }
    ensure!(
        state(&driver)? == before,
        "{before:?} became {:?}",
        state(&driver)?
    );

    // While no daemon runs, no frame of the network card reaches the stack of this domain, and frames to the bridge wait.
    lab.daemon()?.kill();
    let heard = Counters::of(&driver)?.get("IpInReceives")?;
    no_ping(&lab.outside[0].host, &driver.ipv4)?;
    ensure!(Counters::of(&driver)?.get("IpInReceives")? == heard);
    ensure!(
        state(&driver)? == before,
        "{before:?} became {:?}",
        state(&driver)?
    );
    lab.daemon()?.start_again()?;
    wait_reachable(&lab.outside[0].host, &driver)?;
    ensure!(
        state(&driver)? == before,
        "{before:?} became {:?}",
        state(&driver)?
    );
    ensure!(lab.daemon()?.manager().names() == ["host-xenbr0-0", "host-xenbr0-1"]);
    Ok(())
}

/// The script that dhclient runs at each change, which sets the address that dhclient was given.
const SCRIPT: &str = "#!/bin/sh\n\
    case $reason in BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface;; esac\n";

#[test]
fn dhclient_gets_the_address_that_the_network_card_would_get() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    let config = prepare::config(&lab, "host = true\n");
    lab.start_daemon(&config)?;
    wait_for_host(&mut lab)?;
    let driver = lab.driver_host(HOST)?;
    let card = lab.driver_namespace().link(prepare::UPLINK)?.mac;
    let card = card.map(|byte| format!("{byte:02x}")).join(":");
    let directory = lab.directory();
    let file = |name: &str| directory.file(name).to_string_lossy().into_owned();
    let outside = &lab.outside[0].host;
    let mut server = outside.namespace.command("dnsmasq");
    let range = "--dhcp-range=10.77.0.100,10.77.0.120,255.255.255.0,1h";
    server.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        range,
    ]);
    server.args(["--bind-interfaces", "--interface", &outside.interface]);
    server.arg(format!("--dhcp-host={card},{}", "10.77.0.111"));
    server.arg(format!("--dhcp-leasefile={}", file("leases")));
    server.args(["--user=root", "--pid-file="]);
    let mut server = lab::process::Process::start("dnsmasq", &mut server)?;
    let script = file("dhclient-script");
    std::fs::write(&script, SCRIPT)?;
    run(&driver, "chmod", &["755", &script])?;
    let (leases, pid) = (file("dhclient.leases"), file("dhclient.pid"));
    let arguments = [
        "-1",
        "-v",
        "-cf",
        "/dev/null",
        "-lf",
        &leases,
        "-pf",
        &pid,
        "-sf",
        &script,
        HOST,
    ];
    wait_for("dnsmasq listens", || {
        ensure!(server.is_running(), "dnsmasq has ended");
        Ok(!stdout(outside, "ss", &["-Hlun", "sport = :67"])?
            .trim()
            .is_empty())
    })?;
    // dhclient goes into the background once it has an address, and is ended below.
    stdout(&driver, "dhclient", &arguments)?;
    let address = stdout(&driver, "ip", &["-br", "-4", "addr", "show", "dev", HOST])?;
    let stop = |lab: &Lab| -> Result<()> {
        let pid = std::fs::read_to_string(lab.directory().file("dhclient.pid"))?;
        run(&driver, "kill", &[pid.trim()]).map(|_| ())
    };
    stop(&lab)?;
    ensure!(address.contains("10.77.0.111/24"), "{address}");
    let address = Host {
        ipv4: "10.77.0.111".into(),
        ..lab.driver_host(HOST)?
    };
    wait_reachable(&lab.outside[0].host, &address)?;
    ping(&lab.outside[0].host, &address.ipv4, 5, &[])
}

/// Checks that `netback run` and `netback run --check` print one line with all of `words` in it, and exit with 2.
fn refused(lab: &Lab, more: &str, words: &[&str]) -> Result<()> {
    let path = lab.directory().file("refused.toml");
    std::fs::write(&path, prepare::config(lab, more))?;
    let path = path.to_str().context("not UTF-8")?;
    for arguments in [
        &["run", "--check", "--config", path][..],
        &["run", "--config", path],
    ] {
        let output = netback::output(lab, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        let line = error.trim();
        ensure!(output.status.code() == Some(2), "{}: {line}", output.status);
        ensure!(line.lines().count() == 1, "not one line: {line}");
        let missing: Vec<_> = words.iter().filter(|word| !line.contains(**word)).collect();
        ensure!(missing.is_empty(), "no {missing:?} in: {line}");
    }
    Ok(())
}

#[test]
fn a_name_that_another_device_has_is_refused_and_the_card_left_alone() -> Result<()> {
    let lab = prepare::wired(1)?;
    let ip = |arguments: &[&str]| lab.driver_namespace().ip(arguments);
    ip(&["link", "add", HOST, "type", "bridge"])?;
    refused(
        &lab,
        "host = true\n",
        &[
            "xenbr0 is a bridge of the kernel",
            "`ip link del dev xenbr0`",
        ],
    )?;
    let card = stdout_in(&lab, &["-d", "link", "show", prepare::UPLINK])?;
    ensure!(!card.contains("xdp") && !card.contains("PROMISC"), "{card}");
    ip(&["link", "del", HOST])?;
    ip(&["link", "add", HOST, "type", "veth", "peer", "name", "other"])?;
    refused(&lab, "host = true\n", &["xenbr0 is a veth device"])?;
    ip(&["link", "del", HOST])?;
    ip(&["tuntap", "add", "dev", HOST, "mode", "tun"])?;
    refused(
        &lab,
        "host = true\n",
        &["xenbr0 is a TUN or TAP of another program's"],
    )?;
    ip(&["link", "del", HOST])?;
    refused(
        &lab,
        "host = \"yes\"\n",
        &["bridge.host", "\"yes\" is not true or false"],
    )
}

fn stdout_in(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let output = lab
        .driver_namespace()
        .command("ip")
        .args(arguments)
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Writes another configuration and has the running daemon read it.
fn reload(lab: &mut Lab, config: &str) -> Result<()> {
    std::fs::write(lab.directory().file("netback.toml"), config)?;
    let pid = lab.daemon()?.status()?["pid"].clone();
    let status = std::process::Command::new("kill")
        .args(["-HUP", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -HUP {pid}: {status}");
    Ok(())
}

#[test]
fn a_reload_brings_the_host_port_and_takes_it_away_and_a_removed_one_is_made_anew() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    let without = prepare::config(&lab, "");
    let with = prepare::config(&lab, "host = true\n");
    ensure!(!ipv6_is_off(
        &lab.driver_host(prepare::UPLINK)?,
        prepare::UPLINK
    )?);
    for _ in 0..2 {
        reload(&mut lab, &with)?;
        wait_for_host(&mut lab)?;
        let driver = lab.driver_host(HOST)?;
        driver.configure()?;
        wait_reachable(&lab.guests[0].host, &driver)?;
        wait_reachable(&driver, &lab.outside[0].host)?;
        ensure!(ipv6_is_off(&driver, prepare::UPLINK)?);
        reload(&mut lab, &without)?;
        wait_for("the host port is gone", || {
            Ok(lab.driver_host(HOST).is_err() && lab.daemon()?.manager().names().is_empty())
        })?;
        ensure!(!ipv6_is_off(&driver, prepare::UPLINK)?);
        wait_reachable(&lab.guests[0].host, &lab.outside[0].host)?;
    }
    reload(&mut lab, &with)?;
    wait_for_host(&mut lab)?;
    lab.driver_namespace().ip(&["link", "del", HOST])?;
    wait_for_host(&mut lab)?;
    wait_for("the host port is there again", || {
        Ok(lab.driver_host(HOST).is_ok())
    })?;
    let driver = lab.driver_host(HOST)?;
    driver.configure()?;
    wait_reachable(&lab.guests[0].host, &driver)?;
    ensure!(lab.guests[0].report()?.connects == 1, "it reconnected");

    // The host port follows the network card's MTU.
    let card = lab.driver_namespace();
    card.ip(&["link", "set", prepare::UPLINK, "mtu", "1400"])?;
    wait_for("its MTU is the card's", || Ok(card.link(HOST)?.mtu == 1400))?;

    lab.daemon()?.process().stop()?;
    let uninstalled = lab.daemon()?.command(&["uninstall", HOST])?;
    ensure!(
        uninstalled.contains("xenbr0: the host port is removed"),
        "{uninstalled}"
    );
    ensure!(lab.driver_host(HOST).is_err());
    Ok(())
}
