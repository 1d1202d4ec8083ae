//! A device over AF_XDP: one socket on one queue of a device, its frames those of the process's one UMEM.
//!
//! A frame's token ends where its descriptor is put into the fill or the send ring, and is made anew where the kernel hands the
//! descriptor back by the receive or the completion ring; between the two, [`Held`] counts it.
// xsk-rs's rings trust the caller that a frame is in one place at a time: the token says so.
#![allow(unsafe_code)]
mod open;
mod sockopt;

pub use open::{OpenError, Options};

use super::{Capabilities, Device, Held, Received, Rest, Sent, longest_frame};
use crate::frame::{AfXdp, DATA_CAPACITY, DATA_OFFSET, FRAME_SIZE, Frame, FramePool, Umem};
use crate::link::Link;
use crate::nic::Handle;
use crate::packet::{Offload, Packet};
use crate::xdp::Attachment;
use rustix::io::Errno;
use rustix::net::sockopt::{xdp_options, xdp_statistics};
use rustix::net::xdp::XdpOptionsFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use xsk_rs::FrameDesc;

/// Descriptors moved between us and a ring at a time.
const BATCH: usize = 64;
/// A device that drops what it is given costs a call a packet (EBUSY): at most this many in one burst.
const DROPS_PER_SEND: u64 = 16;
/// Shortest frame of Ethernet without its check sequence. Where a frame is handed to the driver as it is, nobody else pads it.
const MIN_FRAME: usize = 60;
/// Packets that one call takes in copy mode (net/xdp/xsk.c, TX_BATCH_SIZE); more where XDP_MAX_TX_SKB_BUDGET was raised.
const PACKETS_PER_KICK: u32 = 32;

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
}

impl XskDevice {
    /// Bind `queue` of the device our program is on, with the rings of `umem`, and put the socket into the program's map.
    /// Waits up to 3 s for a predecessor's socket to go.
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
        let rings = open::bind(memory, attachment, queue, options)?;
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
            max_frame: longest_frame(link.mtu),
        };
        open::tune(device.socket(), memory, attachment, queue)?;
        let mode = xdp_options(device.socket()).map_err(|e| os("ask for the mode")(e.into()))?;
        device.zero_copy = mode.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        attachment.set_socket(queue, device.socket())?;
        Ok(device)
    }

    /// True when the driver reads and writes frames itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
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
        while let n @ 1.. = self.consume_received(BATCH) {
            for i in 0..n {
                let address = self.batch[i].addr();
                pool.extend(self.token(address));
            }
        }
    }

    fn memory(&self) -> &AfXdp {
        self.umem
            .af_xdp()
            .expect("`open` takes a UMEM for AF_XDP only")
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

    /// The packet behind a received descriptor; `None` where the descriptor cannot be one of ours.
    fn received(&mut self, i: usize) -> Option<Packet> {
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
        Some(Packet::new(frame, len as u32, Offload::default()))
    }

    /// Packets that `send` takes, exact below `wanted`. In copy mode the kernel hands sent frames back before it says that their
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
            false => self.fresh.div_ceil(PACKETS_PER_KICK),
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

    /// Puts as many of `packets` into the send ring as there is room for.
    fn stage(&mut self, packets: &mut VecDeque<Packet>, sent: &mut Sent) {
        let mut left = packets
            .len()
            .min(self.send_room(packets.len() as u32) as usize);
        while left > 0 {
            let count = left.min(BATCH);
            for (i, packet) in packets.drain(..count).enumerate() {
                let mut len = packet.len as usize;
                assert!(
                    len <= self.max_frame,
                    "{len} bytes for a device of {}",
                    self.max_frame
                );
                let mut frame = packet
                    .into_linear()
                    .expect("AF_XDP takes one frame a packet");
                if len < MIN_FRAME {
                    self.umem.data_mut(&mut frame)[len..MIN_FRAME].fill(0);
                    len = MIN_FRAME;
                }
                sent.bytes += len as u64;
                self.batch[i] = self.memory().send_descriptor(&frame, len);
            }
            // SAFETY: descriptors of this UMEM whose tokens ended here.
            let taken = unsafe { self.rings.tx.produce(&self.batch[..count]) };
            assert_eq!(taken, count, "the send ring has the room that it said");
            self.held.send += count as u32;
            self.fresh += count as u32;
            sent.packets += count as u64;
            left -= count;
        }
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
        self.max_frame = longest_frame(mtu);
    }

    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        self.reclaim(pool);
        self.refill(pool);
        let mut received = Received::default();
        let mut wanted = max.min(out.capacity() - out.len());
        while wanted > 0 {
            let n = self.consume_received(wanted);
            for i in 0..n {
                match self.received(i) {
                    Some(packet) => {
                        received.packets += 1;
                        received.bytes += u64::from(packet.len);
                        out.push(packet);
                    }
                    None => received.bad += 1,
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
            send: self.held.send + self.returned.len() as u32,
            ..self.held
        }
    }
}

impl Drop for XskDevice {
    fn drop(&mut self) {
        let Held { fill, send } = self.held();
        self.umem.quarantine(fill + send);
    }
}

/// struct xdp_statistics: what the kernel counts of one socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct KernelCounters {
    /// Dropped on receive: no frame in the fill ring, or longer than a frame.
    pub rx_dropped: u64,
    /// Addresses in the fill ring that were no frame.
    pub rx_invalid_descs: u64,
    /// Descriptors in the send ring that were no packet.
    pub tx_invalid_descs: u64,
    /// Dropped because we did not take packets out of the receive ring.
    pub rx_ring_full: u64,
    /// Times the fill ring was found empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the send ring was found empty.
    pub tx_ring_empty_descs: u64,
}

impl KernelCounters {
    /// Reads those of an AF_XDP socket.
    pub fn read(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let counted = xdp_statistics(socket)?;
        Ok(Self {
            rx_dropped: counted.rx_dropped,
            rx_invalid_descs: counted.rx_invalid_descs,
            tx_invalid_descs: counted.tx_invalid_descs,
            rx_ring_full: counted.rx_ring_full.unwrap_or_default(),
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs.unwrap_or_default(),
            tx_ring_empty_descs: counted.tx_ring_empty_descs.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests;
