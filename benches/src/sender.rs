//! The least that sends over AF_XDP: xsk-rs alone, one buffer of frames, no tokens, no switch. What it costs is the kernel's
//! and the device's, and is subtracted from what a whole path costs.
// xsk-rs trusts its caller with the frames.
#![allow(unsafe_code)]
use anyhow::{Context, ensure};
use std::io::Write;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use xsk_rs::config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Packets handed to the kernel at a time.
pub const BATCH: usize = 64;
const RING: u32 = 1024;
/// How long the kernel may take to send a ring.
const PATIENCE: Duration = Duration::from_secs(1);

/// A sender on queue 0 of a device. No XDP program is needed to send.
#[derive(Debug)]
pub struct BareSender {
    tx: TxQueue,
    comp: CompQueue,
    free: Vec<FrameDesc>,
    done: [FrameDesc; BATCH],
    _rx: RxQueue,
    _fill: FillQueue,
    umem: Umem,
}

impl BareSender {
    /// Bind, with every frame starting with `bytes`.
    pub fn open(ifname: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let ring = QueueSize::new(RING)?;
        let config = UmemConfig::builder().comp_queue_size(ring).build()?;
        let frames = NonZeroU32::new(RING).context("no frames")?;
        let (umem, free) = Umem::new(config, frames, false)?;
        let config = SocketConfig::builder()
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: frames are in `free` or in the rings of this one socket.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &ifname.parse()?, 0) }?;
        let (fill, comp) = rings.context("a UMEM of its own has rings of its own")?;
        let mut sender = Self {
            tx,
            comp,
            free,
            done: [FrameDesc::default(); BATCH],
            _rx: rx,
            _fill: fill,
            umem,
        };
        sender.load(bytes)?;
        Ok(sender)
    }

    /// From here on every frame starts with `bytes`; waits until the kernel has sent those that it has.
    pub fn load(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.free.len() < RING as usize {
            self.collect();
            ensure!(
                Instant::now() < deadline,
                "the kernel keeps frames to itself"
            );
        }
        for descriptor in &mut self.free {
            // SAFETY: a frame of this UMEM that is in no ring.
            let mut data = unsafe { self.umem.data_mut(descriptor) };
            let mut cursor = data.cursor();
            cursor.set_pos(0);
            cursor.write_all(bytes)?;
        }
        Ok(())
    }

    /// Send at least `packets` of `len` bytes, a batch at a time, each batch kicked until the kernel has it; how many it were.
    pub fn send(&mut self, packets: usize, len: usize) -> anyhow::Result<usize> {
        let mut sent = 0;
        while sent < packets {
            let n = self.free.len().min(BATCH);
            let from = self.free.len() - n;
            for descriptor in &mut self.free[from..] {
                // SAFETY: a frame of this UMEM that is in no ring; only its length is set.
                unsafe { self.umem.data_mut(descriptor) }
                    .cursor()
                    .set_pos(len);
            }
            // SAFETY: frames of this UMEM that are in no ring.
            sent += unsafe { self.tx.produce(&self.free[from..]) };
            self.free.truncate(from);
            while self.tx.nb_free_exact() < RING {
                self.tx.wakeup()?;
            }
            self.collect();
        }
        Ok(sent)
    }

    /// Take back what was sent.
    fn collect(&mut self) {
        // SAFETY: the completion ring of this UMEM.
        let n = unsafe { self.comp.consume(&mut self.done) };
        self.free.extend_from_slice(&self.done[..n]);
    }
}
