//! An uplink that goes wrong now and then, in a way that a seed repeats.
use super::{Held, Uplink};
use crate::frame::{Frame, FramePool};
use crate::packet::Packet;
use std::io;
use std::os::fd::BorrowedFd;

/// How often, as one in so many calls; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A packet handed to `send` is lost.
    pub lose: u32,
    /// `room` says there is none.
    pub full: u32,
    /// `recv` has nothing, whatever waits.
    pub deaf: u32,
    /// `flush` says that the link takes no more now.
    pub stall: u32,
}

/// `U` with faults.
#[derive(Debug)]
pub struct FaultInjector<U> {
    uplink: U,
    faults: Faults,
    random: u64,
    lost: Vec<Frame>,
}

impl<U: Uplink> FaultInjector<U> {
    /// Wrap `uplink`; the same `seed` and calls give the same faults.
    pub fn new(uplink: U, faults: Faults, seed: u64) -> Self {
        Self {
            uplink,
            faults,
            random: seed | 1,
            lost: Vec::new(),
        }
    }

    fn strikes(&mut self, one_in: u32) -> bool {
        // xorshift64: never 0 from a start that is not.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        one_in != 0 && (self.random >> 32).is_multiple_of(u64::from(one_in))
    }
}

impl<U: Uplink> Uplink for FaultInjector<U> {
    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize {
        match self.strikes(self.faults.deaf) {
            true => 0,
            false => self.uplink.recv(pool, out, max),
        }
    }

    fn room(&mut self, pool: &mut FramePool) -> usize {
        pool.extend(self.lost.drain(..));
        let room = self.uplink.room(pool);
        match self.strikes(self.faults.full) {
            true => 0,
            false => room,
        }
    }

    fn send(&mut self, packet: Packet) {
        match self.strikes(self.faults.lose) {
            true => self.lost.extend(packet.frames),
            false => self.uplink.send(packet),
        }
    }

    fn flush(&mut self, pool: &mut FramePool) -> io::Result<bool> {
        let drained = self.uplink.flush(pool)?;
        Ok(drained && !self.strikes(self.faults.stall))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.uplink.fd()
    }

    fn pending(&mut self) -> bool {
        self.uplink.pending()
    }

    fn held(&self) -> Held {
        let held = self.uplink.held();
        Held {
            send: held.send + self.lost.len() as u32,
            ..held
        }
    }

    fn max_frame(&self) -> usize {
        self.uplink.max_frame()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cable;
    use super::*;
    use crate::frame::Umem;
    use crate::packet::Offload;

    const FRAMES: u32 = 64;
    const FAULTS: Faults = Faults {
        lose: 5,
        full: 3,
        deaf: 4,
        stall: 2,
    };

    /// Send 1000 numbered packets over a faulty cable, and name those that came.
    fn run(faults: Faults, seed: u64) -> Vec<u32> {
        let (umem, frames) = Umem::new(FRAMES).unwrap();
        let mut pool = FramePool::with_capacity(FRAMES as usize);
        pool.extend(frames);
        let (near, mut far) = Cable::pair(16);
        let mut near = FaultInjector::new(near, faults, seed);
        let (mut came, mut packets) = (Vec::new(), Vec::with_capacity(16));
        let mut number = 0u32;
        while number < 1000 {
            for _ in 0..near.room(&mut pool).min(7) {
                let mut frame = pool.take().unwrap();
                umem.data_mut(&mut frame)[..4].copy_from_slice(&number.to_ne_bytes());
                number += 1;
                near.send(Packet {
                    frames: [frame].into_iter().collect(),
                    len: 4,
                    offload: Offload::default(),
                });
            }
            near.flush(&mut pool).unwrap();
            let held = near.held();
            assert_eq!(pool.len() as u32 + held.send + held.fill, FRAMES, "leaked");
            far.recv(&mut pool, &mut packets, 16);
            for packet in packets.drain(..) {
                let bytes = umem.data(&packet.frames[0])[..4].try_into().unwrap();
                came.push(u32::from_ne_bytes(bytes));
                pool.extend(packet.frames);
            }
        }
        came
    }

    #[test]
    fn without_faults_everything_comes_in_order() {
        let came = run(Faults::default(), 1);
        assert_eq!(came, (0..came.len() as u32).collect::<Vec<_>>());
        assert!(came.len() >= 1000);
    }

    #[test]
    fn a_seed_repeats_its_faults_and_no_frame_is_lost_to_account() {
        let came = run(FAULTS, 7);
        assert!(came.len() < 900 && came.len() > 600, "{}", came.len());
        assert!(came.is_sorted());
        assert_eq!(came, run(FAULTS, 7));
        assert_ne!(came, run(FAULTS, 8));
    }

    #[test]
    fn a_deaf_end_hears_later() {
        let (umem, frames) = Umem::new(1).unwrap();
        let mut pool = FramePool::with_capacity(1);
        pool.extend(frames);
        let (mut near, far) = Cable::pair(1);
        let deaf = Faults {
            deaf: 2,
            ..Faults::default()
        };
        let mut far = FaultInjector::new(far, deaf, 3);
        let mut packets = Vec::with_capacity(1);
        let (mut silent, mut heard) = (0, 0);
        for _ in 0..100 {
            near.send(Packet {
                frames: [pool.take().unwrap()].into_iter().collect(),
                len: 60,
                offload: Offload::default(),
            });
            assert!(far.pending());
            while far.recv(&mut pool, &mut packets, 1) == 0 {
                silent += 1;
            }
            heard += packets.len();
            pool.extend(packets.drain(..).flat_map(|packet| packet.frames));
        }
        assert_eq!((heard, pool.len()), (100, umem.frames() as usize));
        assert!(silent > 20);
    }
}
