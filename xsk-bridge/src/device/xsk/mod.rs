//! A device over AF_XDP: one socket on one queue of a device, its frames those of the process's one UMEM.
//!
//! A frame's token ends where its descriptor is put into the fill or the send ring, and is made anew where the kernel hands the
//! descriptor back by the receive or the completion ring; between the two, [`Held`] counts it.
// xsk-rs's rings trust the caller that a frame is in one place at a time: the token says so.
#![allow(unsafe_code)]
mod chain;
mod counters;
mod open;
mod sockopt;

pub use counters::KernelCounters;
pub use open::{OpenError, Options};

use super::{Capabilities, Device, Held, Received, Rest, Sent, longest_frame};
use crate::frame::{AfXdp, DATA_CAPACITY, DATA_OFFSET, FRAME_SIZE, Frame, FramePool, Umem};
use crate::link::Link;
use crate::nic::{Handle, LengthLimit, mtu_limit};
use crate::packet::{MAX_FRAMES, Offload, Packet};
use crate::xdp::Attachment;
use chain::{Chain, Pushed};
use rustix::io::Errno;
use rustix::net::sockopt::xdp_options;
use rustix::net::xdp::XdpOptionsFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use xsk_rs::FrameDesc;

/// Descriptors moved between us and a ring at a time.
const BATCH: usize = 64;
const _: () = assert!(MAX_FRAMES <= BATCH);
/// Option of a descriptor (linux/if_xdp.h, XDP_PKT_CONTD): the next one is of the same packet.
const CONTINUED: u32 = 1;
/// A device that drops what it is given costs a call a packet (EBUSY): at most this many in one burst.
const DROPS_PER_SEND: u64 = 16;
/// Shortest frame of Ethernet without its check sequence. Where a frame is handed to the driver as it is, nobody else pads it.
const MIN_FRAME: usize = 60;
/// Descriptors that one call takes in copy mode (net/xdp/xsk.c, TX_BATCH_SIZE); more where XDP_MAX_TX_SKB_BUDGET was raised.
const DESCRIPTORS_PER_KICK: u32 = 32;

/// One queue of a device over AF_XDP.
#[derive(Debug)]
pub struct XskDevice {
    rings: open::Rings,
    umem: Umem,
    /// Scratch for descriptors on their way between a ring and tokens.
    batch: Box<[FrameDesc; BATCH]>,
    /// Frames of dropped packets, for the next pool that comes along.
    returned: Vec<Frame>,
    held: Held,
    /// Put into the send ring since the kernel was last kicked.
    fresh: u32,
    nic: Handle,
    down: bool,
    /// Packets that the driver dropped and that count as sent so far.
    miscounted: u64,
    zero_copy: bool,
    max_frame: usize,
    /// Most frames of a packet, or why it is one.
    frames: Result<u32, LengthLimit>,
    /// The packet of which a look at the receive ring brought a part.
    chain: Chain,
}

fn memory(umem: &Umem) -> &AfXdp {
    umem.af_xdp().expect("`open` takes a UMEM for AF_XDP only")
}

impl XskDevice {
    /// Bind `queue` of the device our program is on, with the rings of `umem`, and put the socket into the program's map.
    /// Waits up to 10 s for a predecessor's socket to go.
    pub fn open(
        umem: &Umem,
        attachment: &Attachment,
        queue: u32,
        options: Options,
    ) -> Result<XskDevice, OpenError> {
        let memory = umem.af_xdp().ok_or(OpenError::PlainMemory)?;
        let os = |action| {
            move |source| OpenError::Os {
                ifname: attachment.ifname().to_owned(),
                queue,
                action,
                source,
            }
        };
        let link = Link::by_name(attachment.ifname())
            .map_err(os("read the MTU"))?
            .ok_or_else(|| OpenError::NoInterface(attachment.ifname().to_owned()))?;
        let rings = open::bind(memory, attachment, queue, link.mtu, options)?;
        let mut device = XskDevice {
            rings,
            umem: umem.clone(),
            batch: Box::new([FrameDesc::default(); BATCH]),
            returned: Vec::with_capacity(memory.rings.send as usize),
            held: Held::default(),
            fresh: 0,
            nic: Handle::open(attachment.ifname()).map_err(os("open a control socket"))?,
            down: false,
            miscounted: 0,
            zero_copy: false,
            max_frame: 0,
            frames: Err(LengthLimit::Memory),
            chain: Chain::default(),
        };
        open::tune(device.socket(), memory, attachment, queue)?;
        let mode = xdp_options(device.socket()).map_err(|e| os("ask for the mode")(e.into()))?;
        device.zero_copy = mode.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        let can = attachment.multi_buffer();
        device.frames = match (
            can.frames(attachment.mode(), device.zero_copy),
            memory.multi_buffer.get(),
        ) {
            (Ok(_), Some(false)) => Err(LengthLimit::Memory),
            (frames, _) => frames,
        };
        open::check_mtu(attachment, link.mtu, mtu_limit(device.frames))?;
        device.set_mtu(link.mtu);
        attachment.set_socket(queue, device.socket())?;
        Ok(device)
    }

    /// True when the driver reads and writes frames itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Most frames of a packet, both ways; or why it is one.
    pub fn frames(&self) -> Result<u32, LengthLimit> {
        self.frames
    }

    /// What the kernel counts of this queue.
    pub fn kernel_counters(&self) -> io::Result<KernelCounters> {
        KernelCounters::read(self.socket())
    }

    /// A second descriptor of the socket, for another thread's [`KernelCounters::read`]. The queue stays bound while it lives.
    pub fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        self.socket().try_clone_to_owned()
    }

    /// Take back what the kernel has handed back, and close the socket. Frames that are still in its hands go to
    /// [`Umem::quarantined`].
    pub fn close(mut self, pool: &mut FramePool) {
        self.reclaim(pool);
        if let Chain::Open(packet) = std::mem::take(&mut self.chain) {
            pool.recycle(packet);
        }
        while let n @ 1.. = self.consume_received(BATCH) {
            for i in 0..n {
                let address = self.batch[i].addr();
                pool.extend(self.token(address));
            }
        }
    }

    fn memory(&self) -> &AfXdp {
        memory(&self.umem)
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the rings live, that is as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.rings.rx.fd().as_raw_fd()) }
    }

    /// The token of the frame that the kernel handed back at `address`; `None` where that is no frame of ours.
    fn token(&self, address: usize) -> Option<Frame> {
        let index = address / FRAME_SIZE;
        (index < self.umem.frames() as usize).then_some(Frame(index as u32))
    }

    /// Fills the fill ring with the pool's frames.
    fn refill(&mut self, pool: &mut FramePool) {
        let lent = self.memory().rings.recv - self.held.fill;
        // The kernel hands a batch over before it says that its fill entries are free (net/xdp/xsk.c, xsk_flush): on another core
        // we may be here in between. The rest is for the next time.
        let mut wanted = lent.min(self.rings.fill.nb_free(lent)) as usize;
        let mut added = false;
        while wanted > 0 && !pool.is_empty() {
            let n = wanted.min(BATCH).min(pool.len());
            for i in 0..n {
                let frame = pool.take().expect("counted above");
                self.batch[i] = self.memory().descriptor(&frame);
            }
            // SAFETY: descriptors of this UMEM whose tokens ended here.
            let taken = unsafe { self.rings.fill.produce(&self.batch[..n]) };
            assert_eq!(taken, n, "the fill ring has the room that it said");
            self.held.fill += n as u32;
            wanted -= n;
            added = true;
        }
        if added && self.rings.fill.needs_wakeup() {
            sockopt::kick_recv(self.socket());
        }
    }

    /// Gives the pool the frames of packets that were sent, and of those that were dropped.
    fn reclaim(&mut self, pool: &mut FramePool) {
        pool.extend(self.returned.drain(..));
        loop {
            // SAFETY: the completion ring of this UMEM.
            let n = unsafe { self.rings.comp.consume(&mut self.batch[..]) };
            for i in 0..n {
                let address = self.batch[i].addr();
                pool.extend(self.token(address));
            }
            self.held.send -= n as u32;
            if n < BATCH {
                return;
            }
        }
    }

    /// At most `max` received descriptors into the batch.
    fn consume_received(&mut self, max: usize) -> usize {
        // SAFETY: the receive ring of this UMEM.
        let n = unsafe { self.rings.rx.consume(&mut self.batch[..max.min(BATCH)]) };
        self.held.fill -= n as u32;
        n
    }

    /// The frame behind a received descriptor, and the bytes in it; `None` where the descriptor cannot be one of ours.
    fn received(&mut self, i: usize) -> Option<(Frame, usize)> {
        let (address, len) = (self.batch[i].addr(), self.batch[i].lengths().data());
        let mut frame = self.token(address)?;
        let offset = address % FRAME_SIZE;
        if offset + len > FRAME_SIZE || len > DATA_CAPACITY {
            self.returned.push(frame);
            return None;
        }
        if offset != DATA_OFFSET {
            self.umem.align_data(&mut frame, offset, len);
        }
        Some((frame, len))
    }

    /// What becomes of the packet of several frames that the received descriptor is part of.
    #[inline(never)]
    fn received_part(&mut self, i: usize) -> Pushed {
        let piece = self.received(i);
        let more = self.batch[i].options() & CONTINUED != 0;
        let free = &mut self.returned;
        self.chain.push(piece, more, &self.umem, free)
    }

    /// Frames that `send` takes, exact below `wanted`. In copy mode the kernel hands sent frames back before it says that their
    /// entries are free: it does that when it has taken all the entries that it knew of (net/xdp/xsk_queue.h, xskq_cons_release).
    fn send_room(&mut self, wanted: u32) -> u32 {
        let free = self.rings.tx.nb_free(wanted);
        free.min(self.memory().rings.send - self.held.send)
    }

    /// Entries of the send ring that the kernel has not taken.
    fn queued(&mut self) -> u32 {
        self.memory().rings.send - self.rings.tx.nb_free_exact()
    }

    /// Kicks until the kernel has taken all there is, or wants to be asked again later.
    fn drain(&mut self, sent: &mut Sent) {
        let mut dropped = 0;
        let mut queued = self.queued();
        // Calls whose progress need not show: in copy mode it shows only once all is taken. One more than the fresh entries need
        // also takes, send by send, what a full device left behind.
        let mut unseen = match self.zero_copy {
            true => 0,
            false => self.fresh.div_ceil(DESCRIPTORS_PER_KICK),
        };
        self.fresh = 0;
        // Each further turn sends at least one packet, and DROPS_PER_SEND bounds those that send only one.
        while queued > 0 && !self.down && self.rings.tx.needs_wakeup() {
            sent.kicks += 1;
            match sockopt::kick_send(self.socket()) {
                Ok(()) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::BUSY) => {
                    dropped += 1;
                    self.down = dropped == 1 && !self.nic.link_is_up();
                }
                Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV) => self.down = true,
                Err(_) => {
                    sent.kick_errors += 1;
                    break;
                }
            }
            let before = std::mem::replace(&mut queued, self.queued());
            let stands = queued == before && unseen == 0;
            if self.zero_copy || stands || dropped == DROPS_PER_SEND {
                break;
            }
            unseen = unseen.saturating_sub(1);
        }
        self.discount(dropped, sent);
        if queued > 0 && !self.down {
            sent.rest = Rest::InRing;
        }
    }

    /// Counts packets that the driver dropped out of the ring as drops and not as sent. The kernel does not say which they were:
    /// their bytes are the mean of the burst's.
    fn discount(&mut self, dropped: u64, sent: &mut Sent) {
        match self.down {
            true => sent.link_down += dropped,
            false => sent.refused += dropped,
        }
        self.miscounted += dropped;
        let here = self.miscounted.min(sent.packets);
        if here > 0 {
            sent.bytes -= sent.bytes / sent.packets * here;
            sent.packets -= here;
            self.miscounted -= here;
        }
    }

    /// Puts as many of `packets` into the send ring as there is room for, each as a whole.
    fn stage(&mut self, packets: &mut VecDeque<Packet>, sent: &mut Sent) {
        let wanted = match self.frames {
            Ok(_) => packets.iter().map(Packet::frame_count).sum(),
            Err(_) => packets.len(),
        };
        let (mut room, mut count) = (self.send_room(wanted as u32) as usize, 0);
        while let Some(packet) = packets.front() {
            let frames = packet.frame_count();
            if frames > room {
                break;
            }
            if count + frames > BATCH {
                self.produce(count);
                count = 0;
            }
            if let Some(packet) = packets.pop_front() {
                sent.bytes += self.describe(packet, count);
                sent.packets += 1;
            }
            room -= frames;
            count += frames;
        }
        self.produce(count);
    }

    /// Puts the descriptors of a packet into the batch, from place `at` on. Returns the bytes that are sent.
    fn describe(&mut self, packet: Packet, at: usize) -> u64 {
        let mut len = packet.len as usize;
        assert!(
            len <= self.max_frame,
            "{len} bytes for a device of {}",
            self.max_frame
        );
        match packet.into_linear() {
            Ok(mut frame) => {
                if len < MIN_FRAME {
                    self.umem.data_mut(&mut frame)[len..MIN_FRAME].fill(0);
                    len = MIN_FRAME;
                }
                self.batch[at] = self.memory().send_descriptor(&frame, len);
            }
            Err(packet) => self.describe_chain(packet, at),
        }
        len as u64
    }

    /// Puts the descriptors of a packet in several frames into the batch, from place `at` on.
    #[inline(never)]
    fn describe_chain(&mut self, packet: Packet, at: usize) {
        let mut left = packet.len as usize;
        for (n, frame) in packet.into_frames(&self.umem).enumerate() {
            let here = left.min(DATA_CAPACITY);
            left -= here;
            let mut descriptor = memory(&self.umem).send_descriptor(&frame, here);
            if left > 0 {
                descriptor.set_options(CONTINUED);
            }
            self.batch[at + n] = descriptor;
        }
    }

    /// Puts the first `count` descriptors of the batch, which are those of whole packets, into the send ring.
    fn produce(&mut self, count: usize) {
        // SAFETY: descriptors of this UMEM whose tokens ended in the batch.
        let taken = unsafe { self.rings.tx.produce(&self.batch[..count]) };
        assert_eq!(taken, count, "the send ring has the room that it said");
        self.held.send += count as u32;
        self.fresh += count as u32;
    }
}

impl Device for XskDevice {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: self.max_frame,
            blank_checksum: false,
            gso: false,
        }
    }

    fn set_mtu(&mut self, mtu: u32) {
        self.max_frame = longest_frame(mtu, self.frames.unwrap_or(1) as usize);
    }

    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        self.reclaim(pool);
        self.refill(pool);
        let mut received = Received::default();
        let mut wanted = max.min(out.capacity() - out.len());
        while wanted > 0 {
            let n = self.consume_received(wanted);
            for i in 0..n {
                let pushed = match self.batch[i].options() == 0 && self.chain.is_closed() {
                    true => self.received(i).map_or(Pushed::Dropped, |(frame, len)| {
                        Pushed::Packet(Packet::new(frame, len as u32, Offload::default()))
                    }),
                    false => self.received_part(i),
                };
                match pushed {
                    Pushed::Packet(packet) => {
                        received.packets += 1;
                        received.bytes += u64::from(packet.len);
                        out.push(packet);
                    }
                    Pushed::Open => {}
                    Pushed::Dropped => received.bad += 1,
                }
            }
            wanted -= n;
            if n == 0 {
                break;
            }
        }
        received
    }

    fn room(&mut self, pool: &mut FramePool) -> usize {
        self.reclaim(pool);
        let ring = self.memory().rings.send;
        match self.down {
            true => ring as usize,
            false => self.send_room(ring) as usize,
        }
    }

    fn send(&mut self, packets: &mut VecDeque<Packet>, pool: &mut FramePool) -> Sent {
        let mut sent = Sent::default();
        if self.down {
            self.down = !self.nic.link_is_up();
        }
        if self.down {
            sent.link_down = packets.len() as u64;
            packets.drain(..).for_each(|packet| pool.recycle(packet));
        } else {
            self.stage(packets, &mut sent);
            self.drain(&mut sent);
        }
        self.reclaim(pool);
        sent
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn pending(&mut self) -> bool {
        if self.rings.fill.needs_wakeup() {
            sockopt::kick_recv(self.socket());
        }
        self.rings.rx.nb_avail(1) > 0 || self.rings.comp.nb_avail(1) > 0
    }

    fn held(&self) -> Held {
        Held {
            fill: self.held.fill + self.chain.frames(),
            send: self.held.send + self.returned.len() as u32,
        }
    }
}

impl Drop for XskDevice {
    fn drop(&mut self) {
        let Held { fill, send } = self.held();
        self.umem.quarantine(fill + send);
    }
}

#[cfg(test)]
mod tests;
