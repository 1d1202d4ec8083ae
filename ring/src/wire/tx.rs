//! The guest's transmit ring (netif.h, `netif_tx_request`, `netif_tx_response`).
use super::{Protocol, Words, halves, word};

/// The guest's transmit ring: 256 slots of 12 bytes.
#[derive(Debug, Clone, Copy)]
pub enum Tx {}

/// `NETTXF_csum_blank`: the L4 checksum field holds the pseudo-header sum only.
pub const NETTXF_CSUM_BLANK: u16 = 1;
/// `NETTXF_data_validated`: the sender vouches for the data.
pub const NETTXF_DATA_VALIDATED: u16 = 2;
/// `NETTXF_more_data`: the packet goes on in another data slot.
pub const NETTXF_MORE_DATA: u16 = 4;
/// `NETTXF_extra_info`: an extra slot follows this one.
pub const NETTXF_EXTRA_INFO: u16 = 8;

/// `NETIF_RSP_DROPPED`.
pub const NETIF_RSP_DROPPED: i16 = -2;
/// `NETIF_RSP_ERROR`.
pub const NETIF_RSP_ERROR: i16 = -1;
/// `NETIF_RSP_OKAY`.
pub const NETIF_RSP_OKAY: i16 = 0;
/// `NETIF_RSP_NULL`: the answer to an extra slot.
pub const NETIF_RSP_NULL: i16 = 1;

/// `netif_tx_request`, 12 bytes. The same slot may hold an [`Extra`](super::Extra): only the chain tells.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxRequest {
    /// Grant reference of the page that holds the data.
    pub gref: u32,
    /// First byte in that page.
    pub offset: u16,
    /// `NETTXF_*`.
    pub flags: u16,
    /// Echoed in the response.
    pub id: u16,
    /// Bytes: of the whole packet in its first slot, of the fragment in the others.
    pub size: u16,
}

/// `netif_tx_response`, 4 bytes: the first word of the slot, the others are left as the guest wrote them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxResponse {
    /// The request's.
    pub id: u16,
    /// `NETIF_RSP_*`.
    pub status: i16,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<TxRequest>() == 12 && Tx::REQUEST_WORDS * 4 == 12);
    assert!(offset_of!(TxRequest, gref) == 0 && offset_of!(TxRequest, offset) == 4);
    assert!(
        offset_of!(TxRequest, flags) == 6
            && offset_of!(TxRequest, id) == 8
            && offset_of!(TxRequest, size) == 10
    );
    assert!(size_of::<TxResponse>() == 4 && Tx::RESPONSE_WORDS * 4 == 4);
    assert!(offset_of!(TxResponse, id) == 0 && offset_of!(TxResponse, status) == 2);
};

impl Protocol for Tx {
    type Request = TxRequest;
    type Response = TxResponse;
    const ENTRIES: u32 = 256;
    const ENTRY_WORDS: usize = 3;
    const REQUEST_WORDS: usize = 3;
    const RESPONSE_WORDS: usize = 1;

    #[inline]
    fn request(words: Words) -> TxRequest {
        let (offset, flags) = halves(words[1]);
        let (id, size) = halves(words[2]);
        TxRequest {
            gref: words[0],
            offset,
            flags,
            id,
            size,
        }
    }

    #[inline]
    fn put_request(request: TxRequest) -> Words {
        [
            request.gref,
            word(request.offset, request.flags),
            word(request.id, request.size),
            0,
        ]
    }

    #[inline]
    fn response(words: Words) -> TxResponse {
        let (id, status) = halves(words[0]);
        TxResponse {
            id,
            status: status as i16,
        }
    }

    #[inline]
    fn put_response(response: TxResponse) -> Words {
        [word(response.id, response.status as u16), 0, 0, 0]
    }
}
