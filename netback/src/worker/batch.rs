//! What one turn is working on: the packets taken out of Tx rings, the copies planned for them, and the packets on their way into
//! guests' pages. Allocated once.
use super::bounce::{BOUNCED, Bounce, Piece};
use super::memory::UmemMemory;
use crate::queue::copy::{CopyPlan, InFragments, InFrames, Span};
use crate::queue::rx::Placed;
use crate::queue::tx::Answer;
use ring::packet::{Checksum as TxChecksum, Fragment, GsoKind, MAX_DATA_SLOTS, TxPacket};
use ring::wire::NETIF_RSP_OKAY;
use xen::grant::DomId;
use xsk_bridge::frame::{DATA_CAPACITY, FramePool, Umem};
use xsk_bridge::packet::{Checksum, Gso, MAX_FRAMES, Offload, Packet};
use xsk_bridge::switch::{Flood, PortId};

/// Chains taken in one turn over all queues: what a crash makes be sent twice, at most.
pub(crate) const TURN_CHAINS: usize = 128;
/// Packets put on Rx rings in one turn over all queues.
pub(crate) const TURN_PLACED: usize = 256;
/// Packets up to this size are fetched whole at once: a copy operation costs more than copying these bytes a second time would.
const WHOLE: usize = BOUNCED;
/// Of a larger one only this much is fetched for the switch to look at; the rest may go straight to where it belongs.
const HEAD: usize = 256;
/// Most segments of one packet's copy: each begins at an end of a fragment or a frame, or of a page.
pub(crate) const PACKET_SEGMENTS: usize =
    MAX_DATA_SLOTS + MAX_FRAMES + crate::queue::rx::MAX_DATA_SLOTS;

/// What is to become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nothing more: it was dropped, or is on its way into a guest's pages already.
    Done,
    /// To this port.
    Port(PortId),
    /// To several ports, but not to its own.
    Flood(Flood),
}

/// A packet taken out of a Tx ring.
pub(crate) struct Job {
    pub queue: u16,
    pub domid: DomId,
    /// Its answer, by place in the batch.
    pub answer: u16,
    /// What is to become of it.
    pub way: Way,
    /// Of its flow, where somebody asked.
    pub hash: u32,
    /// Bytes in all.
    pub len: u32,
    /// Bytes that the first call brings.
    pub fetched: usize,
    /// Frames it needs for the rest.
    pub frames_missing: usize,
    /// Where the first call brings them to, if not into its frame.
    pub bounced: Option<Piece>,
    /// Its copies in the first call.
    pub head: Span,
    /// And in the second, if it is in it.
    pub tail: Option<Span>,
    pub packet: Packet,
    /// Its fragments, by place in the batch: the first one, and how many.
    fragments: (u32, u32),
}

impl Job {
    /// Its fragments, out of all of the batch.
    #[inline]
    pub fn fragments<'a>(&self, all: &'a [Fragment]) -> &'a [Fragment] {
        let (first, count) = (self.fragments.0 as usize, self.fragments.1 as usize);
        &all[first..first + count]
    }

    /// Bring what the first call fetched into the packet's frame.
    #[inline]
    pub fn unload(&mut self, bounce: Option<&Bounce>, umem: &Umem) {
        if let (Some(bounce), Some(piece)) = (bounce, self.bounced)
            && let Some(frame) = self.packet.frames.first_mut()
        {
            bounce.read(piece, &mut umem.data_mut(frame)[..self.fetched]);
        }
    }

    /// Take the packet out.
    pub fn take_packet(&mut self) -> Packet {
        self.way = Way::Done;
        let frames = std::mem::take(&mut self.packet.frames);
        Packet {
            frames,
            len: self.len,
            offload: self.packet.offload,
        }
    }
}

/// The slot that the byte at `position` of the packet in `fragments` came from.
pub(crate) fn slot_of(fragments: &[Fragment], position: usize) -> u8 {
    let mut end = 0;
    let holds = fragments.iter().find(|fragment| {
        end += usize::from(fragment.size);
        position < end
    });
    holds.map_or(0, |fragment| fragment.slot)
}

/// How much of a packet the first call fetches: what a bounce buffer takes, at most.
fn first_fetch(size: usize) -> usize {
    if size <= WHOLE { size } else { HEAD }
}

/// What travels beside a guest's packet.
fn offload(chain: &TxPacket) -> Offload {
    let checksum = match chain.checksum {
        TxChecksum::None => Checksum::Unverified,
        TxChecksum::Blank => Checksum::Blank,
        TxChecksum::Validated => Checksum::Valid,
    };
    let gso = chain.gso.map(|gso| Gso {
        segment: gso.size,
        ipv6: gso.kind == GsoKind::TcpV6,
    });
    Offload {
        checksum,
        gso,
        hash: chain.hash.map(|(_, value)| value),
    }
}

/// The work of one turn.
pub(crate) struct Batch {
    pub jobs: Vec<Job>,
    /// Of all jobs.
    pub fragments: Vec<Fragment>,
    /// By chain, in the order they were taken; the queue each belongs to.
    pub answers: Vec<(u16, Answer)>,
    /// First call: heads into frames.
    pub heads: CopyPlan<UmemMemory>,
    /// Second call: the rest, of those that go on in frames.
    pub tails: CopyPlan<UmemMemory>,
    /// Third call: into guests' pages, out of frames and other guests' pages.
    pub rx: CopyPlan<UmemMemory>,
    pub placed: Vec<Placed>,
    /// What heads go into, and packets for guests come out of, where the kernel gave us some.
    pub bounce: Option<Bounce>,
    /// What one look at an uplink brought.
    pub received: Vec<Packet>,
    /// Frames that the jobs will still need.
    pub frames_missing: usize,
    /// A flood is among the jobs: what comes after it must not overtake it.
    pub flooded: bool,
}

/// Frames received from an uplink in one turn.
pub(crate) const TURN_RECEIVED: usize = 64;

impl Batch {
    /// A worker's, over its UMEM and its bounce buffers.
    pub fn new(umem: &Umem, bounce: Option<Bounce>) -> Self {
        let plan = |segments| CopyPlan::with_capacity(UmemMemory(umem.clone()), segments);
        Self {
            bounce,
            jobs: Vec::with_capacity(TURN_CHAINS),
            fragments: Vec::with_capacity(TURN_CHAINS * MAX_DATA_SLOTS),
            answers: Vec::with_capacity(TURN_CHAINS),
            heads: plan(TURN_CHAINS * (MAX_DATA_SLOTS + 1)),
            tails: plan(TURN_CHAINS * (MAX_DATA_SLOTS + MAX_FRAMES)),
            rx: plan(TURN_PLACED * 8),
            placed: Vec::with_capacity(TURN_PLACED),
            received: Vec::with_capacity(TURN_RECEIVED),
            frames_missing: 0,
            flooded: false,
        }
    }

    /// A turn begins.
    pub fn clear(&mut self) {
        debug_assert!(
            self.jobs.iter().all(|job| job.packet.frames.is_empty()) && self.placed.is_empty()
        );
        self.jobs.clear();
        self.fragments.clear();
        self.answers.clear();
        self.heads.clear();
        self.tails.clear();
        self.rx.clear();
        if let Some(bounce) = &mut self.bounce {
            bounce.clear();
        }
        self.frames_missing = 0;
        self.flooded = false;
    }

    /// Put a packet into the batch; the pool has the frames for it.
    #[inline]
    pub fn admit(&mut self, queue: u16, domid: DomId, chain: &TxPacket, pool: &mut FramePool) {
        let len = usize::from(chain.size);
        let fetched = first_fetch(len);
        let frames_missing = len.div_ceil(DATA_CAPACITY) - 1;
        self.frames_missing += frames_missing;
        let frame = pool.take();
        let source = InFragments::new(domid, chain.fragments());
        // With bounce buffers there is room for every head, so that one call never has both kinds.
        let bounced = self.bounce.as_mut().and_then(|bounce| bounce.take(fetched));
        let head = match bounced {
            Some(piece) => self.heads.copy(source, piece, 0..fetched),
            None => self
                .heads
                .copy(source, InFrames(frame.as_slice()), 0..fetched),
        };
        let fragments = (self.fragments.len() as u32, chain.fragments().len() as u32);
        // Not as a slice: most have one, which a call to copy memory costs more than.
        chain
            .fragments()
            .iter()
            .for_each(|&fragment| self.fragments.push(fragment));
        let answer = self.answers.len() as u16;
        self.answers.push((
            queue,
            Answer {
                slots: chain.slots,
                status: NETIF_RSP_OKAY,
                errors: 0,
            },
        ));
        self.jobs.push(Job {
            queue,
            domid,
            answer,
            way: Way::Done,
            hash: 0,
            len: len as u32,
            fetched,
            frames_missing,
            bounced,
            head,
            tail: None,
            packet: Packet {
                frames: frame.into_iter().collect(),
                len: len as u32,
                offload: offload(chain),
            },
            fragments,
        });
    }

    /// Bring a packet for a guest into a bounce buffer, if it fits one.
    #[inline]
    pub fn hold(&mut self, packet: &Packet, umem: &Umem) -> Option<Piece> {
        let len = packet.len as usize;
        let bounce = self.bounce.as_mut().filter(|_| len <= BOUNCED)?;
        bounce.hold(&umem.data(packet.frames.first()?)[..len])
    }

    /// Plan to fetch the rest of a packet that goes on in frames.
    #[inline]
    pub fn plan_tail(&mut self, n: usize, pool: &mut FramePool) {
        let job = &self.jobs[n];
        if job.way != Way::Done && job.fetched < job.len as usize {
            self.plan_rest(n, pool);
        }
    }

    #[inline(never)]
    fn plan_rest(&mut self, n: usize, pool: &mut FramePool) {
        let job = &mut self.jobs[n];
        // They were counted before the chain was taken.
        job.packet
            .frames
            .extend((0..job.frames_missing).filter_map(|_| pool.take()));
        self.frames_missing -= job.frames_missing;
        job.frames_missing = 0;
        let source = InFragments::new(job.domid, job.fragments(&self.fragments));
        job.tail = Some(self.tails.copy(
            source,
            InFrames(&job.packet.frames),
            job.fetched..job.len as usize,
        ));
    }

    /// Whether another packet can be put on an Rx ring this turn.
    #[inline]
    pub fn can_place(&self) -> bool {
        self.placed.len() < TURN_PLACED && self.rx.room() >= PACKET_SEGMENTS
    }
}
