//! Filters of a guest's port: packets that pretend to be another's are dropped and counted by rule, and honest traffic passes.
use anyhow::{Result, ensure};
use lab::guest::GuestConfig;
use lab::{Host, Lab};
use std::process::{Child, Stdio};
use tests::frames::{Tap, frame};
use tests::status::{mac, numbers, vif};
use tests::tools::{arping, no_ping, ping, run, stdout, tcp, wait_reachable};
use tests::{prepare, wait_for};

const BROADCAST: [u8; 6] = [0xff; 6];

/// A lab with "outside" and guests, each with a key `ip`, and these lines in the daemon's `[vif]`.
fn lab(vif: &str, guests: &[(&str, Option<&str>)]) -> Result<Lab> {
    let mut lab = prepare::wired(1)?;
    for (name, ip) in guests {
        lab.add_guest(GuestConfig {
            ip: ip.map(Into::into),
            ..GuestConfig::new(name)
        })?;
    }
    let config = prepare::config(&lab, &format!("[vif]\n{vif}\n"));
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    for guest in &lab.guests {
        wait_reachable(&guest.host, &lab.outside[0].host)?;
    }
    Ok(lab)
}

/// Returns how many packets of a guest were dropped under this name.
fn dropped(lab: &mut Lab, guest: usize, reason: &str) -> Result<u64> {
    let domid = lab.guests[guest].domid.0;
    Ok(numbers(&vif(lab, domid)?, reason).iter().sum())
}

/// A packet that `host` sends, with its own MAC as the source.
fn packet(host: &Host, ethertype: [u8; 2], packet: &[&[u8]]) -> Vec<u8> {
    [&BROADCAST[..], &host.mac, &ethertype, &packet.concat()].concat()
}

fn arp_reply(host: &Host, speaks_for: [u8; 4]) -> Vec<u8> {
    let start = [0, 1, 8, 0, 6, 4, 0, 2];
    packet(
        host,
        [8, 6],
        &[
            &start,
            &host.mac,
            &speaks_for,
            &BROADCAST,
            &[10, 77, 0, 254],
        ],
    )
}

/// The IPv6 address that begins with the bytes `first` and ends with `last`.
fn address(first: [u8; 2], last: u8) -> Vec<u8> {
    [&first[..], &[0; 13], &[last]].concat()
}

/// An ICMPv6 message, its checksum complete.
fn icmp6(host: &Host, source: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let all_nodes = address([0xff, 0x02], 1);
    let length = (4 + body.len() as u16).to_be_bytes();
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let pseudo = [
        source,
        &all_nodes,
        &[0, 0],
        &length,
        &[0, 0, 0, 58],
        &message,
    ]
    .concat();
    let sum: u32 = pseudo
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, 255]].concat();
    packet(host, [0x86, 0xdd], &[&header, source, &all_nodes, &message])
}

/// A neighbour advertisement that says `host` has `target`.
fn advertisement(host: &Host, source: &[u8], target: &[u8]) -> Vec<u8> {
    let body = [&[0x20, 0, 0, 0][..], target, &[2, 1], &host.mac].concat();
    icmp6(host, source, 136, &body)
}

/// A router advertisement with a prefix that hosts make addresses of.
fn router(host: &Host, source: &[u8]) -> Vec<u8> {
    let prefix = [
        &[3, 4, 64, 0xc0][..],
        &[0, 1, 0, 0].repeat(2),
        &[0; 4],
        &address([0xfd, 0x99], 0),
    ]
    .concat();
    let body = [&[64, 0, 7, 8][..], &[0; 8], &prefix].concat();
    icmp6(host, source, 134, &body)
}

fn send(host: &Host, frames: &[Vec<u8>]) -> Result<()> {
    let mut tap = Tap::open(host)?;
    frames.iter().try_for_each(|frame| tap.send(frame))
}

#[test]
fn what_pretends_is_counted_by_its_rule_and_believed_by_nobody() -> Result<()> {
    let mut lab = lab(
        "mac_lock = true",
        &[
            ("honest", Some("10.77.0.1 fd77::1")),
            ("rogue", Some("10.77.0.2 fd77::2")),
        ],
    )?;
    let (outside, rogue) = (&lab.outside[0].host, &lab.guests[1].host);
    // The outside would take on what a router advertises.
    let accept = format!("net.ipv6.conf.{}.accept_ra=2", outside.interface);
    stdout(outside, "sysctl", &["-q", "-w", &accept])?;
    let own = address([0xfd, 0x77], 2);
    let link_local = [
        &[
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x02, 0x16, 0x3e, 0xff, 0xfe, 0x00,
        ][..],
        &rogue.mac[4..],
    ]
    .concat();
    let victim = address([0xfd, 0x77], 1);
    let udp = [
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 254, 0, 9, 0, 9, 0, 8,
        0, 0,
    ];
    send(
        rogue,
        &[
            vec![frame(BROADCAST, lab.guests[0].host.mac, None, 80, 1); 1],
            vec![frame(BROADCAST, [2, 0, 0, 0, 0, 77], None, 80, 1); 1],
            vec![arp_reply(rogue, [10, 77, 0, 1]); 3],
            vec![packet(rogue, [8, 0], &[&udp]); 4],
            vec![icmp6(rogue, &victim, 128, &[0; 4]); 5],
            vec![advertisement(rogue, &own, &victim); 6],
            vec![router(rogue, &link_local); 7],
        ]
        .concat(),
    )?;
    for (reason, count) in [
        ("filter_mac", 2),
        ("filter_arp", 3),
        ("filter_ipv4", 4),
        ("filter_nd", 6),
        ("filter_ra", 7),
    ] {
        wait_for(&format!("{count} {reason}"), || {
            Ok(dropped(&mut lab, 1, reason)? >= count)
        })?;
        let got = dropped(&mut lab, 1, reason)?;
        ensure!(got == count, "{got} dropped as {reason}, not {count}");
    }
    // The guest's own stack may have sent packets too, from an address that nobody gave it.
    ensure!(dropped(&mut lab, 1, "filter_ipv6")? >= 5);
    let (outside, honest, rogue) = (
        &lab.outside[0].host,
        &lab.guests[0].host,
        &lab.guests[1].host,
    );
    let neighbours = stdout(outside, "ip", &["neigh", "show"])?;
    let rogues = mac(rogue);
    for line in neighbours.lines().filter(|line| line.contains(&rogues)) {
        ensure!(
            line.starts_with("10.77.0.2 ")
                || line.starts_with("fd77::2 ")
                || line.starts_with("fe80:"),
            "{line}"
        );
    }
    let addresses = stdout(outside, "ip", &["-6", "addr", "show"])?;
    ensure!(
        !addresses.contains("fd99:"),
        "the outside believes in a router: {addresses}"
    );
    // Honest traffic of both guests passes, over IPv4 and IPv6, each way.
    for guest in [honest, rogue] {
        ping(guest, &outside.ipv4, 5, &[])?;
        ping(guest, &outside.ipv6, 5, &[])?;
        ping(outside, &guest.ipv6, 5, &[])?;
        arping(guest, &outside.ipv4, 3)?;
    }
    let (bytes, _) = tcp(rogue, outside, &outside.ipv4, 2)?;
    ensure!(bytes > 1 << 20, "{bytes} bytes");
    let domid = lab.guests[1].domid.0;
    let shown = vif(&mut lab, domid)?;
    ensure!(
        shown["filter"]
            == serde_json::json!({"mac_lock": true, "ip": "10.77.0.2 fd77::2", "isolated": false}),
        "status shows {}",
        shown["filter"]
    );
    Ok(())
}

/// A guest that takes another IP address, or another MAC, reaches nobody.
#[test]
fn an_address_of_the_guests_own_choice_leads_nowhere() -> Result<()> {
    let lab = lab(
        "mac_lock = true\nip = \"10.77.0.0/28 fd77::/64\"",
        &[("guest", None)],
    )?;
    let (outside, guest) = (&lab.outside[0].host, &lab.guests[0].host);
    let ip = |arguments: &[&str]| guest.namespace.ip(arguments);
    ip(&["addr", "add", "10.77.0.77/24", "dev", &guest.interface])?;
    let from = |address: &str| {
        let arguments = [
            "-n",
            "-q",
            "-c",
            "2",
            "-i",
            "0.2",
            "-W",
            "1",
            "-I",
            address,
            &outside.ipv4,
        ];
        Ok::<_, anyhow::Error>(run(guest, "ping", &arguments)?.status.success())
    };
    ensure!(!from("10.77.0.77")? && from("10.77.0.1")?);
    ip(&["addr", "add", "10.77.0.9/24", "dev", &guest.interface])?;
    ensure!(
        from("10.77.0.9")?,
        "an address of the subnet that everybody may use"
    );
    ip(&[
        "link",
        "set",
        &guest.interface,
        "address",
        "00:16:3e:00:00:99",
    ])?;
    no_ping(guest, &outside.ipv4)?;
    ip(&["link", "set", &guest.interface, "address", &mac(guest)])?;
    wait_reachable(guest, outside)
}

/// A DHCP server outside; killed when dropped.
struct Dhcp(Child);

impl Dhcp {
    fn start(host: &Host) -> Result<Self> {
        let mut command = host.namespace.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--bind-interfaces",
        ]);
        command.args([
            "--interface",
            &host.interface,
            "--dhcp-range=10.77.0.50,10.77.0.50,1h",
        ]);
        command.args(["--dhcp-leasefile=/dev/null", "--pid-file="]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_filtered_guest_gets_its_address_by_dhcp() -> Result<()> {
    let mut lab = lab(
        "mac_lock = true",
        &[("guest", Some("10.77.0.50 10.77.0.1"))],
    )?;
    let (outside, guest) = (&lab.outside[0].host, &lab.guests[0].host);
    let _server = Dhcp::start(outside)?;
    guest
        .namespace
        .ip(&["addr", "flush", "dev", &guest.interface])?;
    let lease = lab.directory().file("lease");
    let (lease, pid) = (
        lease.display().to_string(),
        lab.directory().file("dhclient.pid").display().to_string(),
    );
    wait_for("a lease", || {
        let arguments = [
            "5",
            "dhclient",
            "-4",
            "-1",
            "-d",
            "-lf",
            &lease,
            "-pf",
            &pid,
            "-sf",
            "/bin/true",
            &guest.interface,
        ];
        run(guest, "timeout", &arguments)?;
        let leases = std::fs::read_to_string(&lease).unwrap_or_default();
        Ok(leases.contains("fixed-address 10.77.0.50"))
    })?;
    ensure!(
        dropped(&mut lab, 0, "filter_ipv4")? == 0,
        "DHCP was filtered"
    );
    Ok(())
}

#[test]
fn isolated_guests_reach_the_outside_and_not_each_other() -> Result<()> {
    let mut lab = lab("isolated = true", &[("one", None), ("two", None)])?;
    let (outside, one, two) = (
        &lab.outside[0].host,
        &lab.guests[0].host,
        &lab.guests[1].host,
    );
    for guest in [one, two] {
        ping(guest, &outside.ipv4, 5, &[])?;
        ping(outside, &guest.ipv4, 5, &[])?;
    }
    no_ping(one, &two.ipv4)?;
    // Nor do they where the address is known.
    let [from, to] = [(one, two), (two, one)];
    for (guest, other) in [from, to] {
        guest.namespace.ip(&[
            "neigh",
            "replace",
            &other.ipv4,
            "lladdr",
            &mac(other),
            "dev",
            &guest.interface,
        ])?;
    }
    no_ping(one, &two.ipv4)?;
    ensure!(dropped(&mut lab, 0, "isolated")? >= 2);
    Ok(())
}

/// A guest that sends from the MAC of a host outside receives none of the packets that are for that host.
#[test]
fn the_address_of_a_host_outside_is_not_taken_over() -> Result<()> {
    let mut lab = lab("", &[("rogue", None), ("neighbour", None)])?;
    let (outside, rogue, neighbour) = (
        &lab.outside[0].host,
        &lab.guests[0].host,
        &lab.guests[1].host,
    );
    let mut ear = Tap::open(rogue)?;
    let mut mouth = Tap::open(neighbour)?;
    let mut peer = Tap::open(outside)?;
    for seed in 0..100 {
        ear.send(&frame(BROADCAST, outside.mac, None, 80, seed))?;
        let bytes = frame(outside.mac, neighbour.mac, None, 80, seed);
        mouth.send(&bytes)?;
        ensure!(peer.receive()? == bytes, "the peer got another frame");
    }
    let heard = ear.drain(std::time::Duration::from_millis(300))?.len();
    ensure!(heard == 0, "the rogue heard {heard} frames");
    ping(neighbour, &outside.ipv4, 10, &[])?;
    let refused = dropped(&mut lab, 0, "wire_source")?;
    ensure!(refused == 100, "{refused} dropped as wire_source");
    Ok(())
}

/// A reload changes what guests may send at once.
#[test]
fn a_reload_changes_filters_of_connected_guests() -> Result<()> {
    let mut lab = lab("", &[("one", None), ("two", None)])?;
    let config = prepare::config(&lab, "[vif]\nisolated = true\nip = \"10.77.0.1\"\n");
    std::fs::write(lab.directory().file("netback.toml"), config)?;
    lab.daemon()?.process().signal(rustix::process::Signal::HUP);
    wait_for("the reload", || {
        let domid = lab.guests[0].domid.0;
        Ok(vif(&mut lab, domid)?["filter"]["isolated"] == true)
    })?;
    let (outside, one, two) = (
        &lab.outside[0].host,
        &lab.guests[0].host,
        &lab.guests[1].host,
    );
    ping(one, &outside.ipv4, 5, &[])?;
    no_ping(one, &two.ipv4)?;
    no_ping(two, &outside.ipv4)
}
