//! Large packets that the uplink's device segments itself: they go whole and in order with other frames, also while offloads are switched.
use anyhow::{Context, Result, ensure};
use lab::daemon::Daemon;
use lab::guest::GuestConfig;
use lab::{Host, Lab};
use serde_json::Value;
use std::time::Duration;
use tests::hashed::HashedStream;
use tests::status::numbers;
use tests::tools::{Counters, Flood, Server, Stream, stdout, tcp};
use tests::{prepare, wait_for};

/// Returns the sum of a counter over the uplink's queues.
fn uplink(lab: &mut Lab, name: &str) -> Result<u64> {
    let status = lab.daemon()?.status()?;
    Ok(numbers(&status["uplinks"], name).iter().sum())
}

/// Returns who segments for each queue of the uplink.
fn segmented_by(status: &Value) -> Result<Vec<String>> {
    let queues = status["uplinks"][0]["queues"].as_array();
    let queues = queues.context("status has no queues")?.iter();
    let names = queues.map(|queue| queue["bulk"]["segmented_by"].as_str().map(str::to_owned));
    names
        .collect::<Option<_>>()
        .context("status says nothing of bulk")
}

fn tso(lab: &Lab, state: &str) -> Result<()> {
    let mut ethtool = lab.driver_namespace().command("ethtool");
    let status = ethtool
        .args(["-K", prepare::UPLINK, "tso", state])
        .status()?;
    ensure!(status.success(), "ethtool -K tso {state}: {status}");
    Ok(())
}

/// Returns the packets and bytes that an interface has received.
fn received(lab: &Lab) -> Result<(u64, u64)> {
    let outside = &lab.outside[0].host;
    let text = stdout(
        outside,
        "ip",
        &["-j", "-s", "link", "show", "dev", &outside.interface],
    )?;
    let report: Value = serde_json::from_str(&text)?;
    let number = |name: &str| report[0]["stats64"]["rx"][name].as_u64();
    number("packets")
        .zip(number("bytes"))
        .context("ip link shows no counters")
}

/// Sends one stream to the outside beside pings. Returns the bytes that a packet had on average, and the counters of both ends.
fn stream(lab: &mut Lab) -> Result<(u64, Counters, Counters)> {
    let (packets, bytes) = received(lab)?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let _pings = Flood::start(guest, &outside.ipv4)?;
    let (sent, _) = tcp(guest, outside, &outside.ipv4, 2)?;
    ensure!(sent > 1_000_000, "{sent} bytes in two seconds");
    let (after, bytes_after) = received(lab)?;
    let mean = (bytes_after - bytes) / (after - packets);
    Ok((mean, Counters::of(guest)?, Counters::of(outside)?))
}

fn whole_and_in_order(queues: u16) -> Result<()> {
    let mut lab = prepare::connected(queues, &["guest-a"])?;
    let (mean, guest, outside) = stream(&mut lab)?;
    let whole = uplink(&mut lab, "lane_packets")?;
    ensure!(whole > 100, "{whole} packets went whole");
    ensure!(mean > 5000, "packets of {mean} bytes at the far side");
    ensure!(outside.checksum_errors()? == 0, "wrong checksums");
    // TCP queues a packet that overtook others, acknowledges it twice, and its sender may send it again in vain.
    let aside = outside.get("TcpExtTCPOFOQueue")?;
    let again = guest.get("TcpRetransSegs")?;
    ensure!(
        again > 0 || aside == 0,
        "{aside} packets came out of order, and none was lost"
    );
    // A sender on a busy machine sends a probe now and then before the acknowledgement is there. If packets overtook each other, many
    // more would be sent again.
    let in_vain = guest.get("TcpExtTCPDSACKRecv")?;
    ensure!(
        in_vain <= whole / 20,
        "{in_vain} segments were sent again in vain, of {whole} packets"
    );
    Ok(())
}

#[test]
fn large_packets_go_whole_and_in_order_over_one_queue() -> Result<()> {
    whole_and_in_order(1)
}

#[test]
fn large_packets_go_whole_and_in_order_over_four_queues() -> Result<()> {
    whole_and_in_order(4)
}

/// What the ends of a stream count where packets overtake each other, arrive twice, or are sent again; the receiver's first.
const DISORDER: [&[&str]; 2] = [
    &[
        "TcpExtTCPOFOQueue",
        "TcpExtTCPDSACKOfoSent",
        "TcpExtTCPDSACKOldSent",
    ],
    &[
        "TcpRetransSegs",
        "TcpExtTCPSACKReorder",
        "TcpExtTCPSackShifted",
        "TcpExtTCPDSACKRecv",
    ],
];

/// Has the host's TCP send again only what was lost: on a busy machine an acknowledgement may be late.
fn send_nothing_again_in_vain(host: &Host) -> Result<()> {
    stdout(host, "sysctl", &["-qw", "net.ipv4.tcp_early_retrans=0"])?;
    let route = ["route", "replace", "10.77.0.0/24", "dev", &host.interface];
    stdout(host, "ip", &[&route[..], &["rto_min", "20s"]].concat())?;
    Ok(())
}

/// Sends streams in large packets and in packets of a few segments, of which some are too small for the lane, beside pings. Windows are
/// so small that no queue on the way overflows. Returns how many packets went by the lane and in segments.
fn nothing_overtakes(queues: u16, bulk: &str) -> Result<(u64, u64)> {
    let mut lab = prepare::wired(queues)?;
    lab.add_guest(GuestConfig {
        queues,
        ..GuestConfig::new("guest-a")
    })?;
    let more = format!("bulk = \"{bulk}\"\n[vif]\nmax_queues = {queues}\n");
    let config = prepare::config(&lab, &more);
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    prepare::settle(&lab)?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    send_nothing_again_in_vain(guest)?;
    let pings = Flood::start(guest, &outside.ipv4)?;
    for writes in [&["-l", "128K"][..], &["-l", "6000", "-N"]] {
        let _server = Server::start(outside, &outside.ipv4)?;
        let more = [&["-P", "4", "-w", "128K"], writes].concat();
        let report = Stream::start(guest, &outside.ipv4, 2, &more)?.finish()?;
        let sent = report["end"]["sum_sent"]["bytes"].as_u64().unwrap_or(0);
        ensure!(sent > 1_000_000, "{sent} bytes in two seconds");
    }
    drop(pings);
    for (host, names) in [outside, guest].into_iter().zip(DISORDER) {
        let counters = Counters::of(host)?;
        for name in names {
            let count = counters.get(name)?;
            ensure!(
                count == 0,
                "bulk = \"{bulk}\": {name} of {} is {count}",
                host.name
            );
        }
    }
    let lane = uplink(&mut lab, "lane_packets")?;
    Ok((lane, uplink(&mut lab, "cut_packets")?))
}

/// Packets that overtake others would be acknowledged twice: none does, with the lane or without.
#[test]
fn no_packet_of_a_stream_overtakes_another_with_the_lane_or_without() -> Result<()> {
    for queues in [1, 4] {
        let (lane, _) = nothing_overtakes(queues, "auto")?;
        ensure!(lane > 100, "{lane} packets went by the lane");
        let (lane, cut) = nothing_overtakes(queues, "off")?;
        ensure!(lane == 0 && cut > 100, "{lane} by the lane, {cut} cut");
    }
    Ok(())
}

#[test]
fn segmentation_of_the_device_is_switched_off_and_on_under_load() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
    let stream = HashedStream::start(guest, outside)?;
    for _ in 0..5 {
        for (state, by) in [("off", "netback"), ("on", "device")] {
            let counter = match by {
                "device" => "lane_packets",
                _ => "cut_packets",
            };
            tso(&lab, state)?;
            wait_for(&format!("{by} segments with tso {state}"), || {
                Ok(segmented_by(&lab.daemon()?.status()?)? == [by])
            })?;
            let before = uplink(&mut lab, counter)?;
            wait_for(&format!("{counter} grow with tso {state}"), || {
                Ok(uplink(&mut lab, counter)? > before)
            })?;
        }
    }
    stream.finish()?;
    let errors = Counters::of(&lab.outside[0].host)?.checksum_errors()?;
    ensure!(errors == 0, "{errors} wrong checksums");
    Ok(())
}

#[test]
fn bulk_off_has_netback_segment_and_a_reload_changes_it() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(GuestConfig::new("guest-a"))?;
    let with = |lab: &Lab, more| Daemon::config(lab.directory(), 2, &[prepare::bridge()], more);
    let off = with(&lab, "bulk = \"off\"\n");
    lab.start_daemon(&off)?;
    lab.connect_guests()?;
    let status = lab.daemon()?.status()?;
    ensure!(segmented_by(&status)? == ["netback"], "{status}");
    let text = lab.daemon()?.command(&["status"])?;
    let line =
        "large packets are segmented by netback, because the configuration says bulk = \"off\"";
    ensure!(text.contains(line), "{text}");
    let (mean, _, _) = stream(&mut lab)?;
    ensure!(mean < 1515, "packets of {mean} bytes at the far side");
    let auto = with(&lab, "bulk = \"auto\"\n");
    std::fs::write(lab.directory().file("netback.toml"), auto)?;
    let pid = status["pid"].to_string();
    let hup = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status()?;
    ensure!(hup.success(), "kill -HUP: {hup}");
    wait_for("the device segments", || {
        Ok(segmented_by(&lab.daemon()?.status()?)? == ["device"])
    })?;
    ensure!(lab.guests[0].report()?.connects == 1, "it reconnected");
    stream(&mut lab)?;
    ensure!(uplink(&mut lab, "lane_packets")? > 0, "none went whole");
    Ok(())
}

#[test]
fn queues_whose_large_packets_would_take_another_queue_are_segmented_here() -> Result<()> {
    let mut lab = prepare::connected(4, &["guest-a"])?;
    // Two workers are on cores 0 and 1, and every core has the send queue of its own number.
    let status = lab.daemon()?.status()?;
    let expected = ["device", "device", "netback", "netback"];
    ensure!(segmented_by(&status)? == expected, "{status}");
    let reason = status["uplinks"][0]["queues"][2]["bulk"]["reason"].as_str();
    let reason = reason.context("no reason")?;
    ensure!(reason.contains("by queue 0"), "{reason}");
    // No event tells of steering, which the daemon reads every ten seconds, and when anything else of the device changes.
    let mut steer = lab.driver_namespace().command("sh");
    steer.args([
        "-c",
        &format!(
            "echo 3 > /sys/class/net/{}/queues/tx-3/xps_cpus",
            prepare::UPLINK
        ),
    ]);
    let steered = steer.status()?;
    ensure!(steered.success(), "xps_cpus: {steered}");
    wait_for("the steering is noticed", || {
        std::thread::sleep(Duration::from_millis(100));
        let by = segmented_by(&lab.daemon()?.status()?)?;
        Ok(by == ["netback", "netback", "netback", "device"])
    })
}
