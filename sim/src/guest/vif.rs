//! A netfront and what is behind it: a TAP, or a generator and a sink.
use super::control::Command;
use super::counters::Report;
use super::frame::{Checksum, Meta, complete, locate};
use super::generator::{Generator, Sink, Stream};
use super::hostile::{self, Hostile};
use super::netfront::{Agreed, Change, Netfront, Settings};
use super::options::Options;
use super::poll::{Member, Poll, Source};
use super::tap::Tap;
use super::virtio::Header;
use crate::domain::Domain;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use xen::event::Port;
use xen::store::StoreError;

/// Frames taken from the stack or the generator for one queue in one turn, before the backend is told.
const BATCH: usize = 32;
/// Largest frame a TAP gives.
const MAX_FRAME: usize = 65_536;

/// What the guest's packets come from and go to.
enum Stack {
    Tap(TapStack),
    Packets(Packets),
}

/// A TAP that exists from the first connection on.
struct TapStack {
    name: String,
    mtu: u32,
    tap: Option<Tap>,
    /// A TAP queue's place in the poll set, and whether it is listened to.
    members: Vec<(Member, bool)>,
    /// TAP queues that have frames for us.
    readable: Vec<bool>,
    /// Blank checksums may be sent over IPv6.
    csum_ipv6: bool,
}

/// Packets made and counted here.
struct Packets {
    mac: [u8; 6],
    wanted: Option<Stream>,
    generator: Option<Generator>,
    sink: Sink,
}

/// One vif of the guest.
pub struct Vif {
    netfront: Netfront,
    stack: Stack,
    /// Between ring and stack.
    frame: Vec<u8>,
    /// It does harm instead of moving packets.
    hostile: Option<Hostile>,
}

impl Vif {
    /// Vif `n` of the guest; waits for the toolstack to make it.
    pub fn new(
        domain: &Domain,
        settings: Settings,
        options: &Options,
        n: usize,
    ) -> Result<Self, StoreError> {
        let stack = match options.tap.get(n) {
            Some(name) => Stack::Tap(TapStack {
                name: name.clone(),
                mtu: options.mtu,
                tap: None,
                members: Vec::new(),
                readable: Vec::new(),
                csum_ipv6: false,
            }),
            None => Stack::Packets(Packets {
                mac: [0; 6],
                wanted: options.generate,
                generator: None,
                sink: Sink::default(),
            }),
        };
        Ok(Self {
            netfront: Netfront::new(domain, settings)?,
            stack,
            frame: vec![0; MAX_FRAME],
            hostile: None,
        })
    }

    /// See [`Netfront::store_fd`].
    pub fn store_fd(&self) -> BorrowedFd<'_> {
        self.netfront.store_fd()
    }

    /// See [`Netfront::on_store`].
    pub fn on_store(&mut self) -> Result<Vec<Change>, StoreError> {
        self.netfront.on_store()
    }

    /// Every port with the queue that it belongs to.
    pub fn ports(&self) -> impl Iterator<Item = (usize, Port)> + '_ {
        self.netfront
            .queues
            .iter()
            .enumerate()
            .flat_map(|(n, queue)| [(n, queue.tx_port), (n, queue.rx_port)])
    }

    /// An event for queue `queue`. A disabled netfront answers none.
    pub fn event(&mut self, domain: &Domain, queue: usize, port: Port) {
        if self.netfront.is_running()
            && self.hostile.is_none()
            && let Some(queue) = self.netfront.queues.get_mut(queue)
            && let Err(why) = queue.event(domain, port)
        {
            self.netfront.disable(why);
        }
    }

    /// The stack has a frame for queue `queue`.
    pub fn tap_readable(&mut self, queue: usize) {
        if let Stack::Tap(tap) = &mut self.stack
            && let Some(readable) = tap.readable.get_mut(queue)
        {
            *readable = true;
        }
    }

    /// Bring the interface in line with the netfront.
    pub fn apply(&mut self, n: usize, change: Change, poll: &mut Poll) -> std::io::Result<()> {
        match (&mut self.stack, change) {
            (Stack::Tap(tap), Change::Connected(agreed)) => tap.connected(n, agreed, poll),
            (Stack::Tap(tap), Change::Disconnected) => tap
                .tap
                .as_ref()
                .map_or(Ok(()), |tap| tap.set_carrier(false)),
            (Stack::Packets(packets), Change::Connected(agreed)) => {
                packets.mac = agreed.mac;
                packets.start();
                Ok(())
            }
            (Stack::Packets(_), Change::Disconnected) => Ok(()),
        }
    }

    /// Do what a control command asks of this vif.
    pub fn obey(&mut self, command: &Command) -> Result<Vec<Change>, StoreError> {
        match command {
            Command::Counters | Command::Quit => {}
            Command::Close => return self.netfront.close(),
            Command::Reconnect => return self.netfront.reconnect(),
            Command::RxLimit(limit) => self.netfront.set_rx_limit(*limit),
            Command::MulticastControl(on) => self.netfront.set_multicast_control(*on)?,
            Command::Subscribe(add, address) => self.netfront.subscribe(*add, *address),
            Command::Hostile(mood) => {
                self.hostile = *mood;
                // No event was listened to meanwhile.
                for queue in &mut self.netfront.queues {
                    queue.rx_ready = true;
                }
            }
            Command::Generate(stream) => self.generate(Some(*stream)),
            Command::StopGenerator => self.generate(None),
        }
        Ok(Vec::new())
    }

    fn generate(&mut self, stream: Option<Stream>) {
        if let Stack::Packets(packets) = &mut self.stack {
            packets.wanted = stream;
            packets.generator = None;
            if self.netfront.is_running() {
                packets.start();
            }
        }
    }

    /// How long until something has to be done without an event; `None`: never.
    pub fn due(&mut self) -> Option<Duration> {
        if !self.netfront.is_running() {
            return None;
        }
        if self.hostile.is_some() {
            return Some(hostile::PAUSE);
        }
        if self.netfront.queues.iter().any(|queue| queue.rx_ready) {
            return Some(Duration::ZERO);
        }
        match &mut self.stack {
            Stack::Packets(packets)
                if self.netfront.queues.iter().any(|queue| queue.tx.has_room()) =>
            {
                packets.generator.as_mut().and_then(Generator::due)
            }
            // What is readable stays so: the poll set says it again.
            _ => None,
        }
    }

    /// Move packets both ways, a batch a queue.
    pub fn turn(&mut self, domain: &Domain, poll: &mut Poll) -> std::io::Result<()> {
        if let Some(hostile) = &mut self.hostile {
            if self.netfront.is_running() {
                hostile.strike(domain, &self.netfront.queues);
            }
            return Ok(());
        }
        for n in 0..self.netfront.queues.len() {
            if !self.netfront.is_running() {
                break;
            }
            let moved = self.receive(domain, n).and_then(|()| self.send(domain, n));
            if let Err(why) = moved {
                self.netfront.disable(why);
            }
        }
        match &mut self.stack {
            Stack::Tap(tap) => tap.listen(&self.netfront, poll),
            Stack::Packets(_) => Ok(()),
        }
    }

    fn receive(&mut self, domain: &Domain, n: usize) -> Result<(), String> {
        let queue = &mut self.netfront.queues[n];
        if !queue.rx_ready {
            return Ok(());
        }
        let mut complaint = None;
        let stack = &mut self.stack;
        let deliver = |frame: &[u8], meta: Meta| stack.deliver(n, frame, meta);
        let result = queue.receive(domain, &mut self.frame, deliver, |why| {
            complaint = Some(why)
        });
        if let Some(why) = complaint {
            self.netfront.complain(why);
        }
        result
    }

    fn send(&mut self, domain: &Domain, n: usize) -> Result<(), String> {
        let queue = &mut self.netfront.queues[n];
        self.frame.resize(MAX_FRAME, 0);
        let mut sent = 0;
        while sent < BATCH && queue.tx.has_room() {
            let Some((length, meta)) = self.stack.next(n, &mut self.frame) else {
                break;
            };
            queue
                .tx
                .send(domain, &self.frame[..length], meta, &mut queue.counters);
            sent += 1;
        }
        if sent > 0 {
            queue.publish(domain);
        }
        if !queue.tx.has_room() {
            queue.collect(domain)?;
        }
        Ok(())
    }

    /// What was counted so far.
    pub fn report(&self) -> Report {
        let mut report = self.netfront.report();
        if let Stack::Packets(packets) = &self.stack {
            report.sink = packets.sink.counters;
            report.generator_left = packets.generator.as_ref().and_then(Generator::left);
        }
        report
    }
}

impl Stack {
    /// A packet has arrived on queue `n`; false: it was dropped.
    fn deliver(&mut self, n: usize, frame: &[u8], meta: Meta) -> bool {
        match self {
            Stack::Packets(packets) => {
                packets.sink.take(frame);
                true
            }
            Stack::Tap(tap) => match (&tap.tap, Header::for_received(frame, meta)) {
                (Some(tap), Some(header)) => tap.send(n, header, frame),
                _ => false,
            },
        }
    }

    /// The next packet to send on queue `n`, put into `frame`.
    fn next(&mut self, n: usize, frame: &mut [u8]) -> Option<(usize, Meta)> {
        match self {
            Stack::Packets(packets) => packets.next(frame),
            Stack::Tap(tap) => tap.next(n, frame),
        }
    }
}

impl Packets {
    fn start(&mut self) {
        if self.generator.is_none() {
            self.generator = self
                .wanted
                .take()
                .map(|stream| Generator::new(stream, self.mac));
        }
    }

    fn next(&mut self, frame: &mut [u8]) -> Option<(usize, Meta)> {
        let generator = self.generator.as_mut()?;
        if generator.due() != Some(Duration::ZERO) {
            return None;
        }
        let bytes = generator.next_frame();
        frame[..bytes.len()].copy_from_slice(bytes);
        Some((bytes.len(), Meta::default()))
    }
}

impl TapStack {
    /// Make the TAP the first time; as many queues as the netfront has; the cable in.
    fn connected(&mut self, n: usize, agreed: Agreed, poll: &mut Poll) -> std::io::Result<()> {
        if self.tap.is_none() {
            self.tap = Some(Tap::create(&self.name, agreed.mac, self.mtu)?);
        }
        let Some(tap) = &mut self.tap else {
            return Ok(());
        };
        tap.set_queues(agreed.queues.into())?;
        tap.set_offload(agreed.tso4, agreed.tso6)?;
        self.csum_ipv6 = agreed.csum_ipv6;
        for (member, _) in self.members.drain(tap.queues().min(self.members.len())..) {
            poll.forget(member);
        }
        for queue in self.members.len()..tap.queues() {
            self.members
                .push((poll.add(tap.queue_fd(queue), Source::Tap(n, queue))?, true));
        }
        self.readable = vec![true; tap.queues()];
        tap.set_carrier(true)
    }

    /// Listen to a TAP queue only where its ring has room: a full ring leaves the stack's frames with the stack.
    fn listen(&mut self, netfront: &Netfront, poll: &Poll) -> std::io::Result<()> {
        let Some(tap) = &self.tap else { return Ok(()) };
        for (n, (member, on)) in self.members.iter_mut().enumerate() {
            let wanted = netfront.is_running()
                && netfront
                    .queues
                    .get(n)
                    .is_some_and(|queue| queue.tx.has_room());
            if wanted != *on {
                poll.listen(tap.queue_fd(n), *member, wanted)?;
                *on = wanted;
            }
        }
        Ok(())
    }

    fn next(&mut self, n: usize, frame: &mut [u8]) -> Option<(usize, Meta)> {
        if !*self.readable.get(n)? {
            return None;
        }
        match self.tap.as_ref()?.recv(n, frame) {
            Ok(Some((header, length))) => {
                let meta = self.meta(header, &mut frame[..length]);
                Some((length, meta))
            }
            // Drained, or the interface is down: the poll set tells when there is more.
            _ => {
                self.readable[n] = false;
                None
            }
        }
    }

    /// What may stay unfinished: checksums of plain TCP and UDP that the backend takes; anything else is completed here, as
    /// Linux's stack does for a device without that feature (VLAN devices on a netfront have none at all).
    fn meta(&self, header: Header, frame: &mut [u8]) -> Meta {
        let gso = header.gso();
        let Some((start, field)) = header.partial() else {
            return Meta {
                checksum: Checksum::None,
                gso,
            };
        };
        let plain =
            |l4: &super::frame::Transport| !l4.tagged && (l4.start, l4.field) == (start, field);
        let allowed = locate(frame)
            .filter(plain)
            .is_some_and(|l4| !l4.ipv6 || self.csum_ipv6);
        if gso.is_none() && !allowed && complete(frame, start, field) {
            return Meta::default();
        }
        Meta {
            checksum: Checksum::Blank,
            gso,
        }
    }
}
