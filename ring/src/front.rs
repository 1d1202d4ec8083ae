//! The frontend's end of a ring, for the simulator, tests and benches.
use crate::page::SharedPage;
use crate::wire::Protocol;
/// Frontend end of ring `D`.
pub struct FrontRing<D: Protocol, P> { _d: std::marker::PhantomData<D>, _p: P }
impl<D: Protocol, P: SharedPage> FrontRing<D, P> {
    /// Zero the page, indices 0, events 1.
    pub fn init(page: P) -> Self { todo!() }
    /// Free request slots.
    pub fn free(&self) -> u32 { todo!() }
    /// Write the next request privately; returns its ring index. Caller checked `free`.
    pub fn push(&mut self, request: D::Request) -> u32 { todo!() }
    /// The same with raw words (extras).
    pub fn push_words(&mut self, words: &[u32]) -> u32 { todo!() }
    /// Publish requests; true: notify the backend.
    #[must_use] pub fn publish(&mut self) -> bool { todo!() }
    /// Next unread response with its ring index.
    pub fn pop(&mut self) -> Option<(u32, D::Response)> { todo!() }
    /// Final check: `rsp_event = rsp_cons + 1`, barrier, look again.
    pub fn arm(&mut self) -> bool { todo!() }
}
