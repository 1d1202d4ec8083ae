//! What is measured, and how: a load, what of it arrived, and what the processor time of driver domain and dom0 grew by meanwhile.

use super::host_port;
use crate::cases;
use crate::kind::DriverType;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, bail, ensure};

/// Payload of a TCP segment on a network with an MTU of 1500 and with timestamps: what counts as a packet of TCP, however many of them
/// a backend moves at once.
const TCP_PAYLOAD: f64 = 1448.0;
/// Milliseconds between two pings.
const PING_INTERVAL: u32 = 10;
/// Bytes of an echo request or reply on the wire, and of the two together.
const PING_BYTES: f64 = 2.0 * 98.0;

/// One work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    from: Place,
    to: Place,
    load: Load,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Equal UDP frames of so many bytes (without the checksum of Ethernet) from the kernel's packet generator, as fast as it can.
    Frames(u32),
    /// So many streams of iperf3 at a time.
    Tcp(u8),
    /// Echo requests, one at a time.
    Ping,
    /// Echo requests beside a stream of TCP in the same direction, which takes all that it can get.
    PingBesideTcp,
}

const GUEST: Place = Place::Guest(1);
const OTHER: Place = Place::Guest(2);
const HERE: Place = Place::DriverDomain;

/// In the order in which they are done.
const WORKS: [Work; 12] = [
    Work::new(GUEST, Place::Peer, Load::Frames(60)),
    Work::new(Place::Peer, GUEST, Load::Frames(60)),
    Work::new(Place::Peer, GUEST, Load::Frames(1514)),
    Work::new(GUEST, OTHER, Load::Frames(60)),
    Work::new(GUEST, Place::Peer, Load::Tcp(1)),
    Work::new(Place::Peer, GUEST, Load::Tcp(1)),
    Work::new(GUEST, OTHER, Load::Tcp(1)),
    Work::new(GUEST, Place::Peer, Load::Ping),
    Work::new(GUEST, Place::Peer, Load::PingBesideTcp),
    Work::new(GUEST, OTHER, Load::PingBesideTcp),
    // The last ones, for the bridge has an address from here on.
    Work::new(GUEST, HERE, Load::Tcp(1)),
    Work::new(HERE, GUEST, Load::Tcp(1)),
];

/// All works; those of TCP with `streams` at a time as well as with one.
pub fn works(streams: u8) -> Vec<Work> {
    let several = |work: &Work| match work.load {
        Load::Tcp(1) if streams > 1 => Some(Work::new(work.from, work.to, Load::Tcp(streams))),
        _ => None,
    };
    let both = |work: &Work| [Some(*work), several(work)];
    WORKS.iter().flat_map(both).flatten().collect()
}

/// What one work came to on one machine.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The load that reached its end.
    pub arrived: Arrived,
    /// The processor time that the domains took for the load.
    pub time: ProcessorTime,
}

/// Seconds that processors ran for domains, the hypervisor's work for these included.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorTime {
    /// For the domain that the backend is in.
    pub backend: f64,
    /// For dom0 and, where there is one, the driver domain. The peer is in dom0, and what it takes is in there.
    pub with_dom0: f64,
}

/// How much of a load reached its end.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// The rate, in the work's unit.
    pub rate: f64,
    /// The number of packets that reached the end.
    pub packets: f64,
    /// The number of bytes that reached the end.
    pub bytes: f64,
}

impl Work {
    const fn new(from: Place, to: Place, load: Load) -> Self {
        Self { from, to, load }
    }

    /// What is done, as a reader calls it.
    pub fn name(&self) -> String {
        match self.load {
            Load::Frames(size) => format!("{size} B frames"),
            Load::Tcp(1) => String::from("TCP"),
            Load::Tcp(streams) => format!("TCP, {streams} streams"),
            Load::Ping => String::from("ping"),
            Load::PingBesideTcp => String::from("ping beside TCP"),
        }
    }

    /// From where to where, as a reader calls it.
    pub fn direction(&self) -> String {
        let name = |place: Place| match place {
            Place::Guest(_) => String::from("guest"),
            place => place.to_string(),
        };
        format!("{} to {}", name(self.from), name(self.to))
    }

    /// Of the rate; of a ping it is the round trip, and less is better.
    pub fn unit(&self) -> &'static str {
        match self.load {
            Load::Frames(_) => "packets/s",
            Load::Tcp(_) => "Mbit/s",
            Load::Ping => "ms round trip",
            Load::PingBesideTcp => "ms round trip of 99 in 100",
        }
    }

    /// Whether the driver domain itself is an end of the work.
    pub fn ends_at_the_backend(&self) -> bool {
        self.from == HERE || self.to == HERE
    }

    /// Do it for `seconds` of virtual time.
    pub fn measure(&self, machine: &Machine, seconds: u32) -> Result<Sample> {
        self.prepare(machine)?;
        let before = processor_time(machine)?;
        let arrived = match self.load {
            Load::Frames(size) => self.frames(machine, size, seconds),
            Load::Tcp(streams) => self.tcp(machine, streams, seconds),
            Load::Ping => self.ping(machine, seconds),
            Load::PingBesideTcp => self.ping_beside_tcp(machine, seconds),
        }?;
        let after = processor_time(machine)?;
        ensure!(arrived.packets > 0.0, "nothing arrived");
        Ok(Sample {
            arrived,
            time: ProcessorTime {
                backend: after.backend - before.backend,
                with_dom0: after.with_dom0 - before.with_dom0,
            },
        })
    }

    /// Neighbours are resolved and addresses learnt before anything counts.
    fn prepare(&self, machine: &Machine) -> Result<()> {
        if self.ends_at_the_backend() {
            host_port::give(machine)?;
        }
        let warm = format!("ping -q -c 3 -i 0.2 10.9.0.{}", self.to.tested());
        machine.must(self.from, &warm).map(drop)
    }

    fn frames(&self, machine: &Machine, size: u32, seconds: u32) -> Result<Arrived> {
        let (from, to) = (device(self.from), device(self.to));
        let received = || {
            number(
                machine,
                self.to,
                &format!("cat /sys/class/net/{to}/statistics/rx_packets"),
            )
        };
        let mac = machine.must(self.to, &format!("cat /sys/class/net/{to}/address"))?;
        let before = received()?;
        let said = machine.must(
            self.from,
            &format!("{PKTGEN}pktgen {from} {size} {seconds} {}", mac.trim()),
        )?;
        let packets = received()? - before;
        let microseconds: f64 = said
            .split("OK: ")
            .nth(1)
            .and_then(|rest| rest.split('(').next()?.parse().ok())
            .with_context(|| format!("pktgen says: {}", said.trim()))?;
        Ok(Arrived {
            rate: packets / microseconds * 1e6,
            packets,
            bytes: packets * f64::from(size),
        })
    }

    fn tcp(&self, machine: &Machine, streams: u8, seconds: u32) -> Result<Arrived> {
        // The client is in a guest, whoever sends.
        let (client, server, reverse) = match self.from {
            Place::Peer | HERE => (self.to, self.from, " -R"),
            from => (from, self.to, ""),
        };
        let arguments = format!("-P {streams} -t {seconds}{reverse}");
        let end = cases::iperf(machine, client, server, &arguments)?;
        let figure = |key: &str| {
            end["sum_received"][key]
                .as_f64()
                .with_context(|| format!("iperf3 reports no {key}"))
        };
        let bytes = figure("bytes")?;
        Ok(Arrived {
            rate: figure("bits_per_second")? / 1e6,
            packets: bytes / TCP_PAYLOAD,
            bytes,
        })
    }

    fn ping(&self, machine: &Machine, seconds: u32) -> Result<Arrived> {
        let count = pings(seconds);
        let said = machine.must(
            self.from,
            &format!(
                "ping -q -i 0.0{PING_INTERVAL} -c {count} 10.9.0.{}",
                self.to.tested()
            ),
        )?;
        let average = said
            .lines()
            .last()
            .and_then(|line| line.split('/').nth(4)?.parse().ok());
        Ok(Arrived {
            rate: average.with_context(|| format!("ping says: {}", said.trim()))?,
            packets: 2.0 * f64::from(count),
            bytes: PING_BYTES * f64::from(count),
        })
    }

    /// Pings and a stream at once. The rate is the round trip that 99 of 100 pings stay within, packets and bytes are those of both.
    fn ping_beside_tcp(&self, machine: &Machine, seconds: u32) -> Result<Arrived> {
        let count = pings(seconds);
        // Connections are made and windows open when the pings begin, and the stream ends after them.
        let ping = format!(
            "sleep 1; ping -i 0.0{PING_INTERVAL} -c {count} 10.9.0.{}",
            self.to.tested()
        );
        let (tcp, said) = std::thread::scope(|scope| {
            let tcp = scope.spawn(|| self.tcp(machine, 1, 4 * seconds + 3));
            let said = machine.must(self.from, &ping);
            (super::joined(tcp), said)
        });
        let (tcp, said) = (tcp?, said?);
        Ok(Arrived {
            rate: ninety_ninth(&said, count as usize).with_context(|| {
                format!("of {count} pings more than one in a hundred were lost")
            })?,
            packets: tcp.packets + 2.0 * f64::from(count),
            bytes: tcp.bytes + PING_BYTES * f64::from(count),
        })
    }
}

/// How many requests a work of `seconds` sends: for four times as long, which costs little while nothing else runs.
fn pings(seconds: u32) -> u32 {
    4 * seconds * 1000 / PING_INTERVAL
}

/// The round trip in milliseconds that 99 of 100 of `count` pings stay within, by what ping(8) printed of each reply. A lost one stays within
/// none: `None` where too many were lost.
fn ninety_ninth(said: &str, count: usize) -> Option<f64> {
    let times = said.lines().filter_map(|line| {
        let (time, _) = line.split_once(" time=")?.1.split_once(' ')?;
        time.parse().ok()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
        .get((count * 99).div_ceil(100).checked_sub(1)?)
        .copied()
}

/// pktgen DEVICE SIZE SECONDS MAC. The frames go to an address that is nobody's, so that the receiver's stack does as little as it can.
const PKTGEN: &str = r#"pktgen() {
modprobe pktgen; d=/proc/net/pktgen
echo rem_device_all > $d/kpktgend_0; echo "add_device $1" > $d/kpktgend_0
for o in 'count 0' 'clone_skb 0' 'burst 1' "pkt_size $2" 'dst 10.9.0.99' "dst_mac $4" 'udp_dst_min 9' 'udp_dst_max 9'; do echo "$o" > $d/$1; done
timeout -s INT $3 bash -c "echo start > $d/pgctrl"
cat $d/$1; }
"#;

/// The interface under test.
fn device(place: Place) -> &'static str {
    match place {
        Place::Peer => "peer0",
        _ => "test0",
    }
}

fn number(machine: &Machine, place: Place, command: &str) -> Result<f64> {
    let said = machine.must(place, command)?;
    said.trim()
        .parse()
        .with_context(|| format!("{place}: `{command}` says {}", said.trim()))
}

/// The processor time since the domains were made, as Xen counts it. By libxc's bindings, for xl prints tenths of a second.
fn processor_time(machine: &Machine) -> Result<ProcessorTime> {
    let kind = machine.kind();
    let release = kind.release.xen();
    let backend = match kind.driver {
        DriverType::Dom0 => "0",
        _ => "$(xl domid driver-domain)",
    };
    let command = format!(
        "PYTHONPATH=/usr/lib/xen-{release}/lib/python python3 -S -c '{NANOSECONDS}' {backend}"
    );
    let said = machine.must(Place::Dom0, &command)?;
    let words = said.split_whitespace();
    let seconds: Vec<f64> = words
        .flat_map(|word| word.parse())
        .map(|ns: f64| ns / 1e9)
        .collect();
    let [backend, with_dom0] = seconds[..] else {
        bail!("libxc's bindings say: {}", said.trim());
    };
    Ok(ProcessorTime { backend, with_dom0 })
}

/// Python: nanoseconds that processors ran for the domain with the number in the first argument, and for that domain and dom0 together.
const NANOSECONDS: &str = r#"
import sys
from xen.lowlevel.xc import xc
backend = int(sys.argv[1])
domains = {domain: xc().domain_getinfo(domain, 1)[0]["cpu_time"] for domain in {0, backend}}
print(domains[backend], sum(domains.values()))"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_round_trips_one_may_be_longer() {
        let line = |n: u32| format!("64 bytes from 10.9.0.1: icmp_seq={n} ttl=64 time={n}.5 ms\n");
        let said: String = (0..200).rev().map(line).collect();
        assert_eq!(ninety_ninth(&said, 200), Some(197.5));
        // Two of 202 were lost, which is one in a hundred; three of 203 are more.
        assert_eq!(ninety_ninth(&said, 202), Some(199.5));
        assert_eq!(ninety_ninth(&said, 203), None);
        assert_eq!(ninety_ninth("3 packets transmitted, 0 received", 3), None);
    }

    #[test]
    fn several_streams_are_measured_beside_one() {
        let names = |streams| -> Vec<String> {
            let works = works(streams).into_iter();
            let tcp = works.filter(|work| matches!(work.load, Load::Tcp(_)));
            tcp.map(|work| format!("{}, {}", work.name(), work.direction()))
                .collect()
        };
        let one = [
            "TCP, guest to peer",
            "TCP, peer to guest",
            "TCP, guest to guest",
            "TCP, guest to driver-domain",
            "TCP, driver-domain to guest",
        ];
        assert_eq!(names(1), one);
        let both = one.map(|name| [name.into(), name.replace("TCP", "TCP, 8 streams")]);
        assert_eq!(names(8), both.concat());
        assert_eq!(works(1), WORKS);
    }
}
