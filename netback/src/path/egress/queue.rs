//! Packets towards a guest's queue that this worker serves: into posted pages, or into the backlog.
use super::{Handed, Pass};
use crate::bounds::{PACED_LEAST, PACED_WAIT};
use crate::copy::runs::{InFragments, InPages, InPieces};
use crate::copy::staging::Piece;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::DropReason;
use crate::path::batch::{Batch, Placed};
use crate::path::fabric::live;
use crate::queue::Queue;
use crate::worker::Worker;
use std::ops::Range;
use std::time::Instant;
use xen::grant::GrantRef;
use xsk_bridge::frame::{FramePool, Umem};
use xsk_bridge::packet::{Checksum, Offload};

/// The state of the worker that handing a packet to a queue needs.
pub(super) struct Turn<'a> {
    pub number: u64,
    pub now: Instant,
    pub pool: &'a mut FramePool,
    pub waiting: &'a mut Vec<u16>,
}

impl<H: Hypervisor> Worker<H> {
    /// Hands consecutive packets to the queue in `slot`.
    pub(super) fn hand_to_queue(&mut self, slot: u16, jobs: Range<usize>, pass: Pass) {
        let fabric = &mut self.fabric;
        let mut turn = Turn {
            number: self.turn_number,
            now: fabric.now,
            pool: &mut fabric.pool,
            waiting: &mut fabric.waiting,
        };
        let Some(queue) = live(&mut fabric.queues, slot) else {
            for job in &mut self.batch.jobs[jobs] {
                job.drop_for(DropReason::PortGone);
            }
            return;
        };
        let placed = self.batch.placed.len();
        for n in jobs {
            let handed = queue.take_in(slot, n, &mut self.batch, &mut turn, pass);
            self.batch.settle(n, handed);
        }
        if self.batch.placed.len() > placed {
            self.touch(slot);
        }
    }
}

impl<H: Hypervisor> Queue<H> {
    /// Brings packet `n` of the batch into posted pages, or into the backlog behind what waits already. What the guest cannot take is
    /// dropped and counted here.
    #[inline]
    pub(super) fn take_in(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        turn: &mut Turn<'_>,
        pass: Pass,
    ) -> Handed {
        let job = &batch.jobs[n];
        let head = || job.head_bytes(&batch.staging, turn.pool.umem());
        if let Some(gso) = job.offload.gso
            && !self.rx.takes_gso(gso, head())
        {
            return self.take_segments(slot, n, batch, turn, pass);
        }
        let free = job.len <= self.limits.free();
        if !free && self.limits.is_too_long(job.len, job.offload.gso) {
            self.stats.rx_drops.add(DropReason::TooLong, 1);
            return Handed::Taken;
        }
        if let Some(reason) = self.refuses(job.len, head) {
            self.stats.rx_drops.add(reason, 1);
            return Handed::Taken;
        }
        let blank = job.offload.checksum == Checksum::Blank;
        let completes = blank && !self.rx.takes_blank(head(), job.len);
        if pass == Pass::First {
            let deferred = self.rx.barrier == turn.number;
            if deferred || (completes && !job.is_whole()) {
                return self.defer(turn);
            }
        }
        if completes {
            match batch.complete_checksum(n, turn.pool.umem()) {
                Ok(()) => self.stats.checksums_completed.add(1),
                Err(_) => {
                    self.stats.rx_drops.add(DropReason::ChecksumImpossible, 1);
                    return Handed::Taken;
                }
            }
        }
        if !free && self.limits.rx.is_limited() {
            // It goes by the backlog, where packets are taken out at the guest's rate; the rate may be new in this turn.
            self.close_all(slot, batch, turn);
            return self.keep(slot, n, batch, turn);
        }
        if self.may_merge(n, batch) && self.merge(slot, n, batch, turn) {
            return Handed::Taken;
        }
        self.place_or_keep(slot, n, batch, turn)
    }

    /// Brings packet `n` into posted pages, or into the backlog.
    #[inline(always)] // The path of most packets: as little as possible is called.
    pub(super) fn place_or_keep(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        turn: &mut Turn<'_>,
    ) -> Handed {
        if self.rx.backlog.is_empty() && batch.can_place() {
            match self.place(slot, n, batch, turn.pool.umem(), turn.now) {
                Ok(true) => return Handed::Taken,
                Ok(false) => {}
                Err(fatal) => {
                    self.rogue = Some(fatal);
                    return Handed::Refused(DropReason::PortGone);
                }
            }
        }
        self.keep(slot, n, batch, turn)
    }

    /// Defers a packet, and with it all later packets of this turn for the queue, so that none overtakes it.
    pub(super) fn defer(&mut self, turn: &Turn<'_>) -> Handed {
        self.rx.barrier = turn.number;
        Handed::Deferred
    }

    /// Puts a packet into the backlog.
    fn keep(&mut self, slot: u16, n: usize, batch: &Batch, turn: &mut Turn<'_>) -> Handed {
        let job = &batch.jobs[n];
        if !job.is_whole() {
            return self.defer(turn);
        }
        if let Some(reason) = self.cannot_wait(job.len, turn.pool) {
            self.stats.rx_drops.add(reason, 1);
            return Handed::Taken;
        }
        let (len, offload) = (job.len, job.offload);
        let mut entry = self.rx.backlog.append(len, offload, turn.now, turn.pool);
        batch.each_slice(n, entry.umem, |bytes| entry.write(bytes));
        self.list(slot, turn.waiting);
        Handed::Taken
    }

    /// Why a packet of `len` bytes may not wait for the guest; `None`: it may. Where the guest's rate is limited, as much may wait as goes out
    /// within [`PACED_WAIT`].
    pub(super) fn cannot_wait(&self, len: u32, pool: &FramePool) -> Option<DropReason> {
        let waiting = self.rx.backlog.bytes();
        let most = self.limits.rx.bytes_in(PACED_WAIT);
        if most.is_some_and(|most| waiting + len as usize > most.max(PACED_LEAST)) {
            return Some(DropReason::RateExceeded);
        }
        let room = self.rx.backlog.has_room(len, pool);
        (!room).then_some(DropReason::BacklogFull)
    }

    /// Notes that the queue has a backlog.
    pub(super) fn list(&mut self, slot: u16, waiting: &mut Vec<u16>) {
        if !self.rx.listed {
            self.rx.listed = true;
            waiting.push(slot);
        }
    }

    /// Takes posted requests for a packet and plans its copies: what is here out of our memory, the rest from page to page. `Ok(false)`: the
    /// guest has not posted enough, or the packet may not go from page to page.
    #[inline(always)] // There is one caller: called, its result would go by memory.
    fn place(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        umem: &Umem,
        now: Instant,
    ) -> Result<bool, ring::packet::Fatal> {
        let job = &batch.jobs[n];
        let whole = job.is_whole();
        let direct = job.direct && !self.rx.is_suspected(now);
        if !(whole || direct) || !self.rx.has_posted(job.len, &job.offload)? {
            return Ok(false);
        }
        if !whole && job.offload.gso.is_some() && self.place_mirrored(slot, n, batch, umem)? {
            return Ok(true);
        }
        if batch.jobs[n].packet.is_some() && !batch.stage(n, umem) {
            return Ok(false);
        }
        let job = &batch.jobs[n];
        if let Some(piece) = job.one_page() {
            self.place_page(slot, piece, job.offload, batch);
            return Ok(true);
        }
        self.rx.take(job.len, &job.offload);
        let dest = || InPages {
            domid: self.domid,
            grefs: self.rx.pages(),
        };
        let behind = job.behind.of(&batch.pieces);
        let pieces = InPieces::new(&batch.staging, job.head, behind);
        let ours = batch.rx.copy(pieces, dest(), 0..job.staged as usize);
        let theirs = match whole {
            true => Default::default(),
            false => batch.rx.copy(
                InFragments::new(job.domid, job.fragments.of(&batch.fragments)),
                dest(),
                job.staged as usize..job.len as usize,
            ),
        };
        batch.placed.push(Placed {
            queue: slot,
            sender: (!whole).then_some(n as u16),
            spans: [ours, theirs],
            len: job.len,
            offload: job.offload,
            mirrored: false,
        });
        Ok(true)
    }

    /// Takes one posted request for a packet that is one piece of staging memory, and plans its copy, which is one operation.
    #[inline(always)] // There is one caller.
    fn place_page(&mut self, slot: u16, piece: Piece, offload: Offload, batch: &mut Batch) {
        let gref = self.rx.take_page();
        let span = batch.rx.copy_page(
            batch.staging.side(piece, 0),
            self.domid,
            GrantRef(gref),
            piece.len(),
        );
        batch.placed.push(Placed {
            queue: slot,
            sender: None,
            spans: [span, Default::default()],
            len: piece.len() as u32,
            offload,
            mirrored: false,
        });
    }
}
