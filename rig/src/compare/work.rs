//! What is measured, and how: a load, what of it arrived, and what the driver domain's processor time grew by meanwhile.

use super::host_port;
use crate::cases;
use crate::kind::DriverType;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};

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
}

const GUEST: Place = Place::Guest(1);
const OTHER: Place = Place::Guest(2);
const HERE: Place = Place::DriverDomain;

/// In the order in which they are done.
const WORKS: [Work; 10] = [
    Work::new(GUEST, Place::Peer, Load::Frames(60)),
    Work::new(Place::Peer, GUEST, Load::Frames(60)),
    Work::new(Place::Peer, GUEST, Load::Frames(1514)),
    Work::new(GUEST, OTHER, Load::Frames(60)),
    Work::new(GUEST, Place::Peer, Load::Tcp(1)),
    Work::new(Place::Peer, GUEST, Load::Tcp(1)),
    Work::new(GUEST, OTHER, Load::Tcp(1)),
    Work::new(GUEST, Place::Peer, Load::Ping),
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
    /// In the work's unit.
    pub rate: f64,
    /// Processor time of the domains that are looked at for each packet that arrived.
    pub cpu_us_per_packet: f64,
    /// And for each byte.
    pub cpu_ns_per_byte: f64,
}

/// What arrived.
struct Arrived {
    rate: f64,
    packets: f64,
    bytes: f64,
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
        }
    }

    /// Whether the driver domain itself is an end of the work.
    pub fn ends_at_the_backend(&self) -> bool {
        self.from == HERE || self.to == HERE
    }

    /// Do it for `seconds` of virtual time; the processor time is that of `domains`.
    pub fn measure(&self, machine: &Machine, seconds: u32, domains: Domains) -> Result<Sample> {
        self.prepare(machine)?;
        let before = processor_time(machine, domains)?;
        let arrived = match self.load {
            Load::Frames(size) => self.frames(machine, size, seconds),
            Load::Tcp(streams) => self.tcp(machine, streams, seconds),
            Load::Ping => self.ping(machine, seconds),
        }?;
        let seconds = processor_time(machine, domains)? - before;
        ensure!(arrived.packets > 0.0, "nothing arrived");
        Ok(Sample {
            rate: arrived.rate,
            cpu_us_per_packet: seconds * 1e6 / arrived.packets,
            cpu_ns_per_byte: seconds * 1e9 / arrived.bytes,
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
        let count = 4 * seconds * 1000 / PING_INTERVAL;
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

/// The domains whose processor time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domains {
    /// The domain that the backend is in.
    Driver,
    /// Dom0 and, where there is one, the driver domain. The peer is in dom0, and what it takes is in there.
    Dom0AndDriver,
}

/// Seconds that the processors of `domains` have run, as Xen counts them: the hypervisor's work for them is in it.
fn processor_time(machine: &Machine, domains: Domains) -> Result<f64> {
    // Name, id, vcpu, cpu, state, seconds, affinity (three words).
    let named = match (domains, machine.kind().driver) {
        (Domains::Driver, DriverType::Dom0) | (Domains::Dom0AndDriver, _) => "$1 !~ /^guest/",
        (Domains::Driver, _) => "$1 == \"driver-domain\"",
    };
    let command =
        format!("xl vcpu-list | awk 'NR > 1 && {named} {{ sum += $6 }} END {{ print sum }}'");
    number(machine, Place::Dom0, &command)
}

#[cfg(test)]
mod tests {
    use super::*;

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
