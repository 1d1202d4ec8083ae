//! Packets that are to be segmented, from guest to guest: placed as their sender laid them out, a posted page for each of its slots.
//!
//! In full pages each slot of the sender's would be cut where a page of the receiver's ends, which is two copy operations a page.
use crate::copy::runs::{InFragments, InPieces};
use crate::hypervisor::Hypervisor;
use crate::path::batch::{Batch, Placed};
use crate::queue::Queue;
use crate::queue::rx::MAX_MIRRORED;
use arrayvec::ArrayVec;
use ring::packet::{Fatal, Fragment};
use xsk_bridge::frame::Umem;
use xsk_bridge::header::ETHERNET_LEN;

/// Most bytes of the first slot: netfront pulls as many into the head of the packet (drivers/net/xen-netfront.c, RX_COPY_THRESHOLD), and
/// the slot is none of its fragments then.
const MAX_HEADERS: usize = 256;
/// Bytes that slots behind the first have at least on average: packets in smaller parts would take up the receiver's ring.
const WORTH_A_PAGE: usize = 2048;

impl Batch {
    /// How many slots packet `n` is mirrored in; `None` where it is better placed in full pages, or netfront would not take it so.
    fn mirrored_slots(&self, n: usize, umem: &Umem) -> Option<usize> {
        let job = &self.jobs[n];
        let fragments = job.fragments.of(&self.fragments);
        let (first, behind) = fragments.split_first()?;
        let headers = usize::from(first.size);
        let payload: usize = behind.iter().map(|one| usize::from(one.size)).sum();
        let mirrored = (ETHERNET_LEN..=MAX_HEADERS.min(job.staged as usize)).contains(&headers)
            && (1..MAX_MIRRORED).contains(&behind.len())
            && payload >= behind.len() * WORTH_A_PAGE
            // Bytes behind the IP packet are left out.
            && headers + payload == job.len as usize;
        if !mirrored {
            return None;
        }
        // What was looked at comes from where it was looked at.
        let shape = self.shape(n, umem).ok()?;
        (shape.header() <= headers).then_some(fragments.len())
    }
}

impl<H: Hypervisor> Queue<H> {
    /// Takes a posted request for each slot of packet `n`, whose payload is in its sender's pages, and plans an operation for each.
    /// `Ok(false)`: it is to be placed in full pages.
    #[inline(never)] // Most packets are not to be segmented.
    pub(super) fn place_mirrored(
        &mut self,
        slot: u16,
        n: usize,
        batch: &mut Batch,
        umem: &Umem,
    ) -> Result<bool, Fatal> {
        let Some(slots) = batch.mirrored_slots(n, umem) else {
            return Ok(false);
        };
        let needed = slots as u32 + 1;
        if !self.rx.has_posted_slots(needed)? {
            return Ok(false);
        }
        self.rx.take_slots(needed, true);
        let job = &batch.jobs[n];
        let fragments = job.fragments.of(&batch.fragments);
        let pages = self.rx.pages().iter().zip(fragments);
        let dest: ArrayVec<Fragment, MAX_MIRRORED> = pages
            .map(|(&gref, fragment)| Fragment {
                gref,
                offset: 0,
                ..*fragment
            })
            .collect();
        let (headers, len) = (usize::from(dest[0].size), job.len as usize);
        let behind = job.behind.of(&batch.pieces);
        let ours = batch.rx.copy(
            InPieces::new(&batch.staging, job.head, behind),
            InFragments::new(self.domid, &dest),
            0..headers,
        );
        let theirs = batch.rx.copy(
            InFragments::new(job.domid, fragments),
            InFragments::new(self.domid, &dest),
            headers..len,
        );
        batch.placed.push(Placed {
            queue: slot,
            sender: Some(n as u16),
            spans: [ours, theirs],
            len: job.len,
            offload: job.offload,
            mirrored: true,
        });
        Ok(true)
    }
}
