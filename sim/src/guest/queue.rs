//! One queue of a netfront: both rings, their grants and event channels.
use super::counters::QueueCounters;
use super::frame::Meta;
use super::layout::Layout;
use super::rx::{RxFault, RxQueue};
use super::tx::TxQueue;
use crate::domain::{Domain, RingPage};
use std::io;
use xen::event::Port;
use xen::grant::{DomId, GrantRef};

/// Packets that one turn takes out of a queue: what NAPI allows a driver.
const BUDGET: u32 = 64;
/// A reconnect takes the next of so many pairs of ring pages: the backend may not have let go of the last ones yet.
const GENERATIONS: u32 = 4;

/// Pages of guest memory that a queue takes.
pub const PAGES: u32 = 2 * GENERATIONS + TxQueue::PAGES + RxQueue::PAGES;

/// How a queue is to be set up.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// The backend's domain.
    pub remote: DomId,
    /// First of [`PAGES`] pages for this queue.
    pub first_page: u32,
    /// Counts connections, to choose ring pages.
    pub generation: u32,
    /// Event channels for Tx and Rx apart.
    pub split: bool,
    /// Shape of Tx packets.
    pub layout: Layout,
    /// The backend takes packets of several slots.
    pub scatter_gather: bool,
    /// Most Rx buffers to post.
    pub rx_limit: u32,
}

/// A connected queue.
pub struct Queue {
    /// Transmit side.
    pub tx: TxQueue,
    /// Receive side.
    pub rx: RxQueue,
    /// Grant of the Tx ring page.
    pub tx_ring: GrantRef,
    /// Grant of the Rx ring page.
    pub rx_ring: GrantRef,
    /// Tx event channel.
    pub tx_port: Port,
    /// Rx event channel; the same where they are not split.
    pub rx_port: Port,
    /// Counters since this connection.
    pub counters: QueueCounters,
    /// Responses may be waiting: no event will say so again.
    pub rx_ready: bool,
}

impl Queue {
    /// Make rings, grants and ports; nothing is posted and nobody notified yet.
    pub fn new(domain: &Domain, settings: &QueueSettings) -> io::Result<Self> {
        let QueueSettings {
            remote,
            first_page,
            layout,
            scatter_gather,
            rx_limit,
            ..
        } = *settings;
        let rings = first_page + settings.generation % GENERATIONS * 2;
        let data = first_page + 2 * GENERATIONS;
        let tx = TxQueue::new(
            domain.ring_page(rings),
            data,
            remote,
            layout,
            scatter_gather,
        );
        let rx = RxQueue::new(
            domain.ring_page(rings + 1),
            data + TxQueue::PAGES,
            remote,
            rx_limit,
        );
        let tx_port = domain.alloc_unbound(remote)?;
        let rx_port = if settings.split {
            domain.alloc_unbound(remote)?
        } else {
            tx_port
        };
        Ok(Self {
            tx,
            rx,
            tx_ring: domain.grant(rings, remote, false)?,
            rx_ring: domain.grant(rings + 1, remote, false)?,
            tx_port,
            rx_port,
            counters: QueueCounters::default(),
            rx_ready: false,
        })
    }

    /// The pages of both rings, Tx first.
    pub fn pages(&self) -> [&RingPage; 2] {
        [self.tx.page(), self.rx.page()]
    }

    /// Take note of an event on `port`, which is one of ours; an error disables the netfront.
    pub fn event(&mut self, domain: &Domain, port: Port) -> Result<(), String> {
        self.counters.events += 1;
        let mut owed = false;
        if port == self.tx_port {
            self.tx.collect(domain, &mut self.counters)?;
            owed = self.tx.owed.take();
        }
        if port == self.rx_port {
            self.rx_ready |= self.rx.unread().map_err(why)? > 0;
            // A shared channel: the event was for either.
            owed = owed || self.rx.owed.take();
        }
        self.counters.spurious_events += u64::from(!owed);
        Ok(())
    }

    /// Take Tx answers without having been told, as Linux does after sending.
    pub fn collect(&mut self, domain: &Domain) -> Result<(), String> {
        self.tx.collect(domain, &mut self.counters)
    }

    /// Give `deliver` at most a budget of received packets and post their buffers again; errors of single packets go to
    /// `complain`. The outer error disables the netfront.
    pub fn receive(
        &mut self,
        domain: &Domain,
        frame: &mut Vec<u8>,
        mut deliver: impl FnMut(&[u8], Meta) -> bool,
        mut complain: impl FnMut(String),
    ) -> Result<(), String> {
        let mut unread = self.rx.unread().map_err(why)?;
        for _ in 0..BUDGET {
            if unread == 0 {
                break;
            }
            match self
                .rx
                .receive(domain, &mut unread, frame, &mut self.counters)
            {
                Ok(meta) => self.counters.rx_errors += u64::from(!deliver(frame, meta)),
                Err(RxFault::Packet(why)) => {
                    self.counters.rx_errors += 1;
                    self.counters.protocol_errors += 1;
                    complain(why);
                }
                Err(RxFault::Disabled(why)) => return Err(why),
            }
        }
        self.post(domain);
        // Beyond the budget no event is asked for.
        self.rx_ready = unread > 0 || self.rx.arm();
        Ok(())
    }

    /// Post Rx buffers up to the limit.
    pub fn post(&mut self, domain: &Domain) {
        if self.rx.post(domain) {
            self.notify(domain, self.rx_port);
        }
    }

    /// Show the backend what was sent.
    pub fn publish(&mut self, domain: &Domain) {
        if self.tx.publish() {
            self.notify(domain, self.tx_port);
        }
    }

    /// Tell the backend on every channel that we are there.
    pub fn kick(&mut self, domain: &Domain) {
        self.notify(domain, self.tx_port);
        if self.rx_port != self.tx_port {
            self.notify(domain, self.rx_port);
        }
    }

    fn notify(&mut self, domain: &Domain, port: Port) {
        self.counters.notifications += 1;
        // A closed peer is no error of ours: Xen drops the event.
        let _ = domain.notify(port);
    }

    /// Close ports and end grants; those the backend still maps are returned for later.
    pub fn release(mut self, domain: &Domain) -> Vec<GrantRef> {
        for port in [
            Some(self.tx_port),
            (self.rx_port != self.tx_port).then_some(self.rx_port),
        ]
        .into_iter()
        .flatten()
        {
            let _ = domain.close_port(port);
        }
        self.tx.release(domain);
        self.rx.release(domain);
        [self.tx_ring, self.rx_ring]
            .into_iter()
            .filter(|gref| domain.end_access(*gref).is_err())
            .collect()
    }
}

fn why(fault: RxFault) -> String {
    match fault {
        RxFault::Packet(why) | RxFault::Disabled(why) => why,
    }
}
