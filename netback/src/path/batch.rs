//! What one turn works on: bursts of packets from their sources, the copies planned for them, and packets on their way into guests'
//! pages. Allocated once.
use super::job::{Job, Places};
use crate::bounds::{
    HEAD_FETCH, PACKET_OPERATIONS, TURN_CHAINS, TURN_PARCELS, TURN_PLACED, TURN_RECEIVED,
    WHOLE_FETCH,
};
use crate::copy::memory::UmemMemory;
use crate::copy::plan::{CopyPlan, Span};
use crate::copy::runs::{InFragments, InPieces};
use crate::copy::staging::{Piece, Staging};
use ring::packet::{Checksum as TxChecksum, Fragment, GsoKind, MAX_DATA_SLOTS, TxPacket};
use std::ops::Range;
use xen::grant::{DomId, PAGE_SIZE};
use xsk_bridge::frame::Umem;
use xsk_bridge::header::HeaderError;
use xsk_bridge::offload::checksum;
use xsk_bridge::packet::{Checksum, Gso, MAX_FRAMES, Offload, Packet};
use xsk_bridge::switch::Receiver;
use xsk_bridge::switch::tag::InVlan;

/// Where a burst of packets comes from, by slot or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The Tx ring of a queue.
    Queue(u16),
    /// A device.
    Uplink(u16),
    /// Another worker, which has decided already.
    Worker,
}

/// Consecutive jobs from one source.
#[derive(Debug, Clone)]
pub(crate) struct Burst {
    pub source: Source,
    pub jobs: Range<usize>,
}

/// A packet on its way into a guest's pages: slots are taken, copies planned.
pub(crate) struct Placed {
    /// The receiving queue, by slot.
    pub queue: u16,
    /// The job whose pages it comes from in part, to whose sender failures are reported too.
    pub sender: Option<u16>,
    /// Copies out of our memory, then out of the sender's pages.
    pub spans: [Span; 2],
    pub len: u32,
    pub offload: Offload,
    /// It lies in the receiver's pages as in the slots of its sender, and not in full pages.
    pub mirrored: bool,
}

/// The work of one turn.
pub(crate) struct Batch {
    pub bursts: Vec<Burst>,
    pub jobs: Vec<Job>,
    /// Fragments in guests' pages, of all jobs.
    pub fragments: Vec<Fragment>,
    /// Staging memory behind heads, of all jobs.
    pub pieces: Vec<Piece>,
    pub staging: Staging,
    /// First call: heads out of guests' pages.
    pub heads: CopyPlan<UmemMemory>,
    /// Second call: what is behind the heads, of packets that do not go from page to page.
    pub tails: CopyPlan<UmemMemory>,
    /// Third call: into guests' pages.
    pub rx: CopyPlan<UmemMemory>,
    pub placed: Vec<Placed>,
    /// Jobs that wait for the second call, or for one before them with the same destination.
    pub deferred: Vec<u16>,
    /// Queues, by slot, for which segments are merged in this turn.
    pub merging: Vec<u16>,
    /// Packets that one look at a device brought.
    pub received: Vec<Packet>,
    /// By job: the VLANs of packets that are flooded where ports have rules, in their order. Few packets have one.
    pub vlans: Vec<(u16, InVlan)>,
    /// The ports that the packet at hand is flooded to.
    pub receivers: Vec<Receiver>,
}

impl Batch {
    pub fn new(staging: Staging, umem: &Umem) -> Self {
        let jobs = TURN_CHAINS + TURN_PARCELS + 8 * TURN_RECEIVED;
        let plan = |operations| CopyPlan::with_capacity(UmemMemory(umem.clone()), operations);
        Self {
            bursts: Vec::with_capacity(TURN_CHAINS),
            jobs: Vec::with_capacity(jobs),
            // Twice, for packets into which a tag goes, with one on top.
            fragments: Vec::with_capacity(TURN_CHAINS * (2 * MAX_DATA_SLOTS + 1)),
            pieces: Vec::with_capacity(TURN_CHAINS * MAX_DATA_SLOTS + TURN_PLACED * MAX_FRAMES),
            staging,
            heads: plan(TURN_CHAINS * (MAX_DATA_SLOTS + 1)),
            tails: plan(TURN_CHAINS * (MAX_DATA_SLOTS + 1)),
            rx: plan(TURN_PLACED * 8),
            placed: Vec::with_capacity(TURN_PLACED),
            deferred: Vec::with_capacity(jobs),
            merging: Vec::with_capacity(jobs),
            received: Vec::with_capacity(TURN_RECEIVED),
            vlans: Vec::with_capacity(jobs),
            receivers: Vec::new(),
        }
    }

    /// Begins a turn.
    pub fn clear(&mut self) {
        debug_assert!(self.placed.is_empty());
        debug_assert!(self.jobs.iter().all(|job| job.packet.is_none()));
        self.bursts.clear();
        self.jobs.clear();
        self.fragments.clear();
        self.pieces.clear();
        self.staging.clear();
        self.heads.clear();
        self.tails.clear();
        self.rx.clear();
        self.deferred.clear();
        self.vlans.clear();
        self.merging.clear();
    }

    /// Whether another chain can be taken out of a Tx ring, whatever it is.
    #[inline]
    pub fn takes_chain(&self) -> bool {
        self.staging.takes_heads() && self.heads.room() > MAX_DATA_SLOTS
    }

    /// Whether all that one look at a device brings can be taken in.
    #[inline]
    pub fn takes_received(&self) -> bool {
        self.jobs.capacity() - self.jobs.len() >= TURN_RECEIVED
    }

    /// Ends the burst that began at `first`, if it brought anything.
    #[inline]
    pub fn end_burst(&mut self, source: Source, first: usize) {
        let jobs = first..self.jobs.len();
        if !jobs.is_empty() {
            self.bursts.push(Burst { source, jobs });
        }
    }

    /// Takes in a packet out of a Tx ring, for which [`Self::takes_chain`] was true, and plans to fetch its head.
    #[inline]
    pub fn push_chain(&mut self, chain: &TxPacket, domid: DomId, direct: bool) {
        let len = usize::from(chain.size);
        let staged = if len <= WHOLE_FETCH { len } else { HEAD_FETCH };
        if staged < len {
            self.staging.reserve(chain.fragments().len());
        }
        let Some(head) = self.staging.take(staged) else {
            debug_assert!(false, "asked before the chain was taken");
            return;
        };
        let fetch = self.heads.copy(
            InFragments::new(domid, chain.fragments()),
            InPieces::new(&self.staging, head, &[]),
            0..staged,
        );
        let fragments = Places {
            first: self.fragments.len() as u32,
            count: chain.fragments().len() as u16,
        };
        // One by one: most chains have one fragment, which a call to copy memory costs more than.
        for &fragment in chain.fragments() {
            self.fragments.push(fragment);
        }
        // Made where it stays: what is made first and then moved costs twice.
        self.jobs.push(Job {
            staged: staged as u32,
            head,
            direct,
            fixup: chain.checksum_fixup,
            domid,
            slots: chain.slots,
            fragments,
            fetches: [fetch, Span::default()],
            ..Job::new(len as u32, offload(chain))
        });
    }

    /// Plans to fetch what is behind the head of job `n`, an operation for each fragment. False: there is no room in this turn.
    pub fn plan_tail(&mut self, n: usize) -> bool {
        let job = &self.jobs[n];
        let fragments = job.fragments.of(&self.fragments);
        let first = self.pieces.len();
        let (mut position, staged) = (0, job.staged as usize);
        for fragment in fragments {
            let start = position;
            position += usize::from(fragment.size);
            // What lies behind the head, and not behind the packet.
            let (from, to) = (start.max(staged), position.min(job.len as usize));
            if from >= to {
                continue;
            }
            let Some(piece) = self.staging.take(to - from) else {
                self.pieces.truncate(first);
                return false;
            };
            self.pieces.push(piece);
        }
        let tail = self.tails.copy(
            InFragments::new(job.domid, fragments),
            InPieces::from(&self.staging, &self.pieces[first..], staged),
            staged..job.len as usize,
        );
        let job = &mut self.jobs[n];
        job.fetches[1] = tail;
        job.behind = Places {
            first: first as u32,
            count: (self.pieces.len() - first) as u16,
        };
        true
    }

    /// The queue, by slot, whose Tx ring packet `n` came out of.
    pub fn sender_of(&self, n: u16) -> Option<u16> {
        let mut bursts = self.bursts.iter();
        let burst = bursts.find(|burst| burst.jobs.contains(&usize::from(n)))?;
        match burst.source {
            Source::Queue(slot) => Some(slot),
            Source::Uplink(_) | Source::Worker => None,
        }
    }

    /// The VLAN of packet `n`, and the tag that it has now.
    pub fn vlan_of(&self, n: usize) -> InVlan {
        let at = self
            .vlans
            .binary_search_by_key(&(n as u16), |(job, _)| *job);
        at.map_or(InVlan::default(), |at| self.vlans[at].1)
    }

    /// Notes what became of the tag of packet `n`.
    pub fn set_vlan(&mut self, n: usize, vlan: InVlan) {
        let at = self
            .vlans
            .binary_search_by_key(&(n as u16), |(job, _)| *job);
        if let Ok(at) = at {
            self.vlans[at].1 = vlan;
        }
    }

    /// Whether another packet can be placed on an Rx ring in this turn.
    #[inline]
    pub fn can_place(&self) -> bool {
        self.placed.len() < TURN_PLACED && self.rx.room() >= PACKET_OPERATIONS
    }

    /// Brings a packet that came in frames into staging memory, cut at the ends of pages as posted pages are. False: there is no room in
    /// this turn.
    #[inline]
    pub fn stage(&mut self, n: usize, umem: &Umem) -> bool {
        let job = &mut self.jobs[n];
        let Some(packet) = &job.packet else {
            return true;
        };
        if job.staged == job.len {
            return true;
        }
        if packet.frame_count() == 1 {
            let Some(head) = self.staging.hold(packet.head(umem)) else {
                return false;
            };
            job.head = head;
        } else {
            let first = self.pieces.len();
            if !stage_pages(
                &mut self.staging,
                &mut self.pieces,
                job.len as usize,
                packet.slices(umem),
            ) {
                self.pieces.truncate(first);
                return false;
            }
            job.head = self.pieces[first];
            job.behind = Places {
                first: first as u32 + 1,
                count: (self.pieces.len() - first - 1) as u16,
            };
        }
        job.staged = job.len;
        true
    }

    /// Shows `see` the bytes of a whole packet in order, slice by slice.
    #[inline(always)] // Most packets are one slice.
    pub fn each_slice(&self, n: usize, umem: &Umem, mut see: impl FnMut(&[u8])) {
        let job = &self.jobs[n];
        match &job.packet {
            Some(packet) => packet.slices(umem).for_each(see),
            None => {
                see(self.staging.bytes(job.head));
                for &piece in job.behind.of(&self.pieces) {
                    see(self.staging.bytes(piece));
                }
            }
        }
    }

    /// The bytes of a packet that is whole in staging memory, in order.
    #[inline]
    pub fn staged_slices(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        let job = &self.jobs[n];
        let behind = job.behind.of(&self.pieces).iter();
        let pieces = std::iter::once(&job.head).chain(behind);
        pieces.map(|&piece| self.staging.bytes(piece))
    }

    /// Completes the blank checksum of a whole packet where its bytes are. Refused: the packet cannot be completed, and goes nowhere.
    pub fn complete_checksum(&mut self, n: usize, umem: &Umem) -> Result<(), HeaderError> {
        let job = &mut self.jobs[n];
        // Bytes that were staged already would not follow.
        match &mut job.packet {
            Some(packet) if job.staged == 0 => packet.complete_checksum(umem)?,
            _ => {
                let behind = job.behind.of(&self.pieces).iter();
                let rest = behind.map(|&piece| self.staging.bytes(piece));
                let (at, field) = checksum::completion(self.staging.bytes(job.head), rest)?;
                self.staging.bytes_mut(job.head)[at..at + 2].copy_from_slice(&field);
            }
        }
        job.offload.checksum = Checksum::Valid;
        Ok(())
    }
}

/// Copies `bytes`, `len` in all, into whole pages of staging memory, and appends the pieces. False: there is no room.
pub(crate) fn stage_pages<'a>(
    staging: &mut Staging,
    pieces: &mut Vec<Piece>,
    len: usize,
    bytes: impl Iterator<Item = &'a [u8]>,
) -> bool {
    let first = pieces.len();
    let mut left = len;
    while left > 0 {
        let Some(piece) = staging.take_spare(left.min(PAGE_SIZE)) else {
            return false;
        };
        left -= piece.len();
        pieces.push(piece);
    }
    let (mut at, mut within) = (first, 0);
    for mut slice in bytes {
        while !slice.is_empty() && at < pieces.len() {
            let room = &mut staging.bytes_mut(pieces[at])[within..];
            let count = room.len().min(slice.len());
            room[..count].copy_from_slice(&slice[..count]);
            slice = &slice[count..];
            within += count;
            if within == pieces[at].len() {
                (at, within) = (at + 1, 0);
            }
        }
    }
    true
}

/// The offload of a guest's packet.
#[inline]
fn offload(chain: &TxPacket) -> Offload {
    Offload {
        checksum: match chain.checksum {
            TxChecksum::None => Checksum::Unverified,
            TxChecksum::Blank => Checksum::Blank,
            TxChecksum::Validated => Checksum::Valid,
        },
        gso: chain.gso.map(|gso| Gso {
            segment: gso.size,
            ipv6: gso.kind == GsoKind::TcpV6,
        }),
    }
}
