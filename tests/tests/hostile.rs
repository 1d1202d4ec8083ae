//! A guest that means harm, beside two honest ones: it is disabled with a reason, the others do not notice, and it is served again once it
//! reconnects.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tests::netback::resident_bytes;
use tests::status::vif;
use tests::tools::{ping, wait_reachable};
use tests::{prepare, wait_for};
use xen::store::wire::{HEADER, Header, Kind};

/// XenbusStateClosed (xen/include/public/io/xenbus.h).
const CLOSED: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that the daemon's memory may grow by after the first round: its allocator keeps some memory, but not more with each round.
const SLACK: u64 = 4 << 20;
/// Pings of one check of the honest guests.
const PINGS: u32 = 50;
/// Pause between two pings, which are spread over time so that a loss at any moment shows.
const APART: [&str; 4] = ["-l", "1", "-i", "0.01"];

/// The lab, and the daemon's process id, which must not change.
struct House {
    lab: Lab,
    pid: u32,
}

impl House {
    /// "mallory" is guest 0.
    fn new() -> Result<Self> {
        let mut lab = prepare::connected(2, &["mallory", "guest-a", "guest-b"])?;
        let pid = lab.daemon()?.status()?["pid"].as_u64();
        let pid = pid.context("status has no pid")? as u32;
        Ok(Self { lab, pid })
    }

    fn mallory(&mut self, command: &str) -> Result<()> {
        self.lab.guests[0].command(command).map(drop)
    }

    /// Checks that honest guests lose nothing, neither between them nor to the outside.
    fn honest_lose_nothing(&mut self) -> Result<()> {
        let (a, b) = (&self.lab.guests[1].host, &self.lab.guests[2].host);
        let outside = &self.lab.outside[0].host;
        ping(a, &b.ipv4, PINGS, &APART)?;
        ping(b, &outside.ipv4, PINGS, &APART)?;
        ping(outside, &a.ipv6, PINGS, &APART)?;
        for guest in &mut self.lab.guests[1..] {
            let report = guest.report()?;
            let complaints = report.total.protocol_errors + report.total.rx_wrong_ids;
            ensure!(
                complaints == 0 && report.disabled.is_none() && report.connects == 1,
                "{report:?}"
            );
        }
        Ok(())
    }

    fn service(&mut self) -> Result<(String, String)> {
        let domid = self.lab.guests[0].domid.0;
        let vif = vif(&mut self.lab, domid)?;
        let text = |key: &str| vif[key].as_str().unwrap_or_default().to_owned();
        Ok((text("service"), text("reason")))
    }

    /// Has mallory's driver unloaded and loaded again, and checks that the guest is served.
    fn reconnect(&mut self) -> Result<()> {
        let (backend, domid) = (self.lab.driver_domain().id(), self.lab.guests[0].domid);
        self.mallory("calm")?;
        self.mallory("close")?;
        let toolstack = &mut self.lab.toolstack;
        toolstack.wait_backend_state(backend, domid, 0, CLOSED, PATIENCE)?;
        wait_for("mallory is closed", || {
            Ok(self.lab.guests[0].report()?.state == CLOSED)
        })?;
        self.mallory("reconnect")?;
        self.lab.guests[0].wait_connected()?;
        wait_for("mallory is served", || Ok(self.service()?.0 == "served"))?;
        wait_reachable(&self.lab.guests[0].host, &self.lab.outside[0].host)?;
        ping(
            &self.lab.guests[0].host,
            &self.lab.guests[1].host.ipv4,
            5,
            &[],
        )
    }

    fn same_daemon(&mut self) -> Result<()> {
        let pid = self.lab.daemon()?.status()?["pid"].clone();
        ensure!(pid == self.pid, "another daemon serves: {pid}");
        Ok(())
    }
}

#[test]
fn a_guest_that_scribbles_in_its_rings_is_disabled_alone_and_comes_back() -> Result<()> {
    let mut house = House::new()?;
    let mut after_first = None;
    for seed in 1..=6 {
        house.mallory(&format!("rage {seed}"))?;
        wait_for("mallory is disabled", || {
            Ok(house.service()?.0 == "disabled")
        })?;
        let (_, reason) = house.service()?;
        ensure!(
            reason.starts_with("the guest broke the protocol on queue "),
            "seed {seed}: {reason:?}"
        );
        // The guest goes on scribbling, and nobody is harmed by it.
        house
            .honest_lose_nothing()
            .with_context(|| format!("seed {seed}: {reason}"))?;
        house
            .reconnect()
            .with_context(|| format!("seed {seed}: {reason}"))?;
        let resident = resident_bytes(house.pid)?;
        let first = *after_first.get_or_insert(resident);
        ensure!(
            resident <= first + SLACK,
            "{first} -> {resident} bytes at seed {seed}"
        );
    }
    house.same_daemon()
}

#[test]
fn events_without_end_harm_nobody() -> Result<()> {
    let mut house = House::new()?;
    house.mallory("storm")?;
    for _ in 0..3 {
        house.honest_lose_nothing()?;
    }
    ensure!(house.service()?.0 == "served", "events are no offence");
    house.mallory("calm")?;
    wait_reachable(&house.lab.guests[0].host, &house.lab.outside[0].host)?;
    house.same_daemon()
}

/// Requests written before their answers are read.
const PIPELINE: u32 = 1000;

/// Writes `values` to `key` in turn, `count` times, as fast as xenstored takes them.
fn write_over_and_over(lab: &Lab, key: &str, values: [&str; 2], count: u32) -> Result<()> {
    let mut store = UnixStream::connect(lab.directory().file("xenstored.sock"))?;
    let mut answers = store.try_clone()?;
    let requests = values.map(|value| {
        let payload = [key.as_bytes(), b"\0", value.as_bytes()].concat();
        let header = Header {
            kind: Kind::Write as u32,
            request: 1,
            transaction: 0,
            len: payload.len() as u32,
        };
        [&header.encode()[..], &payload].concat()
    });
    let batch = requests.concat().repeat(PIPELINE as usize / 2);
    // Each answer is "OK" and a zero behind its header.
    let mut answer = vec![0; PIPELINE as usize * (HEADER + 3)];
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> std::io::Result<()> {
            for _ in 0..count / PIPELINE {
                answers.read_exact(&mut answer)?;
            }
            Ok(())
        });
        for _ in 0..count / PIPELINE {
            store.write_all(&batch)?;
        }
        reader.join().expect("it does not panic")
    })?;
    Ok(())
}

#[test]
fn a_million_writes_to_watched_keys_leave_memory_flat_and_others_alone() -> Result<()> {
    let mut house = House::new()?;
    let front = format!("/local/domain/{}/device/vif/0", house.lab.guests[0].domid);
    let before = resident_bytes(house.pid)?;
    for (key, values) in [
        ("state", ["7", "4"]),
        ("request-multicast-control", ["1", "0"]),
    ] {
        let key = format!("{front}/{key}");
        std::thread::scope(|scope| -> Result<()> {
            let lab = &house.lab;
            let writer = scope.spawn(|| write_over_and_over(lab, &key, values, 500_000));
            for _ in 0..10 {
                lab.daemon.as_ref().context("no daemon")?.status()?;
            }
            ping(&lab.guests[1].host, &lab.guests[2].host.ipv4, PINGS, &APART)?;
            writer.join().expect("it does not panic")
        })?;
        let now = resident_bytes(house.pid)?;
        ensure!(now <= before + SLACK, "{before} -> {now} bytes: {key}");
    }
    house.honest_lose_nothing()?;
    wait_for("mallory is served", || Ok(house.service()?.0 == "served"))?;
    wait_reachable(&house.lab.guests[0].host, &house.lab.outside[0].host)?;
    house.same_daemon()
}
