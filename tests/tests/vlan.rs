//! VLANs: guests on access ports and trunks, bridges that share a network card, and VLAN interfaces outside.
use anyhow::{Context, Result, ensure};
use lab::daemon::Daemon;
use lab::guest::GuestConfig;
use lab::{Host, Lab};
use std::time::Duration;
use tests::frames::{Tap, frame};
use tests::prepare::UPLINK;
use tests::status::{numbers, vif};
use tests::tools::{no_ping, ping, run, tcp};
use tests::vlan::Vlan;
use tests::wait_for;

const QUIET: Duration = Duration::from_millis(500);
const BROADCAST: [u8; 6] = [0xff; 6];

/// An address in a subnet that a VLAN has to itself.
fn add_address(host: &Host, address: &str) -> Result<()> {
    let address = format!("{address}/24");
    host.namespace
        .ip(&["addr", "add", &address, "dev", &host.interface])
}

/// A lab with these bridges on one cable, each with a name and another line of its table, and guests, each with a bridge and a key `vlan`.
fn lab(bridges: &[(&str, &str)], guests: &[(&str, &str, Option<&str>)]) -> Result<Lab> {
    let mut lab = tests::prepare::wired(1)?;
    for (name, bridge, vlan) in guests {
        lab.add_guest(GuestConfig {
            bridge: (*bridge).into(),
            vlan: vlan.map(Into::into),
            ..GuestConfig::new(name)
        })?;
    }
    let tables = bridges.iter().map(|(name, more)| {
        format!("\n[[bridge]]\nname = {name:?}\nuplink = {UPLINK:?}\n{more}\n")
    });
    let config = Daemon::config(lab.directory(), 2, &[], &tables.collect::<String>());
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    Ok(lab)
}

fn wait_ping(from: &Host, address: &str) -> Result<()> {
    let arguments = ["-n", "-q", "-c", "1", "-W", "1", address];
    wait_for(&format!("{} reaches {address}", from.name), || {
        Ok(run(from, "ping", &arguments)?.status.success())
    })
}

#[test]
fn guests_are_in_the_vlans_that_their_keys_say() -> Result<()> {
    let mut lab = lab(
        &[("xenbr0", "")],
        &[
            ("native", "xenbr0", None),
            ("access", "xenbr0", Some("10")),
            ("trunk", "xenbr0", Some("20p/10/100+10x4")),
            ("other", "xenbr0", Some("20")),
        ],
    )?;
    let outside = &lab.outside[0].host;
    let mut vlans = vec![
        Vlan::add(outside, 10, "10.10.0.254")?,
        Vlan::add(outside, 20, "10.20.0.254")?,
        Vlan::add(outside, 110, "10.110.0.254")?,
    ];
    let hosts: Vec<&Host> = lab.guests.iter().map(|guest| &guest.host).collect();
    let [native, access, trunk, other] = hosts[..] else {
        anyhow::bail!("four guests")
    };
    add_address(access, "10.10.0.2")?;
    add_address(trunk, "10.20.0.3")?;
    vlans.push(Vlan::add(trunk, 10, "10.10.0.3")?);
    vlans.push(Vlan::add(trunk, 110, "10.110.0.3")?);
    add_address(other, "10.20.0.4")?;
    // Packets with a tag and without reach the outside and other guests.
    for (from, address) in [
        (native, &*outside.ipv4),
        (access, "10.10.0.254"),
        (access, "10.10.0.3"),
        (trunk, "10.20.0.254"),
        (trunk, "10.10.0.254"),
        (trunk, "10.110.0.254"),
        (trunk, "10.20.0.4"),
        (other, "10.20.0.254"),
    ] {
        wait_ping(from, address)?;
        ping(from, address, 5, &["-s", "1400"])?;
    }
    // The same subnet leads nowhere in another VLAN.
    for (from, address) in [
        (native, &*access.ipv4),
        (access, &*outside.ipv4),
        (access, &*other.ipv4),
        (other, &*native.ipv4),
    ] {
        no_ping(from, address)?;
    }
    // Packets that the guest has not segmented go with a tag to the wire, and whole to a neighbour.
    let (bytes, _) = tcp(access, outside, "10.10.0.254", 2)?;
    ensure!(bytes > 1 << 20, "{bytes} bytes to the outside");
    let (bytes, _) = tcp(trunk, access, "10.10.0.2", 2)?;
    ensure!(bytes > 1 << 20, "{bytes} bytes to a neighbour");
    let domid = lab.guests[2].domid.0;
    let shown = vif(&mut lab, domid)?["vlan"].clone();
    ensure!(shown == "20p/10/100/110/120/130", "status shows {shown}");
    Ok(())
}

#[test]
fn no_guest_hears_or_enters_anothers_vlan() -> Result<()> {
    let mut lab = lab(
        &[("xenbr0", "")],
        &[
            ("native", "xenbr0", None),
            ("ten", "xenbr0", Some("10")),
            ("twenty", "xenbr0", Some("20")),
            ("also-ten", "xenbr0", Some("10")),
        ],
    )?;
    let hosts: Vec<&Host> = lab.guests.iter().map(|guest| &guest.host).collect();
    let mut taps: Vec<Tap> = hosts
        .iter()
        .map(|host| Tap::open(host))
        .collect::<Result<_>>()?;
    let mut outside = Tap::open(&lab.outside[0].host)?;
    // For each sender: the tag that its untagged broadcast has outside, and who receives the broadcast.
    for (sender, tag, receivers) in [
        (0, None, &[][..]),
        (1, Some(10), &[3]),
        (2, Some(20), &[]),
        (3, Some(10), &[1]),
    ] {
        let bytes = frame(BROADCAST, hosts[sender].mac, None, 120, sender as u8);
        taps[sender].send(&bytes)?;
        let mut at_wire = bytes.clone();
        if let Some(vid) = tag {
            at_wire.splice(12..12, [0x81, 0, 0, vid]);
        }
        ensure!(
            outside.receive()? == at_wire,
            "{} outside",
            hosts[sender].name
        );
        for receiver in 0..hosts.len() {
            let got = match receivers.contains(&receiver) {
                true => vec![taps[receiver].receive()?],
                false => taps[receiver].drain(QUIET)?,
            };
            let due = usize::from(receivers.contains(&receiver));
            ensure!(
                got == vec![bytes.clone(); due],
                "{} heard {} frames of {}",
                hosts[receiver].name,
                got.len(),
                hosts[sender].name
            );
        }
    }
    // Frames that guests have tagged themselves lead nowhere.
    for (sender, vid) in [(0, 10), (1, 20), (2, 10)] {
        taps[sender].send(&frame(BROADCAST, hosts[sender].mac, Some(vid), 120, 9))?;
    }
    for tap in taps.iter_mut().chain([&mut outside]) {
        ensure!(
            tap.drain(QUIET)?.is_empty(),
            "a tag led into another's VLAN"
        );
    }
    for number in [0, 1, 2] {
        let domid = lab.guests[number].domid.0;
        let dropped = numbers(&vif(&mut lab, domid)?, "vlan_tag");
        ensure!(dropped == [1], "{dropped:?} dropped as vlan_tag");
    }
    Ok(())
}

#[test]
fn bridges_share_a_network_card_by_their_tags() -> Result<()> {
    let mut lab = lab(
        &[("xenbr0", ""), ("red", "vlan = 10"), ("blue", "vlan = 20")],
        &[
            ("plain", "xenbr0", None),
            ("red-1", "red", None),
            ("red-2", "red", Some("10")),
            ("blue-1", "blue", None),
        ],
    )?;
    let outside = &lab.outside[0].host;
    let _ten = Vlan::add(outside, 10, "10.10.0.254")?;
    let _twenty = Vlan::add(outside, 20, "10.20.0.254")?;
    let hosts: Vec<&Host> = lab.guests.iter().map(|guest| &guest.host).collect();
    let [plain, red_1, red_2, blue] = hosts[..] else {
        anyhow::bail!("four guests")
    };
    add_address(red_1, "10.10.0.1")?;
    add_address(red_2, "10.10.0.2")?;
    add_address(blue, "10.20.0.1")?;
    for (from, address) in [
        (plain, &*outside.ipv4),
        (red_1, "10.10.0.254"),
        (red_2, "10.10.0.1"),
        (blue, "10.20.0.254"),
    ] {
        wait_ping(from, address)?;
    }
    for (from, to) in [(plain, red_1), (red_1, blue), (blue, plain)] {
        no_ping(from, &to.ipv4)?;
    }
    // A successor finds the guests in their VLANs.
    lab.daemon()?.kill_and_restart()?;
    let hosts: Vec<&Host> = lab.guests.iter().map(|guest| &guest.host).collect();
    wait_ping(hosts[1], "10.10.0.254")?;
    wait_ping(hosts[3], "10.20.0.254")?;
    no_ping(hosts[1], &hosts[3].ipv4)?;
    let status = lab.daemon()?.status()?;
    let bridges = status["bridges"].as_array().context("bridges")?;
    let shown: Vec<_> = bridges
        .iter()
        .map(|bridge| (&bridge["uplink"], &bridge["vlan"]))
        .collect();
    let expected = serde_json::json!([[UPLINK, null], [UPLINK, 10], [UPLINK, 20]]);
    ensure!(
        serde_json::json!(shown) == expected,
        "status shows {shown:?}"
    );
    ensure!(
        status["uplinks"]
            .as_array()
            .is_some_and(|uplinks| uplinks.len() == 1)
    );
    Ok(())
}

#[test]
fn the_driver_domain_has_a_host_port_in_each_vlan_that_asks_for_one() -> Result<()> {
    let mut lab = lab(
        &[("xenbr0", "host = true"), ("red", "vlan = 10\nhost = true")],
        &[("plain", "xenbr0", None), ("red-1", "red", None)],
    )?;
    wait_for("both host ports are in service", || {
        let status = lab.daemon()?.status()?;
        let hosts = status["hosts"].as_array().context("hosts")?;
        Ok(hosts.len() == 2 && hosts.iter().all(|host| host["link_up"] == true))
    })?;
    let (native, red) = (lab.driver_host("xenbr0")?, lab.driver_host("red")?);
    add_address(&native, "10.77.0.200")?;
    add_address(&red, "10.10.0.200")?;
    for host in [&native, &red] {
        host.namespace.ip(&["link", "set", &host.interface, "up"])?;
    }
    let outside = &lab.outside[0].host;
    let _ten = Vlan::add(outside, 10, "10.10.0.254")?;
    let (plain, red_1) = (&lab.guests[0].host, &lab.guests[1].host);
    add_address(red_1, "10.10.0.1")?;
    for (from, address) in [
        (outside, "10.10.0.200"),
        (red_1, "10.10.0.200"),
        (&red, "10.10.0.1"),
        (&red, "10.10.0.254"),
        (outside, "10.77.0.200"),
        (plain, "10.77.0.200"),
        (&native, &*plain.ipv4),
    ] {
        wait_ping(from, address)?;
    }
    // What is said to everybody in one VLAN is heard in the other by nobody, but with its tag by the host port that has all VLANs.
    let (mut heard, mut heard_red) = (Tap::open(&native)?, Tap::open(&red)?);
    let said = frame(BROADCAST, red_1.mac, None, 120, 1);
    Tap::open(red_1)?.send(&said)?;
    let tagged = [&said[..12], &[0x81, 0, 0, 10], &said[12..]].concat();
    ensure!(heard_red.receive()? == said && heard.receive()? == tagged);
    let said = frame(BROADCAST, plain.mac, None, 120, 2);
    Tap::open(plain)?.send(&said)?;
    ensure!(heard.receive()? == said);
    let leaked = heard_red.drain(QUIET)?;
    ensure!(leaked.is_empty(), "{} frames leaked", leaked.len());
    let (bytes, _) = tcp(red_1, &red, "10.10.0.200", 1)?;
    ensure!(bytes > 1 << 20, "{bytes} bytes of TCP arrived");
    lab.daemon()?.kill_and_restart()?;
    wait_ping(&lab.outside[0].host, "10.10.0.200")?;
    wait_ping(&lab.guests[0].host, "10.77.0.200")
}

#[test]
fn a_vlan_that_cannot_be_is_refused_with_a_reason() -> Result<()> {
    let mut lab = tests::prepare::wired(1)?;
    for (name, bridge, vlan) in [("odd", "xenbr0", "10/20"), ("elsewhere", "red", "20")] {
        lab.add_guest(GuestConfig {
            bridge: bridge.into(),
            vlan: Some(vlan.into()),
            ..GuestConfig::new(name)
        })?;
    }
    let more = format!("\n[[bridge]]\nname = \"red\"\nuplink = {UPLINK:?}\nvlan = 10\n");
    let config = tests::prepare::config(&lab, &more);
    lab.start_daemon(&config)?;
    for (number, says) in [
        "vlan is \"10/20\": none of its VLANs is marked p",
        "vlan is \"20\", and bridge \"red\" is VLAN 10",
    ]
    .into_iter()
    .enumerate()
    {
        let domid = lab.guests[number].domid.0;
        wait_for(&format!("the reason {says:?}"), || {
            // The daemon may not answer yet.
            let Ok(vif) = vif(&mut lab, domid) else {
                return Ok(false);
            };
            let reason = vif["reason"].as_str().unwrap_or_default();
            Ok(vif["service"] == "refused" && reason.contains(says))
        })?;
    }
    Ok(())
}
