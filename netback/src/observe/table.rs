//! `netback status` as text for people.
use super::counters::{DropReason, QueueStats, UplinkCounts, UplinkStats, WorkerStats};
use super::declare::Declared;
use super::status::{
    Bridge, Bulk, FdbEntry, Filter, Frames, Host, HostQueue, Queue, Status, Uplink, UplinkQueue,
    Vif, Worker,
};
use crate::config::NO_BRIDGE;
use crate::vif::features::Features;
use std::fmt::{self, Formatter, Write as _};

/// Counters of a vif's queue that the queue's first line shows.
const QUEUE_TRAFFIC: [&str; 6] = [
    "tx_packets",
    "tx_bytes",
    "tx_drops",
    "rx_packets",
    "rx_bytes",
    "rx_drops",
];
/// Counters of an uplink's queue that the queue's first line shows.
const UPLINK_TRAFFIC: [&str; 6] = [
    "recv_packets",
    "recv_bytes",
    "recv_drops",
    "send_packets",
    "send_bytes",
    "send_drops",
];

impl fmt::Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "netback {} in domain {}, process {}, up {}",
            self.version,
            self.domid,
            self.pid,
            duration(self.uptime_seconds)
        )?;
        self.frames.fmt(f)?;
        self.workers.iter().try_for_each(|worker| worker.fmt(f))?;
        if self.bridges.is_empty() {
            writeln!(f, "bridge   {NO_BRIDGE}")?;
        }
        self.bridges.iter().try_for_each(|bridge| bridge.fmt(f))?;
        self.uplinks.iter().try_for_each(|uplink| uplink.fmt(f))?;
        self.hosts.iter().try_for_each(|host| host.fmt(f))?;
        if self.vifs.is_empty() {
            writeln!(
                f,
                "no vif: no guest has an interface with this domain as its backend"
            )?;
        }
        self.vifs.iter().try_for_each(|vif| vif.fmt(f))
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "frames   {} in all: {} free, {} to receive into, {} being sent, {} in backlogs, {} between workers, {} lost",
            self.total,
            self.free,
            self.fill,
            self.send,
            self.backlog,
            self.travelling,
            self.quarantined
        )
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "worker {} {}",
            self.index,
            others(self.counts.texts(), &[])
        )
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let uplink = self.uplink.as_deref().unwrap_or("no uplink");
        let vlan = self.vlan.map(|vlan| format!(" VLAN {vlan}"));
        let vlan = vlan.unwrap_or_default();
        let host = if self.host { ", host port" } else { "" };
        writeln!(
            f,
            "bridge   {}: {uplink}{vlan}{host}, {} ports, {} addresses learnt, {} not learnt for lack of room",
            self.name, self.ports, self.learnt, self.not_learnt
        )
    }
}

impl fmt::Display for FdbEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.mac, self.bridge)?;
        if self.vlan != 0 {
            write!(f, " vlan {}", self.vlan)?;
        }
        write!(f, " behind {}: {}", self.port, self.kind)?;
        match self.age_seconds {
            Some(age) => write!(f, ", heard {age} s ago"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let link = if self.link_up { "up" } else { "DOWN" };
        let standby = if self.standby { " standing by" } else { "" };
        writeln!(
            f,
            "uplink   {} on {}{standby}: link {link}, mtu {} (at most {}), XDP {} {copy}, {} queues",
            self.ifname,
            self.bridge,
            self.mtu,
            self.largest_mtu,
            self.xdp_mode,
            self.queues.len()
        )?;
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl fmt::Display for UplinkQueue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        device_queue(f, self.queue, self.worker, &self.counts)?;
        self.bulk.fmt(f)?;
        details(f, others(self.counts.texts(), &UPLINK_TRAFFIC))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let link = if self.link_up { "up" } else { "DOWN" };
        writeln!(
            f,
            "host     {}: link {link}, mtu {}, mac {}, {} queues",
            self.ifname,
            self.mtu,
            self.mac,
            self.queues.len()
        )?;
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl fmt::Display for HostQueue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        device_queue(f, self.queue, self.worker, &self.counts)?;
        details(f, others(self.counts.texts(), &UPLINK_TRAFFIC))
    }
}

/// The first line of one queue of an uplink or a host port.
fn device_queue(
    f: &mut Formatter<'_>,
    queue: u32,
    worker: u8,
    counts: &UplinkCounts,
) -> fmt::Result {
    writeln!(
        f,
        "  queue {queue} (worker {worker})  recv {} packets {} bytes{}  send {} packets {} bytes{}",
        counts.recv_packets,
        counts.recv_bytes,
        dropped(counts.texts(), "recv_drops"),
        counts.send_packets,
        counts.send_bytes,
        dropped(counts.texts(), "send_drops")
    )
}

impl fmt::Display for Bulk {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let reason = self.reason.as_deref();
        let because = reason.map_or(String::new(), |reason| format!(", because {reason}"));
        writeln!(
            f,
            "    large packets are segmented by {}{because}",
            match &*self.segmented_by {
                "device" => "the device",
                other => other,
            }
        )
    }
}

impl fmt::Display for Vif {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "vif      {} on {}: {}{}, mac {}, backend {}, frontend {}",
            self.vif,
            self.bridge.as_deref().unwrap_or("-"),
            self.service,
            stalled(self.stalled_seconds),
            self.mac.as_deref().unwrap_or("-"),
            self.backend_state,
            self.frontend_state
        )?;
        if let Some(reason) = &self.reason {
            writeln!(f, "  because {reason}")?;
        }
        details(f, access(self.vlan.as_deref(), self.filter.as_ref()))?;
        if let Some(features) = &self.features {
            writeln!(f, "  features {}", names(features))?;
        }
        if self.rate.is_some() || self.rate_in.is_some() {
            let shown = |rate: &Option<String>| rate.clone().unwrap_or("no limit".into());
            writeln!(
                f,
                "  may send {}, receive {}",
                shown(&self.rate),
                shown(&self.rate_in)
            )?;
        }
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(
            f,
            "  queue {} (worker {})  tx {} packets {} bytes{}  rx {} packets {} bytes{}",
            self.queue,
            self.worker,
            counts.tx_packets,
            counts.tx_bytes,
            dropped(counts.texts(), "tx_drops"),
            counts.rx_packets,
            counts.rx_bytes,
            dropped(counts.texts(), "rx_drops")
        )?;
        details(f, others(counts.texts(), &QUEUE_TRAFFIC))
    }
}

/// `, dropped 3 runt 1 no_frame`, or nothing.
fn dropped(mut texts: impl Iterator<Item = (&'static str, String)>, name: &str) -> String {
    let drops = texts.find(|(counter, _)| *counter == name);
    drops.map_or(String::new(), |(_, drops)| format!(", dropped {drops}"))
}

/// Name and value of every counter that is not zero and not in `shown`.
fn others(texts: impl Iterator<Item = (&'static str, String)>, shown: &[&str]) -> String {
    let others = texts.filter(|(name, _)| !shown.contains(name));
    let texts: Vec<String> = others
        .map(|(name, text)| format!("{name} {text}"))
        .collect();
    texts.join("  ")
}

/// ` but STALLED: ...`, or nothing.
fn stalled(seconds: Option<u64>) -> String {
    seconds.map_or(String::new(), |seconds| {
        format!(" but STALLED: takes no packets for {seconds} s")
    })
}

/// The names of the features that were negotiated, as in the JSON.
fn names(features: &Features) -> String {
    let features = serde_json::to_value(features).unwrap_or_default();
    let features = features.as_object().into_iter().flatten();
    let names: Vec<&str> = features
        .filter(|(_, on)| **on == true)
        .map(|(name, _)| &**name)
        .collect();
    match names.is_empty() {
        true => "none".into(),
        false => names.join(" "),
    }
}

/// The VLANs that an interface is in, and what its guest may send, where it is held to anything.
fn access(vlan: Option<&str>, filter: Option<&Filter>) -> String {
    let mut words: Vec<String> = vlan
        .map(|vlan| format!("vlan {vlan}"))
        .into_iter()
        .collect();
    if let Some(filter) = filter {
        words.extend(filter.mac_lock.then(|| "MAC locked".into()));
        words.extend(filter.ip.as_ref().map(|ip| format!("ip {ip}")));
        words.extend(filter.isolated.then(|| "isolated".into()));
    }
    words.join(", ")
}

/// A line that belongs to what is above it, unless there is nothing in it.
fn details(f: &mut Formatter<'_>, text: String) -> fmt::Result {
    match text.is_empty() {
        true => Ok(()),
        false => writeln!(f, "    {text}"),
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// What every counter and every reason for a drop in `status` means: `netback status --explain`.
pub fn explanation() -> String {
    let mut text = String::new();
    let groups: [(&str, &[Declared]); 3] = [
        ("Each worker:", WorkerStats::DECLARED),
        (
            "Each queue of an uplink (recv is from the wire, send to it) or a host port (recv is from this domain's own stack, send to it):",
            UplinkStats::DECLARED,
        ),
        (
            "Each queue of a vif (tx and rx are the guest's):",
            QueueStats::DECLARED,
        ),
    ];
    for (title, counters) in groups {
        let lines = counters
            .iter()
            .map(|counter| (counter.name, counter.kind.name(), counter.help.trim()));
        explain(&mut text, title, lines);
    }
    let reasons = DropReason::ALL
        .iter()
        .map(|reason| (reason.name(), "reason", reason.help().trim()));
    explain(&mut text, "Why packets are dropped:", reasons);
    text
}

fn explain<'a>(
    text: &mut String,
    title: &str,
    lines: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{title}");
    for (name, kind, help) in lines {
        let _ = writeln!(text, "  {name:<20} {kind:<8} {help}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::counters::{QueueCounts, WorkerCounts};
    use serde_json::Value;

    fn names(counts: &Value) -> Vec<&str> {
        counts
            .as_object()
            .unwrap()
            .keys()
            .map(|key| &**key)
            .collect()
    }

    fn declared(counters: &[Declared]) -> Vec<&'static str> {
        let mut names: Vec<_> = counters.iter().map(|counter| counter.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_declared_counter_is_in_the_json_and_explained() {
        let queue = serde_json::to_value(QueueCounts::from(&QueueStats::default())).unwrap();
        let uplink = serde_json::to_value(UplinkCounts::from(&UplinkStats::default())).unwrap();
        let worker = serde_json::to_value(WorkerCounts::from(&WorkerStats::default())).unwrap();
        let explanation = explanation();
        for (counts, counters) in [
            (&queue, QueueStats::DECLARED),
            (&uplink, UplinkStats::DECLARED),
            (&worker, WorkerStats::DECLARED),
        ] {
            assert_eq!(names(counts), declared(counters));
            for Declared { name, help, .. } in counters {
                let line = explanation.lines().find(|line| {
                    line.split_whitespace().next() == Some(name) && line.ends_with(help.trim())
                });
                assert!(
                    line.is_some_and(|line| !help.trim().is_empty() && line.len() > name.len()),
                    "{name}"
                );
            }
        }
        for reason in DropReason::ALL {
            assert!(
                explanation.contains(&format!("\n  {} ", reason.name())),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn the_text_has_a_vifs_features_and_a_bridges_numbers() {
        let features = Features {
            sg: true,
            csum_ipv4: true,
            ..Features::default()
        };
        assert_eq!(super::names(&features), "csum_ipv4 sg");
        assert_eq!(super::names(&Features::default()), "none");
        let bridge = Bridge {
            name: "xenbr0".into(),
            uplink: None,
            vlan: None,
            host: false,
            ports: 3,
            learnt: 20,
            not_learnt: 4,
        };
        assert_eq!(
            bridge.to_string(),
            "bridge   xenbr0: no uplink, 3 ports, 20 addresses learnt, 4 not learnt for lack of room\n"
        );
    }

    #[test]
    fn the_text_names_a_stalled_guest() {
        let vif = |stalled_seconds| {
            let value = serde_json::json!({
                "vif": "3/0", "domid": 3, "devid": 0, "mac": null, "bridge": "xenbr0", "service": "served",
                "backend_state": "Connected", "frontend_state": "Connected", "stalled_seconds": stalled_seconds, "queues": [],
            });
            serde_json::from_value::<Vif>(value).unwrap().to_string()
        };
        let line = |service: &str| {
            format!(
                "vif      3/0 on xenbr0: {service}, mac -, backend Connected, frontend Connected\n"
            )
        };
        assert_eq!(vif(None), line("served"));
        let stalled = "served but STALLED: takes no packets for 75 s";
        assert_eq!(vif(Some(75)), line(stalled));
    }

    #[test]
    fn the_text_has_what_a_vif_is_held_to() {
        let filter = |mac_lock, ip: Option<&str>, isolated| Filter {
            mac_lock,
            ip: ip.map(Into::into),
            isolated,
        };
        assert_eq!(access(None, Some(&filter(false, None, false))), "");
        let all = filter(true, Some("192.0.2.7"), true);
        assert_eq!(
            access(Some("10p/20"), Some(&all)),
            "vlan 10p/20, MAC locked, ip 192.0.2.7, isolated"
        );
    }

    #[test]
    fn the_text_has_every_counter_that_is_not_zero() {
        let stats = QueueStats::default();
        stats.tx_packets.add(7);
        stats.checksum_fixups.add(3);
        stats.backlog_packets.set(2);
        stats.rx_drops.add(DropReason::NoFrame, 4);
        let text = Queue {
            queue: 0,
            worker: 1,
            counts: (&stats).into(),
        }
        .to_string();
        assert_eq!(
            text,
            "  queue 0 (worker 1)  tx 7 packets 0 bytes  rx 0 packets 0 bytes, dropped 4 no_frame\n    \
             checksum_fixups 3  backlog_packets 2  tx_ring 0/0/0  rx_ring 0/0/0\n"
        );
    }
}
