//! Packets that wait for a guest to post Rx requests: bounded in bytes, in frames and in age.
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use xsk_bridge::packet::Packet;

/// Most frames one backlog holds, whatever its bound in bytes: its share in the sum that sizes the pool. Two full Rx rings' worth.
pub const BACKLOG_FRAMES: usize = 512;

/// Largest bound in bytes that a backlog can be given (`vif.backlog_bytes`): what [`BACKLOG_FRAMES`] frames of packet memory hold.
pub const BACKLOG_BYTES_LIMIT: u32 = 2 << 20;

/// What may wait for one guest queue; more is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogBounds {
    /// Packet bytes.
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

struct Waiting {
    packet: Packet,
    since: Instant,
}

/// The backlog of one queue.
pub struct Backlog {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    frames: usize,
    bounds: BacklogBounds,
}

impl Backlog {
    /// An empty one that never grows.
    pub fn new(bounds: BacklogBounds) -> Self {
        Self {
            waiting: VecDeque::with_capacity(BACKLOG_FRAMES),
            bytes: 0,
            frames: 0,
            bounds,
        }
    }

    /// Whether `packet` can be appended without passing a bound.
    #[inline]
    pub fn has_room(&self, packet: &Packet) -> bool {
        self.bytes + packet.len as usize <= self.bounds.bytes as usize
            && self.frames + packet.frame_count() <= BACKLOG_FRAMES
    }

    /// Append `packet`, for which there is room.
    #[inline]
    pub fn push(&mut self, packet: Packet, now: Instant) {
        debug_assert!(self.has_room(&packet), "the backlog has no room");
        self.bytes += packet.len as usize;
        self.frames += packet.frame_count();
        self.waiting.push_back(Waiting { packet, since: now });
    }

    /// The packet that has waited longest.
    pub fn front(&self) -> Option<&Packet> {
        self.waiting.front().map(|waiting| &waiting.packet)
    }

    /// Take it.
    #[inline]
    pub fn pop(&mut self) -> Option<Packet> {
        let packet = self.waiting.pop_front()?.packet;
        self.bytes -= packet.len as usize;
        self.frames -= packet.frame_count();
        Some(packet)
    }

    /// Take it if it has waited too long.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Packet> {
        let waiting = self.waiting.front()?;
        if now.saturating_duration_since(waiting.since) < self.bounds.age {
            return None;
        }
        self.pop()
    }

    /// When the oldest packet will have waited too long.
    pub fn expires(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.waiting.front()?.since);
        Some(self.bounds.age.saturating_sub(waited))
    }

    /// Packets waiting.
    pub fn packets(&self) -> usize {
        self.waiting.len()
    }

    /// True when nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Their frames.
    pub fn frames(&self) -> usize {
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xsk_bridge::frame::Umem;
    use xsk_bridge::packet::Offload;

    fn packets(len: u32, count: u32) -> (Umem, Vec<Packet>) {
        let (umem, frames) = Umem::new(count).unwrap();
        let packet = |frame| Packet {
            frames: [frame].into_iter().collect(),
            len,
            offload: Offload::default(),
        };
        (umem, frames.into_iter().map(packet).collect())
    }

    #[test]
    fn bounded_in_bytes_and_in_frames() {
        let now = Instant::now();
        let bounds = BacklogBounds {
            bytes: 1000,
            age: Duration::from_secs(10),
        };
        let mut backlog = Backlog::new(bounds);
        let (_umem, mut some) = packets(300, 4);
        for packet in some.drain(..3) {
            backlog.push(packet, now);
        }
        assert!(!backlog.has_room(&some[0]));
        assert_eq!(
            (backlog.packets(), backlog.bytes(), backlog.frames()),
            (3, 900, 3)
        );
        backlog.pop().unwrap();
        assert_eq!(
            (backlog.packets(), backlog.bytes(), backlog.frames()),
            (2, 600, 2)
        );

        let mut backlog = Backlog::new(BacklogBounds::default());
        let (_umem, many) = packets(60, BACKLOG_FRAMES as u32 + 9);
        let mut refused = 0;
        for packet in many {
            match backlog.has_room(&packet) {
                true => backlog.push(packet, now),
                false => refused += 1,
            }
        }
        assert_eq!((refused, backlog.packets()), (9, BACKLOG_FRAMES));
    }

    #[test]
    fn the_oldest_expires_first() {
        let start = Instant::now();
        let mut backlog = Backlog::new(BacklogBounds {
            bytes: 1000,
            age: Duration::from_secs(10),
        });
        let (_umem, some) = packets(60, 2);
        for (n, packet) in some.into_iter().enumerate() {
            backlog.push(packet, start + Duration::from_secs(n as u64));
        }
        assert_eq!(
            backlog.expires(start + Duration::from_secs(4)),
            Some(Duration::from_secs(6))
        );
        assert!(
            backlog
                .pop_expired(start + Duration::from_millis(9_999))
                .is_none()
        );
        assert!(
            backlog
                .pop_expired(start + Duration::from_secs(10))
                .is_some()
        );
        assert!(
            backlog
                .pop_expired(start + Duration::from_secs(10))
                .is_none()
        );
        assert_eq!(backlog.packets(), 1);
    }
}
