//! Two devices back to back in memory: what one sends the other receives. For tests that need no kernel.
use super::{Capabilities, Device, Held, Received, Sent, longest_frame};
use crate::frame::{DATA_CAPACITY, FramePool};
use crate::packet::Packet;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

type Line = Arc<Mutex<VecDeque<Packet>>>;

/// One end of a cable. Its frames are tokens of one UMEM that both ends share.
#[derive(Debug)]
pub struct Cable {
    outgoing: Line,
    incoming: Line,
    capacity: usize,
    max_frame: usize,
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
            max_frame: DATA_CAPACITY,
        };
        (end(&there, &back), end(&back, &there))
    }
}

fn lock(line: &Line) -> MutexGuard<'_, VecDeque<Packet>> {
    line.lock().expect("nothing panics with a line locked")
}

impl Device for Cable {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: self.max_frame,
            blank_checksum: false,
            gso: false,
        }
    }

    fn set_mtu(&mut self, mtu: u32) {
        self.max_frame = longest_frame(mtu);
    }

    fn recv(&mut self, _pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        let mut line = lock(&self.incoming);
        let packets = max.min(line.len()).min(out.capacity() - out.len());
        let lengths = line.iter().take(packets).map(|packet| packet.len);
        let bytes = lengths.map(u64::from).sum();
        out.extend(line.drain(..packets));
        Received {
            packets,
            bytes,
            ..Received::default()
        }
    }

    fn room(&mut self, _pool: &mut FramePool) -> usize {
        self.capacity - lock(&self.outgoing).len()
    }

    fn send(&mut self, packets: &mut VecDeque<Packet>, _pool: &mut FramePool) -> Sent {
        let mut line = lock(&self.outgoing);
        let mut sent = Sent::default();
        let taken = packets.len().min(self.capacity - line.len());
        for packet in packets.drain(..taken) {
            assert_eq!(
                packet.frame_count(),
                1,
                "only linear packets go to the wire"
            );
            sent.packets += 1;
            sent.bytes += u64::from(packet.len);
            line.push_back(packet);
        }
        sent
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
}
