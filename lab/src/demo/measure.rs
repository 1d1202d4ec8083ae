//! Stock tools run between two hosts of the lab, and what they said as numbers.
use crate::process::Process;
use crate::{Host, interrupt};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

/// Longest that one tool may take, on a machine that others keep busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that ping(8) waits for answers: far beyond any round trip, for what is late is not lost.
const PING_DEADLINE_SECONDS: &str = "30";
/// UDP payload of a 64-byte frame: less Ethernet, IPv4 and UDP headers.
const PAYLOAD_OF_64: &str = "22";

/// What became of a number of pings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ping {
    /// Requests that count.
    pub sent: u32,
    /// Those of them that were answered.
    pub received: u32,
    /// Average round trip; 0 where nothing came back.
    pub average_us: f64,
    /// The round trip that 99 of 100 stay within; 0 where nothing came back.
    pub p99_us: f64,
}

/// Waits until `to` answers `from` at `address`: the first packets resolve addresses and may meet a closed door.
pub fn wait_reachable(from: &Host, address: &str) -> Result<()> {
    let mut ping = from.namespace.command("ping");
    ping.args(["-n", "-q", "-c", "1", "-i", "0.2", "-w", "1", address])
        .stdout(Stdio::null());
    interrupt::wait_for(
        &format!("{} reaches {address}", from.name),
        PATIENCE,
        || {
            Ok(Process::start("ping", &mut ping)?
                .wait(PATIENCE)?
                .is_some_and(|s| s.success()))
        },
    )
}

/// `count` pings at `interval`.
///
/// A request counts as lost where a later one was answered and it was not, or where no answer came for the whole deadline. (Given
/// only a count, ping(8) waits for the last answers no longer than twice the longest round trip so far. Given a deadline too, it
/// goes on sending until `count` answers are there; the requests beyond `count` are not looked at.)
pub fn ping(from: &Host, address: &str, count: u32, interval: Duration) -> Result<Ping> {
    let (requests, interval) = (count.to_string(), format!("{:.3}", interval.as_secs_f64()));
    let mut command = from.namespace.command("ping");
    command
        .args(["-n", "-c", &requests, "-i", &interval])
        .args(["-w", PING_DEADLINE_SECONDS, address])
        .env("LC_ALL", "C")
        .stdout(Stdio::piped());
    let (_, output) = Process::start("ping", &mut command)?.output(PATIENCE)?;
    Ok(parse_ping(&output, count))
}

/// What ping(8) printed of its first `count` requests.
fn parse_ping(output: &str, count: u32) -> Ping {
    let field = |line: &str, name: &str| {
        let value = line.split_once(name)?.1;
        value.split(' ').next().map(str::to_owned)
    };
    // An answer's sequence number and round trip in milliseconds; other lines have no time.
    let answers = output.lines().filter_map(|line| {
        let sequence: u32 = field(line, "icmp_seq=")?.parse().ok()?;
        let time: f64 = field(line, "time=")?.parse().ok()?;
        (1..=count).contains(&sequence).then_some((sequence, time))
    });
    let times: BTreeMap<u32, f64> = answers.collect();
    let average_ms = times.values().sum::<f64>() / times.len().max(1) as f64;
    let mut sorted: Vec<f64> = times.into_values().collect();
    sorted.sort_by(f64::total_cmp);
    let p99_ms = sorted.get(sorted.len() * 99 / 100).copied();
    Ping {
        sent: count,
        received: sorted.len() as u32,
        average_us: average_ms * 1000.0,
        p99_us: p99_ms.unwrap_or_default() * 1000.0,
    }
}

/// An iperf3 server on a host for one client, gone when dropped.
///
/// Between two clients iperf3 closes its socket and opens another, and a client that comes meanwhile is reset or refused. On a busy
/// machine that is long.
pub struct Server {
    _process: Process,
}

impl Server {
    /// Start it; it listens when this returns.
    pub fn start(host: &Host) -> Result<Self> {
        let mut command = host.namespace.command("iperf3");
        command
            .args(["-s", "--forceflush"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::start("iperf3 server", &mut command)?;
        process.first_line()?;
        Ok(Self { _process: process })
    }
}

/// What TCP carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stream {
    /// As received.
    pub mbit_per_s: f64,
    /// Received.
    pub bytes: f64,
}

/// TCP from `from` to `to` over IPv4 for `seconds`, in `count` streams at once.
pub fn streams(from: &Host, to: &Host, seconds: u32, count: u32) -> Result<Stream> {
    let (seconds, count) = (seconds.to_string(), count.to_string());
    let report = iperf3(from, to, &["-t", &seconds, "-P", &count])?;
    let sum = &report["end"]["sum_received"];
    let (rate, bytes) = (sum["bits_per_second"].as_f64(), sum["bytes"].as_f64());
    let (rate, bytes) = rate
        .zip(bytes)
        .context("iperf3 reported no TCP throughput")?;
    Ok(Stream {
        mbit_per_s: rate / 1e6,
        bytes,
    })
}

/// TCP from `from` to `to` over IPv4 for `seconds`; Mbit/s received.
pub fn tcp(from: &Host, to: &Host, seconds: u32) -> Result<f64> {
    Ok(streams(from, to, seconds, 1)?.mbit_per_s)
}

/// UDP frames of 64 bytes, as many as the sender can; packets a second received.
pub fn udp64(from: &Host, to: &Host, seconds: u32) -> Result<f64> {
    let report = iperf3(
        from,
        to,
        &[
            "-u",
            "-l",
            PAYLOAD_OF_64,
            "-b",
            "0",
            "-t",
            &seconds.to_string(),
        ],
    )?;
    let sum = &report["end"]["sum_received"];
    let number = |key: &str| {
        sum[key]
            .as_f64()
            .with_context(|| format!("iperf3 reported no UDP {key}"))
    };
    Ok((number("packets")? - number("lost_packets")?) / number("seconds")?)
}

/// Both ends of iperf3; the client's report.
fn iperf3(from: &Host, to: &Host, arguments: &[&str]) -> Result<Value> {
    let _server = Server::start(to)?;
    let mut client = start_iperf3(from, &to.ipv4, arguments)?;
    finish_iperf3(&mut client)
}

/// Start an iperf3 client.
pub fn start_iperf3(from: &Host, address: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = from.namespace.command("iperf3");
    command
        .args(["-c", address, "-J", "--connect-timeout", "5000"])
        .args(arguments)
        .stdout(Stdio::piped());
    Process::start("iperf3", &mut command)
}

/// Wait for the client; its report.
pub fn finish_iperf3(process: &mut Process) -> Result<Value> {
    let (status, output) = process.output(PATIENCE)?;
    let report: Value = serde_json::from_str(&output).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    if !status.success() {
        bail!("iperf3: {status}");
    }
    Ok(report)
}

/// Connections reset, as the host's TCP counts them: resets sent, and connections that one broke.
pub fn tcp_resets(host: &Host) -> Result<u64> {
    let [broken, sent] = tcp_counters(host, ["EstabResets", "OutRsts"])?;
    Ok(broken + sent)
}

/// Counters of a host's TCP, by the kernel's names.
pub fn tcp_counters<const N: usize>(host: &Host, wanted: [&str; N]) -> Result<[u64; N]> {
    let text = host
        .namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Tcp: "))
        .map(|line| line.split(' ').collect())
        .collect();
    let [names, values] = lines.as_slice() else {
        bail!("/proc/net/snmp has no TCP counters")
    };
    let mut counters = [0; N];
    for (counter, wanted) in counters.iter_mut().zip(wanted) {
        let mut all = names.iter().zip(values);
        let found = all.find(|(name, _)| **name == wanted);
        *counter = found
            .and_then(|(_, value)| value.parse().ok())
            .with_context(|| format!("/proc/net/snmp has no TCP counter {wanted}"))?;
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(sequence: impl Iterator<Item = u32>) -> String {
        sequence
            .map(|n| format!("64 bytes from 10.0.0.1: icmp_seq={n} ttl=64 time=0.{n:03} ms\n"))
            .collect()
    }

    #[test]
    fn a_late_answer_is_not_a_lost_one() {
        // The 20th answer was late, so ping sent three more; all are in the order in which they came.
        let late = answers(1..=20);
        let ping = parse_ping(&late, 20);
        assert_eq!((ping.sent, ping.received), (20, 20));
        assert!((ping.p99_us - 20.0).abs() < 1e-9, "{ping:?}");
        assert!((ping.average_us - 10.5).abs() < 1e-9, "{ping:?}");
    }

    #[test]
    fn a_lost_ping_is_lost_though_others_were_sent_for_it() {
        let output = answers((1..=21).filter(|n| *n != 7));
        assert_eq!(parse_ping(&output, 20).received, 19);
    }

    #[test]
    fn what_is_no_answer_or_came_twice_does_not_count() {
        let output = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\
                      64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.031 ms\n\
                      64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.045 ms (DUP!)\n\
                      From 10.0.0.2 icmp_seq=2 Destination Host Unreachable\n\n\
                      --- 10.0.0.1 ping statistics ---\n\
                      2 packets transmitted, 1 received, +1 duplicates, +1 errors, 50% packet loss, time 384ms\n";
        assert_eq!(parse_ping(output, 2).received, 1);
        assert_eq!(parse_ping("ping: unknown host", 2).received, 0);
    }
}
