//! One pair: pings with nothing beside them, then the same beside a stream.
use crate::net::{ANSWERER, Core, Net, PINGER, RECEIVER, SENDER, WIRE};
use anyhow::{Context, Result};
use benches::pinger::{self, Pinged};
use benches::usage::Usage;
use lab::demo::measure::{self as tools, Server};
use lab::interrupt;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Until a stream's connection is made and its windows are open.
const WARM_UP: Duration = Duration::from_millis(300);
/// Until what a stream left under way has arrived.
const REST: Duration = Duration::from_millis(50);

/// What runs beside the pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Stream {
    /// TCP of the sending guest to the host on the wire.
    #[serde(rename = "guest -> wire")]
    GuestToWire,
    /// TCP of the host on the wire to the sending guest.
    #[serde(rename = "wire -> guest")]
    WireToGuest,
    /// TCP of the sending guest to the receiving one.
    #[serde(rename = "guest -> guest")]
    GuestToGuest,
    /// TCP of the sending guest to itself, which nothing that is measured carries: it only takes the stacks' cores.
    #[serde(rename = "within a guest")]
    WithinGuest,
}

impl Stream {
    /// The stream's name, as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestToWire => "guest -> wire",
            Self::WireToGuest => "wire -> guest",
            Self::GuestToGuest => "guest -> guest",
            Self::WithinGuest => "within a guest",
        }
    }

    fn ends(self) -> [&'static str; 2] {
        match self {
            Self::GuestToWire => [SENDER, WIRE],
            Self::WireToGuest => [WIRE, SENDER],
            Self::GuestToGuest => [SENDER, RECEIVER],
            Self::WithinGuest => [SENDER, SENDER],
        }
    }
}

/// Who pings whom beside which stream.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Who pings.
    pub from: &'static str,
    /// Who is pinged.
    pub to: &'static str,
    /// What runs beside.
    pub stream: Stream,
    /// Where the guests run that no stream ends in.
    pub neighbours: Core,
}

impl Case {
    /// Every case: a neighbour's pings to the wire and to a guest beside each stream, those to a guest with both apart from the stream's
    /// stacks too, and pings that go the stream's own way.
    pub const ALL: [Self; 15] = [
        Self::new(PINGER, WIRE, Stream::GuestToWire),
        Self::new(PINGER, WIRE, Stream::WireToGuest),
        Self::new(PINGER, WIRE, Stream::GuestToGuest),
        Self::new(PINGER, WIRE, Stream::WithinGuest),
        Self::new(PINGER, ANSWERER, Stream::GuestToWire),
        Self::new(PINGER, ANSWERER, Stream::WireToGuest),
        Self::new(PINGER, ANSWERER, Stream::GuestToGuest),
        Self::new(PINGER, ANSWERER, Stream::WithinGuest),
        Self::new(PINGER, ANSWERER, Stream::GuestToWire).apart(),
        Self::new(PINGER, ANSWERER, Stream::WireToGuest).apart(),
        Self::new(PINGER, ANSWERER, Stream::GuestToGuest).apart(),
        Self::new(PINGER, ANSWERER, Stream::WithinGuest).apart(),
        Self::new(SENDER, WIRE, Stream::GuestToWire),
        Self::new(SENDER, WIRE, Stream::WireToGuest),
        Self::new(SENDER, RECEIVER, Stream::GuestToGuest),
    ];

    const fn new(from: &'static str, to: &'static str, stream: Stream) -> Self {
        Self {
            from,
            to,
            stream,
            neighbours: Core::Stacks,
        }
    }

    const fn apart(self) -> Self {
        Self {
            neighbours: Core::Worker,
            ..self
        }
    }
}

/// What netback's worker did while pings were under way.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Part of the time that it ran.
    pub ran: f64,
    /// Part of the time that it was ready to run and did not.
    pub waited: f64,
    /// Microseconds that it ran for each turn with work, what it polled in between included.
    pub turn_us: f64,
}

/// Pings, and what the worker did meanwhile, where there is one.
#[derive(Debug, Clone)]
pub struct Half {
    /// The pings.
    pub pinged: Pinged,
    /// The worker.
    pub work: Option<Work>,
}

/// A pair.
#[derive(Debug, Clone)]
pub struct Pair {
    /// With nothing beside the pings.
    pub quiet: Half,
    /// Beside the stream.
    pub beside: Half,
    /// Of the stream, as received.
    pub mbit_per_s: f64,
}

impl Pair {
    /// How many times as long 99 of 100 round trips take beside the stream.
    pub fn ratio(&self) -> f64 {
        self.beside.pinged.within(99) / self.quiet.pinged.within(99)
    }
}

/// Measures one pair with `seconds` of pings in each half.
pub fn pair(net: &Net, case: Case, seconds: u32) -> Result<Pair> {
    let quiet = half(net, case, seconds)?;
    let [from, to] = case.stream.ends();
    let (from, to) = (net.host(from)?, net.host(to)?);
    let _server = Server::start(to)?;
    let time = (seconds + 1).to_string();
    let mut stream = tools::start_iperf3(from, &to.ipv4, &["-t", &time])?;
    interrupt::sleep(WARM_UP)?;
    let beside = half(net, case, seconds)?;
    let report = tools::finish_iperf3(&mut stream)?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    interrupt::sleep(REST)?;
    Ok(Pair {
        quiet,
        beside,
        mbit_per_s: rate.context("iperf3 reported no throughput")? / 1e6,
    })
}

fn half(net: &Net, case: Case, seconds: u32) -> Result<Half> {
    let before = Moment::now(net)?;
    let time = Duration::from_secs(seconds.into());
    let (from, to) = (net.host(case.from)?, net.host(case.to)?);
    let pinged = pinger::ping(from, &to.ipv4, time, &case.neighbours.set()?)?;
    let after = Moment::now(net)?;
    Ok(Half {
        pinged,
        work: before.zip(after).map(|(before, after)| after.since(before)),
    })
}

/// What the worker has used and done until now.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    usage: Usage,
    busy_turns: u64,
}

impl Moment {
    fn now(net: &Net) -> Result<Option<Self>> {
        let Some((worker, status)) = net.worker()? else {
            return Ok(None);
        };
        let workers = status.workers.iter();
        Ok(Some(Self {
            at: Instant::now(),
            usage: worker.usage()?,
            busy_turns: workers.map(|worker| worker.counts.busy_turns).sum(),
        }))
    }

    fn since(self, before: Self) -> Work {
        let (elapsed, used) = (self.at - before.at, self.usage - before.usage);
        let turns = (self.busy_turns - before.busy_turns).max(1);
        Work {
            ran: used.ran.as_secs_f64() / elapsed.as_secs_f64(),
            waited: used.waited.as_secs_f64() / elapsed.as_secs_f64(),
            turn_us: used.ran.as_secs_f64() * 1e6 / turns as f64,
        }
    }
}
