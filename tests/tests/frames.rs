//! Frames byte for byte: every size, tags, floods.
use anyhow::{Context, Result, ensure};
use lab::{Host, Lab};
use std::collections::HashSet;
use std::time::Duration;
use tests::frames::{Tap, frame};
use tests::prepare;
use tests::tools::ping;

/// How long nothing must come in before a socket counts as quiet.
const QUIET: Duration = Duration::from_millis(500);
/// Frames sent before they are looked for: few enough for every buffer on the way.
const BATCH: usize = 16;

fn host<'a>(lab: &'a Lab, name: &str) -> &'a Host {
    lab.host(name).expect("every lab here has it")
}

/// A lab with two guests and an outside, all of which the switch knows, so that unicast is not flooded.
fn acquainted() -> Result<Lab> {
    let lab = prepare::connected(1, &["guest-a", "guest-b"])?;
    for (from, to) in [
        ("guest-a", "outside"),
        ("guest-b", "outside"),
        ("guest-a", "guest-b"),
    ] {
        ping(host(&lab, from), &host(&lab, to).ipv4, 2, &[])?;
    }
    Ok(lab)
}

/// Sends frames of all `sizes` from one host to another, and checks that just these arrive.
fn all_arrive(lab: &Lab, from: &str, to: &str, tag: Option<u16>, sizes: &[usize]) -> Result<()> {
    let (from, to) = (host(lab, from), host(lab, to));
    let (mut sender, mut receiver) = (Tap::open(from)?, Tap::open(to)?);
    for (number, batch) in sizes.chunks(BATCH).enumerate() {
        let sent: Vec<Vec<u8>> = batch
            .iter()
            .map(|size| frame(to.mac, from.mac, tag, *size, number as u8))
            .collect();
        for frame in &sent {
            sender.send(frame)?;
        }
        for expected in &sent {
            let got = receiver.receive()?;
            ensure!(
                &got == expected,
                "{} to {}: {} bytes were sent, {} came, first difference at {:?}",
                from.name,
                to.name,
                expected.len(),
                got.len(),
                got.iter().zip(expected).position(|(a, b)| a != b)
            );
        }
    }
    let more = receiver.drain(QUIET)?.len();
    ensure!(more == 0, "{more} frames too many came to {}", to.name);
    Ok(())
}

const DIRECTIONS: [(&str, &str); 4] = [
    ("guest-a", "outside"),
    ("outside", "guest-a"),
    ("guest-a", "guest-b"),
    ("guest-b", "guest-a"),
];

#[test]
fn frames_of_every_size_from_60_to_1514_bytes_pass_unchanged_and_in_order() -> Result<()> {
    let lab = acquainted()?;
    let sizes: Vec<usize> = (60..=1514).collect();
    for (from, to) in DIRECTIONS {
        all_arrive(&lab, from, to, None, &sizes)?;
    }
    Ok(())
}

#[test]
fn tagged_frames_keep_tag_and_priority() -> Result<()> {
    let lab = acquainted()?;
    let sizes: Vec<usize> = (64..=1518).step_by(7).chain([1517, 1518]).collect();
    for (from, to) in DIRECTIONS {
        // VLAN 1 and 4094, priority 0 and 7, drop eligible.
        for tag in [0x0001, 0xfffe, 0xe064] {
            all_arrive(&lab, from, to, Some(tag), &sizes)?;
        }
    }
    Ok(())
}

/// Checks that a frame reaches the hosts in `to` once each, its sender excepted, and nobody else.
fn floods(lab: &Lab, from: &str, destination: [u8; 6], to: &[&str]) -> Result<()> {
    let names = ["guest-a", "guest-b", "guest-c", "outside"];
    let mut taps = Vec::new();
    for name in names {
        taps.push((name, Tap::open(host(lab, name))?));
    }
    let sent = frame(destination, host(lab, from).mac, None, 100, 0x5a);
    for (name, tap) in &mut taps {
        if *name == from {
            tap.send(&sent)?;
        }
    }
    for (name, tap) in &mut taps {
        if *name != from && to.contains(name) {
            let got = tap.receive()?;
            ensure!(got == sent, "{name} got another frame than {from} sent");
        }
        let more = tap.drain(QUIET)?.len();
        ensure!(more == 0, "{name} got {more} more");
    }
    Ok(())
}

#[test]
fn broadcast_and_multicast_reach_all_others_once() -> Result<()> {
    let lab = prepare::connected(1, &["guest-a", "guest-b", "guest-c"])?;
    let everybody = ["guest-a", "guest-b", "guest-c", "outside"];
    for destination in [
        [0xff; 6],
        [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb],
        [0x33, 0x33, 0, 0, 0, 0x01],
    ] {
        for from in ["guest-a", "outside"] {
            floods(&lab, from, destination, &everybody)
                .with_context(|| format!("{from} to {destination:02x?}"))?;
        }
    }
    Ok(())
}

#[test]
fn an_unknown_address_is_looked_for_outside_and_not_at_guests_that_stand_for_themselves()
-> Result<()> {
    let lab = prepare::connected(1, &["guest-a", "guest-b", "guest-c"])?;
    let unknown = [0x02, 0, 0, 0, 0x77, 0x77];
    floods(&lab, "guest-a", unknown, &["outside"])?;
    floods(&lab, "outside", unknown, &[])
}

#[test]
fn known_addresses_are_not_flooded() -> Result<()> {
    let lab = acquainted()?;
    let mut b = Tap::open(host(&lab, "guest-b"))?;
    all_arrive(&lab, "guest-a", "outside", None, &[60; 64])?;
    all_arrive(&lab, "outside", "guest-a", None, &[60; 64])?;
    let strays = b.drain(QUIET)?.len();
    ensure!(
        strays == 0,
        "guest-b saw {strays} frames between guest-a and the outside"
    );
    Ok(())
}

#[test]
fn bridges_own_control_frames_are_not_forwarded() -> Result<()> {
    let lab = acquainted()?;
    let (a, outside) = (host(&lab, "guest-a"), host(&lab, "outside"));
    let (mut sender, mut receiver) = (Tap::open(a)?, Tap::open(outside)?);
    sender.send(&frame([0x01, 0x80, 0xc2, 0, 0, 0], a.mac, None, 60, 1))?;
    // The frame after it comes through, so the first did not just come late.
    let second = frame(outside.mac, a.mac, None, 60, 2);
    sender.send(&second)?;
    let got: HashSet<Vec<u8>> = std::iter::once(receiver.receive()?)
        .chain(receiver.drain(QUIET)?)
        .collect();
    ensure!(
        got == HashSet::from([second]),
        "the spanning tree's frame was forwarded"
    );
    Ok(())
}

#[test]
fn a_guest_cannot_send_in_another_ones_name() -> Result<()> {
    let lab = acquainted()?;
    let (a, b, outside) = (
        host(&lab, "guest-a"),
        host(&lab, "guest-b"),
        host(&lab, "outside"),
    );
    let (mut sender, mut receiver) = (Tap::open(a)?, Tap::open(outside)?);
    sender.send(&frame(outside.mac, b.mac, None, 60, 1))?;
    let honest = frame(outside.mac, a.mac, None, 60, 2);
    sender.send(&honest)?;
    ensure!(
        receiver.receive()? == honest,
        "a frame with guest-b's address came from guest-a"
    );
    // And the switch still knows where guest-b is.
    ping(outside, &b.ipv4, 5, &[])
}
