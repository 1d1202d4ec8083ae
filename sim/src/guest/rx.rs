//! Netfront's receive side of one queue: buffers posted, responses put together to packets.
use super::counters::QueueCounters;
use super::frame::{Checksum, Meta};
use super::owed::Owed;
use crate::domain::{Domain, PAGE_SIZE, RingPage};
use ring::front::FrontRing;
use ring::packet::{Gso, GsoKind};
use ring::wire::{
    Extra, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED,
    NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, Protocol, Rx, RxRequest, RxResponse, Words,
};
use xen::grant::{DomId, GrantRef};

const ENTRIES: usize = Rx::ENTRIES as usize;
/// Linux takes this many data slots, one more where the first holds at most [`COPY_THRESHOLD`] bytes.
const SLOTS: u32 = 18;
const COPY_THRESHOLD: i16 = 256;

/// Why a response, or the whole netfront, is no good.
pub enum RxFault {
    /// The packet is lost; Linux warns and goes on.
    Packet(String),
    /// The netfront is disabled.
    Disabled(String),
}

/// What a slot gave, or what the packet is lost to.
type Outcome<T> = Result<T, String>;

/// The receive ring and its posted pages.
pub struct RxQueue {
    ring: FrontRing<Rx, RingPage>,
    remote: DomId,
    /// Page behind ring slot 0; slot n has its own.
    first_page: u32,
    /// By ring slot.
    posted: Box<[Option<GrantRef>; ENTRIES]>,
    /// Most buffers to keep posted.
    limit: u32,
    /// Ring index of the next request.
    next: u32,
    /// Events that may come.
    pub owed: Owed,
}

impl RxQueue {
    /// Pages of guest memory that a queue's buffers take.
    pub const PAGES: u32 = Rx::ENTRIES;

    /// The ring's page.
    pub fn page(&self) -> &RingPage {
        self.ring.page()
    }

    /// A fresh ring on `page` with nothing posted.
    pub fn new(page: RingPage, first_page: u32, remote: DomId, limit: u32) -> Self {
        Self {
            ring: FrontRing::init(page),
            remote,
            first_page,
            posted: Box::new([None; ENTRIES]),
            limit: limit.min(Rx::ENTRIES),
            next: 0,
            owed: Owed::default(),
        }
    }

    /// Buffers posted and not answered.
    pub fn outstanding(&self) -> u32 {
        self.ring.unanswered()
    }

    /// Keep at most `limit` buffers posted from now on; those already posted stay.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.min(Rx::ENTRIES);
    }

    /// Post buffers up to the limit; true: the backend wants an event.
    pub fn post(&mut self, domain: &Domain) -> bool {
        let mut posted = false;
        while self.outstanding() < self.limit && self.post_one(domain) {
            posted = true;
        }
        posted && self.ring.publish()
    }

    fn post_one(&mut self, domain: &Domain) -> bool {
        // Linux's id is the slot.
        let slot = self.next as usize % ENTRIES;
        let Ok(gref) = domain.grant(self.first_page + slot as u32, self.remote, false) else {
            return false;
        };
        self.next = self
            .ring
            .push(RxRequest {
                id: slot as u16,
                pad: 0,
                gref: gref.0,
            })
            .wrapping_add(1);
        self.posted[slot] = Some(gref);
        true
    }

    /// Responses that may be read now.
    pub fn unread(&mut self) -> Result<u32, RxFault> {
        let unread = self.ring.responses();
        if unread > self.outstanding() {
            return Err(RxFault::Disabled(format!(
                "illegal number of Rx responses {unread}"
            )));
        }
        if unread > 0 {
            self.owed.saw_responses();
        }
        Ok(unread)
    }

    /// Ask for an event at the next response; true: one is there already.
    pub fn arm(&mut self) -> bool {
        self.owed.armed();
        self.ring.arm()
    }

    /// Put the next packet together in `frame` from at most `unread` responses, of which there is at least one.
    /// `Packet` faults have consumed the responses that they concern.
    pub fn receive(
        &mut self,
        domain: &Domain,
        unread: &mut u32,
        frame: &mut Vec<u8>,
        counters: &mut QueueCounters,
    ) -> Result<Meta, RxFault> {
        frame.clear();
        let mut fault = None;
        let mut slots = 0;
        let mut most = SLOTS;
        let mut meta = Meta::default();
        loop {
            let Some((slot, words)) = self.take(unread, counters) else {
                return Err(RxFault::Packet("need more slots".into()));
            };
            let response = Rx::response(words);
            slots += 1;
            counters.rx_wrong_ids += u64::from(usize::from(response.id) != slot);
            if slots == 1 {
                most += u32::from(response.status <= COPY_THRESHOLD);
                meta.checksum = checksum_of(response.flags);
            }
            if let Err(why) = self.data(domain, slot, response, frame)? {
                fault = Some(why);
            }
            if slots == 1 && response.flags & NETRXF_EXTRA_INFO != 0 {
                match self.extras(domain, unread, counters)? {
                    Ok(gso) => meta.gso = gso,
                    Err(why) => fault = Some(why),
                }
            }
            if response.flags & NETRXF_MORE_DATA == 0 {
                break;
            }
        }
        if slots > most {
            fault = Some(format!("too many slots: {slots}"));
        }
        match fault {
            Some(why) => Err(RxFault::Packet(why)),
            None => {
                counters.rx_packets += 1;
                counters.rx_bytes += frame.len() as u64;
                counters.rx_csum_blank += u64::from(meta.checksum == Checksum::Blank);
                counters.rx_validated += u64::from(meta.checksum == Checksum::Validated);
                Ok(meta)
            }
        }
    }

    /// The next response, raw, and the ring slot it lies in; `None` when `unread` is used up.
    fn take(&mut self, unread: &mut u32, counters: &mut QueueCounters) -> Option<(usize, Words)> {
        *unread = unread.checked_sub(1)?;
        let (index, words) = self.ring.pop_words()?;
        counters.rx_slots += 1;
        Some((index as usize % ENTRIES, words))
    }

    /// End the grant of `slot`; whatever the answer says, the buffer is ours again.
    fn unpost(&mut self, domain: &Domain, slot: usize) -> Result<(), RxFault> {
        let Some(gref) = self.posted[slot].take() else {
            return Err(RxFault::Disabled(format!(
                "Rx slot {slot} was answered without a buffer"
            )));
        };
        domain.end_access(gref).map_err(|_| {
            RxFault::Disabled(format!(
                "Rx grant {} still in use by the backend after its answer",
                gref.0
            ))
        })
    }

    /// Append the data of one response; the inner error loses the packet.
    fn data(
        &mut self,
        domain: &Domain,
        slot: usize,
        response: RxResponse,
        frame: &mut Vec<u8>,
    ) -> Result<Outcome<()>, RxFault> {
        self.unpost(domain, slot)?;
        let RxResponse { offset, status, .. } = response;
        let Ok(size) = usize::try_from(status) else {
            return Ok(Err(format!("Rx status {status}")));
        };
        if usize::from(offset) + size > PAGE_SIZE {
            return Ok(Err(format!("Rx offset {offset}, size {size}")));
        }
        let at = frame.len();
        frame.resize(at + size, 0);
        domain.read(
            self.first_page + slot as u32,
            offset.into(),
            &mut frame[at..],
        );
        Ok(Ok(()))
    }

    /// The extras behind a first slot; each lies in a posted slot of its own.
    fn extras(
        &mut self,
        domain: &Domain,
        unread: &mut u32,
        counters: &mut QueueCounters,
    ) -> Result<Outcome<Option<Gso>>, RxFault> {
        let mut gso = Ok(None);
        loop {
            let Some((slot, words)) = self.take(unread, counters) else {
                return Ok(Err("missing extra info".into()));
            };
            self.unpost(domain, slot)?;
            let more = match Extra::from_words(words) {
                Ok((Extra::Gso { size, kind, .. }, more)) => {
                    gso = gso.and(gso_of(size, kind).map(Some));
                    more
                }
                Ok((_, more)) => more,
                Err(kind) => {
                    gso = Err(format!("invalid extra type {kind}"));
                    // The flags lie behind the type, whatever it is; the lowest says that more follow.
                    words[0].to_le_bytes()[1] & 1 != 0
                }
            };
            if !more {
                return Ok(gso);
            }
        }
    }

    /// End every grant; how many could not be ended.
    pub fn release(&mut self, domain: &Domain) -> usize {
        let posted = self.posted.iter_mut().filter_map(Option::take);
        posted
            .filter(|gref| domain.end_access(*gref).is_err())
            .count()
    }
}

fn gso_of(size: u16, kind: u8) -> Result<Gso, String> {
    let kind = match kind {
        GSO_TYPE_TCPV4 => GsoKind::TcpV4,
        GSO_TYPE_TCPV6 => GsoKind::TcpV6,
        other => return Err(format!("bad GSO type {other}")),
    };
    if size == 0 {
        return Err("GSO size must not be zero".into());
    }
    Ok(Gso { size, kind })
}

fn checksum_of(flags: u16) -> Checksum {
    if flags & NETRXF_CSUM_BLANK != 0 {
        Checksum::Blank
    } else if flags & NETRXF_DATA_VALIDATED != 0 {
        Checksum::Validated
    } else {
        Checksum::None
    }
}
