//! Tx slots become packets, or a named malformation with its outcome.
//!
//! A chain on the Tx ring: the head, whose size is the whole packet's; its extras; then the other fragments, each with
//! its own size. The head's own length is the total less the others.
use crate::back::{BackRing, Rogue};
use crate::malformation::Malformation;
use crate::page::SharedPage;
use crate::shadow::Shadow;
use crate::wire::{self, Extra, NETIF_RSP_NULL, Tx, TxRequest, TxResponse};
use arrayvec::ArrayVec;

/// Most data slots of a packet, the head included: 18 after the head, as Linux forwards
/// (`XEN_NETBK_LEGACY_SLOTS_MAX`; netif.h asks for XEN_NETIF_NR_SLOTS_MIN, 18 in all).
pub const MAX_DATA_SLOTS: usize = 19;

/// Most data slots of a chain that is answered rather than fatal: 20 after the head (`fatal_skb_slots`).
pub const MAX_ANSWERED_SLOTS: usize = 21;

/// `ETH_HLEN`: what the first fragment holds at least.
pub const MIN_HEAD: u16 = 14;

/// Bytes of a granted page (`XEN_PAGE_SIZE`).
const PAGE: u32 = 4096;

/// One piece of a Tx packet in a guest page: at least one byte, never across the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Grant reference of the page.
    pub gref: u32,
    /// First byte in the page.
    pub offset: u16,
    /// Bytes.
    pub size: u16,
    /// Slot, counted from the packet's first (0).
    pub slot: u8,
}

/// L4 checksum state as the sender left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Complete, nobody vouches.
    #[default]
    None,
    /// `NETTXF_csum_blank`: pseudo-header sum only.
    Blank,
    /// `NETTXF_data_validated` without blank.
    Validated,
}

/// GSO extra: what the packet is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Payload bytes of a segment, at least 1.
    pub size: u16,
    /// Protocol.
    pub kind: GsoKind,
}

/// `XEN_NETIF_GSO_TYPE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// `XEN_NETIF_GSO_TYPE_TCPV4`.
    TcpV4,
    /// `XEN_NETIF_GSO_TYPE_TCPV6`.
    TcpV6,
}

/// Hash extra of a type we know: `(type, value)`, `_XEN_NETIF_CTRL_HASH_TYPE_*` 0..=3 and the value's word.
pub type Hash = (u8, u32);

/// The ring slots of one chain. Extras sit right behind the head: slots `1..=extras`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slots {
    /// Ring index of the head.
    pub first: u32,
    /// The head's id: what its answer needs of it, so that nobody reads it a second time.
    pub id: u16,
    /// How many, head and extras included (1..=256).
    pub count: u16,
    /// How many of them are extras, answered NULL.
    pub extras: u8,
}

/// A well-formed Tx packet: `size` bytes in [`Self::fragments`]. An empty one ([`Default`]) is room for [`next_chain`] to write one
/// into: with that of its fragments it is too large to be passed on by value for each packet.
#[derive(Debug, Clone, Default)]
pub struct TxPacket {
    /// Its slots, to be answered in order.
    pub slots: Slots,
    /// Bytes of the whole packet.
    pub size: u16,
    /// As the flags say; Blank for GSO whatever they say.
    pub checksum: Checksum,
    /// GSO came without `NETTXF_csum_blank`: not even the pseudo-header sum is in the packet. To be counted.
    pub checksum_fixup: bool,
    /// Segmentation to be done. Not bound to what was negotiated: Linux takes it from any guest.
    pub gso: Option<Gso>,
    /// The sender's hash, as netback.c takes it: types beyond 0..=3 are ignored, the algorithm is not looked at.
    pub hash: Option<Hash>,
    fragments: ArrayVec<Fragment, MAX_DATA_SLOTS>,
}

impl TxPacket {
    /// Data fragments in wire order; sizes add up to `size`, at least one, the first at least [`MIN_HEAD`]. Zero-size slots
    /// are not here: they are answered OKAY and their grant is never touched (XSA-448).
    #[inline]
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }
}

/// What the next chain of slots turned out to be. Its slots were consumed and must be answered in order ([`answer`]).
#[derive(Debug, Clone, Copy)]
pub enum Chain<'a> {
    /// Forward it, then answer OKAY, ERROR where a grant copy failed.
    Packet(&'a TxPacket),
    /// Answer ERROR: known buggy guests do it.
    Rejected {
        /// To be answered.
        slots: Slots,
        /// The first thing found wrong.
        why: Malformation,
    },
    /// A dummy request whose extra amends the multicast list: answer OKAY or ERROR (the list is full).
    Multicast {
        /// To be answered.
        slots: Slots,
        /// As sent.
        address: [u8; 6],
        /// Add, else delete.
        add: bool,
    },
}

impl Chain<'_> {
    /// The slots to answer.
    #[inline]
    pub fn slots(&self) -> Slots {
        match self {
            Self::Packet(packet) => packet.slots,
            Self::Rejected { slots, .. } | Self::Multicast { slots, .. } => *slots,
        }
    }
}

/// The vif must be disabled: the ring itself is rogue or a chain is fatally malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fatal {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] Rogue),
    /// A chain.
    #[error(transparent)]
    Chain(#[from] Malformation),
}

/// Take the next chain out of the ring. `Ok(None)`: nothing to consume. Where [`BackRing::known`] is not 0, the size of
/// the next packet is `ring.look(0).size` before it is taken (credit). `room` is written over.
///
/// # Errors
/// [`Fatal`]: nothing was consumed, and nothing of this ring may be trusted any more.
#[inline]
pub fn next_chain<'a, P: SharedPage, S: Shadow<Tx>>(
    ring: &mut BackRing<Tx, P, S>,
    room: &'a mut TxPacket,
) -> Result<Option<Chain<'a>>, Fatal> {
    if ring.known() == 0 && ring.unconsumed()? == 0 {
        return Ok(None);
    }
    let head = ring.look(0);
    // Two calls, so that of a packet without extras nobody asks what is in them.
    if head.flags & wire::NETTXF_EXTRA_INFO == 0 {
        take_chain(ring, head, Extras::default(), room)
    } else {
        let extras = take_extras(ring)?;
        take_chain(ring, head, extras, room)
    }
}

/// Take the chain whose head and extras were looked at.
#[inline(always)]
fn take_chain<'a, P: SharedPage, S: Shadow<Tx>>(
    ring: &mut BackRing<Tx, P, S>,
    head: TxRequest,
    extras: Extras,
    room: &'a mut TxPacket,
) -> Result<Option<Chain<'a>>, Fatal> {
    let first = ring.req_cons();
    // As in Linux, a multicast request ends with its extras, whatever the head says of more data.
    if let Some((add, address)) = extras.multicast() {
        let slots = Slots {
            first,
            id: head.id,
            count: 1 + u16::from(extras.count),
            extras: extras.count,
        };
        ring.consume(u32::from(slots.count));
        return Ok(Some(Chain::Multicast {
            slots,
            address,
            add,
        }));
    }
    let mut data = Data::new(&head, &mut room.fragments);
    if head.flags & wire::NETTXF_MORE_DATA != 0 {
        data.take_rest(ring, 1 + u16::from(extras.count))?;
    }
    let slots = Slots {
        first,
        id: head.id,
        count: 1 + u16::from(extras.count) + data.later,
        extras: extras.count,
    };
    let offload = data.judge(&head, &extras)?;
    ring.consume(u32::from(slots.count));
    if let Some(why) = data.rejected {
        return Ok(Some(Chain::Rejected { slots, why }));
    }
    room.slots = slots;
    room.size = head.size;
    room.checksum = offload.checksum;
    room.checksum_fixup = offload.fixup;
    room.gso = offload.gso;
    room.hash = extras.hash;
    Ok(Some(Chain::Packet(room)))
}

/// Answer the next chain in order: extras NULL, every other slot with what `status` says of it (`NETIF_RSP_*`, by slot
/// counted from the head, 0). Publishing is the caller's.
///
/// # Panics
/// Where `slots` is not the chain whose turn it is: a bug of ours.
#[inline]
pub fn answer<P: SharedPage, S: Shadow<Tx>>(
    ring: &mut BackRing<Tx, P, S>,
    slots: Slots,
    mut status: impl FnMut(u8) -> i16,
) {
    assert!(
        slots.first == ring.next_response(),
        "answered chain {} when {} was due",
        slots.first,
        ring.next_response()
    );
    ring.respond(TxResponse {
        id: slots.id,
        status: status(0),
    });
    for slot in 1..slots.count {
        let index = slots.first.wrapping_add(u32::from(slot));
        let response = if slot > u16::from(slots.extras) {
            TxResponse {
                id: ring.consumed_request(index).id,
                status: status(slot as u8),
            }
        } else {
            TxResponse {
                id: wire::extra_id(ring.consumed_words(index)),
                status: NETIF_RSP_NULL,
            }
        };
        ring.respond(response);
    }
}

/// The extras behind a head; of each type the last wins.
#[derive(Default)]
struct Extras {
    count: u8,
    /// Size and type, unchecked.
    gso: Option<(u16, u8)>,
    add: Option<[u8; 6]>,
    del: Option<[u8; 6]>,
    hash: Option<Hash>,
}

impl Extras {
    /// What the chain asks of the multicast list; ADD goes first where both are there.
    fn multicast(&self) -> Option<(bool, [u8; 6])> {
        self.add
            .map(|address| (true, address))
            .or(self.del.map(|address| (false, address)))
    }

    fn gso(&self) -> Result<Option<Gso>, Malformation> {
        let Some((size, kind)) = self.gso else {
            return Ok(None);
        };
        if size == 0 {
            return Err(Malformation::GsoSizeZero);
        }
        let kind = match kind {
            wire::GSO_TYPE_TCPV4 => GsoKind::TcpV4,
            wire::GSO_TYPE_TCPV6 => GsoKind::TcpV6,
            kind => return Err(Malformation::UnknownGso { kind }),
        };
        Ok(Some(Gso { size, kind }))
    }
}

/// Look at the extras, slots 1 on. Their number is bounded by the ring, which holds the head too: at most 255.
#[inline(never)]
fn take_extras<P: SharedPage, S: Shadow<Tx>>(
    ring: &mut BackRing<Tx, P, S>,
) -> Result<Extras, Fatal> {
    let mut extras = Extras::default();
    loop {
        let slot = u16::from(extras.count) + 1;
        if !available(ring, slot)? {
            return Err(Malformation::MissingExtra {
                available: ring.known(),
            }
            .into());
        }
        let (extra, more) = Extra::from_words(ring.look_words(u32::from(slot)))
            .map_err(|kind| Malformation::UnknownExtra { kind, slot })?;
        extras.count += 1;
        match extra {
            Extra::Gso { size, kind, .. } => extras.gso = Some((size, kind)),
            Extra::MulticastAdd(address) => extras.add = Some(address),
            Extra::MulticastDel(address) => extras.del = Some(address),
            Extra::Hash { kind, value, .. } => {
                extras.hash = (kind < 4).then_some((kind, u32::from_le_bytes(value)))
            }
            // Means nothing in this direction.
            Extra::Xdp { .. } => {}
        }
        if !more {
            return Ok(extras);
        }
    }
}

/// Whether the request in `slot` is there; reads `req_prod` again before it says no.
#[inline]
fn available<P: SharedPage, S: Shadow<Tx>>(
    ring: &mut BackRing<Tx, P, S>,
    slot: u16,
) -> Result<bool, Rogue> {
    Ok(u32::from(slot) < ring.known() || u32::from(slot) < ring.unconsumed()?)
}

/// The data slots of a chain while they are read.
struct Data<'a> {
    fragments: &'a mut ArrayVec<Fragment, MAX_DATA_SLOTS>,
    /// Total less the fragments so far: the head's own length in the end.
    remaining: u16,
    /// Data slots behind the head.
    later: u16,
    /// The first thing wrong that is not fatal; nothing more is collected then.
    rejected: Option<Malformation>,
}

impl<'a> Data<'a> {
    #[inline]
    fn new(head: &TxRequest, fragments: &'a mut ArrayVec<Fragment, MAX_DATA_SLOTS>) -> Self {
        fragments.clear();
        fragments.push(Fragment {
            gref: head.gref,
            offset: head.offset,
            size: head.size,
            slot: 0,
        });
        Self {
            fragments,
            remaining: head.size,
            later: 0,
            rejected: None,
        }
    }

    /// Look at the data slots from `slot` to the chain's last, in Linux's order of checks.
    fn take_rest<P: SharedPage, S: Shadow<Tx>>(
        &mut self,
        ring: &mut BackRing<Tx, P, S>,
        first: u16,
    ) -> Result<(), Fatal> {
        loop {
            let slot = first + self.later;
            if !available(ring, slot)? {
                return Err(Malformation::Incomplete {
                    available: ring.known(),
                }
                .into());
            }
            if usize::from(self.later) + 1 >= MAX_ANSWERED_SLOTS {
                return Err(Malformation::FarTooManySlots {
                    most: MAX_ANSWERED_SLOTS as u16,
                }
                .into());
            }
            if usize::from(self.later) + 1 >= MAX_DATA_SLOTS {
                self.reject(Malformation::TooManySlots {
                    most: MAX_DATA_SLOTS as u16,
                });
            }
            let request = ring.look(u32::from(slot));
            self.later += 1;
            self.take(request, slot)?;
            if request.flags & wire::NETTXF_MORE_DATA == 0 {
                return Ok(());
            }
        }
    }

    #[inline]
    fn take(&mut self, request: TxRequest, slot: u16) -> Result<(), Malformation> {
        let TxRequest {
            gref, offset, size, ..
        } = request;
        if u32::from(offset) + u32::from(size) > PAGE {
            return Err(Malformation::FragmentCrossesPage { slot, offset, size });
        }
        if size > self.remaining {
            self.reject(Malformation::FragmentExceedsTotal {
                slot,
                size,
                remaining: self.remaining,
            });
        }
        if self.rejected.is_none() {
            self.remaining -= size;
            if size > 0 {
                // Fits: `rejected` is set before the twentieth. A slot number above 255 would need 256 extras.
                self.fragments.push(Fragment {
                    gref,
                    offset,
                    size,
                    slot: slot as u8,
                });
            }
        }
        Ok(())
    }

    fn reject(&mut self, why: Malformation) {
        self.rejected.get_or_insert(why);
    }

    /// Judge the whole: what Linux rejects, then what it finds fatal, in its order.
    #[inline]
    fn judge(&mut self, head: &TxRequest, extras: &Extras) -> Result<Offload, Malformation> {
        if self.remaining < MIN_HEAD {
            self.reject(Malformation::HeadTooShort {
                size: self.remaining,
            });
        }
        if self.rejected.is_some() {
            return Ok(Offload::default());
        }
        if u32::from(head.offset) + u32::from(self.remaining) > PAGE {
            return Err(Malformation::HeadCrossesPage {
                offset: head.offset,
                size: self.remaining,
            });
        }
        self.fragments[0].size = self.remaining;
        let gso = extras.gso()?;
        let blank = head.flags & wire::NETTXF_CSUM_BLANK != 0;
        let validated = head.flags & wire::NETTXF_DATA_VALIDATED != 0;
        let checksum = match (blank || gso.is_some(), validated) {
            (true, _) => Checksum::Blank,
            (false, true) => Checksum::Validated,
            (false, false) => Checksum::None,
        };
        let fixup = gso.is_some() && !blank;
        Ok(Offload {
            checksum,
            fixup,
            gso,
        })
    }
}

/// What the head and its extras say beside the data.
#[derive(Default)]
struct Offload {
    checksum: Checksum,
    fixup: bool,
    gso: Option<Gso>,
}
