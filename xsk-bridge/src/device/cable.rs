//! Two devices back to back in memory: what one sends the other receives. For tests that need no kernel.
use super::{Capabilities, Device, Held, Received, Sent, longest_frame};
use crate::frame::{DATA_CAPACITY, FramePool};
use crate::packet::{MAX_FRAMES, Packet};
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
    /// Both ends of a cable that holds at most `capacity` frames each way; a full one has no room. It carries packets of one frame, until it
    /// is given a larger MTU.
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

/// Frames of the packets on their way.
fn frames(line: &VecDeque<Packet>) -> usize {
    line.iter().map(Packet::frame_count).sum()
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
        self.max_frame = longest_frame(mtu, MAX_FRAMES);
    }

    fn recv(&mut self, _pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        let mut line = lock(&self.incoming);
        let (mut received, mut frames) = (Received::default(), 0);
        while frames < max
            && out.len() < out.capacity()
            && let Some(packet) = line.pop_front()
        {
            frames += packet.frame_count();
            received.packets += 1;
            received.bytes += u64::from(packet.len);
            out.push(packet);
        }
        received
    }

    fn room(&mut self, _pool: &mut FramePool) -> usize {
        self.capacity - frames(&lock(&self.outgoing))
    }

    fn send(&mut self, packets: &mut VecDeque<Packet>, _pool: &mut FramePool) -> Sent {
        let mut line = lock(&self.outgoing);
        let mut sent = Sent::default();
        let mut room = self.capacity - frames(&line);
        let fits = |packet: &Packet, room| packet.frame_count() <= room;
        while packets.front().is_some_and(|packet| fits(packet, room))
            && let Some(packet) = packets.pop_front()
        {
            room -= packet.frame_count();
            assert!(
                packet.len as usize <= self.max_frame,
                "{} bytes for a cable of {}",
                packet.len,
                self.max_frame
            );
            assert_eq!(
                packet.frame_count(),
                (packet.len as usize).div_ceil(DATA_CAPACITY)
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

    /// Frames on their way from this end; those that the other end has yet to receive are that end's to count.
    fn held(&self) -> Held {
        Held {
            fill: 0,
            send: frames(&lock(&self.outgoing)) as u32,
        }
    }
}
