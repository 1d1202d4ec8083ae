//! Workers, guests and a wire in one thread: tests turn the workers by hand and look at what came out.
use crate::bounds::STAGING_PAGES;
use crate::copy::staging::Staging;
use crate::hypervisor::Fake;
use crate::observe::counters::{QueueStats, UplinkStats, WorkerStats};
use crate::path::ports::ServedBy;
use crate::queue::backlog::BacklogBounds;
use crate::queue::limits::Limits;
use crate::queue::setup::QueueSetup;
use crate::vif::features::Features;
use crate::vif::file::{Identity, RingIdentity, VifFile};
use crate::vif::id::{QueueId, VifId};
use crate::vif::multicast::Multicast;
use crate::worker::messages::{FromWorker, ToWorker};
use crate::worker::wake::Waker;
use crate::worker::{MESSAGES, Worker, WorkerSetup, mesh};
use crossbeam_queue::ArrayQueue;
use ring::front::FrontRing;
use ring::wire::{
    Extra, NETIF_RSP_NULL, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NETTXF_MORE_DATA, Rx, RxRequest,
    Tx, TxRequest,
};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xen::event::Port;
use xen::fake::{Access, Events, Grants, MappedPage, OWN_DOMID, OwnPages, Page};
use xen::grant::{DomId, GrantRef, GrantTable};
use xsk_bridge::device::{Cable, Device, FaultInjector, Faults};
use xsk_bridge::frame::{DATA_CAPACITY, Frame, FramePool, Umem};
use xsk_bridge::packet::{Offload, Packet};
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::{Bridge, PortId, PortKind, Rules};

pub const UPLINK: PortId = PortId(1);
/// Somebody on the wire.
pub const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0xff];

pub struct Rig {
    pub grants: Arc<Grants>,
    pub events: Vec<Arc<Events>>,
    pub workers: Vec<Worker<Fake>>,
    pub inboxes: Vec<Arc<ArrayQueue<ToWorker<Fake>>>>,
    pub outboxes: Vec<Arc<ArrayQueue<FromWorker<Fake>>>>,
    pub bridge: Arc<Bridge>,
    pub umem: Umem,
    pub frames: usize,
    /// Frames for what the wire brings.
    spare: Vec<Frame>,
    far: Cable,
    pub uplink: Arc<UplinkStats>,
    dir: PathBuf,
    started: usize,
}

static RIGS: AtomicU32 = AtomicU32::new(0);

impl Rig {
    /// `workers` workers with a pool of `frames` each; the first one has the uplink, with room for `wire` frames.
    pub fn with(workers: u8, frames: usize, wire: usize) -> Self {
        let name = format!(
            "netback-worker-{}-{}",
            std::process::id(),
            RIGS.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self::over(workers, frames, wire, Arc::default(), dir)
    }

    /// One worker, to which the kernel gave no granted pages.
    pub fn without_bounce() -> Self {
        let mut rig = Self::new();
        let worker = &mut rig.workers[0];
        worker.batch.staging = Staging::new(None, &mut worker.fabric.pool);
        rig
    }

    /// The process has died; another one finds the guests and the vifs' files.
    pub fn successor(mut self) -> Self {
        let dir = std::mem::take(&mut self.dir);
        Self::over(1, 4096, 1024, self.grants.clone(), dir)
    }

    fn over(workers: u8, frames: usize, wire: usize, grants: Arc<Grants>, dir: PathBuf) -> Self {
        let spare = 512;
        let total = usize::from(workers) * frames + spare;
        let (umem, mut all) = Umem::new(total as u32).unwrap();
        let (near, far) = Cable::pair(wire);
        let mut rig = Self {
            grants,
            events: Vec::new(),
            workers: Vec::new(),
            inboxes: Vec::new(),
            outboxes: Vec::new(),
            bridge: Arc::new(Bridge::new("xenbr0")),
            umem: umem.clone(),
            frames: total,
            spare: all.drain(..spare).collect(),
            far,
            uplink: Arc::default(),
            dir,
            started: 0,
        };
        for mesh in mesh(workers).unwrap() {
            let mine = all.drain(..frames).collect();
            rig.start(mesh, mine);
        }
        rig.bridge.add_port(UPLINK, PortKind::Uplink);
        let (bridge, stats) = (rig.bridge.clone(), rig.uplink.clone());
        rig.tell(
            0,
            ToWorker::AddUplink {
                port_id: UPLINK,
                index: 1,
                standby: false,
                queue: 0,
                bridge,
                device: Box::new(near),
                large: None,
                stats,
            },
        );
        rig.tell_all(UPLINK, ServedBy::Uplink(vec![0]));
        // The switch has heard of who is outside.
        rig.bridge
            .decide(UPLINK, &frame([0xff; 6], OUTSIDE, 60, 0), 0);
        rig
    }

    pub fn new() -> Self {
        Self::with(1, 4096, 1024)
    }

    fn start(&mut self, mesh: crate::worker::mailbox::MeshEnd, frames: Vec<Frame>) {
        let events = Arc::new(Events::default());
        let (inbox, outbox) = (
            Arc::new(ArrayQueue::new(MESSAGES)),
            Arc::new(ArrayQueue::new(MESSAGES)),
        );
        let setup = WorkerSetup {
            index: self.started as u8,
            mesh,
            grants: self.grants.clone(),
            events: events.clone(),
            granted: Some(Box::new(OwnPages::new(
                &self.grants,
                1_000_000 * (1 + self.started as u32),
                STAGING_PAGES,
            ))),
            umem: self.umem.clone(),
            frames,
            poll: Duration::ZERO,
            core: None,
            stats: Arc::new(WorkerStats::default()),
            control: Arc::new(Waker::new().unwrap()),
        };
        self.workers
            .push(Worker::new(setup, inbox.clone(), outbox.clone()).unwrap());
        self.events.push(events);
        self.inboxes.push(inbox);
        self.outboxes.push(outbox);
        self.started += 1;
    }

    pub fn tell(&self, worker: usize, message: ToWorker<Fake>) {
        assert!(self.inboxes[worker].push(message).is_ok());
    }

    pub fn tell_all(&self, port: PortId, place: ServedBy) {
        (0..self.workers.len())
            .for_each(|worker| self.tell(worker, ToWorker::SetPort(port, place.clone())));
    }

    /// A guest with one queue on worker 0, all features.
    pub fn guest(&mut self, number: u8) -> Guest {
        self.guest_on(number, 0, all_features())
    }

    pub fn guest_on(&mut self, number: u8, worker: usize, features: Features) -> Guest {
        let mut guest = Guest::new(number, worker, features, &self.grants);
        self.admit(&mut guest, false);
        self.turns(1);
        guest
    }

    /// One queue of a vif of several; its port is the caller's to make known.
    pub fn queue_of(&mut self, number: u8, queue: u16, worker: usize) -> Guest {
        let mut guest = Guest::new(number, worker, all_features(), &self.grants);
        guest.queue = queue;
        self.connect(&mut guest, false);
        self.bridge
            .add_port(guest.port(), PortKind::Guest(guest.mac()));
        guest
    }

    /// Bring the guest up: its queue, its port, everybody's map.
    pub fn admit(&mut self, guest: &mut Guest, take_over: bool) {
        self.connect(guest, take_over);
        let kind = PortKind::Guest(guest.mac());
        self.bridge.add_port_with(guest.port(), kind, &guest.rules);
        self.tell_all(guest.port(), ServedBy::Guest(vec![guest.worker as u8]));
    }

    /// Have the guest's worker serve its rings, which live on in `guest`.
    pub fn connect(&self, guest: &mut Guest, take_over: bool) {
        let [tx_gref, rx_gref] = [8, 9].map(|gref| gref + 2 * u32::from(guest.queue));
        let rings = RingIdentity {
            tx_gref,
            rx_gref,
            tx_port: guest.event().0,
            rx_port: guest.event().0,
        };
        let identity = Identity {
            vif: VifId {
                devid: guest.queue.into(),
                ..guest.id().vif
            },
            queues: vec![rings],
        };
        let file = if take_over {
            VifFile::reopen(&self.dir, &identity).unwrap()
        } else {
            VifFile::create(&self.dir, &identity).unwrap()
        };
        guest.stats = Arc::default();
        let filters = guest.features.multicast_control;
        let multicast = Arc::new(Multicast::new(file.multicast(), filters));
        guest.multicast = Some(multicast.clone());
        let setup = QueueSetup {
            id: guest.id(),
            port_id: guest.port(),
            bridge: self.bridge.clone(),
            mac: guest.mac(),
            features: guest.features,
            tx_page: self.map(guest, tx_gref, &guest.tx_page),
            rx_page: self.map(guest, rx_gref, &guest.rx_page),
            tx_port: guest.event(),
            rx_port: guest.event(),
            file: file.queue(0),
            multicast,
            filter: guest.filter.clone(),
            limits: guest.limits.clone(),
            take_over,
            stats: guest.stats.clone(),
            backlog: guest.backlog,
        };
        self.tell(guest.worker, ToWorker::AddQueue(Box::new(setup)));
    }

    /// One of the guest's rings, granted and mapped.
    fn map(&self, guest: &Guest, gref: u32, page: &Page) -> MappedPage {
        let domid = guest.id().vif.domid;
        self.grants
            .grant_page(domid, gref, page.clone(), Access::ReadWrite, OWN_DOMID);
        self.grants.map(domid, GrantRef(gref)).unwrap()
    }

    /// Every worker turns `count` times.
    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.workers.iter_mut().for_each(|worker| {
                worker.turn();
            });
        }
    }

    /// Turn until nobody has anything to do.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let busy = self
                .workers
                .iter_mut()
                .fold(false, |busy, worker| busy | worker.turn());
            if !busy {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    /// Has the first worker's uplink go wrong now and then from here on.
    pub fn make_uplink_faulty(&mut self, faults: Faults, seed: u64) {
        self.turns(1);
        let uplink = self.workers[0].fabric.uplinks[0].as_mut();
        let device = &mut uplink.expect("the first worker has the uplink").device;
        let nothing = Box::new(Cable::pair(0).0);
        let sound = std::mem::replace(device, nothing);
        *device = Box::new(FaultInjector::new(sound, faults, seed));
    }

    /// Gives both ends of the wire another MTU.
    pub fn set_wire_mtu(&mut self, mtu: u32) {
        self.tell(0, ToWorker::SetMtu(1, mtu));
        self.far.set_mtu(mtu);
        self.turns(1);
    }

    /// What the wire was sent.
    pub fn sent_to_wire(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::with_capacity(2048);
        let mut no_frames = FramePool::new(&self.umem);
        self.far.recv(&mut no_frames, &mut packets, 2048);
        packets
            .into_iter()
            .map(|packet| self.unpack(packet))
            .collect()
    }

    fn unpack(&mut self, packet: Packet) -> Vec<u8> {
        let bytes = packet.slices(&self.umem).flatten().copied().collect();
        self.workers[0].fabric.pool.recycle(packet);
        bytes
    }

    /// A frame arrives from the wire.
    pub fn arrive_from_wire(&mut self, bytes: &[u8]) {
        let mut packet: Option<Packet> = None;
        for slice in bytes.chunks(DATA_CAPACITY) {
            let mut frame = self.spare.pop().expect("a test needs no more");
            self.umem.data_mut(&mut frame)[..slice.len()].copy_from_slice(slice);
            match &mut packet {
                Some(packet) => packet.append(frame, &self.umem),
                None => packet = Some(Packet::new(frame, bytes.len() as u32, Offload::default())),
            }
        }
        let packet = packet.expect("no test sends nothing");
        let mut no_frames = FramePool::new(&self.umem);
        self.far.send(&mut [packet].into(), &mut no_frames);
    }

    /// Frames that are in pools, backlogs, outboxes, between workers, on the cable, or were never used.
    pub fn frames_found(&self) -> usize {
        let mut sum = self.spare.len() as i64;
        for worker in &self.workers {
            let backlogs: usize = worker
                .fabric
                .queues
                .iter()
                .flatten()
                .map(|q| q.rx.backlog.frames())
                .sum();
            let uplinks: usize = worker
                .fabric
                .uplinks
                .iter()
                .flatten()
                .map(|w| w.frames() + w.device.held().send as usize)
                .sum();
            sum += (worker.fabric.pool.len() + backlogs + uplinks + worker.batch.staging.frames())
                as i64
                + worker.fabric.mesh.travelling();
        }
        sum as usize + self.far.held().send as usize
    }

    pub fn notified(&self, guest: &Guest) -> u64 {
        self.events[guest.worker].take_notified(guest.event())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.dir.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn all_features() -> Features {
    Features {
        sg: true,
        csum_ipv4: true,
        csum_ipv6: true,
        rx_notify: true,
        ..Features::default()
    }
}

/// A packet as a guest received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub flags: u16,
    pub slots: usize,
    /// Status of each failed slot.
    pub errors: Vec<i16>,
    pub extra: Option<Extra>,
}

/// A frontend.
pub struct Guest {
    pub number: u8,
    pub queue: u16,
    pub backlog: BacklogBounds,
    pub limits: Arc<Limits>,
    pub worker: usize,
    pub features: Features,
    pub tx: FrontRing<Tx, Page>,
    pub rx: FrontRing<Rx, Page>,
    pub tx_page: Page,
    pub rx_page: Page,
    pub stats: Arc<QueueStats>,
    pub filter: Option<Arc<Filter>>,
    pub rules: Rules,
    /// The control thread's end of its list, once it was admitted.
    pub multicast: Option<Arc<Multicast>>,
    grants: Arc<Grants>,
    /// Id of each unanswered Tx request, in ring order; NULL slots have none.
    tx_ids: VecDeque<u16>,
    rx_ids: VecDeque<u16>,
    next_tx: u16,
    next_rx: u16,
    /// Answers read: status of each data slot, and how many NULLs.
    pub statuses: Vec<i16>,
    pub nulls: usize,
    /// The backend wants an event for what was posted last.
    pub asked_for_event: bool,
}

impl Guest {
    pub fn new(number: u8, worker: usize, features: Features, grants: &Arc<Grants>) -> Self {
        let (tx_page, rx_page) = (Page::filled(0), Page::filled(0));
        Self {
            number,
            queue: 0,
            backlog: BacklogBounds::default(),
            limits: Arc::new(Limits::new(1, [None; 2], None, Instant::now())),
            worker,
            features,
            tx: FrontRing::init(tx_page.clone()),
            rx: FrontRing::init(rx_page.clone()),
            tx_page,
            rx_page,
            stats: Arc::default(),
            filter: None,
            rules: Rules::default(),
            multicast: None,
            grants: grants.clone(),
            tx_ids: VecDeque::new(),
            rx_ids: VecDeque::new(),
            next_tx: 0,
            next_rx: 0,
            statuses: Vec::new(),
            nulls: 0,
            asked_for_event: false,
        }
    }

    pub fn port(&self) -> PortId {
        PortId(10 + u16::from(self.number))
    }

    pub fn event(&self) -> Port {
        Port(100 + u32::from(self.number) + 50 * u32::from(self.queue))
    }

    pub fn mac(&self) -> [u8; 6] {
        mac(self.number)
    }

    pub fn id(&self) -> QueueId {
        QueueId {
            vif: VifId {
                domid: DomId(self.number.into()),
                devid: 0,
            },
            queue: self.queue,
        }
    }

    /// The grant of Tx request `id`.
    pub fn tx_gref(id: u16) -> u32 {
        10_000 + u32::from(id)
    }

    fn rx_gref(&self, id: u16) -> u32 {
        20_000 + 1000 * u32::from(self.queue) + u32::from(id)
    }

    /// Puts `bytes` on the Tx ring in slots of these sizes; ids used.
    pub fn push(&mut self, bytes: &[u8], sizes: &[usize], flags: u16) -> Vec<u16> {
        self.push_chain(bytes, sizes, flags, None)
    }

    /// The same with an extra behind the first slot.
    pub fn push_with_extra(&mut self, bytes: &[u8], sizes: &[usize], flags: u16, extra: Extra) {
        self.push_chain(bytes, sizes, flags, Some(extra));
    }

    fn push_chain(
        &mut self,
        bytes: &[u8],
        sizes: &[usize],
        flags: u16,
        extra: Option<Extra>,
    ) -> Vec<u16> {
        assert_eq!(sizes.iter().sum::<usize>(), bytes.len());
        let mut at = 0;
        let mut ids = Vec::new();
        for (slot, &size) in sizes.iter().enumerate() {
            self.next_tx = (self.next_tx + 1) % 256;
            let id = self.next_tx;
            let offset = (usize::from(id) * 37) % (4097 - size);
            self.grants.grant(
                self.number.into(),
                Self::tx_gref(id),
                offset,
                &bytes[at..at + size],
                Access::ReadOnly,
            );
            let more = if slot + 1 < sizes.len() {
                NETTXF_MORE_DATA
            } else {
                0
            };
            let (flags, wire_size) = if slot == 0 {
                (flags | more, bytes.len())
            } else {
                (more, size)
            };
            self.request(TxRequest {
                gref: Self::tx_gref(id),
                offset: offset as u16,
                flags,
                id,
                size: wire_size as u16,
            });
            if let (0, Some(extra)) = (slot, extra) {
                self.extra(extra, false);
            }
            ids.push(id);
            at += size;
        }
        ids
    }

    /// Put one raw request on the ring.
    pub fn request(&mut self, request: TxRequest) {
        assert!(self.tx.free() > 0);
        self.tx.push(request);
        self.tx_ids.push_back(request.id);
    }

    /// Put an extra on the ring.
    pub fn extra(&mut self, extra: ring::wire::Extra, more: bool) {
        self.tx.push_words(&extra.to_words(more));
        self.tx_ids.push_back(u16::MAX);
    }

    /// One packet in one slot, published.
    pub fn send(&mut self, bytes: &[u8]) {
        self.push(bytes, &[bytes.len()], 0);
        let _ = self.tx.publish();
    }

    /// Read the answers to Tx requests, as strictly as netfront does.
    pub fn read_answers(&mut self) {
        while let Some((_, response)) = self.tx.pop() {
            let id = self.tx_ids.pop_front().expect("an answer nobody asked for");
            if id == u16::MAX {
                assert_eq!(response.status, NETIF_RSP_NULL);
                self.nulls += 1;
                continue;
            }
            assert_eq!(response.id, id, "netfront disables itself on a wrong id");
            self.grants.revoke(self.number.into(), Self::tx_gref(id));
            self.statuses.push(response.status);
        }
    }

    pub fn take_statuses(&mut self) -> Vec<i16> {
        self.read_answers();
        std::mem::take(&mut self.statuses)
    }

    pub fn unanswered(&self) -> usize {
        self.tx_ids.len()
    }

    /// Posts `count` Rx requests; whether the backend asked for an event is in `asked_for_event`.
    pub fn post(&mut self, count: usize) {
        for _ in 0..count {
            self.next_rx = (self.next_rx + 1) % 256;
            let id = self.next_rx;
            self.grants.grant(
                self.number.into(),
                self.rx_gref(id),
                0,
                &[],
                Access::ReadWrite,
            );
            self.rx.push(RxRequest {
                id,
                pad: 0,
                gref: self.rx_gref(id),
            });
            self.rx_ids.push_back(id);
        }
        self.asked_for_event = self.rx.publish();
    }

    /// Take the grant of the `n`-th unanswered Rx request away.
    pub fn spoil_rx(&mut self, n: usize) {
        self.grants
            .revoke(self.number.into(), self.rx_gref(self.rx_ids[n]));
    }

    /// Read whole packets off the Rx ring.
    pub fn receive(&mut self) -> Vec<Received> {
        let mut packets = Vec::new();
        let mut packet: Option<Received> = None;
        while let Some((_, response)) = self.rx.pop() {
            let id = self
                .rx_ids
                .pop_front()
                .expect("a response nobody asked for");
            assert_eq!(
                (response.id, response.offset),
                (id, 0),
                "response i sits in the slot of request i"
            );
            let gref = self.rx_gref(id);
            let current = packet.get_or_insert(Received {
                bytes: Vec::new(),
                flags: response.flags,
                slots: 0,
                errors: Vec::new(),
                extra: None,
            });
            current.slots += 1;
            if response.status < 0 {
                current.errors.push(response.status);
            } else {
                let bytes = self
                    .grants
                    .read(self.number.into(), gref, response.status as usize);
                current.bytes.extend(bytes);
            }
            self.grants.revoke(self.number.into(), gref);
            if response.flags & NETRXF_EXTRA_INFO != 0 {
                let (_, words) = self.rx.pop_words().expect("an extra was announced");
                self.rx_ids.pop_front().expect("an extra takes a request");
                current.extra = Some(Extra::from_words(words).expect("a known extra").0);
            }
            if response.flags & NETRXF_MORE_DATA == 0 {
                packets.extend(packet.take());
            }
        }
        assert!(packet.is_none(), "rsp_prod was published inside a packet");
        packets
    }
}

pub fn mac(number: u8) -> [u8; 6] {
    [0, 0x16, 0x3e, 0, 0, number]
}

/// A frame from one MAC to another, its payload told apart by `seed`.
pub fn frame(to: [u8; 6], from: [u8; 6], len: usize, seed: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = to.into_iter().chain(from).chain([0x88, 0xb5]).collect();
    bytes.extend((14..len).map(|n| {
        (n as u32)
            .wrapping_mul(31)
            .wrapping_add(seed.wrapping_mul(7919))
            .to_le_bytes()[0]
    }));
    bytes[14..18.min(len)].copy_from_slice(&seed.to_le_bytes()[..18.min(len) - 14]);
    bytes
}
