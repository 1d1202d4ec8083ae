//! Simulator and simulated netfront without netback: guests' Linux stacks talk through a hub of a few lines.
use anyhow::Result;
use lab::demo::measure;
use lab::guest::GuestConfig;
use lab::process::Process;
use lab::{Lab, programs};
use std::process::Command;
use std::time::Duration;
use tests::tools;

/// A lab with two guests and the hub between them.
fn lab(config: &GuestConfig) -> Result<(Lab, Process)> {
    let mut lab = Lab::new()?;
    for name in ["guest-a", "guest-b"] {
        lab.add_guest(GuestConfig {
            name: name.into(),
            ..config.clone()
        })?;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hub"));
    command
        .env("LD_PRELOAD", programs::path("libsim_preload.so")?)
        .env("SIM_DIR", lab.directory().path());
    command.env("SIM_DOMID", lab.driver_domain().id().to_string());
    command.args(lab.guests.iter().map(|guest| guest.domid.to_string()));
    let hub = Process::start("hub", &mut command)?;
    lab.connect_guests()?;
    Ok((lab, hub))
}

/// Checks that ping and TCP pass both ways, and that netfront finds nothing wrong.
fn talk(queues: u16, arguments: &[&str]) -> Result<Lab> {
    let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    let (mut lab, mut hub) = lab(&GuestConfig {
        queues,
        arguments,
        ..GuestConfig::new("")
    })?;
    let (a, b) = (&lab.guests[0].host, &lab.guests[1].host);
    for address in [&b.ipv4, &b.ipv6] {
        measure::wait_reachable(a, address)?;
        let ping = measure::ping(a, address, 50, Duration::from_millis(5))?;
        assert_eq!((ping.sent, ping.received), (50, 50), "{address}");
    }
    assert!(tools::tcp_rate(a, b, &b.ipv4, 1)? > 0.0);
    assert!(tools::tcp_rate(b, a, &a.ipv6, 1)? > 0.0);
    assert!(hub.is_running());
    for guest in &mut lab.guests {
        let report = guest.report()?;
        assert_eq!(report.disabled, None);
        assert_eq!(
            report.total.protocol_errors, 0,
            "{:?}",
            report.last_protocol_error
        );
        assert_eq!(report.total.rx_wrong_ids, 0);
        assert_eq!(report.total.spurious_events, 0);
        assert_eq!((report.queues, report.connects), (usize::from(queues), 1));
        assert!(report.total.tx_csum_blank > 0 && report.total.rx_csum_blank > 0);
    }
    Ok(lab)
}

#[test]
fn two_linux_stacks_talk_over_one_queue() -> Result<()> {
    let mut lab = talk(1, &[])?;
    let total = lab.guests[0].report()?.total;
    assert!(
        total.tx_slots > total.tx_packets,
        "TCP takes several slots a packet, as Linux's does"
    );
    Ok(())
}

#[test]
fn two_linux_stacks_talk_over_four_queues_and_single_event_channels() -> Result<()> {
    talk(4, &["--single-event-channel"]).map(drop)
}

#[test]
fn packets_in_many_small_slots_arrive_whole() -> Result<()> {
    talk(1, &["--layout", "scatter=100"]).map(drop)
}

#[test]
fn generated_frames_arrive_in_order_and_undamaged() -> Result<()> {
    let (mut lab, _hub) = lab(&GuestConfig {
        tap: false,
        ..GuestConfig::new("")
    })?;
    let destination = lab.guests[1]
        .host
        .mac
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    lab.guests[0].command(&format!(
        "generate size=300,rate=20000,count=5000,dst-mac={destination}"
    ))?;
    lab::interrupt::wait_for("5000 frames sent", Duration::from_secs(20), || {
        Ok(lab.guests[0].report()?.generator_left == Some(0)
            && lab.guests[0].report()?.tx_pending == 0)
    })?;
    let sink = lab.guests[1].report()?.sink;
    assert_eq!(sink.frames + sink.missing, 5000, "{sink:?}");
    assert_eq!((sink.late, sink.corrupt), (0, 0), "{sink:?}");
    assert!(sink.frames > 0);
    Ok(())
}
