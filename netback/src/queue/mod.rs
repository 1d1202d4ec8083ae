//! One queue of a vif: its two rings, and what waits for it.
pub mod backlog;
pub mod bucket;
pub(crate) mod events;
pub mod limits;
pub(crate) mod merge;
pub mod setup;

pub(crate) mod rx;
pub(crate) mod tx;

use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::{DropReason, QueueStats};
use crate::queue::setup::QueueSetup;
use crate::vif::file::FileShadow;
use crate::vif::id::QueueId;
use crate::vif::multicast::Multicast;
use backlog::Backlog;
use events::QueueEvents;
use limits::Limits;
use ring::back::BackRing;
use ring::packet::{Chain, Fatal};
use ring::page::{PageWords, SharedPage};
use ring::wire::{NETIF_RSP_ERROR, NETIF_RSP_OKAY, Rx, Tx};
use rx::RxSide;
use std::sync::Arc;
use std::time::Instant;
use tx::TxSide;
use xen::event::Port;
use xen::grant::{DomId, GrantTable};
use xsk_bridge::switch::filter::Filter;
use xsk_bridge::switch::{BridgeView, PortId};

/// What is left of a queue that a worker gave up. The control thread drops it, which unmaps the rings (a slow hypercall), and then unbinds
/// the ports. The vif's file is untouched.
pub struct Remains<H: Hypervisor> {
    /// Local ports, still bound on the worker's event channels; the same one twice where the frontend does not split.
    pub tx_port: Port,
    /// The port of the Rx ring, like `tx_port`.
    pub rx_port: Port,
    pages: [Page<H>; 2],
}

impl<H: Hypervisor> Remains<H> {
    /// Unmaps the rings.
    pub fn unmap(self) -> [Port; 2] {
        drop(self.pages);
        [self.tx_port, self.rx_port]
    }
}

/// The mapped page behind a ring.
pub(crate) struct RingPage<P>(Arc<P>);

impl<P> Clone for RingPage<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: AsRef<PageWords>> SharedPage for RingPage<P> {
    #[inline]
    fn words(&self) -> &PageWords {
        (*self.0).as_ref()
    }
}

type Page<H> = RingPage<<<H as Hypervisor>::Grants as GrantTable>::Page>;
pub(crate) type TxRing<H> = BackRing<Tx, Page<H>, FileShadow<Tx>>;
pub(crate) type RxRing<H> = BackRing<Rx, Page<H>, FileShadow<Rx>>;

/// A queue as its worker serves it.
pub(crate) struct Queue<H: Hypervisor> {
    pub id: QueueId,
    pub domid: DomId,
    pub port_id: PortId,
    pub bridge: BridgeView,
    pub tx: TxSide<H>,
    pub rx: RxSide<H>,
    /// What the guest may send; `None`: anything.
    pub filter: Option<Arc<Filter>>,
    /// The list that multicast towards the guest may be filtered by.
    pub multicast: Arc<Multicast>,
    /// What the vif may send and receive.
    pub limits: Arc<Limits>,
    pub stats: Arc<QueueStats>,
    pub events: QueueEvents,
    /// How the guest broke the protocol: then the queue is dropped at the end of the turn, and its rings are not touched any more.
    pub rogue: Option<Fatal>,
    /// Responses of the queue are to be published at the end of the turn.
    pub touched: bool,
    pages: [Page<H>; 2],
}

impl<H: Hypervisor> Queue<H> {
    /// Attaches to the rings of `setup`. The error, where the rings make no sense, is what is left of the queue, and why.
    pub fn new(setup: QueueSetup<H>) -> Result<Self, (Remains<H>, Fatal)> {
        let pages = [
            RingPage(Arc::new(setup.tx_page)),
            RingPage(Arc::new(setup.rx_page)),
        ];
        let attach = || -> Result<_, Fatal> {
            let [tx, rx] = pages.clone();
            let (tx_file, rx_file) = (setup.file.tx(), setup.file.rx());
            Ok(match setup.take_over {
                true => (
                    BackRing::take_over(tx, tx_file)?,
                    BackRing::take_over(rx, rx_file)?,
                ),
                false => (
                    BackRing::connect(tx, tx_file)?,
                    BackRing::connect(rx, rx_file)?,
                ),
            })
        };
        let (tx_port, rx_port) = (setup.tx_port, setup.rx_port);
        let (tx, rx) = match attach() {
            Ok(rings) => rings,
            Err(reason) => {
                return Err((
                    Remains {
                        tx_port,
                        rx_port,
                        pages,
                    },
                    reason,
                ));
            }
        };
        Ok(Self {
            id: setup.id,
            domid: setup.id.vif.domid,
            port_id: setup.port_id,
            bridge: BridgeView::new(setup.bridge),
            tx: TxSide::new(tx),
            rx: RxSide::new(rx, setup.features, Backlog::new(setup.backlog)),
            filter: setup.filter,
            multicast: setup.multicast,
            limits: setup.limits,
            stats: setup.stats,
            events: QueueEvents::new(tx_port, rx_port, setup.take_over),
            rogue: None,
            touched: false,
            pages,
        })
    }

    /// The status that a chain which is no packet is answered with; a request about the multicast list is carried out.
    pub fn answer_for(&self, chain: &Chain) -> i16 {
        let done = match chain {
            Chain::Packet(_) => true,
            Chain::Rejected { slots, .. } => {
                self.stats.tx_drops.add(DropReason::Malformed, 1);
                let data_slots = slots.count - u16::from(slots.extras);
                self.stats.tx_errors.add(data_slots.into());
                false
            }
            Chain::Multicast {
                address, add: true, ..
            } => self.multicast.add(*address),
            Chain::Multicast { address, .. } => {
                self.multicast.remove(*address);
                true
            }
        };
        match done {
            true => NETIF_RSP_OKAY,
            false => NETIF_RSP_ERROR,
        }
    }

    /// Why the guest cannot take a packet of this length with this head, if so. The head is looked at where the guest filters multicast.
    #[inline]
    pub fn refuses<'a>(&self, len: u32, head: impl FnOnce() -> &'a [u8]) -> Option<DropReason> {
        if let Some(reason) = self.rx.refuses(len) {
            return Some(reason);
        }
        let wanted = !self.multicast.filters()
            || head()
                .first_chunk()
                .is_none_or(|&destination| self.multicast.admits(destination));
        (!wanted).then_some(DropReason::MulticastFiltered)
    }

    /// Takes the queue apart, whose backlog must have been emptied.
    pub fn into_remains(self) -> Remains<H> {
        Remains {
            tx_port: self.events.tx_port,
            rx_port: self.events.rx_port,
            pages: self.pages,
        }
    }

    /// Asks for events on both rings. Returns true when there is work already; packets that wait for the guest's rate are no work before
    /// their time.
    pub fn arm(&mut self, now: Instant) -> Result<bool, Fatal> {
        // Both are armed whatever the first one says.
        let tx = self.tx.arm()?;
        crash_point!("armed");
        let rx = self.rx.arm()?;
        Ok(tx || (rx && self.rx.pacing.wait(now).is_none()))
    }

    /// Writes the levels that `status` shows.
    pub fn show(&self) {
        self.stats.tx_ring.set(self.tx.ring().indices());
        self.stats.rx_ring.set(self.rx.ring().indices());
        self.stats.backlog_bytes.set(self.rx.backlog.bytes() as u64);
        self.stats
            .backlog_packets
            .set(self.rx.backlog.packets() as u64);
    }
}
