//! Slots of the three rings as they lie in the page (xen/include/public/io/netif.h, ring.h).

/// One of the three ring layouts: Tx, Rx, Ctrl.
pub trait Protocol {
    /// What the frontend writes.
    type Request: Copy;
    /// What the backend writes over it.
    type Response: Copy;
    /// Slots in the ring (a power of two).
    const ENTRIES: u32;
    /// Words a slot takes in the page: max(request, response).
    const ENTRY_WORDS: usize;
    /// Words of a request.
    const REQUEST_WORDS: usize;
    /// Words of a response.
    const RESPONSE_WORDS: usize;
    /// Decode from REQUEST_WORDS words.
    fn request(words: &[u32]) -> Self::Request;
    /// Encode into REQUEST_WORDS words.
    fn put_request(request: Self::Request, words: &mut [u32]);
    /// Decode from RESPONSE_WORDS words.
    fn response(words: &[u32]) -> Self::Response;
    /// Encode into RESPONSE_WORDS words.
    fn put_response(response: Self::Response, words: &mut [u32]);
}
/// The guest's transmit ring.
#[derive(Debug, Clone, Copy)]
pub enum Tx {}
/// The guest's receive ring.
#[derive(Debug, Clone, Copy)]
pub enum Rx {}

/// `netif_tx_request`; in an extra slot the same 12 bytes are an [`Extra`] (kept raw: see [`TxSlot`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxRequest { pub gref: u32, pub offset: u16, pub flags: u16, pub id: u16, pub size: u16 }
/// `netif_tx_response`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxResponse { pub id: u16, pub status: i16 }
/// `netif_rx_request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxRequest { pub id: u16, pub gref: u32 }
/// `netif_rx_response`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxResponse { pub id: u16, pub offset: u16, pub flags: u16, pub status: i16 }

impl Protocol for Tx {
    type Request = TxRequest;
    type Response = TxResponse;
    const ENTRIES: u32 = 256;
    const ENTRY_WORDS: usize = 3;
    const REQUEST_WORDS: usize = 3;
    const RESPONSE_WORDS: usize = 1;
    fn request(_: &[u32]) -> Self::Request { todo!() }
    fn put_request(_: Self::Request, _: &mut [u32]) { todo!() }
    fn response(_: &[u32]) -> Self::Response { todo!() }
    fn put_response(_: Self::Response, _: &mut [u32]) { todo!() }
}

impl Protocol for Rx {
    type Request = RxRequest;
    type Response = RxResponse;
    const ENTRIES: u32 = 256;
    const ENTRY_WORDS: usize = 2;
    const REQUEST_WORDS: usize = 2;
    const RESPONSE_WORDS: usize = 2;
    fn request(_: &[u32]) -> Self::Request { todo!() }
    fn put_request(_: Self::Request, _: &mut [u32]) { todo!() }
    fn response(_: &[u32]) -> Self::Response { todo!() }
    fn put_response(_: Self::Response, _: &mut [u32]) { todo!() }
}
