//! The demo's first part: every host reaches every other, and nothing is left when all is over.
use super::measure;
use super::progress;
use crate::{Host, Lab, interrupt};
use anyhow::{Context, Result};
use demo_options::Options;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// Seconds of each throughput measurement; six paths of two fit into the minute.
const SECONDS: u32 = 2;
/// Pings a path and address family.
const PINGS: u32 = 25;
const PING_INTERVAL: Duration = Duration::from_millis(10);

/// Longest that the daemon may take to give back what guests had, on a machine that others keep busy.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// One ordered pair of hosts.
#[derive(Debug, Serialize)]
pub struct Path {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// IPv4 and IPv6 together.
    pub ping_loss_percent: f64,
    /// Average round trip over IPv4 and IPv6.
    pub rtt_us: f64,
    /// As received.
    pub tcp_mbit_per_s: f64,
    /// As received.
    pub udp64_packets_per_s: f64,
}

/// What was still held after the guests were gone; all 0 when nothing leaks.
#[derive(Debug, Serialize)]
pub struct Leaked {
    /// Grants of dead guests that the driver domain has mapped, as the simulator counts.
    pub grants: u64,
    /// Event channels that the driver domain has open, as the simulator counts.
    pub ports: u64,
    /// UMEM frames neither free nor with the kernel, as the pool counts.
    pub frames: i64,
}

/// The whole of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every ordered pair.
    pub paths: Vec<Path>,
    /// What was left.
    pub leaked: Leaked,
    /// Kernel release.
    pub kernel: String,
    /// native or generic.
    pub xdp_mode: String,
}

impl Report {
    /// Every figure that is not as it must be: all reach all without loss, and nothing leaked.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.paths.iter().flat_map(Path::faults).collect();
        let Leaked {
            grants,
            ports,
            frames,
        } = self.leaked;
        if (grants, ports, frames) != (0, 0, 0) {
            faults.push(format!(
                "{grants} grants, {ports} event channels and {frames} frames are left behind (must be 0 of each)"
            ));
        }
        faults
    }
}

impl Path {
    fn faults(&self) -> impl Iterator<Item = String> {
        let lost = (self.ping_loss_percent > 0.0).then(|| {
            format!(
                "{} % of the pings were lost (must be 0)",
                self.ping_loss_percent
            )
        });
        let nothing = |rate: f64, what: &str| {
            (rate <= 0.0).then(|| format!("{rate} {what} (must be more than 0)"))
        };
        let tcp = nothing(self.tcp_mbit_per_s, "Mbit/s of TCP arrived");
        let udp = nothing(self.udp64_packets_per_s, "packets/s of UDP arrived");
        let name = format!("{} -> {}", self.from, self.to);
        [lost, tcp, udp]
            .into_iter()
            .flatten()
            .map(move |fault| format!("{name}: {fault}"))
    }
}

/// Measure every ordered pair, then end the guests and count what is left.
pub fn run(lab: &mut Lab, options: &Options) -> Result<Report> {
    let names: Vec<String> = super::hosts(lab).map(|host| host.name.clone()).collect();
    let mut paths = Vec::new();
    for from in &names {
        for to in names.iter().filter(|to| *to != from) {
            let path = measure_path(host(lab, from)?, host(lab, to)?)
                .with_context(|| format!("{from} -> {to}"))?;
            if !options.json {
                print(&path);
            }
            paths.push(path);
        }
    }
    let status = lab.daemon()?.status()?;
    progress("ending the guests");
    let leaked = count_leaks(lab)?;
    Ok(Report {
        paths,
        leaked,
        kernel: super::kernel(),
        xdp_mode: super::xdp_mode(&status),
    })
}

fn host<'a>(lab: &'a Lab, name: &str) -> Result<&'a Host> {
    lab.host(name).with_context(|| format!("no host {name}"))
}

fn measure_path(from: &Host, to: &Host) -> Result<Path> {
    progress(&format!("{} -> {}", from.name, to.name));
    let mut pings = Vec::new();
    for address in [&to.ipv4, &to.ipv6] {
        measure::wait_reachable(from, address)?;
        pings.push(measure::ping(from, address, PINGS, PING_INTERVAL)?);
    }
    let sent: u32 = pings.iter().map(|ping| ping.sent).sum();
    let received: u32 = pings.iter().map(|ping| ping.received).sum();
    Ok(Path {
        from: from.name.clone(),
        to: to.name.clone(),
        ping_loss_percent: round(
            100.0 * f64::from(sent.saturating_sub(received)) / f64::from(sent),
        ),
        rtt_us: round(pings.iter().map(|ping| ping.average_us).sum::<f64>() / pings.len() as f64),
        tcp_mbit_per_s: round(measure::tcp(from, to, SECONDS).context("TCP")?),
        udp64_packets_per_s: round(measure::udp64(from, to, SECONDS).context("UDP")?),
    })
}

/// One decimal is all that is measured.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The table's head.
pub fn print_head() {
    println!(
        "{:<10} {:<10} {:>7} {:>9} {:>11} {:>14}",
        "from", "to", "loss %", "rtt us", "TCP Mbit/s", "UDP 64 B pkt/s"
    );
}

fn print(path: &Path) {
    let Path {
        from,
        to,
        ping_loss_percent,
        rtt_us,
        tcp_mbit_per_s,
        udp64_packets_per_s,
    } = path;
    println!(
        "{from:<10} {to:<10} {ping_loss_percent:>7.1} {rtt_us:>9.0} {tcp_mbit_per_s:>11.0} {udp64_packets_per_s:>14.0}"
    );
}

/// End the guests, let the daemon notice, and look at what is still held.
fn count_leaks(lab: &mut Lab) -> Result<Leaked> {
    lab.kill_guests();
    let mut leaked = look(lab)?;
    // What is not given back in time is leaked, and reported as a number.
    let _ = interrupt::wait_for("everything given back", GIVEN_BACK, || {
        leaked = look(lab)?;
        Ok((leaked.grants, leaked.ports, leaked.frames) == (0, 0, 0))
    });
    interrupt::check()?;
    Ok(leaked)
}

fn look(lab: &mut Lab) -> Result<Leaked> {
    let counts = lab.driver_counts()?;
    let dead_and_mapped = lab
        .counts()?
        .domains
        .iter()
        .map(|domain| domain.mapped)
        .sum();
    let status = lab.daemon()?.status()?;
    Ok(Leaked {
        grants: dead_and_mapped,
        ports: counts.ports,
        frames: missing_frames(&status)?,
    })
}

/// Frames that the daemon cannot account for, and those that still wait for guests that are gone.
fn missing_frames(status: &Value) -> Result<i64> {
    let number = |key: &str| {
        status["frames"][key]
            .as_i64()
            .with_context(|| format!("status has no frames.{key}"))
    };
    Ok(number("unaccounted")? + number("backlog")? + number("travelling")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_figure_and_how_far_off_it_is() {
        let path = |ping_loss_percent, udp64_packets_per_s| Path {
            from: "guest-a".into(),
            to: "outside".into(),
            ping_loss_percent,
            rtt_us: 90.0,
            tcp_mbit_per_s: 800.0,
            udp64_packets_per_s,
        };
        let mut report = Report {
            paths: vec![path(0.0, 9.0)],
            leaked: Leaked {
                grants: 0,
                ports: 0,
                frames: 0,
            },
            kernel: String::new(),
            xdp_mode: String::new(),
        };
        assert!(report.faults().is_empty());
        report.paths.push(path(2.0, 0.0));
        report.leaked.frames = 3;
        assert_eq!(
            report.faults(),
            [
                "guest-a -> outside: 2 % of the pings were lost (must be 0)",
                "guest-a -> outside: 0 packets/s of UDP arrived (must be more than 0)",
                "0 grants, 0 event channels and 3 frames are left behind (must be 0 of each)",
            ]
        );
    }
}
