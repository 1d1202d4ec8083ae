//! A device that takes every packet at once, and receives as many as it is told to.
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use xsk_bridge::device::{Capabilities, Device, Held, Received, Sent};
use xsk_bridge::frame::{DATA_CAPACITY, FramePool, Umem};
use xsk_bridge::packet::{Offload, Packet};

/// What passes through the device, as the bench sees it.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Packets that wait to be received.
    pub arriving: AtomicUsize,
    /// Packets that were sent.
    pub sent: AtomicUsize,
}

pub struct Wire {
    umem: Umem,
    frames: Vec<Vec<u8>>,
    traffic: Arc<Traffic>,
}

impl Wire {
    /// A device on which copies of `frames` arrive, of one behind the other, and of the first one again behind the last.
    pub fn new(umem: Umem, frames: Vec<Vec<u8>>, traffic: Arc<Traffic>) -> Self {
        Self {
            umem,
            frames,
            traffic,
        }
    }
}

// None of these is inlined, so that a profile tells their cost from the worker's.
impl Device for Wire {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: DATA_CAPACITY,
            blank_checksum: false,
            gso: false,
        }
    }

    fn set_mtu(&mut self, _: u32) {}

    #[inline(never)]
    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        let arriving = self.traffic.arriving.load(Relaxed);
        let packets = max.min(arriving).min(out.capacity() - out.len());
        let mut bytes = 0;
        for arrives in self.frames.iter().cycle().take(packets) {
            let mut frame = pool.take().expect("the pool is large enough");
            self.umem.data_mut(&mut frame)[..arrives.len()].copy_from_slice(arrives);
            out.push(Packet::new(frame, arrives.len() as u32, Offload::default()));
            bytes += arrives.len() as u64;
        }
        self.traffic.arriving.store(arriving - packets, Relaxed);
        Received {
            packets,
            bytes,
            ..Received::default()
        }
    }

    #[inline(never)]
    fn room(&mut self, _: &mut FramePool) -> usize {
        1024
    }

    #[inline(never)]
    fn send(&mut self, packets: &mut VecDeque<Packet>, pool: &mut FramePool) -> Sent {
        let mut sent = Sent::default();
        for packet in packets.drain(..) {
            sent.packets += 1;
            sent.bytes += u64::from(packet.len);
            pool.recycle(packet);
        }
        self.traffic.sent.fetch_add(sent.packets as usize, Relaxed);
        sent
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    #[inline(never)]
    fn pending(&mut self) -> bool {
        self.traffic.arriving.load(Relaxed) > 0
    }

    fn held(&self) -> Held {
        Held::default()
    }
}
