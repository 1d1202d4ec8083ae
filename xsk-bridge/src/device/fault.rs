//! A device that goes wrong now and then, in a way that a seed repeats.
use super::{Capabilities, Device, Held, Received, Rest, Sent};
use crate::frame::FramePool;
use crate::packet::Packet;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// How often each fault happens, as one in so many; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A packet is lost on the line: the device says that it was sent.
    pub lose: u32,
    /// The driver drops a packet, and the device says so.
    pub refuse: u32,
    /// A call of `send` finds the link down.
    pub down: u32,
    /// A call of `room` or `send` finds no room.
    pub full: u32,
    /// A call of `recv` finds nothing, whatever waits.
    pub deaf: u32,
    /// A call of `send` leaves something in the ring.
    pub stall: u32,
}

/// A device with faults.
pub struct FaultInjector {
    device: Box<dyn Device>,
    faults: Faults,
    random: u64,
    /// Packets that no fault met, on their way to the device.
    passed: VecDeque<Packet>,
}

impl FaultInjector {
    /// A device like `device`, with faults; the same `seed` and calls give the same faults.
    pub fn new(device: Box<dyn Device>, faults: Faults, seed: u64) -> Self {
        Self {
            device,
            faults,
            random: seed | 1,
            passed: VecDeque::new(),
        }
    }

    /// True once in `one_in` calls, by the seed's random numbers.
    fn strikes(&mut self, one_in: u32) -> bool {
        // xorshift64: never 0 from a start that is not.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        one_in != 0 && (self.random >> 32).is_multiple_of(u64::from(one_in))
    }

    /// Decides the fate of one packet, and counts it in `sent` where it does not reach the device.
    fn pass(&mut self, packet: Packet, pool: &mut FramePool, sent: &mut Sent) {
        if self.strikes(self.faults.lose) {
            sent.packets += 1;
            sent.bytes += u64::from(packet.len);
            pool.recycle(packet);
        } else if self.strikes(self.faults.refuse) {
            sent.refused += 1;
            pool.recycle(packet);
        } else {
            self.passed.push_back(packet);
        }
    }
}

impl Device for FaultInjector {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn set_mtu(&mut self, mtu: u32) {
        self.device.set_mtu(mtu);
    }

    fn recv(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> Received {
        match self.strikes(self.faults.deaf) {
            true => Received::default(),
            false => self.device.recv(pool, out, max),
        }
    }

    fn room(&mut self, pool: &mut FramePool) -> usize {
        let room = self.device.room(pool);
        match self.strikes(self.faults.full) {
            true => 0,
            false => room,
        }
    }

    fn send(&mut self, packets: &mut VecDeque<Packet>, pool: &mut FramePool) -> Sent {
        let mut sent = Sent::default();
        if self.strikes(self.faults.down) {
            sent.link_down = packets.len() as u64;
            packets.drain(..).for_each(|packet| pool.recycle(packet));
            return sent;
        }
        let mut room = self.room(pool);
        let fits = |packet: &Packet, room| packet.frame_count() <= room;
        while packets.front().is_some_and(|packet| fits(packet, room))
            && let Some(packet) = packets.pop_front()
        {
            room -= packet.frame_count();
            self.pass(packet, pool, &mut sent);
        }
        let passed = self.device.send(&mut self.passed, pool);
        assert!(
            self.passed.is_empty(),
            "the device takes what it has room for"
        );
        sent.packets += passed.packets;
        sent.bytes += passed.bytes;
        sent.rest = match self.strikes(self.faults.stall) {
            true => Rest::InRing,
            false => passed.rest,
        };
        sent
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.fd()
    }

    fn pending(&mut self) -> bool {
        self.device.pending()
    }

    fn held(&self) -> Held {
        self.device.held()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cable;
    use super::*;
    use crate::frame::{DATA_CAPACITY, Umem};
    use crate::packet::Offload;

    const FRAMES: u32 = 128;
    const FAULTS: Faults = Faults {
        lose: 5,
        refuse: 17,
        down: 19,
        full: 3,
        deaf: 4,
        stall: 2,
    };

    /// Sends 1000 numbered packets of one to three frames over a faulty cable, and names those that came and what the device said.
    fn run(faults: Faults, seed: u64) -> (Vec<u32>, Sent) {
        let (umem, frames) = Umem::new(FRAMES).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        let (near, mut far) = Cable::pair(16);
        let mut near = FaultInjector::new(Box::new(near), faults, seed);
        near.set_mtu(9000);
        let (mut came, mut packets) = (Vec::new(), Vec::with_capacity(16));
        let (mut queue, mut said) = (VecDeque::new(), Sent::default());
        let mut number = 0u32;
        while number < 1000 || !queue.is_empty() {
            for _ in 0..near.room(&mut pool).min(7) {
                let mut frame = pool.take().unwrap();
                umem.data_mut(&mut frame)[..4].copy_from_slice(&number.to_ne_bytes());
                let len = 4 + number % 3 * DATA_CAPACITY as u32;
                let mut packet = Packet::new(frame, len, Offload::default());
                (0..number % 3).for_each(|_| packet.append(pool.take().unwrap(), &umem));
                number += 1;
                queue.push_back(packet);
            }
            let sent = near.send(&mut queue, &mut pool);
            said.packets += sent.packets;
            said.refused += sent.refused;
            said.link_down += sent.link_down;
            let waiting: usize = queue.iter().map(Packet::frame_count).sum();
            let there = pool.len() + near.held().send as usize + waiting;
            assert_eq!(there, FRAMES as usize, "leaked");
            far.recv(&mut pool, &mut packets, 16);
            for packet in packets.drain(..) {
                let bytes = umem.data(packet.first())[..4].try_into().unwrap();
                let number = u32::from_ne_bytes(bytes);
                assert_eq!(packet.len, 4 + number % 3 * DATA_CAPACITY as u32);
                came.push(number);
                pool.recycle(packet);
            }
        }
        let told = said.packets + said.refused + said.link_down;
        assert_eq!(told, u64::from(number));
        (came, said)
    }

    #[test]
    fn without_faults_everything_comes_in_order() {
        let (came, said) = run(Faults::default(), 1);
        assert_eq!(came, (0..came.len() as u32).collect::<Vec<_>>());
        assert_eq!(came.len() as u64, said.packets);
    }

    #[test]
    fn a_seed_repeats_its_faults_and_no_frame_is_lost_to_account() {
        let (came, said) = run(FAULTS, 7);
        assert!(came.len() < 900 && came.len() > 500, "{}", came.len());
        assert!(came.is_sorted());
        let lost = said.packets - came.len() as u64;
        assert!(
            lost > 0 && said.refused > 0 && said.link_down > 0,
            "{said:?}"
        );
        assert_eq!((came.clone(), said), run(FAULTS, 7));
        assert_ne!(came, run(FAULTS, 8).0);
    }

    #[test]
    fn a_deaf_end_hears_later() {
        let (umem, frames) = Umem::new(1).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        let (mut near, far) = Cable::pair(1);
        let deaf = Faults {
            deaf: 2,
            ..Faults::default()
        };
        let mut far = FaultInjector::new(Box::new(far), deaf, 3);
        let mut packets = Vec::with_capacity(1);
        let mut queue = VecDeque::new();
        let (mut silent, mut heard) = (0, 0);
        for _ in 0..100 {
            queue.push_back(Packet::new(pool.take().unwrap(), 60, Offload::default()));
            near.send(&mut queue, &mut pool);
            assert!(far.pending());
            while far.recv(&mut pool, &mut packets, 1).packets == 0 {
                silent += 1;
            }
            heard += packets.len();
            packets.drain(..).for_each(|packet| pool.recycle(packet));
        }
        assert_eq!((heard, pool.len()), (100, umem.frames() as usize));
        assert!(silent > 20);
    }
}
