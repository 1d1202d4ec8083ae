//! One queue of a TAP with vnet headers: packets to and from this machine's own network stack, offloads whole both ways.
//!
//! A packet is one system call in either direction, which is inherent to a TAP.
use super::vnet::{Unsupported, VnetHeader};
use super::{Capabilities, Device, Held, Received, Sent, longest_frame};
use crate::frame::{Frame, FramePool, Umem};
use crate::offload::segment::GsoHead;
use crate::packet::{Checksum, MAX_FRAMES, MAX_PACKET, Offload, Packet};
use arrayvec::ArrayVec;
use rustix::io::{Errno, readv, writev};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Packets that one call of [`TapDevice::send`] is asked for at most: a TAP has no ring, the stack takes each packet at once.
const ROOM: usize = 512;
/// Turns without a look at the queue after one that found nothing: a look is a system call.
const LOOKS_SPARED: u8 = 7;

/// One queue of a TAP.
#[derive(Debug)]
pub struct TapDevice {
    queue: OwnedFd,
    umem: Umem,
    /// Frames that the next packet is read into: how long it is shows only then.
    spare: ArrayVec<Frame, MAX_FRAMES>,
    max_frame: usize,
    /// Calls of `recv` that do not look, because the last look found nothing.
    spared: u8,
}

/// What one read(2) brought.
enum Read {
    Packet(Packet),
    /// Something that cannot be passed on, dropped.
    Unfit,
    Nothing,
}

impl TapDevice {
    /// The queue behind `queue`, which [`crate::tap::open`] has opened, of a TAP of `mtu` bytes.
    pub fn new(queue: OwnedFd, umem: &Umem, mtu: u32) -> Self {
        Self {
            queue,
            umem: umem.clone(),
            spare: ArrayVec::new(),
            max_frame: longest_frame(mtu, MAX_FRAMES),
            spared: 0,
        }
    }

    /// Reads one packet into the spare frames, of which there are enough for the longest.
    fn read(&mut self) -> Read {
        let mut header = [0; VnetHeader::LEN];
        let mut parts: ArrayVec<IoSliceMut<'_>, { MAX_FRAMES + 1 }> = ArrayVec::new();
        parts.push(IoSliceMut::new(&mut header));
        for frame in &mut self.spare {
            parts.push(IoSliceMut::new(self.umem.data_mut(frame)));
        }
        let count = match readv(&self.queue, &mut parts) {
            Ok(count) => count,
            // Nothing there, or the TAP is gone, which the kernel tells the control thread of.
            Err(_) => return Read::Nothing,
        };
        drop(parts);
        match count.checked_sub(VnetHeader::LEN) {
            Some(len @ 1..=MAX_PACKET) => self.packet(len, VnetHeader::from_bytes(&header)),
            _ => Read::Unfit,
        }
    }

    /// The packet of `len` bytes in the spare frames, with what its header leaves to be done.
    fn packet(&mut self, len: usize, header: VnetHeader) -> Read {
        let mut frames = self
            .spare
            .drain(..len.div_ceil(crate::frame::DATA_CAPACITY));
        let Some(first) = frames.next() else {
            return Read::Unfit;
        };
        let mut packet = Packet::new(first, len as u32, Offload::default());
        frames.for_each(|frame| packet.append(frame, &self.umem));
        match judge(&mut packet, header, &self.umem) {
            Some(offload) => {
                packet.offload = offload;
                Read::Packet(packet)
            }
            None => {
                self.spare.extend(packet.into_frames(&self.umem));
                Read::Unfit
            }
        }
    }

    /// Has the stack take one packet.
    fn write(&self, packet: &Packet) -> Result<(), Refused> {
        let head = packet.head(&self.umem);
        let header = VnetHeader::of(head, packet.len as usize, packet.offload);
        let header = header.map_err(|_| Refused::Unfit)?.to_bytes();
        let mut parts: ArrayVec<IoSlice<'_>, { MAX_FRAMES + 1 }> = ArrayVec::new();
        parts.push(IoSlice::new(&header));
        parts.extend(packet.slices(&self.umem).map(IoSlice::new));
        match writev(&self.queue, &parts) {
            Ok(_) => Ok(()),
            // Not up, or gone.
            Err(Errno::IO | Errno::BADFD | Errno::NODEV) => Err(Refused::Down),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(Refused::Full),
            Err(_) => Err(Refused::Error),
        }
    }
}

/// Why the stack did not take a packet.
enum Refused {
    Down,
    Full,
    Unfit,
    Error,
}

/// What is left to be done to a packet, by its header and its own headers; `None` where it cannot be passed on. A checksum at a place
/// that only the header names is completed here.
fn judge(packet: &mut Packet, header: VnetHeader, umem: &Umem) -> Option<Offload> {
    let len = packet.len as usize;
    let mut offload = match header.offload(packet.head(umem), len) {
        Ok(offload) => offload,
        Err(Unsupported::Checksum) if packet.frame_count() == 1 => {
            header.complete(packet.head_mut(umem)).ok()?;
            return Some(Offload {
                checksum: Checksum::Valid,
                gso: None,
            });
        }
        Err(_) => return None,
    };
    if let Some(gso) = offload.gso {
        let shape = GsoHead::parse(packet.head(umem), len, gso, offload.checksum).ok()?;
        // A stack sends no bytes behind what it asks to have cut.
        if shape.len() != len {
            return None;
        }
        if offload.checksum != Checksum::Blank {
            shape.blank_checksum(packet.head_mut(umem));
            offload.checksum = Checksum::Blank;
        }
        if shape.segments() == 1 {
            offload.gso = None;
        }
    }
    Some(offload)
}

impl Device for TapDevice {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: self.max_frame,
            blank_checksum: true,
            gso: true,
        }
    }

    fn set_mtu(&mut self, mtu: u32) {
        self.max_frame = longest_frame(mtu, MAX_FRAMES);
    }

    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        let mut received = Received::default();
        if self.spared > 0 {
            self.spared -= 1;
            return received;
        }
        let mut frames = 0;
        while frames < max && out.len() < out.capacity() {
            while self.spare.len() < MAX_FRAMES
                && let Some(frame) = pool.take()
            {
                self.spare.push(frame);
            }
            // What finds no frames waits in the kernel's queue.
            if !self.spare.is_full() {
                break;
            }
            match self.read() {
                Read::Packet(packet) => {
                    frames += packet.frame_count();
                    received.packets += 1;
                    received.bytes += u64::from(packet.len);
                    received.gso += u64::from(packet.offload.gso.is_some());
                    out.push(packet);
                }
                Read::Unfit => {
                    frames += 1;
                    received.unfit += 1;
                }
                Read::Nothing => {
                    self.spared = LOOKS_SPARED;
                    break;
                }
            }
        }
        received
    }

    fn room(&mut self, _pool: &mut FramePool) -> usize {
        ROOM
    }

    fn send(&mut self, packets: &mut VecDeque<Packet>, pool: &mut FramePool) -> Sent {
        let (mut sent, mut down) = (Sent::default(), false);
        for packet in packets.drain(..) {
            if down {
                sent.link_down += 1;
                pool.recycle(packet);
                continue;
            }
            sent.kicks += 1;
            match self.write(&packet) {
                Ok(()) => {
                    sent.packets += 1;
                    sent.bytes += u64::from(packet.len);
                    sent.gso += u64::from(packet.offload.gso.is_some());
                }
                Err(Refused::Down) => {
                    down = true;
                    sent.link_down += 1;
                }
                Err(Refused::Full) => sent.refused += 1,
                Err(Refused::Unfit) => sent.unfit += 1,
                Err(Refused::Error) => {
                    sent.kick_errors += 1;
                    sent.refused += 1;
                }
            }
            pool.recycle(packet);
        }
        // Answers come while the packets are being written.
        self.spared = 0;
        sent
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.as_fd())
    }

    fn pending(&mut self) -> bool {
        // The descriptor is level-triggered: where there is something the sleep ends at once, and the next call of `recv` looks.
        self.spared = 0;
        false
    }

    fn held(&self) -> Held {
        Held {
            fill: self.spare.len() as u32,
            send: 0,
        }
    }
}
