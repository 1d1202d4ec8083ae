//! The guest's receive ring (netif.h, `netif_rx_request`, `netif_rx_response`).
use super::{Protocol, Words, halves, word};

/// The guest's receive ring: 256 slots of 8 bytes. The answer to request `i` sits in the slot of request `i`.
#[derive(Debug, Clone, Copy)]
pub enum Rx {}

/// `NETRXF_data_validated`. Beware: the bit is `NETTXF_csum_blank`'s.
pub const NETRXF_DATA_VALIDATED: u16 = 1;
/// `NETRXF_csum_blank`.
pub const NETRXF_CSUM_BLANK: u16 = 2;
/// `NETRXF_more_data`.
pub const NETRXF_MORE_DATA: u16 = 4;
/// `NETRXF_extra_info`.
pub const NETRXF_EXTRA_INFO: u16 = 8;
/// `NETRXF_gso_prefix`: obsolete, never sent.
pub const NETRXF_GSO_PREFIX: u16 = 16;

/// `netif_rx_request`, 8 bytes: a page the guest lends for one slot of a packet.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Unused.
    pub pad: u16,
    /// Grant reference of the page to fill.
    pub gref: u32,
}

/// `netif_rx_response`, 8 bytes. The same slot may hold an [`Extra`](super::Extra).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxResponse {
    /// The request's.
    pub id: u16,
    /// First byte in the page.
    pub offset: u16,
    /// `NETRXF_*`.
    pub flags: u16,
    /// Bytes of this slot, or a negative `NETIF_RSP_*`.
    pub status: i16,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RxRequest>() == 8 && Rx::REQUEST_WORDS * 4 == 8);
    assert!(
        offset_of!(RxRequest, id) == 0
            && offset_of!(RxRequest, pad) == 2
            && offset_of!(RxRequest, gref) == 4
    );
    assert!(size_of::<RxResponse>() == 8 && Rx::RESPONSE_WORDS * 4 == 8);
    assert!(offset_of!(RxResponse, id) == 0 && offset_of!(RxResponse, offset) == 2);
    assert!(offset_of!(RxResponse, flags) == 4 && offset_of!(RxResponse, status) == 6);
};

impl Protocol for Rx {
    type Request = RxRequest;
    type Response = RxResponse;
    const ENTRIES: u32 = 256;
    const ENTRY_WORDS: usize = 2;
    const REQUEST_WORDS: usize = 2;
    const RESPONSE_WORDS: usize = 2;

    #[inline]
    fn request(words: Words) -> RxRequest {
        let (id, pad) = halves(words[0]);
        RxRequest {
            id,
            pad,
            gref: words[1],
        }
    }

    #[inline]
    fn put_request(request: RxRequest) -> Words {
        [word(request.id, request.pad), request.gref, 0, 0]
    }

    #[inline]
    fn response(words: Words) -> RxResponse {
        let (id, offset) = halves(words[0]);
        let (flags, status) = halves(words[1]);
        RxResponse {
            id,
            offset,
            flags,
            status: status as i16,
        }
    }

    #[inline]
    fn put_response(response: RxResponse) -> Words {
        [
            word(response.id, response.offset),
            word(response.flags, response.status as u16),
            0,
            0,
        ]
    }
}
