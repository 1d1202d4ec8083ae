//! Packets that wait for a guest to post Rx requests: packed into frames of the pool one behind the other, so that a small packet costs
//! its bytes and not a frame, and bounded in bytes, in packets, in age, and by what is free in the pool.
use crate::bounds::{
    BACKLOG_FRAMES, BACKLOG_MINIMUM, BACKLOG_MINIMUMS, BACKLOG_PACKETS, BACKLOG_RESERVE,
    MAX_BACKLOG_BYTES,
};
use crate::copy::staging::{Piece, Staging};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use xen::grant::PAGE_SIZE;
use xsk_bridge::frame::{FRAME_SIZE, Frame, FramePool, Umem};
use xsk_bridge::packet::Offload;

/// What may wait for one guest queue; more is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogBounds {
    /// Packet bytes, at most [`MAX_BACKLOG_BYTES`].
    pub bytes: u32,
    /// Longest wait.
    pub age: Duration,
}

impl Default for BacklogBounds {
    /// 512 KiB (Linux since XSA-392) and 10 s (its rx_drain_timeout).
    fn default() -> Self {
        Self {
            bytes: 512 * 1024,
            age: Duration::from_secs(10),
        }
    }
}

/// A packet that waits, without its bytes.
struct Waiting {
    len: u32,
    offload: Offload,
    since: Instant,
}

/// The backlog of one queue.
pub(crate) struct Backlog {
    waiting: VecDeque<Waiting>,
    /// The packets' bytes, one packet behind the other: whole pages, the first from `start` on, the last up to `end`.
    frames: VecDeque<Frame>,
    start: usize,
    end: usize,
    bytes: usize,
    bounds: BacklogBounds,
}

impl Backlog {
    /// An empty backlog, which never grows.
    pub fn new(bounds: BacklogBounds) -> Self {
        debug_assert!(bounds.bytes <= MAX_BACKLOG_BYTES);
        Self {
            waiting: VecDeque::with_capacity(BACKLOG_PACKETS),
            frames: VecDeque::with_capacity(BACKLOG_FRAMES),
            start: 0,
            end: FRAME_SIZE,
            bytes: 0,
            bounds,
        }
    }

    /// Whether a packet of `len` bytes can be appended. Beyond a minimum that each backlog has, one takes at most as many frames as it
    /// leaves free in `pool`, so that guests that post nothing leave room for the others; nobody's backlog touches the reserve.
    #[inline]
    pub fn has_room(&self, len: u32, pool: &FramePool) -> bool {
        let needed = self.frames_for(len as usize);
        self.bytes + len as usize <= self.bounds.bytes as usize
            && self.waiting.len() < BACKLOG_PACKETS
            && (needed == 0 || self.may_take(needed, pool.len()))
    }

    /// Whether the backlog may take `needed` more of `free` frames.
    fn may_take(&self, needed: usize, free: usize) -> bool {
        let held = self.frames.len() + needed;
        let left = free.saturating_sub(BACKLOG_RESERVE + needed);
        match held <= BACKLOG_MINIMUM {
            true => left > 0,
            false => held <= left.saturating_sub(BACKLOG_MINIMUMS),
        }
    }

    /// Frames that `len` more bytes need.
    #[inline]
    fn frames_for(&self, len: usize) -> usize {
        len.saturating_sub(FRAME_SIZE - self.end)
            .div_ceil(FRAME_SIZE)
    }

    /// Appends a packet, for which there is room; its bytes are then written to the entry.
    #[inline]
    pub fn append<'a>(
        &'a mut self,
        len: u32,
        offload: Offload,
        now: Instant,
        pool: &'a mut FramePool,
    ) -> Entry<'a> {
        debug_assert!(self.has_room(len, pool), "the backlog has no room");
        let (frame, within) = match self.end < FRAME_SIZE {
            true => (self.frames.len() - 1, self.end),
            false => (self.frames.len(), 0),
        };
        let needed = self.frames_for(len as usize);
        self.frames.extend((0..needed).map_while(|_| pool.take()));
        self.end = match (within + len as usize) % FRAME_SIZE {
            0 => FRAME_SIZE,
            end => end,
        };
        self.bytes += len as usize;
        self.waiting.push_back(Waiting {
            len,
            offload,
            since: now,
        });
        Entry {
            frames: &mut self.frames,
            umem: pool.umem(),
            frame,
            within,
        }
    }

    /// Length and offload of the packet that has waited longest.
    #[inline]
    pub fn front(&self) -> Option<(u32, Offload)> {
        self.waiting
            .front()
            .map(|waiting| (waiting.len, waiting.offload))
    }

    /// Moves the oldest packet into staging memory, in pieces of whole pages that are appended to `pieces`. False: there is no room.
    pub fn pop_into(
        &mut self,
        staging: &mut Staging,
        pieces: &mut Vec<Piece>,
        pool: &mut FramePool,
    ) -> bool {
        let Some(len) = self.waiting.front().map(|waiting| waiting.len as usize) else {
            return false;
        };
        let first = pieces.len();
        let mut left = len;
        while left > 0 {
            let Some(piece) = staging.take_spare(left.min(PAGE_SIZE)) else {
                pieces.truncate(first);
                return false;
            };
            left -= piece.len();
            pieces.push(piece);
        }
        let umem = pool.umem();
        let (mut frame, mut within) = (0, self.start);
        for &piece in &pieces[first..] {
            let mut into = staging.bytes_mut(piece);
            while !into.is_empty() {
                let from = &umem.page(&self.frames[frame])[within..];
                let count = from.len().min(into.len());
                into[..count].copy_from_slice(&from[..count]);
                into = &mut into[count..];
                within += count;
                if within == FRAME_SIZE {
                    (frame, within) = (frame + 1, 0);
                }
            }
        }
        self.forget_front(pool);
        true
    }

    /// Drops packets that have waited too long. Returns how many.
    pub fn drop_expired(&mut self, now: Instant, pool: &mut FramePool) -> u64 {
        let mut dropped = 0;
        while let Some(waiting) = self.waiting.front()
            && now.saturating_duration_since(waiting.since) >= self.bounds.age
        {
            self.forget_front(pool);
            dropped += 1;
        }
        dropped
    }

    /// Drops everything that waits. Returns how many packets that were.
    pub fn clear(&mut self, pool: &mut FramePool) -> u64 {
        let dropped = self.waiting.len();
        while !self.waiting.is_empty() {
            self.forget_front(pool);
        }
        dropped as u64
    }

    /// Takes the oldest packet out; frames that hold nothing else go back to the pool.
    fn forget_front(&mut self, pool: &mut FramePool) {
        let Some(waiting) = self.waiting.pop_front() else {
            return;
        };
        self.bytes -= waiting.len as usize;
        let end = self.start + waiting.len as usize;
        let done = match self.waiting.is_empty() {
            true => self.frames.len(),
            false => end / FRAME_SIZE,
        };
        pool.extend(self.frames.drain(..done));
        (self.start, self.end) = match self.waiting.is_empty() {
            true => (0, FRAME_SIZE),
            false => (end % FRAME_SIZE, self.end),
        };
    }

    /// When the oldest packet will have waited too long; `None`: nothing waits.
    pub fn expires(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.waiting.front()?.since);
        Some(self.bounds.age.saturating_sub(waited))
    }

    /// The number of packets that wait.
    pub fn packets(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the packets that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames that hold the packets that wait.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }
}

/// Room for the bytes of a packet that was just appended.
pub(crate) struct Entry<'a> {
    frames: &'a mut VecDeque<Frame>,
    /// The memory of the frames.
    pub umem: &'a Umem,
    frame: usize,
    within: usize,
}

impl Entry<'_> {
    /// Writes the packet's next bytes; all slices together are as long as the packet.
    #[inline]
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.within == FRAME_SIZE {
                (self.frame, self.within) = (self.frame + 1, 0);
            }
            let page = self.umem.page_mut(&mut self.frames[self.frame]);
            let room = &mut page[self.within..];
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.within += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(frames: u32) -> (FramePool, Staging) {
        let (umem, all) = Umem::new(frames).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(all);
        let staging = Staging::new(None, &mut pool);
        (pool, staging)
    }

    fn push(backlog: &mut Backlog, pool: &mut FramePool, bytes: &[u8], now: Instant) -> bool {
        let len = bytes.len() as u32;
        let room = backlog.has_room(len, pool);
        if room {
            let mut entry = backlog.append(len, Offload::default(), now, pool);
            bytes.chunks(700).for_each(|chunk| entry.write(chunk));
        }
        room
    }

    fn pop(backlog: &mut Backlog, pool: &mut FramePool, staging: &mut Staging) -> Vec<u8> {
        let mut pieces = Vec::new();
        staging.clear();
        assert!(backlog.pop_into(staging, &mut pieces, pool));
        let bytes = pieces.iter().map(|&piece| staging.bytes(piece));
        bytes.flatten().copied().collect()
    }

    #[test]
    fn bounded_in_bytes_and_in_packets_and_small_packets_share_frames() {
        let now = Instant::now();
        let (mut pool, mut staging) = memory(3000);
        let free = pool.len();
        let bounds = BacklogBounds {
            bytes: 1000,
            ..BacklogBounds::default()
        };
        let mut backlog = Backlog::new(bounds);
        assert!((0..3).all(|_| push(&mut backlog, &mut pool, &[7; 300], now)));
        assert!(!push(&mut backlog, &mut pool, &[7; 300], now));
        assert_eq!(
            (backlog.packets(), backlog.bytes(), backlog.frames()),
            (3, 900, 1)
        );
        pop(&mut backlog, &mut pool, &mut staging);
        assert_eq!((backlog.packets(), backlog.bytes()), (2, 600));
        backlog.clear(&mut pool);

        let mut backlog = Backlog::new(BacklogBounds::default());
        let taken = (0..5000).filter(|_| push(&mut backlog, &mut pool, &[7; 60], now));
        assert_eq!(taken.count(), BACKLOG_PACKETS);
        assert_eq!(
            backlog.frames(),
            (BACKLOG_PACKETS * 60).div_ceil(FRAME_SIZE)
        );
        assert_eq!(backlog.clear(&mut pool), BACKLOG_PACKETS as u64);
        assert_eq!(pool.len(), free);
    }

    #[test]
    fn guests_that_post_nothing_leave_room_for_one_more_and_for_the_reserve() {
        let (mut pool, _staging) = memory(3000);
        let full = BacklogBounds {
            bytes: MAX_BACKLOG_BYTES,
            ..BacklogBounds::default()
        };
        let mut backlogs: Vec<_> = (0..30).map(|_| Backlog::new(full)).collect();
        for backlog in &mut backlogs {
            while push(backlog, &mut pool, &[1; 1500], Instant::now()) {}
        }
        assert!(backlogs.iter().all(|backlog| backlog.packets() >= 20));
        assert!(pool.len() >= BACKLOG_RESERVE);
        assert!(push(
            &mut Backlog::new(full),
            &mut pool,
            &[1; 1500],
            Instant::now()
        ));
    }

    #[test]
    fn the_oldest_expires_first() {
        let start = Instant::now();
        let (mut pool, _staging) = memory(3000);
        let mut backlog = Backlog::new(BacklogBounds::default());
        for n in 0..2 {
            push(
                &mut backlog,
                &mut pool,
                &[1; 60],
                start + Duration::from_secs(n),
            );
        }
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(backlog.expires(at(4000)), Some(Duration::from_secs(6)));
        assert_eq!(backlog.drop_expired(at(9999), &mut pool), 0);
        assert_eq!(backlog.drop_expired(at(10_000), &mut pool), 1);
        assert_eq!(backlog.drop_expired(at(10_000), &mut pool), 0);
        assert_eq!(backlog.packets(), 1);
    }

    proptest! {
        /// What comes out is what went in, in order, whatever the lengths, and no frame is lost.
        #[test]
        fn first_in_first_out(steps in prop::collection::vec(prop_oneof![Just(0usize), 14usize..200, 1400usize..1600, 4000usize..4200, 60_000usize..65_536], 1..120)) {
            let (mut pool, mut staging) = memory(3000);
            let free = pool.len();
            let mut backlog = Backlog::new(BacklogBounds::default());
            let mut model = VecDeque::new();
            for (n, len) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + n) as u8).collect();
                if len == 0 {
                    if let Some(expected) = model.pop_front() {
                        prop_assert!(pop(&mut backlog, &mut pool, &mut staging) == expected);
                    }
                } else if push(&mut backlog, &mut pool, &bytes, Instant::now()) {
                    model.push_back(bytes);
                }
                prop_assert_eq!(backlog.bytes(), model.iter().map(Vec::len).sum::<usize>());
                prop_assert!(backlog.frames() <= backlog.bytes().div_ceil(FRAME_SIZE) + 1);
                prop_assert_eq!(pool.len() + backlog.frames(), free);
            }
            for expected in model {
                prop_assert!(pop(&mut backlog, &mut pool, &mut staging) == expected);
            }
            prop_assert_eq!(pool.len(), free);
        }
    }
}
