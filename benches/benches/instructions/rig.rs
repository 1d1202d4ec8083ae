//! One worker with two guests and a device, in this thread, over the fake hypervisor. Every round is alike: the source has a burst
//! ready, the worker turns, the receiver takes what came.
use crate::guest::Guest;
use crate::tcp::Tcp;
use crate::wire::{Traffic, Wire};
use anyhow::{Context, Result, ensure};
use benches::live::frame;
use clap::ValueEnum;
use netback::bounds::STAGING_PAGES;
use netback::hypervisor::Hypervisor;
use netback::queue::limits::Limits;
use netback::queue::setup::QueueSetup;
use netback::vif::features::Features;
use netback::vif::file::{Identity, RingIdentity, VifFile};
use netback::vif::multicast::Multicast;
use netback::worker::driver::{Driver, ServedBy};
use netback::worker::messages::ToWorker;
use netback::worker::wake::Waker;
use netback::worker::{WorkerSetup, mesh};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use xen::fake::{Events, Grants, OwnPages};
use xsk_bridge::frame::Umem;
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::vlan::Vlans;
use xsk_bridge::switch::{Bridge, PortId, PortKind, Rules};

/// The fake hypervisor.
pub enum Fake {}

impl Hypervisor for Fake {
    type Grants = Grants;
    type Events = Events;
}

/// A path that packets take through the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Path {
    /// A guest's Tx ring to another's Rx ring.
    #[serde(rename = "guest -> guest")]
    GuestToGuest,
    /// A guest's Tx ring to a device.
    #[serde(rename = "guest -> wire")]
    GuestToWire,
    /// A device to a guest's Rx ring.
    #[serde(rename = "wire -> guest")]
    WireToGuest,
    /// A device to the Rx ring of a guest that segments itself: TCP segments of one stream, which are merged.
    #[serde(rename = "wire -> guest, TCP merged")]
    SegmentsToGuest,
    /// The same, each segment of another stream than the one before it.
    #[serde(rename = "wire -> guest, TCP alone")]
    StreamsToGuest,
    /// As `GuestToWire`, the guest held to its MAC and an address.
    #[serde(rename = "guest -> filter -> wire")]
    FilteredToWire,
    /// As `GuestToWire`, the guest in a VLAN whose tag goes in.
    #[serde(rename = "guest -> VLAN of the wire")]
    GuestToVlan,
    /// As `WireToGuest`, the guest in a VLAN whose tag comes out.
    #[serde(rename = "VLAN of the wire -> guest")]
    VlanToGuest,
}

impl Path {
    fn is_tcp(self) -> bool {
        matches!(self, Self::SegmentsToGuest | Self::StreamsToGuest)
    }

    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestToGuest => "guest -> guest",
            Self::GuestToWire => "guest -> wire",
            Self::WireToGuest => "wire -> guest",
            Self::SegmentsToGuest => "wire -> guest, TCP merged",
            Self::StreamsToGuest => "wire -> guest, TCP alone",
            Self::FilteredToWire => "guest -> filter -> wire",
            Self::GuestToVlan => "guest -> VLAN of the wire",
            Self::VlanToGuest => "VLAN of the wire -> guest",
        }
    }

    fn is_from_wire(self) -> bool {
        !(self == Self::GuestToGuest || self.is_to_wire())
    }

    fn is_to_wire(self) -> bool {
        matches!(
            self,
            Self::GuestToWire | Self::FilteredToWire | Self::GuestToVlan
        )
    }

    /// What the guests' ports may do.
    fn rules(self) -> Rules {
        let in_vlan = matches!(self, Self::GuestToVlan | Self::VlanToGuest);
        Rules {
            vlans: in_vlan.then(|| Vlans::access(VLAN)),
            isolated: false,
        }
    }

    /// A frame as the wire has it.
    fn on_wire(self, frame: Vec<u8>) -> Vec<u8> {
        match self.rules().vlans {
            Some(_) => [&frame[..12], &[0x81, 0, 0, VLAN as u8], &frame[12..]].concat(),
            None => frame,
        }
    }

    /// Bytes of the frames that are counted. The device carries none of 4096 bytes: a UMEM frame has room for 3840.
    pub fn sizes(self) -> &'static [usize] {
        match self {
            Self::GuestToGuest => &[64, 1500, 4096],
            Self::SegmentsToGuest | Self::StreamsToGuest => &[1514],
            _ => &[64, 1500],
        }
    }
}

/// Bytes of the headers of a TCP segment over IPv4, with a timestamp.
const HEADERS: usize = 66;
/// Packets that the source has ready each turn.
const BURST: usize = 64;
/// Turns before the ones that are counted: caches of the worker's are filled, its lists have grown.
const WARM_UP: usize = 100;
/// Turns that are counted.
const COUNTED: usize = 400;

/// The VLAN that guests are in, on paths with one.
const VLAN: u16 = 10;
const UPLINK: PortId = PortId(1);
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0xff];

struct Rig {
    driver: Driver<Fake>,
    grants: Arc<Grants>,
    events: Arc<Events>,
    bridge: Arc<Bridge>,
    guests: [Guest; 2],
    traffic: Arc<Traffic>,
    directory: PathBuf,
    path: Path,
    size: usize,
    turned: usize,
}

/// What passed while instructions were counted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Passed {
    /// Packets that reached the path's end.
    pub packets: usize,
    /// Operations of the grant copies made for them.
    pub operations: usize,
    /// Bytes that these operations moved, where that is counted.
    pub copied_bytes: Option<usize>,
}

/// Turns a worker. Returns what passed it in the turns that are counted.
pub fn run(path: Path, size: usize) -> Result<Passed> {
    let mut rig = Rig::new(path, size)?;
    for _ in 0..WARM_UP {
        rig.prepare();
        rig.driver.turn();
        rig.receive()?;
    }
    rig.grants.take_calls();
    let mut passed = Passed::default();
    for _ in 0..COUNTED {
        rig.prepare();
        counted_turn(&mut rig);
        passed.packets += rig.receive()?;
    }
    ensure!(
        rig.turned == COUNTED && passed.packets > 0,
        "no packet passed"
    );
    let calls = rig.grants.take_calls();
    passed.operations = calls.iter().map(|call| call.segments).sum();
    passed.copied_bytes = Some(calls.iter().map(|call| call.bytes).sum());
    Ok(passed)
}

/// What callgrind counts: this function alone, and what it calls.
#[inline(never)]
fn counted_turn(rig: &mut Rig) {
    rig.driver.turn();
    rig.turned += 1;
}

impl Rig {
    fn new(path: Path, size: usize) -> Result<Self> {
        let (umem, frames) = Umem::new(4096)?;
        let (grants, events) = (Arc::new(Grants::default()), Arc::new(Events::default()));
        let mesh = mesh(1)?.into_iter().next().context("one worker")?;
        let driver = Driver::new(WorkerSetup {
            index: 0,
            mesh,
            grants: grants.clone(),
            events: events.clone(),
            granted: Some(Box::new(OwnPages::new(&grants, 1, STAGING_PAGES))),
            umem: umem.clone(),
            frames,
            poll: Duration::ZERO,
            core: None,
            stats: Arc::default(),
            control: Arc::new(Waker::new()?),
        })?;
        let directory = std::env::temp_dir().join(format!("netback-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let guests = [1, 2].map(|number| Guest::new(number, &grants));
        let mut rig = Self {
            driver,
            grants,
            events,
            bridge: Arc::new(Bridge::new("xenbr0")),
            guests,
            traffic: Arc::default(),
            directory,
            path,
            size,
            turned: 0,
        };
        rig.connect(umem)?;
        Ok(rig)
    }

    /// Gives the worker its device and its guests.
    fn connect(&mut self, umem: Umem) -> Result<()> {
        let [first, second] = self.guests.each_ref().map(Guest::mac);
        let arriving = match self.path {
            Path::SegmentsToGuest => segments(self.size, second, 0),
            Path::StreamsToGuest => segments(self.size, second, 1),
            _ => vec![self.path.on_wire(frame(self.size, OUTSIDE, second))],
        };
        let device = Wire::new(umem, arriving, self.traffic.clone());
        self.bridge.add_port(UPLINK, PortKind::Uplink);
        self.driver.send(ToWorker::AddUplink {
            port_id: UPLINK,
            index: 1,
            standby: false,
            queue: 0,
            bridge: self.bridge.clone(),
            device: Box::new(device),
            large: None,
            stats: Arc::default(),
        });
        self.driver
            .send(ToWorker::SetPort(UPLINK, ServedBy::Uplink(vec![0])));
        for guest in &self.guests {
            let setup = self.queue(guest)?;
            let (kind, rules) = (PortKind::Guest(guest.mac()), self.path.rules());
            self.bridge.add_port_with(guest.port(), kind, &rules);
            self.driver.send(ToWorker::AddQueue(Box::new(setup)));
            self.driver
                .send(ToWorker::SetPort(guest.port(), ServedBy::Guest(vec![0])));
        }
        // The switch has heard of who is outside.
        let heard = self.path.on_wire(frame(64, OUTSIDE, [0xff; 6]));
        self.bridge.decide(UPLINK, &heard, 0);
        let to = match self.path.is_to_wire() {
            true => OUTSIDE,
            false => second,
        };
        self.guests[0].load(&self.grants, &frame(self.size, first, to));
        Ok(())
    }

    fn queue(&self, guest: &Guest) -> Result<QueueSetup<Fake>> {
        let [tx_gref, rx_gref] = Guest::RINGS;
        let identity = Identity {
            vif: guest.id().vif,
            queues: vec![RingIdentity {
                tx_gref,
                rx_gref,
                tx_port: guest.event().0,
                rx_port: guest.event().0,
            }],
        };
        let file = VifFile::create(&self.directory, &identity)?;
        let [tx_page, rx_page] = guest.map(&self.grants)?;
        Ok(QueueSetup {
            id: guest.id(),
            port_id: guest.port(),
            bridge: self.bridge.clone(),
            mac: guest.mac(),
            features: Features {
                gso_tcpv4: self.path.is_tcp(),
                sg: true,
                csum_ipv4: true,
                csum_ipv6: true,
                rx_notify: true,
                ..Features::default()
            },
            tx_page,
            rx_page,
            tx_port: guest.event(),
            rx_port: guest.event(),
            multicast: Arc::new(Multicast::new(file.multicast(), false)),
            file: file.queue(0),
            filter: match self.path {
                Path::FilteredToWire => {
                    let addresses = "192.0.2.1 2001:db8::1".parse()?;
                    Filter::new(guest.mac(), true, Some(addresses)).map(Arc::new)
                }
                _ => None,
            },
            limits: Arc::new(Limits::new(1, [None; 2], None, Instant::now())),
            take_over: false,
            stats: Arc::default(),
            backlog: Default::default(),
        })
    }

    /// Has the source send a burst, and the receiver post buffers for it.
    fn prepare(&mut self) {
        let [sender, receiver] = &mut self.guests;
        if receiver.post() {
            self.events.fire(receiver.event());
        }
        match self.path.is_from_wire() {
            true => self.traffic.arriving.store(BURST, Relaxed),
            false => {
                if sender.send(BURST, self.size) {
                    self.events.fire(sender.event());
                }
            }
        }
    }

    /// Has the receiver take what came; how many packets.
    fn receive(&mut self) -> Result<usize> {
        let [sender, receiver] = &mut self.guests;
        let answers = sender.read_answers()?;
        let received = match self.path {
            Path::SegmentsToGuest => receiver.receive_merged(self.size, HEADERS)?,
            _ => receiver.receive(self.size)?,
        };
        let sent = self.traffic.sent.swap(0, Relaxed);
        let packets = match self.path.is_to_wire() {
            true => sent,
            false => received,
        };
        let whole = self.path.is_from_wire() || answers == packets;
        ensure!(whole, "{answers} answers for {packets} packets");
        Ok(packets)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A burst of TCP segments of `size` bytes, whose port is more by `step` from one to the next.
fn segments(size: usize, to: [u8; 6], step: u16) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..size - HEADERS).map(|n| (n * 31) as u8).collect();
    let segment = |n: usize| {
        let tcp = Tcp {
            macs: std::array::from_fn(|at| [to, OUTSIDE][at / 6][at % 6]),
            port: 4000 + step * n as u16,
            id: n as u16,
            sequence: (n * payload.len()) as u32,
            ..Tcp::default()
        };
        tcp.packet(&payload)
    };
    (0..BURST).map(segment).collect()
}
