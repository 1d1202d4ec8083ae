//! Two uplinks back to back in memory: what one sends the other receives. For tests that need no kernel.
use super::{Held, Uplink};
use crate::frame::{DATA_CAPACITY, FramePool};
use crate::packet::Packet;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

type Line = Arc<Mutex<VecDeque<Packet>>>;

/// One end of a cable. Its frames are tokens of one UMEM that both ends share.
#[derive(Debug)]
pub struct Cable {
    outgoing: Line,
    incoming: Line,
    capacity: usize,
}

impl Cable {
    /// Both ends of a cable that holds at most `capacity` packets each way; a full one has no room.
    pub fn pair(capacity: usize) -> (Cable, Cable) {
        let line = || Line::new(Mutex::new(VecDeque::with_capacity(capacity)));
        let (there, back) = (line(), line());
        let end = |outgoing: &Line, incoming: &Line| Cable {
            outgoing: outgoing.clone(),
            incoming: incoming.clone(),
            capacity,
        };
        (end(&there, &back), end(&back, &there))
    }
}

fn lock(line: &Line) -> MutexGuard<'_, VecDeque<Packet>> {
    line.lock().expect("nothing panics with a line locked")
}

impl Uplink for Cable {
    fn recv(&mut self, _pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize {
        let mut line = lock(&self.incoming);
        let n = max.min(line.len()).min(out.capacity() - out.len());
        out.extend(line.drain(..n));
        n
    }

    fn room(&mut self, _pool: &mut FramePool) -> usize {
        self.capacity - lock(&self.outgoing).len()
    }

    fn send(&mut self, packet: Packet) {
        let mut line = lock(&self.outgoing);
        assert!(line.len() < self.capacity, "sent without asking for room");
        assert_eq!(packet.frames.len(), 1, "only linear packets go to the wire");
        line.push_back(packet);
    }

    fn flush(&mut self, _pool: &mut FramePool) -> io::Result<bool> {
        Ok(true)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn pending(&mut self) -> bool {
        !lock(&self.incoming).is_empty()
    }

    /// Packets on their way from this end; those that the other end has yet to receive are that end's to count.
    fn held(&self) -> Held {
        Held {
            fill: 0,
            send: lock(&self.outgoing).len() as u32,
        }
    }

    fn max_frame(&self) -> usize {
        DATA_CAPACITY
    }
}
