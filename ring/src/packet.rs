//! Tx slots become packets, or a named malformation with its outcome (netback.c's contract: reference/netif.md section 5).

/// Most data slots of a packet, the head included.
pub const MAX_DATA_SLOTS: usize = 19;

/// One piece of a Tx packet in a guest page. Never crosses the page, never zero unless the guest sent a zero-size slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment { pub gref: u32, pub offset: u16, pub size: u16, /** Slot, counted from the packet's first. */ pub slot: u8 }

/// L4 checksum state as the sender left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum { /** Complete, nobody vouches. */ #[default] None, /** `NETTXF_csum_blank`: pseudo-header sum only. */ Blank, /** `data_validated` without blank. */ Validated }

/// GSO extra: segment size and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso { pub size: u16, pub kind: GsoKind }
/// XEN_NETIF_GSO_TYPE_*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind { TcpV4, TcpV6 }

/// A well-formed Tx packet: total `size` bytes in `fragments()`, `slots` ring slots (extras included) from index `first`.
#[derive(Debug, Clone)]
pub struct TxPacket {
    pub first: u32, pub slots: u8, pub size: u16, pub checksum: Checksum, pub gso: Option<Gso>, pub hash: Option<(u8, u32)>,
    /** Bit n: slot n (from `first`) is an extra, answered NULL. */ pub extras: u32,
    /* fragments: [Fragment; MAX_DATA_SLOTS], count */
}
impl TxPacket {
    /// Data fragments in wire order; sizes add up to `size`.
    pub fn fragments(&self) -> &[Fragment] { todo!() }
}

/// What the next chain of slots turned out to be. Each variant was consumed (except `Fatal`) and must be answered in order.
#[derive(Debug, Clone)]
pub enum Chain {
    /// Forward it, then answer OKAY (extras NULL).
    Packet(TxPacket),
    /// Answer ERROR on `slots` (extras NULL) from `first`: known buggy guests do it.
    Rejected { first: u32, slots: u8, extras: u32, why: Malformation },
    /// A dummy request whose extra amends the multicast list: answer OKAY or ERROR, extras NULL.
    Multicast { first: u32, slots: u8, extras: u32, address: [u8; 6], add: bool },
}

/// Every way a chain can be wrong. `is_fatal` tells whether the vif is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformation { #[error("placeholder")] Placeholder }

/// What the vif has negotiated that changes how a chain is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Negotiated { pub gso_tcpv4: bool, pub gso_tcpv6: bool, pub multicast_control: bool }

/// Take the next chain out of the ring. `Ok(None)`: nothing to consume.
pub fn next_chain<P: crate::page::SharedPage, S: crate::page::Shadow<crate::wire::Tx>>(
    ring: &mut crate::back::BackRing<crate::wire::Tx, P, S>, negotiated: Negotiated,
) -> Result<Option<Chain>, Fatal> { todo!() }

/// The vif must be disabled: the ring itself is rogue or a chain is fatally malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fatal { Ring(crate::back::Rogue), Chain(Malformation) }
