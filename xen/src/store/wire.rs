//! Messages as bytes (xen/include/public/io/xs_wire.h).

/// Bytes of a header.
pub const HEADER: usize = 16;
/// XENSTORE_PAYLOAD_MAX.
pub const PAYLOAD_MAX: usize = 4096;
/// XENSTORE_ABS_PATH_MAX.
pub const ABS_PATH_MAX: usize = 3072;

/// `enum xsd_sockmsg_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum Kind {
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Introduce = 8,
    Release = 9,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    IsDomainIntroduced = 17,
    Resume = 18,
    SetTarget = 19,
    ResetWatches = 21,
    DirectoryPart = 22,
}

impl Kind {
    const ALL: [Self; 22] = [
        Self::Control,
        Self::Directory,
        Self::Read,
        Self::GetPerms,
        Self::Watch,
        Self::Unwatch,
        Self::TransactionStart,
        Self::TransactionEnd,
        Self::Introduce,
        Self::Release,
        Self::GetDomainPath,
        Self::Write,
        Self::Mkdir,
        Self::Rm,
        Self::SetPerms,
        Self::WatchEvent,
        Self::Error,
        Self::IsDomainIntroduced,
        Self::Resume,
        Self::SetTarget,
        Self::ResetWatches,
        Self::DirectoryPart,
    ];

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// `struct xsd_sockmsg`. `kind` stays a number, for a server must answer what it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`Kind`] as a number.
    pub kind: u32,
    /// Chosen by the client, echoed in the reply; 0 in a watch event.
    pub request: u32,
    /// Transaction, 0 for none.
    pub transaction: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    /// As bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        for (chunk, word) in
            bytes
                .chunks_exact_mut(4)
                .zip([self.kind, self.request, self.transaction, self.len])
        {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// From bytes; None while there are fewer than [`HEADER`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |i: usize| {
            Some(u32::from_ne_bytes(
                bytes.get(i * 4..i * 4 + 4)?.try_into().ok()?,
            ))
        };
        Some(Self {
            kind: word(0)?,
            request: word(1)?,
            transaction: word(2)?,
            len: word(3)?,
        })
    }
}

/// The other side announced a payload beyond [`PAYLOAD_MAX`]: nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("xenstore message of {0} bytes, at most {PAYLOAD_MAX} are allowed: close the connection")]
pub struct Oversized(pub u32);

/// Bytes received and not yet understood; at most one message and one read are held.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    /// Bytes came in.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn next_message(&mut self) -> Result<Option<(Header, &[u8])>, Oversized> {
        let Some(header) = self.bytes.get(self.taken..).and_then(Header::decode) else {
            return Ok(None);
        };
        let len = header.len as usize;
        if len > PAYLOAD_MAX {
            return Err(Oversized(header.len));
        }
        let start = self.taken + HEADER;
        let Some(payload) = self.bytes.get(start..start + len) else {
            return Ok(None);
        };
        self.taken = start + len;
        Ok(Some((header, payload)))
    }
}

/// A whole message.
pub fn message(kind: Kind, request: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: kind as u32,
        request,
        transaction,
        len: payload.len() as u32,
    };
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(payload);
    bytes
}

/// Strings of a payload, each ended by a NUL (the last one's may be missing).
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload
        .strip_suffix(&[0])
        .unwrap_or(payload)
        .split(|byte| *byte == 0)
        .filter(move |_| !payload.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_are_their_numbers() {
        for number in 0..64 {
            assert_eq!(
                Kind::from_number(number).map(|kind| kind as u32),
                (number != 20 && number < 23).then_some(number)
            );
        }
    }

    #[test]
    fn strings_of_payloads() {
        let all = |payload: &'static [u8]| strings(payload).collect::<Vec<_>>();
        assert_eq!(all(b""), Vec::<&[u8]>::new());
        assert_eq!(all(b"\0"), [b""]);
        assert_eq!(all(b"a\0b\0"), [b"a", b"b"]);
        assert_eq!(all(b"a\0b"), [b"a", b"b"]);
        assert_eq!(all(b"a\0\0"), [&b"a"[..], b""]);
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(
            payloads in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<u32>(), any::<u32>()), 0..20),
            cuts in prop::collection::vec(1usize..300, 1..50),
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|(payload, r, t)| message(Kind::Write, *r, *t, payload)).collect();
            let (mut inbox, mut got, mut rest, mut cuts) = (Inbox::default(), Vec::new(), &stream[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                inbox.extend(now);
                while let Some((header, payload)) = inbox.next_message().unwrap() {
                    got.push((payload.to_vec(), header.request, header.transaction));
                }
                rest = later;
            }
            prop_assert_eq!(got, payloads);
        }

        #[test]
        fn noise_is_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
            let mut inbox = Inbox::default();
            inbox.extend(&bytes);
            while let Ok(Some((header, payload))) = inbox.next_message() {
                prop_assert_eq!(header.len as usize, payload.len());
                prop_assert!(payload.len() <= PAYLOAD_MAX);
            }
        }
    }
}
