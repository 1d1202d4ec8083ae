//! TCP segments towards a guest that segments itself: merged with those of their stream before them into one packet.
//!
//! A queue has several packets open, one of a stream. Whatever else comes of a stream closes the stream's packet first, and the end of
//! the turn closes all: a stream keeps its order, and no packet waits for another turn. Open packets grow as far as there is room for all
//! of them, and a later packet for which there is none beside them closes them first: what came first is not dropped for it.
use super::Handed;
use super::queue::Turn;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::Batch;
use crate::path::fabric::live;
use crate::path::job::Job;
use crate::path::ports::Destination;
use crate::queue::Queue;
use crate::queue::merge::{Held, Open};
use crate::worker::Worker;
use xsk_bridge::frame::{FramePool, Umem};
use xsk_bridge::offload::coalesce::{Copied, Segment};
use xsk_bridge::offload::flows::Behind;
use xsk_bridge::packet::{Checksum, Offload};

impl<H: Hypervisor> Worker<H> {
    /// Places every packet that is open: none waits for another turn.
    pub(super) fn close_merges(&mut self) {
        let fabric = &mut self.fabric;
        let placed = self.batch.placed.len();
        for at in 0..self.batch.merging.len() {
            let slot = self.batch.merging[at];
            let mut turn = Turn {
                number: self.turn_number,
                now: fabric.now,
                pool: &mut fabric.pool,
                waiting: &mut fabric.waiting,
            };
            if let Some(queue) = live(&mut fabric.queues, slot) {
                queue.close_all(slot, &mut self.batch, &mut turn);
            }
        }
        for at in placed..self.batch.placed.len() {
            self.touch(self.batch.placed[at].queue);
        }
    }
}

impl<H: Hypervisor> Queue<H> {
    /// Whether packet `n` may become part of a packet that is open, or others part of one that begins with it.
    #[inline]
    pub(super) fn may_merge(&self, n: usize, batch: &Batch) -> bool {
        // Nothing follows the last packet of a turn.
        self.rx.merge.is_on() && !(self.rx.merge.is_empty() && n + 1 == batch.jobs.len())
    }

    /// Makes packet `n` part of its stream's open packet, or the first segment of one. False: it goes by itself, behind the one that was
    /// open.
    #[inline]
    pub(super) fn merge(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        turn: &mut Turn<'_>,
    ) -> bool {
        self.rx.merge.has_recent() && self.merge_next(n, batch, turn)
            || self.merge_another(slot, n, batch, turn)
    }

    /// Makes packet `n` part of the packet that grew last, where it continues that: most segments do.
    #[inline(never)] // Most packets of most guests go past it.
    fn merge_next(&mut self, n: usize, batch: &mut Batch, turn: &mut Turn<'_>) -> bool {
        let bytes = mergeable(&batch.jobs[n], turn.pool.umem());
        let continued = bytes.and_then(|bytes| self.rx.merge.continued(bytes));
        continued.is_some_and(|(place, segment, len)| {
            self.append(place, &segment, len, n, batch, turn.pool) == Copied::Right
        })
    }

    /// As [`Self::merge`], of a packet that does not continue the one that grew last.
    #[inline(never)] // Most packets of most guests go past it.
    fn merge_another(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        turn: &mut Turn<'_>,
    ) -> bool {
        let merge = &mut self.rx.merge;
        if merge.begin(turn.number) {
            batch.merging.push(slot);
        }
        let segment = mergeable(&batch.jobs[n], turn.pool.umem()).and_then(Segment::of);
        let Some(segment) = segment.filter(|segment| merge.takes(segment)) else {
            self.close_before(slot, n, batch, turn);
            return false;
        };
        let mut alone = segment.is_last();
        if let Some(place) = merge.find(segment.flow()) {
            let len = merge.at(place).taken(&segment, n, batch, turn.pool);
            let copied = len.map_or(Copied::NoRoom, |len| {
                self.append(place, &segment, len, n, batch, turn.pool)
            });
            if copied == Copied::Right {
                return true;
            }
            self.close_merge(place, slot, batch, turn);
            alone |= copied == Copied::Wrong;
        }
        let len = batch.jobs[n].len;
        if self.rx.merge.has_grown() {
            self.keep_room(Held::one_page(len), slot, batch, turn);
        }
        if alone {
            return false;
        }
        let place = self.rx.merge.vacant().unwrap_or_else(|place| {
            self.close_merge(place, slot, batch, turn);
            place
        });
        self.rx.merge.open(place, &segment, n as u16, len);
        true
    }

    /// Appends packet `n`, a segment that makes `len` bytes of the packet that is open at `place`.
    #[inline]
    fn append(
        &mut self,
        place: usize,
        segment: &Segment,
        len: usize,
        n: usize,
        batch: &mut Batch,
        pool: &mut FramePool,
    ) -> Copied {
        let grown = self.rx.merge.grown(place, len);
        if !self.has_room_for(grown.all, pool) {
            return Copied::NoRoom;
        }
        let open = self.rx.merge.at(place);
        if open.coalescer.segments() == 0 && !open.copy_first(batch, pool) {
            return Copied::NoRoom;
        }
        let (coalescer, mut pages) = open.parts(&mut batch.staging);
        let mut copied = Copied::NoRoom;
        if let Some(packet) = batch.jobs[n].packet.take_if(|packet| {
            copied = coalescer.append(segment, packet.head(pool.umem()), &mut pages);
            copied == Copied::Right
        }) {
            pool.recycle(packet);
            self.rx.merge.grow(place, grown);
        }
        copied
    }

    /// Whether packets that take this much can be placed now, or wait where others do.
    fn has_room_for(&mut self, held: Held, pool: &FramePool) -> bool {
        match self.rx.backlog.is_empty() {
            // A ring that makes no sense is found out when the packet is placed.
            true => matches!(self.rx.has_posted_slots(held.slots), Ok(true)),
            false => self.rx.backlog.has_room(held.bytes, pool),
        }
    }

    /// Closes all open packets where a packet that takes `more`, and becomes part of none, would take the room that was found for them.
    #[cold]
    fn keep_room(&mut self, more: Held, slot: u16, batch: &mut Batch, turn: &mut Turn<'_>) {
        if self.rx.merge.is_empty() {
            return;
        }
        let held = self.rx.merge.held_beside(more);
        if !self.has_room_for(held, turn.pool) {
            self.close_all(slot, batch, turn);
        }
    }

    /// Closes what packet `n`, which is not merged and can be placed, must not overtake, and what it would take the room of.
    fn close_before(&mut self, slot: u16, n: usize, batch: &mut Batch, turn: &mut Turn<'_>) {
        if self.rx.merge.is_empty() {
            return;
        }
        let head = batch.jobs[n].head_bytes(&batch.staging, turn.pool.umem());
        match Behind::of(head) {
            Behind::Nothing => {}
            Behind::Flow(flow) => {
                if let Some(place) = self.rx.merge.find(flow) {
                    self.close_merge(place, slot, batch, turn);
                }
            }
            Behind::Everything => self.close_all(slot, batch, turn),
        }
        self.keep_room(most_held(&batch.jobs[n]), slot, batch, turn);
    }

    /// Closes all open packets: also before a packet that goes by the backlog, behind which they would have to wait.
    pub(super) fn close_all(&mut self, slot: u16, batch: &mut Batch, turn: &mut Turn<'_>) {
        while let Some(place) = self.rx.merge.any() {
            self.close_merge(place, slot, batch, turn);
        }
    }

    /// Places the packet that is open at `place`, or has it wait behind what waits already.
    #[inline(never)]
    fn close_merge(&mut self, place: usize, slot: u16, batch: &mut Batch, turn: &mut Turn<'_>) {
        let open = self.rx.merge.close(place);
        let segments = open.coalescer.segments();
        if segments == 0 {
            // The first segment is alone, and as it came.
            let first = open.first.into();
            if let Handed::Refused(reason) = self.place_or_keep(slot, first, batch, turn) {
                self.stats.rx_drops.add(reason, 1);
            }
            return;
        }
        let (coalescer, mut pages) = open.parts(&mut batch.staging);
        let (offload, len) = (coalescer.finish(&mut pages), coalescer.len() as u32);
        let pieces = batch.pieces.len();
        open.take_pages(&mut batch.pieces);
        let dropped = match self.place_staged(slot, pieces, len, offload, batch) {
            Ok(true) => None,
            Ok(false) => self.keep_staged(slot, pieces, len, offload, batch, turn),
            Err(fatal) => {
                self.rogue = Some(fatal);
                Some(DropReason::PortGone)
            }
        };
        if let Some(reason) = dropped {
            self.stats.rx_drops.add(reason, segments as u64);
        } else if segments > 1 {
            self.stats.rx_coalesced_packets.add(1);
            self.stats.rx_coalesced_segments.add(segments as u64);
        }
    }

    /// Puts a packet of `len` bytes in pieces of staging memory, from the one at `pieces` on, into the backlog; why not, where it has no
    /// room.
    fn keep_staged(
        &mut self,
        slot: u16,
        pieces: usize,
        len: u32,
        offload: Offload,
        batch: &Batch,
        turn: &mut Turn<'_>,
    ) -> Option<DropReason> {
        if !self.rx.backlog.has_room(len, turn.pool) {
            return Some(DropReason::BacklogFull);
        }
        let mut entry = self.rx.backlog.append(len, offload, turn.now, turn.pool);
        let mut left = len as usize;
        for &piece in &batch.pieces[pieces..] {
            let count = piece.len().min(left);
            entry.write(&batch.staging.bytes(piece)[..count]);
            left -= count;
        }
        self.list(slot, turn.waiting);
        None
    }
}

impl Open {
    /// How long the packet is with packet `n`, which is `segment`; `None` where the segment does not continue it.
    fn taken(
        &mut self,
        segment: &Segment,
        n: usize,
        batch: &Batch,
        pool: &FramePool,
    ) -> Option<usize> {
        let bytes = |n: usize| batch.jobs[n].head_bytes(&batch.staging, pool.umem());
        if self.coalescer.segments() == 0 {
            self.coalescer.set_headers(bytes(self.first.into()));
        }
        self.coalescer.takes(segment, bytes(n))
    }

    /// Copies the payload of the first segment, and gives its frame back. False where the segment is wrong, or there is no room.
    fn copy_first(&mut self, batch: &mut Batch, pool: &mut FramePool) -> bool {
        let first = usize::from(self.first);
        let (coalescer, mut pages) = self.parts(&mut batch.staging);
        let packet = batch.jobs[first].packet.take_if(|packet| {
            coalescer.copy_first(packet.head(pool.umem()), &mut pages) == Copied::Right
        });
        let copied = packet.is_some();
        packet.into_iter().for_each(|packet| pool.recycle(packet));
        copied
    }
}

/// What a packet that is not merged takes at most of a guest's ring or backlog.
fn most_held(job: &Job) -> Held {
    let mut held = Held::of(job.len, &job.offload);
    if job.offload.gso.is_some() && !job.is_whole() {
        // From page to page it may take a request for each of its sender's slots, and one for its extra.
        held.slots = held.slots.max(u32::from(job.fragments.count) + 1);
    }
    held
}

/// The bytes of a packet that may be merged: it came in a frame, is for one queue alone, and has a checksum to verify.
#[inline]
fn mergeable<'a>(job: &'a Job, umem: &'a Umem) -> Option<&'a [u8]> {
    let packet = job.packet.as_ref()?;
    let alone = matches!(job.destination, Destination::Queue(_));
    let plain = job.offload.gso.is_none() && job.offload.checksum != Checksum::Blank;
    (alone && plain && packet.frame_count() == 1).then(|| packet.head(umem))
}
