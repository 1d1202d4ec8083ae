//! The control ring (netif.h, `xen_netif_ctrl_request`, `xen_netif_ctrl_response`, `xen_netif_gref`).
use super::{Protocol, Words, halves, word};

/// The control ring: 128 slots of 16 bytes.
#[derive(Debug, Clone, Copy)]
pub enum Ctrl {}

/// `XEN_NETIF_CTRL_TYPE_*`: what a control request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CtrlType {
    /// Which hash types the backend can compute.
    GetHashFlags = 1,
    /// Which hash types to compute (data 0: `XEN_NETIF_CTRL_HASH_TYPE_*`).
    SetHashFlags = 2,
    /// The key is in the page of grant data 0, data 1 bytes.
    SetHashKey = 3,
    /// Most entries of the mapping table.
    GetHashMappingSize = 4,
    /// Entries of the mapping table (data 0); 0 is modulo.
    SetHashMappingSize = 5,
    /// Entries are in the page of grant data 0: data 1 of them, to be put at data 2.
    SetHashMapping = 6,
    /// The algorithm (data 0: `XEN_NETIF_CTRL_HASH_ALGORITHM_*`).
    SetHashAlgorithm = 7,
    /// Most static grants of queue data 0.
    GetGrefMappingSize = 8,
    /// Map data 2 static grants of queue data 0, listed in the page of grant data 1.
    AddGrefMapping = 9,
    /// Unmap them.
    DelGrefMapping = 10,
}

impl CtrlType {
    /// The type behind a request's number; `None` is answered NOT_SUPPORTED.
    pub fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::GetHashFlags,
            2 => Self::SetHashFlags,
            3 => Self::SetHashKey,
            4 => Self::GetHashMappingSize,
            5 => Self::SetHashMappingSize,
            6 => Self::SetHashMapping,
            7 => Self::SetHashAlgorithm,
            8 => Self::GetGrefMappingSize,
            9 => Self::AddGrefMapping,
            10 => Self::DelGrefMapping,
            _ => return None,
        })
    }
}

/// `XEN_NETIF_CTRL_STATUS_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CtrlStatus {
    /// Done.
    Success = 0,
    /// Unknown type, or a feature we do not have.
    NotSupported = 1,
    /// A value out of range.
    InvalidParameter = 2,
    /// More than the page holds.
    BufferOverflow = 3,
}

/// `XEN_NETIF_CTRL_HASH_TYPE_IPV4`.
pub const HASH_IPV4: u32 = 1;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP`.
pub const HASH_IPV4_TCP: u32 = 2;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV6`.
pub const HASH_IPV6: u32 = 4;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP`.
pub const HASH_IPV6_TCP: u32 = 8;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_NONE`.
pub const HASH_ALGORITHM_NONE: u32 = 0;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ`.
pub const HASH_ALGORITHM_TOEPLITZ: u32 = 1;

/// `xen_netif_ctrl_request`, 16 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CtrlRequest {
    /// Echoed in the response.
    pub id: u16,
    /// [`CtrlType`] as a number.
    pub kind: u16,
    /// Arguments, by type.
    pub data: [u32; 3],
}

/// `xen_netif_ctrl_response`, 12 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CtrlResponse {
    /// The request's.
    pub id: u16,
    /// The request's.
    pub kind: u16,
    /// [`CtrlStatus`] as a number.
    pub status: u32,
    /// The result, by type.
    pub data: u32,
}

/// `xen_netif_gref`, 8 bytes: an entry of the page behind ADD_ and DEL_GREF_MAPPING.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrefEntry {
    /// Grant reference.
    pub gref: u32,
    /// `XEN_NETIF_CTRLF_GREF_readonly` is bit 0.
    pub flags: u16,
    /// Written by the backend on DEL: a [`CtrlStatus`].
    pub status: u16,
}

/// `XEN_NETIF_CTRLF_GREF_readonly`.
pub const GREF_READ_ONLY: u16 = 1;

impl GrefEntry {
    /// Decode from the 8 bytes of an entry.
    pub fn from_words(words: [u32; 2]) -> Self {
        let (flags, status) = halves(words[1]);
        Self {
            gref: words[0],
            flags,
            status,
        }
    }

    /// Encode.
    pub fn to_words(self) -> [u32; 2] {
        [self.gref, word(self.flags, self.status)]
    }
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<CtrlRequest>() == 16 && Ctrl::REQUEST_WORDS * 4 == 16);
    assert!(offset_of!(CtrlRequest, id) == 0 && offset_of!(CtrlRequest, kind) == 2);
    assert!(offset_of!(CtrlRequest, data) == 4);
    assert!(size_of::<CtrlResponse>() == 12 && Ctrl::RESPONSE_WORDS * 4 == 12);
    assert!(offset_of!(CtrlResponse, id) == 0 && offset_of!(CtrlResponse, kind) == 2);
    assert!(offset_of!(CtrlResponse, status) == 4 && offset_of!(CtrlResponse, data) == 8);
    assert!(size_of::<GrefEntry>() == 8 && offset_of!(GrefEntry, gref) == 0);
    assert!(offset_of!(GrefEntry, flags) == 4 && offset_of!(GrefEntry, status) == 6);
};

impl Protocol for Ctrl {
    type Request = CtrlRequest;
    type Response = CtrlResponse;
    const ENTRIES: u32 = 128;
    const ENTRY_WORDS: usize = 4;
    const REQUEST_WORDS: usize = 4;
    const RESPONSE_WORDS: usize = 3;

    #[inline]
    fn request(words: Words) -> CtrlRequest {
        let (id, kind) = halves(words[0]);
        CtrlRequest {
            id,
            kind,
            data: [words[1], words[2], words[3]],
        }
    }

    #[inline]
    fn put_request(request: CtrlRequest) -> Words {
        let [a, b, c] = request.data;
        [word(request.id, request.kind), a, b, c]
    }

    #[inline]
    fn response(words: Words) -> CtrlResponse {
        let (id, kind) = halves(words[0]);
        CtrlResponse {
            id,
            kind,
            status: words[1],
            data: words[2],
        }
    }

    #[inline]
    fn put_response(response: CtrlResponse) -> Words {
        [
            word(response.id, response.kind),
            response.status,
            response.data,
            0,
        ]
    }
}
