//! Sixteen guests on two bridges: no host sees a frame of the other bridge.
use anyhow::{Result, ensure};
use lab::Lab;
use lab::daemon::{Bridge, Daemon};
use lab::guest::GuestConfig;
use std::collections::HashSet;
use std::time::Duration;
use tests::frames::{Tap, frame};
use tests::tools::{no_ping, ping, wait_reachable};

const GUESTS: usize = 16;
const BRIDGES: [(&str, &str, &str); 2] = [
    ("red", "up0", "outside-red"),
    ("blue", "up1", "outside-blue"),
];

/// A lab in which guests alternate between two bridges, each with an uplink to a host outside.
fn two_bridges() -> Result<Lab> {
    let mut lab = Lab::new()?;
    let mut bridges = Vec::new();
    for (name, uplink, outside) in BRIDGES {
        lab.add_outside(outside, uplink, 1)?;
        bridges.push(Bridge {
            name: name.into(),
            uplink: Some(uplink.into()),
        });
    }
    for number in 0..GUESTS {
        let config = GuestConfig::new(&format!("guest-{number}"));
        lab.add_guest(GuestConfig {
            bridge: BRIDGES[number % 2].0.into(),
            ..config
        })?;
    }
    let config = Daemon::config(lab.directory(), 2, &bridges, "");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    for (place, guest) in lab.guests.iter().enumerate() {
        let outside = &lab.outside[bridge_of(place)].host;
        wait_reachable(&guest.host, outside)?;
    }
    Ok(lab)
}

/// The bridge (0 or 1) of a host, by its place in the list of [`everybody`].
fn bridge_of(place: usize) -> usize {
    place % 2
}

/// All hosts: the guests, then the two outsides. The number of each is odd or even as its bridge's is.
fn everybody(lab: &Lab) -> Vec<&lab::Host> {
    let guests = lab.guests.iter().map(|guest| &guest.host);
    guests
        .chain(lab.outside.iter().map(|outside| &outside.host))
        .collect()
}

#[test]
fn what_is_flooded_stays_on_its_bridge() -> Result<()> {
    let lab = two_bridges()?;
    let hosts = everybody(&lab);
    let mut taps: Vec<Tap> = hosts
        .iter()
        .map(|host| Tap::open(host))
        .collect::<Result<_>>()?;
    // Frames to everybody, and to the address of every other host, known or not, must not cross.
    let mut sent: [HashSet<Vec<u8>>; 2] = Default::default();
    let mut own: Vec<HashSet<Vec<u8>>> = vec![HashSet::new(); hosts.len()];
    for (place, from) in hosts.iter().enumerate() {
        let broadcast = frame([0xff; 6], from.mac, None, 80, place as u8);
        taps[place].send(&broadcast)?;
        own[place].insert(broadcast.clone());
        sent[bridge_of(place)].insert(broadcast);
    }
    for (place, tap) in taps.iter_mut().enumerate() {
        let got: HashSet<Vec<u8>> = tap.drain(Duration::from_secs(1))?.into_iter().collect();
        let expected: HashSet<Vec<u8>> = sent[bridge_of(place)]
            .difference(&own[place])
            .cloned()
            .collect();
        ensure!(
            got == expected,
            "{} got {} broadcasts, {} of them from the other bridge; {} were due",
            hosts[place].name,
            got.len(),
            got.intersection(&sent[1 - bridge_of(place)]).count(),
            expected.len()
        );
    }
    Ok(())
}

#[test]
fn an_address_of_the_other_bridge_leads_nowhere() -> Result<()> {
    let lab = two_bridges()?;
    let hosts = everybody(&lab);
    let mut taps: Vec<Tap> = hosts
        .iter()
        .map(|host| Tap::open(host))
        .collect::<Result<_>>()?;
    for (place, from) in hosts.iter().enumerate() {
        for other in hosts
            .iter()
            .enumerate()
            .filter(|(other, _)| bridge_of(*other) != bridge_of(place))
            .map(|(_, host)| host)
        {
            taps[place].send(&frame(other.mac, from.mac, None, 60, place as u8))?;
        }
    }
    for (place, tap) in taps.iter_mut().enumerate() {
        // A frame for an unknown address is flooded on its own bridge, so that frames may arrive, but only from that bridge.
        let foreign = tap
            .drain(Duration::from_secs(1))?
            .into_iter()
            .filter(|frame| {
                let from = hosts
                    .iter()
                    .position(|host| frame[6..12] == host.mac)
                    .expect("only our hosts send");
                bridge_of(from) != bridge_of(place)
            });
        let foreign = foreign.count();
        ensure!(
            foreign == 0,
            "{} got {foreign} frames of the other bridge",
            hosts[place].name
        );
    }
    Ok(())
}

#[test]
fn sixteen_guests_reach_their_own_bridge_and_not_the_other() -> Result<()> {
    let lab = two_bridges()?;
    for (place, guest) in lab.guests.iter().enumerate() {
        ping(
            &guest.host,
            &lab.outside[bridge_of(place)].host.ipv4,
            3,
            &[],
        )?;
        let neighbour = &lab.guests[(place + 2) % GUESTS].host;
        ping(&guest.host, &neighbour.ipv4, 3, &[])?;
    }
    no_ping(&lab.guests[0].host, &lab.guests[1].host.ipv4)?;
    no_ping(&lab.guests[1].host, &lab.outside[0].host.ipv4)
}
