//! Netfront's transmit side of one queue: packets become slots, responses free them.
use super::counters::QueueCounters;
use super::frame::{Checksum, Meta};
use super::layout::{Cutter, Layout, MAX_SLOTS, Piece};
use super::owed::Owed;
use crate::domain::{Domain, RingPage};
use ring::front::FrontRing;
use ring::packet::GsoKind;
use ring::wire::{
    Extra, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_NULL,
    NETIF_RSP_OKAY, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA,
    Protocol, Tx, TxRequest, TxResponse,
};
use xen::grant::{DomId, GrantRef};

const ENTRIES: usize = Tx::ENTRIES as usize;
/// Largest packet the wire format can say (`XEN_NETIF_MAX_TX_SIZE`).
pub const MAX_SIZE: usize = 0xffff;

/// What was put into a ring slot, to judge its answer by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Data,
    /// The head of a request about the multicast list: no page stands behind it.
    Dummy,
    Extra,
}

/// The transmit ring, its pages and the requests in flight.
pub struct TxQueue {
    ring: FrontRing<Tx, RingPage>,
    remote: DomId,
    /// Data page of request id 0; id n has its own.
    first_page: u32,
    /// By request id: the grant while the request is in flight.
    in_flight: Box<[Option<GrantRef>; ENTRIES]>,
    free_ids: Vec<u16>,
    /// By ring slot.
    sent: Box<[Sent; ENTRIES]>,
    cutter: Cutter,
    single_slot: bool,
    /// Events that may come.
    pub owed: Owed,
}

impl TxQueue {
    /// Pages of guest memory that a queue's data takes.
    pub const PAGES: u32 = Tx::ENTRIES;

    /// A fresh ring on `page`. `scatter_gather`: the backend takes packets of several slots.
    pub fn new(
        page: RingPage,
        first_page: u32,
        remote: DomId,
        layout: Layout,
        scatter_gather: bool,
    ) -> Self {
        Self {
            ring: FrontRing::init(page),
            remote,
            first_page,
            in_flight: Box::new([None; ENTRIES]),
            free_ids: (0..ENTRIES as u16).rev().collect(),
            sent: Box::new([Sent::Nothing; ENTRIES]),
            cutter: Cutter::new(layout),
            single_slot: !scatter_gather,
            owed: Owed::default(),
        }
    }

    /// Whether any packet can be sent now: Linux stops its queue below this many free slots.
    pub fn has_room(&self) -> bool {
        self.ring.free() as usize > MAX_SLOTS + 1 && self.free_ids.len() > MAX_SLOTS
    }

    /// The ring's page.
    pub fn page(&self) -> &RingPage {
        self.ring.page()
    }

    /// Requests without an answer.
    pub fn pending(&self) -> u32 {
        self.ring.unanswered()
    }

    /// Put a packet into the ring; false: it was dropped and counted. The caller saw [`Self::has_room`].
    pub fn send(
        &mut self,
        domain: &Domain,
        frame: &[u8],
        meta: Meta,
        counters: &mut QueueCounters,
    ) -> bool {
        // The cutter lends its pieces; a copy on the stack leaves `self` free.
        let mut pieces = [Piece { offset: 0, size: 0 }; MAX_SLOTS];
        let count = match self.cutter.cut(frame, self.single_slot) {
            Some(cut) if frame.len() <= MAX_SIZE && !cut.is_empty() => {
                pieces[..cut.len()].copy_from_slice(cut);
                cut.len()
            }
            _ => 0,
        };
        if count == 0 || !self.put(domain, frame, meta, &pieces[..count]) {
            counters.tx_dropped += 1;
            return false;
        }
        counters.tx_packets += 1;
        counters.tx_bytes += frame.len() as u64;
        counters.tx_slots += count as u64 + u64::from(meta.gso.is_some());
        counters.tx_csum_blank += u64::from(meta.checksum == Checksum::Blank);
        counters.tx_gso += u64::from(meta.gso.is_some());
        true
    }

    /// Grant every piece first: a full grant table drops the packet and leaves the ring alone.
    fn put(&mut self, domain: &Domain, frame: &[u8], meta: Meta, pieces: &[Piece]) -> bool {
        let mut requests = [(0u16, GrantRef(0)); MAX_SLOTS];
        let mut at = 0;
        for (n, piece) in pieces.iter().enumerate() {
            let id = self.free_ids[self.free_ids.len() - 1 - n];
            let page = self.first_page + u32::from(id);
            domain.write(
                page,
                piece.offset.into(),
                &frame[at..at + usize::from(piece.size)],
            );
            at += usize::from(piece.size);
            let Ok(gref) = domain.grant(page, self.remote, true) else {
                for (_, gref) in &requests[..n] {
                    // Nobody has heard of these grants yet.
                    let _ = domain.end_access(*gref);
                }
                return false;
            };
            requests[n] = (id, gref);
        }
        self.free_ids.truncate(self.free_ids.len() - pieces.len());
        for (n, (piece, (id, gref))) in pieces.iter().zip(&requests).enumerate() {
            let first = n == 0;
            let mut flags = if n + 1 < pieces.len() {
                NETTXF_MORE_DATA
            } else {
                0
            };
            if first {
                flags |= checksum_flags(meta.checksum)
                    | if meta.gso.is_some() {
                        NETTXF_EXTRA_INFO
                    } else {
                        0
                    };
            }
            // The first request says the size of the whole packet, which `send` bounded.
            let size = if first {
                frame.len() as u16
            } else {
                piece.size
            };
            let index = self.ring.push(TxRequest {
                gref: gref.0,
                offset: piece.offset,
                flags,
                id: *id,
                size,
            });
            self.in_flight[usize::from(*id)] = Some(*gref);
            self.sent[index as usize % ENTRIES] = Sent::Data;
            if let (true, Some(gso)) = (first, meta.gso) {
                let kind = if gso.kind == GsoKind::TcpV4 {
                    GSO_TYPE_TCPV4
                } else {
                    GSO_TYPE_TCPV6
                };
                let extra = Extra::Gso {
                    size: gso.size,
                    kind,
                    features: 0,
                };
                let index = self.ring.push_words(&extra.to_words(false));
                self.sent[index as usize % ENTRIES] = Sent::Extra;
            }
        }
        true
    }

    /// Ask for multicast to `address`, or no longer (netif.h, `XEN_NETIF_EXTRA_TYPE_MCAST_ADD` and `_DEL`); the caller saw
    /// [`Self::has_room`].
    pub fn subscribe(&mut self, add: bool, address: [u8; 6]) {
        let Some(id) = self.free_ids.pop() else {
            return;
        };
        let head = TxRequest {
            gref: 0,
            offset: 0,
            flags: NETTXF_EXTRA_INFO,
            id,
            size: 0,
        };
        let index = self.ring.push(head);
        self.sent[index as usize % ENTRIES] = Sent::Dummy;
        let extra = match add {
            true => Extra::MulticastAdd(address),
            false => Extra::MulticastDel(address),
        };
        let index = self.ring.push_words(&extra.to_words(false));
        self.sent[index as usize % ENTRIES] = Sent::Extra;
    }

    /// Let the backend see what was sent; true: it wants an event.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Take the answers that are there and ask for an event at the next one; an error disables the netfront.
    pub fn collect(&mut self, domain: &Domain, counters: &mut QueueCounters) -> Result<(), String> {
        loop {
            let unread = self.ring.responses();
            if unread > self.pending() {
                return Err(format!("illegal number of Tx responses {unread}"));
            }
            for _ in 0..unread {
                let Some((index, response)) = self.ring.pop() else {
                    break;
                };
                self.owed.saw_responses();
                self.answered(domain, index, response, counters)?;
            }
            self.owed.armed();
            if !self.ring.arm() {
                return Ok(());
            }
        }
    }

    fn answered(
        &mut self,
        domain: &Domain,
        index: u32,
        response: TxResponse,
        counters: &mut QueueCounters,
    ) -> Result<(), String> {
        let what = std::mem::replace(&mut self.sent[index as usize % ENTRIES], Sent::Nothing);
        let TxResponse { id, status } = response;
        match (what, status) {
            (Sent::Extra, NETIF_RSP_NULL) => return Ok(()),
            (Sent::Data, NETIF_RSP_OKAY) => {}
            (Sent::Data, NETIF_RSP_ERROR | NETIF_RSP_DROPPED) => counters.tx_errors += 1,
            (Sent::Dummy, NETIF_RSP_OKAY | NETIF_RSP_ERROR) => {
                counters.multicast_refused += u64::from(status == NETIF_RSP_ERROR);
                self.free_ids.push(id);
                return Ok(());
            }
            (Sent::Extra, _) => {
                return Err(format!(
                    "Tx slot {index} is an extra and was answered {status}, not NULL"
                ));
            }
            (Sent::Data | Sent::Dummy, _) => {
                return Err(format!(
                    "Tx slot {index} was answered with the unexpected status {status}"
                ));
            }
            (Sent::Nothing, _) => {
                return Err(format!("Tx slot {index} was answered without a request"));
            }
        }
        let Some(slot) = self.in_flight.get_mut(usize::from(id)) else {
            return Err(format!("Tx response has incorrect id ({id})"));
        };
        let Some(gref) = slot.take() else {
            return Err(format!("Tx response for inactive request ({id})"));
        };
        if domain.end_access(gref).is_err() {
            return Err(format!(
                "Tx grant {} still in use by the backend after its answer",
                gref.0
            ));
        }
        self.free_ids.push(id);
        Ok(())
    }

    /// End every grant; those that could not be ended are returned (the backend still has the page mapped).
    pub fn release(&mut self, domain: &Domain) -> usize {
        let in_flight = self.in_flight.iter_mut().filter_map(Option::take);
        in_flight
            .filter(|gref| domain.end_access(*gref).is_err())
            .count()
    }
}

fn checksum_flags(checksum: Checksum) -> u16 {
    match checksum {
        Checksum::None => 0,
        Checksum::Validated => NETTXF_DATA_VALIDATED,
        // Linux sets both for a local packet.
        Checksum::Blank => NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED,
    }
}
