//! The frontend's end of a ring, for the simulator, tests and benches (ring.h).
use crate::page::{
    REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, SharedPage, event_due, read_slot, write_slot,
};
use crate::sync::{Ordering, fence};
use crate::wire::{Protocol, Words};
use std::marker::PhantomData;

/// Frontend end of ring `D` on page `P`.
#[derive(Debug)]
pub struct FrontRing<D, P> {
    page: P,
    req_prod_pvt: u32,
    req_prod: u32,
    rsp_cons: u32,
    /// Last `rsp_prod` read.
    rsp_prod: u32,
    ring: PhantomData<fn() -> D>,
}

impl<D: Protocol, P: SharedPage> FrontRing<D, P> {
    /// Zero the page, indices 0, events 1.
    pub fn init(page: P) -> Self {
        Self::init_at(page, 0)
    }

    /// The same with every index at `start`: what a ring looks like after long use, or near the wrap of its indices.
    pub fn init_at(page: P, start: u32) -> Self {
        let words = page.words();
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        for (word, value) in [(REQ_PROD, start), (RSP_PROD, start)] {
            words[word].store(value, Ordering::Relaxed);
        }
        for word in [REQ_EVENT, RSP_EVENT] {
            words[word].store(start.wrapping_add(1), Ordering::Relaxed);
        }
        Self {
            page,
            req_prod_pvt: start,
            req_prod: start,
            rsp_cons: start,
            rsp_prod: start,
            ring: PhantomData,
        }
    }

    /// The page, for what only a rogue frontend writes.
    pub fn page(&self) -> &P {
        &self.page
    }

    /// Free request slots.
    #[inline]
    pub fn free(&self) -> u32 {
        D::ENTRIES - self.unanswered()
    }

    /// Requests written whose responses were not read.
    #[inline]
    pub fn unanswered(&self) -> u32 {
        self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Write the next request privately; returns its ring index.
    ///
    /// # Panics
    /// Where no slot is free: the caller checks [`Self::free`].
    #[inline]
    pub fn push(&mut self, request: D::Request) -> u32 {
        self.push_words(&D::put_request(request))
    }

    /// The same with raw words (extras): the request's, at most; those not given are left as they are.
    #[inline]
    pub fn push_words(&mut self, words: &[u32]) -> u32 {
        assert!(self.free() > 0, "pushed into a full ring");
        let index = self.req_prod_pvt;
        write_slot::<D>(self.page.words(), index, words, D::REQUEST_WORDS);
        self.req_prod_pvt = index.wrapping_add(1);
        index
    }

    /// Publish requests; true: notify the backend.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.req_prod, self.req_prod_pvt);
        if old == new {
            return false;
        }
        let words = self.page.words();
        // Release: pairs with the backend's Acquire of req_prod; it sees the requests' words.
        words[REQ_PROD].store(new, Ordering::Release);
        self.req_prod = new;
        // Pairs with the backend's fence in `BackRing::arm`: either it sees our req_prod, or we see its req_event.
        fence(Ordering::SeqCst);
        event_due(old, new, words[REQ_EVENT].load(Ordering::Relaxed))
    }

    /// Responses that can be read now. More than [`Self::unanswered`] is a broken backend, as Linux's netfront checks
    /// (RING_RESPONSE_PROD_OVERFLOW); [`Self::pop`] reads none then.
    #[inline]
    pub fn responses(&mut self) -> u32 {
        // Acquire: pairs with the backend's Release of rsp_prod; the response words it covers are read after.
        self.rsp_prod = self.page.words()[RSP_PROD].load(Ordering::Acquire);
        self.rsp_prod.wrapping_sub(self.rsp_cons)
    }

    /// Next unread response with its ring index.
    #[inline]
    pub fn pop(&mut self) -> Option<(u32, D::Response)> {
        self.pop_words()
            .map(|(index, words)| (index, D::response(words)))
    }

    /// The same as raw words (an extra on the Rx ring).
    #[inline]
    pub fn pop_words(&mut self) -> Option<(u32, Words)> {
        if self.rsp_prod == self.rsp_cons {
            self.responses();
        }
        let ready = self.rsp_prod.wrapping_sub(self.rsp_cons);
        if ready == 0 || ready > self.unanswered() {
            return None;
        }
        let index = self.rsp_cons;
        self.rsp_cons = index.wrapping_add(1);
        Some((
            index,
            read_slot::<D>(self.page.words(), index, D::RESPONSE_WORDS),
        ))
    }

    /// Final check: ask for an event at the next response (`rsp_event = rsp_cons + 1`), then look again: true when one
    /// is there already.
    #[inline]
    pub fn arm(&mut self) -> bool {
        self.arm_at(1)
    }

    /// The same for the `ahead`-th response from now, as netfront does to be interrupted less often.
    #[inline]
    pub fn arm_at(&mut self, ahead: u32) -> bool {
        self.page.words()[RSP_EVENT].store(self.rsp_cons.wrapping_add(ahead), Ordering::Relaxed);
        // Pairs with the backend's fence in `BackRing::publish`: either it sees our rsp_event, or we see its rsp_prod.
        fence(Ordering::SeqCst);
        self.responses() >= ahead
    }
}
