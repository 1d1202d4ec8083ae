//! A stream of TCP from outside: its segments reach a guest merged, and what the guest reads is what was sent.
use anyhow::{Context, Result, ensure};
use lab::{Host, Lab};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use tests::tools::Counters;
use tests::{prepare, status};

/// Bytes of one stream.
const STREAM: usize = 20_000_000;
const PORT: u16 = 4321;
/// How long a read or a write may take before the stream counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a stream, each of which depends on its place in the stream.
fn bytes_at(position: usize, len: usize) -> Vec<u8> {
    let word = |n: usize| ((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as u8;
    (position..position + len).map(word).collect()
}

/// Sends a stream from `from` to `to`, which compares every byte of it.
fn stream(from: &Host, to: &Host, address: &str) -> Result<()> {
    let listener = to.namespace.run(|| TcpListener::bind((address, PORT)))??;
    let mut sender = from
        .namespace
        .run(|| TcpStream::connect((address, PORT)))??;
    sender.set_write_timeout(Some(PATIENCE))?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            for position in (0..STREAM).step_by(50_000) {
                sender.write_all(&bytes_at(position, 50_000))?;
            }
            Ok(())
        });
        let (mut position, mut part) = (0, vec![0; 70_000]);
        loop {
            let len = receiver.read(&mut part).context("the stream broke")?;
            if len == 0 {
                break;
            }
            let right = part[..len] == bytes_at(position, len);
            ensure!(
                right,
                "byte {position} or one of {len} behind it is another"
            );
            position += len;
        }
        sending.join().expect("the sender does not panic")?;
        ensure!(position == STREAM, "{position} of {STREAM} bytes came");
        Ok(())
    })
}

fn count(lab: &mut Lab, name: &str) -> Result<u64> {
    let domid = lab.guests[0].domid.0;
    Ok(status::numbers(&status::vif(lab, domid)?, name)
        .iter()
        .sum())
}

fn merged_streams(queues: u16) -> Result<()> {
    let mut lab = prepare::connected(queues, &["guest-a"])?;
    let guest = lab.host("guest-a").context("it was added")?;
    let outside = lab.host("outside").context("every lab here has it")?;
    for address in [&guest.ipv4, &guest.ipv6] {
        stream(outside, guest, address)?;
    }
    for host in [guest, outside] {
        let errors = Counters::of(host)?.checksum_errors()?;
        ensure!(errors == 0, "{} got {errors} wrong checksums", host.name);
    }
    let report = lab.guests[0].report()?;
    ensure!(report.disabled.is_none(), "it disabled itself: {report:?}");
    let total = report.total;
    ensure!(total.protocol_errors + total.rx_errors == 0, "{total:?}");

    let packets = count(&mut lab, "rx_coalesced_packets")?;
    let segments = count(&mut lab, "rx_coalesced_segments")?;
    // Both streams have more than 27 000 segments; how many of them arrive together depends on the machine.
    ensure!(
        packets > 100 && segments >= 2 * packets,
        "{segments} segments were merged into {packets} packets"
    );
    Ok(())
}

#[test]
fn streams_from_outside_are_merged_with_one_queue() -> Result<()> {
    merged_streams(1)
}

#[test]
fn streams_from_outside_are_merged_with_four_queues_on_several_workers() -> Result<()> {
    merged_streams(4)
}
