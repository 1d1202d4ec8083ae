//! A packet's VLAN tag on its way from one port to another: put in, taken out, or changed.
use super::batch::Batch;
use super::job::{Job, Places};
use crate::observe::counters::DropReason;
use ring::packet::Fragment;
use xsk_bridge::frame::{DATA_CAPACITY, FramePool};
use xsk_bridge::packet::Packet;
use xsk_bridge::switch::tag::{Beginning, Retag};

impl Batch {
    /// Does `retag` to packet `n`. Its first bytes are copied where they came out of a guest's pages, so that copies of them which are
    /// planned already stay as they are.
    #[inline(never)]
    pub fn retag(
        &mut self,
        n: usize,
        retag: Retag,
        pool: &mut FramePool,
    ) -> Result<(), DropReason> {
        if retag == Retag::Keep {
            return Ok(());
        }
        let head = self.jobs[n].head_bytes(&self.staging, pool.umem());
        // The switch has found both addresses in it, and the tag.
        let beginning = retag.beginning(head).ok_or(DropReason::Runt)?;
        match self.jobs[n].packet.take() {
            Some(packet) => {
                let (packet, done) = in_frames(packet, &beginning, pool);
                let job = &mut self.jobs[n];
                job.len = packet.len;
                job.packet = Some(packet);
                // What of it is in staging memory has the old tag.
                job.staged = 0;
                done
            }
            None => self.retag_staged(n, &beginning),
        }
    }

    /// Makes the new head of a packet that came out of a guest's pages.
    fn retag_staged(&mut self, n: usize, beginning: &Beginning) -> Result<(), DropReason> {
        let (new, skip) = (beginning.bytes(), beginning.skip);
        let head = self.jobs[n].head;
        let len = new.len() + head.len() - skip;
        let piece = self.staging.take_spare(len).ok_or(DropReason::NoFrame)?;
        self.staging.copy(head, skip, piece, new.len());
        self.staging.bytes_mut(piece)[..new.len()].copy_from_slice(new);
        let job = &mut self.jobs[n];
        job.head = piece;
        let moved = |len: u32| len + new.len() as u32 - skip as u32;
        let whole = job.is_whole();
        (job.len, job.staged) = (moved(job.len), moved(job.staged));
        if !whole {
            shift(job, &mut self.fragments, new.len(), skip);
        }
        Ok(())
    }
}

/// Has the positions of a packet's fragments follow its head, of which `skip` bytes became `new`. Nobody reads in the sender's pages what
/// the head holds, so that the first fragment may begin later, or another one of bytes that are nowhere come before it.
fn shift(job: &mut Job, fragments: &mut Vec<Fragment>, new: usize, skip: usize) {
    let first = job.fragments.first as usize;
    if new < skip {
        let less = (skip - new) as u16;
        // A first slot of fewer bytes than an Ethernet header is refused.
        fragments[first].offset += less;
        fragments[first].size -= less;
    } else if new > skip {
        let before = Fragment {
            size: (new - skip) as u16,
            ..fragments[first]
        };
        let places = first..first + usize::from(job.fragments.count);
        job.fragments = Places {
            first: fragments.len() as u32,
            count: job.fragments.count + 1,
        };
        fragments.push(before);
        fragments.extend_from_within(places);
    }
}

/// A packet in frames with a new beginning; the packet as it was where there is no room for that.
#[inline]
fn in_frames(
    mut packet: Packet,
    beginning: &Beginning,
    pool: &mut FramePool,
) -> (Packet, Result<(), DropReason>) {
    let (new, skip) = (beginning.bytes(), beginning.skip);
    let len = packet.len as usize + new.len() - skip;
    if packet.frame_count() == 1 && len <= DATA_CAPACITY {
        let old = packet.len as usize;
        packet.len = packet.len.max(len as u32);
        let head = packet.head_mut(pool.umem());
        head.copy_within(skip..old, new.len());
        head[..new.len()].copy_from_slice(new);
        packet.len = len as u32;
        return (packet, Ok(()));
    }
    in_other_frames(packet, len, beginning, pool)
}

/// A packet of several frames, or one that does not fit into its frame any more, copied into frames of its own behind a new beginning:
/// `len` bytes in all.
#[inline(never)] // Most packets lie in one frame.
fn in_other_frames(
    packet: Packet,
    len: usize,
    beginning: &Beginning,
    pool: &mut FramePool,
) -> (Packet, Result<(), DropReason>) {
    let (new, skip) = (beginning.bytes(), beginning.skip);
    let umem = pool.umem().clone();
    let mut skipped = skip;
    let rest = packet.slices(&umem).map(|slice| {
        let here = skipped.min(slice.len());
        skipped -= here;
        &slice[here..]
    });
    let slices = std::iter::once(new).chain(rest);
    match super::egress::in_new_frames(slices, len, packet.offload, pool) {
        Some(retagged) => {
            pool.recycle(packet);
            (retagged, Ok(()))
        }
        None => (packet, Err(DropReason::NoFrame)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xsk_bridge::frame::Umem;
    use xsk_bridge::packet::Offload;

    /// A packet in one frame or several, whatever its length in them, has its tag put in and taken out again, and no frame is lost.
    #[test]
    fn a_packet_in_frames_is_retagged_whole() {
        let (umem, frames) = Umem::new(64).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        for len in [60, 1514, 3835, 3836, 3837, 3840, 3841, 7680, 9000, 65_500] {
            let plain: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
            let tagged = [&plain[..12], &[0x81, 0, 0x01, 0x23], &plain[12..]].concat();
            let slices = std::iter::once(&plain[..]);
            let packet =
                super::super::egress::in_new_frames(slices, len, Offload::default(), &mut pool);
            let mut packet = packet.unwrap();
            for (retag, expected) in [
                (Retag::Push(0x123), &tagged),
                (Retag::Set(0x123), &tagged),
                (Retag::Pop, &plain),
            ] {
                let beginning = retag.beginning(packet.head(&umem)).unwrap();
                let (retagged, done) = in_frames(packet, &beginning, &mut pool);
                assert_eq!((done, retagged.len as usize), (Ok(()), expected.len()));
                let bytes: Vec<u8> = retagged.slices(&umem).flatten().copied().collect();
                assert!(bytes == *expected, "{len} bytes, {retag:?}");
                packet = retagged;
            }
            pool.recycle(packet);
            assert_eq!(pool.len(), 64);
        }
    }

    #[test]
    fn a_packet_stays_as_it_is_where_no_frame_is_free() {
        let (umem, frames) = Umem::new(3).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        let plain = vec![7; 7000];
        let slices = std::iter::once(&plain[..]);
        let packet =
            super::super::egress::in_new_frames(slices, 7000, Offload::default(), &mut pool)
                .unwrap();
        let beginning = Retag::Push(5).beginning(packet.head(&umem)).unwrap();
        let (packet, done) = in_frames(packet, &beginning, &mut pool);
        assert_eq!(done, Err(DropReason::NoFrame));
        assert!(packet.slices(&umem).flatten().all(|&byte| byte == 7));
        assert_eq!((packet.len, pool.len()), (7000, 1));
    }
}
