//! All hosts reach each other: stock stacks and stock tools through one daemon.
use anyhow::{Result, ensure};
use lab::{Host, Lab};
use tests::prepare;
use tests::tools::{Counters, arping, ping, tcp, udp};

const HOSTS: [&str; 3] = ["guest-a", "guest-b", "outside"];

fn hosts(lab: &Lab) -> Vec<&Host> {
    HOSTS
        .iter()
        .map(|name| lab.host(name).expect("every lab here has it"))
        .collect()
}

/// Pairs of all hosts.
fn pairs(lab: &Lab) -> Vec<(&Host, &Host)> {
    let all = hosts(lab);
    let from_to = |n: usize| (all[n / all.len()], all[n % all.len()]);
    let pairs = (0..all.len() * all.len()).map(from_to);
    pairs.filter(|(from, to)| from.name != to.name).collect()
}

/// Checks that no stack saw a wrong checksum, and that no netfront had anything to complain about.
fn nobody_complains(lab: &mut Lab) -> Result<()> {
    for host in hosts(lab) {
        let counters = Counters::of(host)?;
        ensure!(
            counters.checksum_errors()? == 0,
            "{} got wrong checksums",
            host.name
        );
    }
    for guest in &mut lab.guests {
        let report = guest.report()?;
        let name = &guest.host.name;
        ensure!(
            report.disabled.is_none(),
            "{name} disabled itself: {:?}",
            report.disabled
        );
        let total = report.total;
        let complaints =
            total.protocol_errors + total.rx_wrong_ids + total.rx_errors + total.tx_errors;
        ensure!(
            complaints == 0,
            "{name}: {:?}: {total:?}",
            report.last_protocol_error
        );
    }
    Ok(())
}

fn all_reach_all(queues: u16) -> Result<()> {
    let mut lab = prepare::connected(queues, &HOSTS[..2])?;
    for guest in &mut lab.guests {
        let report = guest.report()?;
        ensure!(
            report.queues == usize::from(queues),
            "{} has {} queues",
            guest.host.name,
            report.queues
        );
    }
    for (from, to) in pairs(&lab) {
        ping(from, &to.ipv4, 10, &[])?;
        ping(from, &to.ipv6, 10, &[])?;
    }
    nobody_complains(&mut lab)
}

#[test]
fn all_reach_all_over_ipv4_and_ipv6_with_one_queue() -> Result<()> {
    all_reach_all(1)
}

#[test]
fn all_reach_all_over_ipv4_and_ipv6_with_four_queues() -> Result<()> {
    all_reach_all(4)
}

#[test]
fn every_size_of_ping_from_60_to_1514_bytes_is_answered() -> Result<()> {
    let mut lab = prepare::connected(1, &HOSTS[..2])?;
    // ping -s does not count the headers: Ethernet 14, IP 20 or 40, ICMP 8.
    for size in [
        60, 61, 63, 64, 65, 127, 128, 255, 256, 257, 511, 512, 1023, 1024, 1500, 1513, 1514,
    ] {
        for (from, to) in pairs(&lab) {
            ping(
                from,
                &to.ipv4,
                2,
                &["-M", "do", "-s", &(size - 42u32).to_string()],
            )?;
            if size >= 62 {
                ping(
                    from,
                    &to.ipv6,
                    2,
                    &["-M", "do", "-s", &(size - 62).to_string()],
                )?;
            }
        }
    }
    nobody_complains(&mut lab)
}

fn tcp_flows(queues: u16) -> Result<()> {
    let mut lab = prepare::connected(queues, &HOSTS[..2])?;
    for (from, to) in pairs(&lab) {
        for address in [&to.ipv4, &to.ipv6] {
            let (bytes, _) = tcp(from, to, address, 1)?;
            ensure!(
                bytes > 100_000,
                "{} to {address}: {bytes} bytes in a second",
                from.name
            );
        }
        let segments = Counters::of(to)?.get("TcpInSegs")?;
        ensure!(segments > 100, "{} counted {segments} segments", to.name);
    }
    nobody_complains(&mut lab)
}

#[test]
fn tcp_flows_between_all_without_a_checksum_error_with_one_queue() -> Result<()> {
    tcp_flows(1)
}

#[test]
fn tcp_flows_between_all_without_a_checksum_error_with_four_queues() -> Result<()> {
    tcp_flows(4)
}

#[test]
fn blank_checksums_are_used_and_completed() -> Result<()> {
    let mut lab = prepare::connected(1, &HOSTS[..2])?;
    let [a, outside] = [0, 2].map(|n| hosts(&lab)[n]);
    tcp(a, outside, &outside.ipv4, 1)?;
    tcp(a, outside, &outside.ipv6, 1)?;
    // The guest's stack must have left checksums to netback, or nothing was tested.
    let blank = lab.guests[0].report()?.total.tx_csum_blank;
    ensure!(blank > 100, "only {blank} packets with a blank checksum");
    nobody_complains(&mut lab)
}

#[test]
fn guests_that_want_complete_checksums_get_them() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(lab::guest::GuestConfig::new("guest-a"))?;
    lab.add_guest(lab::guest::GuestConfig {
        arguments: vec!["--no-csum-offload".into(), "--no-ipv6-csum-offload".into()],
        ..lab::guest::GuestConfig::new("guest-b")
    })?;
    let config = prepare::config(&lab, "");
    lab.start_daemon(&config)?;
    lab.connect_guests()?;
    let [a, b] = [0, 1].map(|n| hosts(&lab)[n]);
    for address in [&b.ipv4, &b.ipv6] {
        let (bytes, _) = tcp(a, b, address, 1)?;
        ensure!(bytes > 100_000, "{address}: {bytes} bytes in a second");
    }
    let blank = lab.guests[1].report()?.total.rx_csum_blank;
    ensure!(blank == 0, "{blank} packets with a blank checksum");
    nobody_complains(&mut lab)
}

#[test]
fn datagrams_of_64_bytes_arrive_at_a_rate_that_nothing_is_short_of() -> Result<()> {
    let mut lab = prepare::connected(1, &HOSTS[..2])?;
    for (from, to) in pairs(&lab) {
        // 18 bytes of payload make a frame of 60 bytes, of which this is 1000 a second.
        let (sent, lost) = udp(from, to, &to.ipv4, 18, "144K", 1)?;
        ensure!(
            sent > 100 && lost == 0,
            "{} to {}: {lost} of {sent} lost",
            from.name,
            to.name
        );
    }
    nobody_complains(&mut lab)
}

#[test]
fn arp_requests_are_answered_by_all() -> Result<()> {
    let lab = prepare::connected(1, &HOSTS[..2])?;
    for (from, to) in pairs(&lab) {
        arping(from, &to.ipv4, 2)?;
    }
    Ok(())
}
