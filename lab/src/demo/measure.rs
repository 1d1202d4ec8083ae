//! Stock tools run between two hosts of the lab, and what they said as numbers.
use crate::process::Process;
use crate::{Host, interrupt};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

/// Longest that one tool may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// UDP payload of a 64-byte frame: less Ethernet, IPv4 and UDP headers.
const PAYLOAD_OF_64: &str = "22";

/// What ping said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Average round trip; 0 where nothing came back.
    pub average_us: f64,
}

/// Wait until `to` answers `from` at `address`: the first packets resolve addresses and may meet a closed door.
pub fn wait_reachable(from: &Host, address: &str) -> Result<()> {
    interrupt::wait_for(
        &format!("{} reaches {address}", from.name),
        PATIENCE,
        || Ok(ping(from, address, 1, Duration::from_millis(200))?.received == 1),
    )
}

/// `count` pings at `interval`.
pub fn ping(from: &Host, address: &str, count: u32, interval: Duration) -> Result<Ping> {
    let (count, interval) = (count.to_string(), format!("{:.3}", interval.as_secs_f64()));
    let mut command = from.namespace.command("ping");
    command
        .args([
            "-n", "-q", "-c", &count, "-i", &interval, "-W", "1", address,
        ])
        .env("LC_ALL", "C")
        .stdout(Stdio::piped());
    let (_, output) = Process::start("ping", &mut command)?.output(PATIENCE)?;
    parse_ping(&output).with_context(|| format!("ping {address} from {} said: {output}", from.name))
}

fn parse_ping(output: &str) -> Option<Ping> {
    let counts = output
        .lines()
        .find(|line| line.contains("packets transmitted"))?;
    let mut numbers = counts
        .split(", ")
        .map(|part| part.split(' ').next().and_then(|word| word.parse().ok()));
    let (sent, received) = (numbers.next()??, numbers.next()??);
    let times = output
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let average = times
        .and_then(|times| times.split('/').nth(1))
        .and_then(|ms| ms.parse::<f64>().ok());
    Some(Ping {
        sent,
        received,
        average_us: average.unwrap_or(0.0) * 1000.0,
    })
}

/// An iperf3 server on a host, gone when dropped.
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

/// What a TCP stream carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stream {
    /// As received.
    pub mbit_per_s: f64,
    /// Received.
    pub bytes: f64,
}

/// TCP from `from` to `address` for `seconds`.
pub fn stream(from: &Host, address: &str, seconds: u32) -> Result<Stream> {
    let report = iperf3(from, address, &["-t", &seconds.to_string()])?;
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

/// TCP from `from` to `address` for `seconds`; Mbit/s received.
pub fn tcp(from: &Host, address: &str, seconds: u32) -> Result<f64> {
    Ok(stream(from, address, seconds)?.mbit_per_s)
}

/// UDP frames of 64 bytes, as many as the sender can; packets a second received.
pub fn udp64(from: &Host, address: &str, seconds: u32) -> Result<f64> {
    let report = iperf3(
        from,
        address,
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

fn iperf3(from: &Host, address: &str, arguments: &[&str]) -> Result<Value> {
    let mut process = start_iperf3(from, address, arguments)?;
    finish_iperf3(&mut process)
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

    #[test]
    fn ping_is_read_with_and_without_answers() {
        let good = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
                    20 packets transmitted, 19 received, 5% packet loss, time 384ms\nrtt min/avg/max/mdev = 0.031/0.045/0.064/0.011 ms\n";
        assert_eq!(
            parse_ping(good),
            Some(Ping {
                sent: 20,
                received: 19,
                average_us: 45.0
            })
        );
        let none = "1 packets transmitted, 0 received, 100% packet loss, time 0ms\n\n";
        assert_eq!(
            parse_ping(none),
            Some(Ping {
                sent: 1,
                received: 0,
                average_us: 0.0
            })
        );
        let unreachable =
            "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2042ms\npipe 3\n";
        assert_eq!(parse_ping(unreachable).map(|ping| ping.received), Some(0));
        assert_eq!(parse_ping("ping: unknown host"), None);
    }
}
