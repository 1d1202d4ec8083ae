//! The backend's end of a ring: consume requests once, answer in order, publish, notify by event index.
use crate::page::{SharedPage, Shadow};
use crate::wire::Protocol;

/// The frontend broke the ring itself (`req_prod` out of bounds, ...): its vif is disabled, nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rogue { /* named, with the values seen */ }

/// Backend end of ring `D` on page `P`, private request copies in `S`.
pub struct BackRing<D: Protocol, P, S> { _d: std::marker::PhantomData<D>, _p: P, _s: S }

impl<D: Protocol, P: SharedPage, S: Shadow<D>> BackRing<D, P, S> {
    /// A ring that has just been connected: indices as the page says, shadow reset to `rsp_prod`.
    pub fn connect(page: P, shadow: S) -> Result<Self, Rogue> { todo!() }
    /// A live ring taken over: requests in `[rsp_prod, consumed)` come from the shadow and are consumed again.
    pub fn take_over(page: P, shadow: S) -> Result<Self, Rogue> { todo!() }
    /// Requests that may be consumed now (0..=ENTRIES); an Acquire read of `req_prod`, bounded.
    pub fn unconsumed(&self) -> Result<u32, Rogue> { todo!() }
    /// The request `n` past the consumer index, copied into the shadow (each word of the page read exactly once;
    /// a second look reads the shadow). `n` must be below what `unconsumed` said. Does not consume.
    pub fn look(&mut self, n: u32) -> D::Request { todo!() }
    /// The raw words behind [`Self::look`] (an extra slot is not a request).
    pub fn look_words(&mut self, n: u32) -> [u32; 4] { todo!() }
    /// Consume `n` looked-at requests: `consumed` in the shadow moves.
    pub fn consume(&mut self, n: u32) { todo!() }
    /// A consumed, unanswered request by its ring index (from the shadow).
    pub fn consumed_request(&self, index: u32) -> D::Request { todo!() }
    /// Next request index to consume; index of the next response to write; index up to which responses are published.
    pub fn indices(&self) -> Indices { todo!() }
    /// Write the response for ring index `rsp_prod_pvt` (answers go in request order) without publishing it.
    pub fn respond(&mut self, response: D::Response) { todo!() }
    /// Publish what was answered; call only where a packet ends. True: the frontend asked to be notified.
    #[must_use] pub fn publish(&mut self) -> bool { todo!() }
    /// Ask for an event at the next request beyond `extra` more (`req_event = req_cons + 1 + extra`), full barrier,
    /// then look again: true when more than `extra` requests are there already, so do not sleep.
    pub fn arm(&mut self, extra: u32) -> Result<bool, Rogue> { todo!() }
}

/// A snapshot of a ring's indices for `status`; peer's values as read, not validated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Indices { pub req_prod: u32, pub req_cons: u32, pub req_event: u32, pub rsp_prod: u32, pub rsp_prod_pvt: u32, pub rsp_event: u32 }
