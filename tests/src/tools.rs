//! ping, arping, iperf3 and nstat, run in a host's namespace, and what they counted.
use anyhow::{Context, Result, bail, ensure};
use lab::Host;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs `program` in the host's namespace until it ends.
pub fn run(host: &Host, program: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = host.namespace.command(program);
    command.args(arguments).stdin(Stdio::null());
    command
        .output()
        .with_context(|| format!("cannot start {program} on {}", host.name))
}

/// As [`run`]. Returns the program's stdout, or an error if the program failed.
pub fn stdout(host: &Host, program: &str, arguments: &[&str]) -> Result<String> {
    let output = run(host, program, arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} on {}: {program} {}: {text}{error}",
            output.status,
            host.name,
            arguments.join(" ")
        );
    }
    Ok(text)
}

/// Checks that every one of `count` pings is answered once. `more` are arguments such as `-s`.
pub fn ping(from: &Host, address: &str, count: u32, more: &[&str]) -> Result<()> {
    let count_text = count.to_string();
    // All at once, and then up to five seconds for answers: they may be late on a loaded machine, but they must come.
    let mut arguments = vec!["-n", "-q", "-i", "5", "-l", &count_text, "-c", &count_text];
    arguments.extend(more);
    arguments.push(address);
    let text = stdout(from, "ping", &arguments)?;
    ensure!(
        text.contains(&format!("{count} packets transmitted, {count} received"))
            && !text.contains("duplicates")
            && !text.contains("errors"),
        "{} to {address}: {text}",
        from.name
    );
    Ok(())
}

/// Waits until a ping is answered: a daemon, a worker or an interface may have just started.
pub fn wait_reachable(from: &Host, to: &Host) -> Result<()> {
    let arguments = ["-n", "-q", "-c", "1", "-W", "1", &to.ipv4];
    crate::wait_for(&format!("{} reaches {}", from.name, to.name), || {
        Ok(run(from, "ping", &arguments)?.status.success())
    })
}

/// Checks that no ping is answered.
pub fn no_ping(from: &Host, address: &str) -> Result<()> {
    let output = run(
        from,
        "ping",
        &["-n", "-q", "-c", "2", "-i", "0.1", "-W", "1", address],
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains(" 0 received"),
        "{} reaches {address}: {text}",
        from.name
    );
    Ok(())
}

/// Checks that an address answers all of `count` requests of arping(8).
pub fn arping(from: &Host, address: &str, count: u32) -> Result<()> {
    let count_text = count.to_string();
    // -b: every request goes to the broadcast address, not only the first.
    let arguments = [
        "-b",
        "-c",
        &count_text,
        "-w",
        "20",
        "-I",
        &from.interface,
        address,
    ];
    let text = stdout(from, "arping", &arguments)?;
    let received = format!("Received {count} response");
    ensure!(
        text.contains(&received),
        "{} to {address}: {text}",
        from.name
    );
    Ok(())
}

/// Returns the bytes that `to` received over one TCP stream of `seconds` from `from`, and the number of retransmissions.
pub fn tcp(from: &Host, to: &Host, address: &str, seconds: u32) -> Result<(u64, u64)> {
    let end = iperf3(from, to, address, &["-t", &seconds.to_string()])?;
    let bytes = end["sum_received"]["bytes"]
        .as_u64()
        .context("iperf3 counted no bytes")?;
    Ok((bytes, end["sum_sent"]["retransmits"].as_u64().unwrap_or(0)))
}

/// What `to` received over one TCP stream of `seconds` from `from`, in bytes a second.
pub fn tcp_rate(from: &Host, to: &Host, address: &str, seconds: u32) -> Result<f64> {
    let end = iperf3(from, to, address, &["-t", &seconds.to_string()])?;
    let bits = end["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3 measured no rate")? / 8.0)
}

/// Sends datagrams of `size` bytes for `seconds` at `rate` (such as 2M). Returns how many were sent and how many were lost.
pub fn udp(
    from: &Host,
    to: &Host,
    address: &str,
    size: u32,
    rate: &str,
    seconds: u32,
) -> Result<(u64, u64)> {
    let (size, seconds) = (size.to_string(), seconds.to_string());
    let end = iperf3(
        from,
        to,
        address,
        &["-u", "-l", &size, "-b", rate, "-t", &seconds],
    )?;
    let count = |name: &str| {
        end["sum"][name]
            .as_u64()
            .with_context(|| format!("iperf3 counted no {name}"))
    };
    Ok((count("packets")?, count("lost_packets")?))
}

/// Returns the object `end` of iperf3's report.
fn iperf3(from: &Host, to: &Host, address: &str, arguments: &[&str]) -> Result<serde_json::Value> {
    let _server = Server::start(to, address)?;
    let mut all = vec!["-J", "-c", address, "--connect-timeout", "10000"];
    all.extend(arguments);
    let text = stdout(from, "timeout", &[&["60", "iperf3"], &all[..]].concat())?;
    let mut report: serde_json::Value =
        serde_json::from_str(&text).context("iperf3 printed no JSON")?;
    Ok(report["end"].take())
}

/// An iperf3 server for one client; killed when dropped.
pub struct Server(Child);

impl Server {
    /// Starts the server, which listens when this returns.
    pub fn start(host: &Host, address: &str) -> Result<Self> {
        let mut command = host.namespace.command("iperf3");
        command
            .args(["-s", "-1", "-B", address])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let server = Self(command.spawn().context("cannot start iperf3")?);
        crate::wait_for("iperf3 listens", || {
            Ok(!stdout(host, "ss", &["-Hltn", "sport = :5201"])?
                .trim()
                .is_empty())
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client of [`Server`] that runs while the test does something else.
pub struct Stream {
    child: Child,
    name: String,
}

impl Stream {
    /// Starts a client that sends to `address` for `seconds`; `more` are arguments such as `-R`.
    pub fn start(from: &Host, address: &str, seconds: u32, more: &[&str]) -> Result<Self> {
        let mut command = from.namespace.command("timeout");
        command.args([
            "60",
            "iperf3",
            "-J",
            "-c",
            address,
            "--connect-timeout",
            "10000",
            "-t",
            &seconds.to_string(),
        ]);
        command
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = command.spawn().context("cannot start iperf3")?;
        Ok(Self {
            child,
            name: from.name.clone(),
        })
    }

    /// Waits for the client to end. Returns its report, or an error if the stream broke.
    pub fn finish(mut self) -> Result<serde_json::Value> {
        let output = self.child.stdout.take().context("iperf3 has no stdout")?;
        let report: serde_json::Value =
            serde_json::from_reader(output).context("iperf3 printed no JSON")?;
        let status = self.child.wait()?;
        ensure!(
            status.success() && report["error"].is_null(),
            "iperf3 on {}: {status}: {}",
            self.name,
            report["error"]
        );
        Ok(report)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel's counters of a host's stack since it was made, by nstat(8)'s names.
pub struct Counters(serde_json::Value);

impl Counters {
    /// Reads the counters of a host.
    pub fn of(host: &Host) -> Result<Self> {
        let text = stdout(host, "nstat", &["-a", "-s", "-z", "-j"])?;
        let mut report: serde_json::Value =
            serde_json::from_str(&text).context("nstat printed no JSON")?;
        Ok(Self(report["kernel"].take()))
    }

    /// Returns a counter by its name, or an error if the kernel has none of that name.
    pub fn get(&self, name: &str) -> Result<u64> {
        self.0[name]
            .as_u64()
            .with_context(|| format!("nstat has no {name}"))
    }

    /// Returns the packets that the stack dropped for a wrong checksum of IP, TCP, UDP or ICMP.
    pub fn checksum_errors(&self) -> Result<u64> {
        let names = [
            "IpExtInCsumErrors",
            "TcpInCsumErrors",
            "UdpInCsumErrors",
            "Udp6InCsumErrors",
            "IcmpInCsumErrors",
            "Icmp6InCsumErrors",
        ];
        names.iter().map(|name| self.get(name)).sum()
    }
}

/// Repeats `work` for the duration `time`.
pub fn for_a_while(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        work()?;
    }
    Ok(())
}

/// A ping without end, 200 a second of 1000 bytes each; killed when dropped.
pub struct Flood(Child);

impl Flood {
    /// Starts the ping.
    pub fn start(from: &Host, address: &str) -> Result<Self> {
        let mut command = from.namespace.command("ping");
        command.args(["-n", "-q", "-i", "0.005", "-s", "1000", address]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.spawn().context("cannot start ping")?))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
