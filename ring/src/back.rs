//! The backend's end of a ring: consume requests once, answer in order, publish, notify by event index (ring.h).
//!
//! Four free-running indices, in this order: `rsp_prod` (published) <= `rsp_prod_pvt` (answered) <= `req_cons`
//! (consumed) <= `req_prod` (the guest's word, bounded before it is believed).
use crate::page::{
    REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, SharedPage, event_due, read_slot, write_slot,
};
use crate::shadow::{Shadow, read_request, write_request};
use crate::sync::{Ordering, fence};
use crate::wire::{Protocol, Words};
use std::marker::PhantomData;

/// The ring's indices make no sense: its vif is disabled, nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rogue {
    /// More requests than the ring has slots.
    #[error(
        "req_prod {req_prod} is more than a ring past req_cons {req_cons}: the frontend is rogue, reconnect it"
    )]
    RequestsAhead {
        /// As the frontend wrote it.
        req_prod: u32,
        /// Ours.
        req_cons: u32,
    },
    /// At attach: more requests than the ring has slots.
    #[error(
        "req_prod {req_prod} is more than a ring past rsp_prod {rsp_prod}: the ring cannot be attached, reconnect it"
    )]
    Attach {
        /// As the page says.
        req_prod: u32,
        /// As the page says.
        rsp_prod: u32,
    },
    /// At take-over: what was consumed does not lie between the page's indices.
    #[error(
        "consumed {consumed} is not within rsp_prod {rsp_prod} and req_prod {req_prod}: the ring cannot be taken over, reconnect it"
    )]
    TakeOver {
        /// As the shadow says.
        consumed: u32,
        /// As the page says.
        rsp_prod: u32,
        /// As the page says.
        req_prod: u32,
    },
}

/// Backend end of ring `D` on page `P`, private request copies in `S`.
#[derive(Debug)]
pub struct BackRing<D, P, S> {
    page: P,
    shadow: S,
    /// Last `req_prod` read, already bounded against the ring's size.
    req_prod: u32,
    req_cons: u32,
    /// Requests before this index are in the shadow and are never read from the page again.
    looked: u32,
    /// What the shadow's `consumed` holds; ahead of `req_cons` only after a take-over.
    consumed: u32,
    rsp_prod_pvt: u32,
    rsp_prod: u32,
    ring: PhantomData<fn() -> D>,
}

impl<D: Protocol, P: SharedPage, S: Shadow<D>> BackRing<D, P, S> {
    /// A ring that has just been connected: starts at the page's `rsp_prod`, where requests may wait already; the shadow is
    /// reset to it.
    ///
    /// # Errors
    /// [`Rogue::Attach`] where more requests wait than the ring holds.
    pub fn connect(page: P, shadow: S) -> Result<Self, Rogue> {
        let ring = Self::attach(page, shadow)?;
        // Release: a successor that sees this index sees no older copy for a newer one (it has none to see yet).
        ring.shadow
            .consumed()
            .store(ring.rsp_prod, Ordering::Release);
        Ok(Self {
            looked: ring.rsp_prod,
            consumed: ring.rsp_prod,
            ..ring
        })
    }

    /// A live ring taken over from a process that ended at any instruction: requests in `[rsp_prod, consumed)` come from
    /// the shadow, for the page may hold half-written answers there, and are consumed again.
    ///
    /// # Errors
    /// [`Rogue::Attach`], [`Rogue::TakeOver`] where page and shadow contradict each other.
    pub fn take_over(page: P, shadow: S) -> Result<Self, Rogue> {
        // Pairs with the predecessor's Release in `consume`.
        let consumed = shadow.consumed().load(Ordering::Acquire);
        let ring = Self::attach(page, shadow)?;
        let (rsp_prod, req_prod) = (ring.rsp_prod, ring.req_prod);
        if consumed.wrapping_sub(rsp_prod) > req_prod.wrapping_sub(rsp_prod) {
            return Err(Rogue::TakeOver {
                consumed,
                rsp_prod,
                req_prod,
            });
        }
        Ok(Self {
            looked: consumed,
            consumed,
            ..ring
        })
    }

    /// Both ways to begin: every index is the page's `rsp_prod`.
    fn attach(page: P, shadow: S) -> Result<Self, Rogue> {
        let words = page.words();
        // The page's own word, which the guest can write too; a lie harms only the liar's answers.
        let rsp_prod = words[RSP_PROD].load(Ordering::Relaxed);
        // Acquire: pairs with the frontend's Release of req_prod after it wrote the requests.
        let req_prod = words[REQ_PROD].load(Ordering::Acquire);
        if req_prod.wrapping_sub(rsp_prod) > D::ENTRIES {
            return Err(Rogue::Attach { req_prod, rsp_prod });
        }
        Ok(Self {
            page,
            shadow,
            req_prod,
            req_cons: rsp_prod,
            looked: rsp_prod,
            consumed: rsp_prod,
            rsp_prod_pvt: rsp_prod,
            rsp_prod,
            ring: PhantomData,
        })
    }

    /// Requests that may be consumed now (0..=ENTRIES): reads `req_prod`, and bounds it.
    ///
    /// # Errors
    /// [`Rogue::RequestsAhead`].
    #[inline]
    pub fn unconsumed(&mut self) -> Result<u32, Rogue> {
        // Acquire: pairs with the frontend's Release of req_prod; the request words it covers are read after.
        let req_prod = self.page.words()[REQ_PROD].load(Ordering::Acquire);
        if req_prod.wrapping_sub(self.req_cons) > D::ENTRIES {
            return Err(Rogue::RequestsAhead {
                req_prod,
                req_cons: self.req_cons,
            });
        }
        self.req_prod = req_prod;
        Ok(self.known())
    }

    /// Requests that may be consumed by what [`Self::unconsumed`] last saw: touches no shared memory.
    ///
    /// `min(req_prod - req_cons, size - (req_cons - rsp_prod))`. ring.h's RING_HAS_UNCONSUMED_REQUESTS has the
    /// unpublished `rsp_prod_pvt` there; an honest frontend cannot reuse a slot before its answer is published, so the
    /// bound is the same for it, and a rogue one cannot have a copy overwritten that a successor may still need.
    #[inline]
    pub fn known(&self) -> u32 {
        let waiting = self.req_prod.wrapping_sub(self.req_cons);
        let room = D::ENTRIES.wrapping_sub(self.req_cons.wrapping_sub(self.rsp_prod));
        waiting.min(room)
    }

    /// The request `n` past the consumer index, copied into the shadow (each word of the page is read exactly once; a
    /// second look reads the shadow). `n` must be below what [`Self::unconsumed`] said. Does not consume.
    #[inline]
    pub fn look(&mut self, n: u32) -> D::Request {
        D::request(self.look_words(n))
    }

    /// The raw words behind [`Self::look`] (an extra slot is not a request).
    #[inline(always)] // Most often it is a copy of three words.
    pub fn look_words(&mut self, n: u32) -> Words {
        debug_assert!(
            n < self.known(),
            "looked {n} past req_cons with {} known",
            self.known()
        );
        let index = self.req_cons.wrapping_add(n);
        if index == self.looked {
            return self.copy_next();
        }
        self.look_again(n)
    }

    /// A request that is in the shadow, or becomes so.
    #[inline(never)]
    fn look_again(&mut self, n: u32) -> Words {
        // Signed distance: after a take-over `looked` may be a whole ring ahead, never more.
        while self.looked.wrapping_sub(self.req_cons) <= n {
            self.copy_next();
        }
        read_request(&self.shadow, self.req_cons.wrapping_add(n))
    }

    /// The one place where the page's request words are read.
    #[inline(always)]
    fn copy_next(&mut self) -> Words {
        let words = read_slot::<D>(self.page.words(), self.looked, D::REQUEST_WORDS);
        write_request(&self.shadow, self.looked, words);
        self.looked = self.looked.wrapping_add(1);
        words
    }

    /// Consume `n` requests (looked at or not): `consumed` in the shadow moves, before any answer to them can be written.
    #[inline(always)] // Most often it is one request, copied already.
    pub fn consume(&mut self, n: u32) {
        debug_assert!(
            n <= self.known(),
            "consumed {n} with {} known",
            self.known()
        );
        if self.looked.wrapping_sub(self.req_cons) < n {
            self.look_again(n - 1);
        }
        let ahead = self.consumed.wrapping_sub(self.req_cons);
        self.req_cons = self.req_cons.wrapping_add(n);
        // It never moves back: while requests are consumed again after a take-over, those up to the old index may already
        // be half-answered in the page, so a second successor must take them from the shadow too.
        if n > ahead {
            self.consumed = self.req_cons;
            // Release: a successor that Acquires this index sees the copies. The answers' stores come later in the program
            // and `fence` keeps them later in memory too, so no slot is overwritten that the shadow does not claim.
            self.shadow
                .consumed()
                .store(self.consumed, Ordering::Release);
            fence(Ordering::Release);
        }
    }

    /// A consumed, unanswered request by its ring index (from the shadow).
    #[inline]
    pub fn consumed_request(&self, index: u32) -> D::Request {
        D::request(self.consumed_words(index))
    }

    /// The raw words behind [`Self::consumed_request`].
    #[inline]
    pub fn consumed_words(&self, index: u32) -> Words {
        debug_assert!(
            index.wrapping_sub(self.rsp_prod) < self.req_cons.wrapping_sub(self.rsp_prod),
            "request {index} is not consumed"
        );
        read_request(&self.shadow, index)
    }

    /// Every index, for `status`.
    pub fn indices(&self) -> Indices {
        let words = self.page.words();
        let peek = |word: usize| words[word].load(Ordering::Relaxed);
        Indices {
            req_prod: peek(REQ_PROD),
            req_cons: self.req_cons,
            req_event: peek(REQ_EVENT),
            rsp_prod: self.rsp_prod,
            rsp_prod_pvt: self.rsp_prod_pvt,
            rsp_event: peek(RSP_EVENT),
        }
    }

    /// Ring index of the next request to consume.
    #[inline]
    pub fn req_cons(&self) -> u32 {
        self.req_cons
    }

    /// Ring index of the next request to answer.
    #[inline]
    pub fn next_response(&self) -> u32 {
        self.rsp_prod_pvt
    }

    /// Consumed requests that are not answered yet.
    #[inline]
    pub fn unanswered(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod_pvt)
    }

    /// Write the response for ring index [`Self::next_response`] (answers go in request order) without publishing it.
    #[inline]
    pub fn respond(&mut self, response: D::Response) {
        self.respond_words(D::put_response(response));
    }

    /// The same with raw words (an extra towards the guest).
    #[inline]
    pub fn respond_words(&mut self, words: Words) {
        // Our own bug, never a guest's doing: it would overwrite a request that nobody consumed.
        assert!(
            self.rsp_prod_pvt != self.req_cons,
            "answered request {} before consuming it",
            self.req_cons
        );
        write_slot::<D>(
            self.page.words(),
            self.rsp_prod_pvt,
            &words,
            D::RESPONSE_WORDS,
        );
        self.rsp_prod_pvt = self.rsp_prod_pvt.wrapping_add(1);
    }

    /// Publish what was answered; call only where a packet ends. True: the frontend asked to be notified (never
    /// without a new answer: a guest that disables "spurious" interrupts counts those).
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.rsp_prod, self.rsp_prod_pvt);
        if old == new {
            return false;
        }
        let words = self.page.words();
        // Release: pairs with the frontend's Acquire of rsp_prod; it sees the answers' words.
        words[RSP_PROD].store(new, Ordering::Release);
        self.rsp_prod = new;
        // Pairs with the frontend's fence between its store of rsp_event and its load of rsp_prod: either it sees
        // our rsp_prod, or we see its rsp_event.
        fence(Ordering::SeqCst);
        event_due(old, new, words[RSP_EVENT].load(Ordering::Relaxed))
    }

    /// Ask for an event once more than `extra` requests wait (`req_event = req_cons + 1 + extra`), then look again: true
    /// when they are there already, so do not sleep.
    ///
    /// # Errors
    /// [`Rogue::RequestsAhead`].
    #[inline]
    pub fn arm(&mut self, extra: u32) -> Result<bool, Rogue> {
        let event = self.req_cons.wrapping_add(1).wrapping_add(extra);
        self.page.words()[REQ_EVENT].store(event, Ordering::Relaxed);
        // Pairs with the frontend's fence between its store of req_prod and its load of req_event: either it sees our
        // req_event, or we see its req_prod.
        fence(Ordering::SeqCst);
        Ok(self.unconsumed()? > extra)
    }
}

/// A snapshot of a ring's indices for `status`; the peer's values as read, not validated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Indices {
    /// Past the last request (the frontend's word).
    pub req_prod: u32,
    /// Next request to consume.
    pub req_cons: u32,
    /// Where we asked for an event.
    pub req_event: u32,
    /// Past the last published response.
    pub rsp_prod: u32,
    /// Past the last written response.
    pub rsp_prod_pvt: u32,
    /// Where the frontend asked for an event.
    pub rsp_event: u32,
}
