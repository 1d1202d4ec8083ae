//! The two rings of a connected vif: chains are written down and answered, replies of the sink put into posted pages.

use crate::log::Log;
use crate::memory::Page;
use crate::sink::Sink;
use anyhow::{Context, Result, ensure};
use ring::back::BackRing;
use ring::packet::{Chain, TxPacket, answer, next_chain};
use ring::shadow::HeapShadow;
use ring::wire::{NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, Rx, RxResponse, Tx, Words};
use std::collections::VecDeque;
use xen::event::{EventChannels, Port};
use xen::grant::{CopyList, DomId, GrantRef, GrantTable, Side};
use xen::linux::{Evtchn, Gntdev};

type MappedPage = <Gntdev as GrantTable>::Page;

/// Bytes of each packet that are looked at: Ethernet, IP and TCP headers with options.
const HEAD: u16 = 128;

/// The frontend's keys about its rings.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub tx_ring: u32,
    pub rx_ring: u32,
    pub tx_port: u32,
    pub rx_port: u32,
}

/// The mapped rings and bound event channels of a vif.
pub struct Rings {
    guest: DomId,
    grants: Gntdev,
    events: Evtchn,
    tx: BackRing<Tx, MappedPage, HeapShadow<Tx>>,
    rx: BackRing<Rx, MappedPage, HeapShadow<Rx>>,
    ports: [Port; 2],
    /// The page of ours that copies from and to the guest go through.
    copies: CopyList<Page>,
    sink: Sink,
    /// Frames for which no Rx request is posted yet.
    waiting: VecDeque<Vec<u8>>,
}

impl Rings {
    /// Maps and binds what `keys` name.
    pub fn connect(guest: DomId, keys: Keys) -> Result<Self> {
        let (grants, events) = (Gntdev::open()?, Evtchn::open()?);
        let ports = [
            events.bind(guest, Port(keys.tx_port))?,
            events.bind(guest, Port(keys.rx_port))?,
        ];
        let tx = grants
            .map(guest, GrantRef(keys.tx_ring))
            .context("cannot map the Tx ring")?;
        let rx = grants
            .map(guest, GrantRef(keys.rx_ring))
            .context("cannot map the Rx ring")?;
        Ok(Self {
            guest,
            tx: BackRing::connect(tx, HeapShadow::default())?,
            rx: BackRing::connect(rx, HeapShadow::default())?,
            grants,
            events,
            ports,
            copies: CopyList::with_capacity(Page::new(), 1),
            sink: Sink::default(),
            waiting: VecDeque::new(),
        })
    }

    /// Returns `req_prod` of both rings.
    pub fn produced(&self) -> (u32, u32) {
        (self.tx.indices().req_prod, self.rx.indices().req_prod)
    }

    /// Takes and answers every request, and asks for events on both rings.
    pub fn turn(&mut self, log: &mut Log) -> Result<()> {
        let mut ports = [Port(0); 8];
        let pending = self.events.pending(&mut ports)?;
        loop {
            self.take_chains(log)?;
            self.deliver(log)?;
            // A frame that waits needs an Rx request more than there is.
            let more = self.tx.arm(0)? | self.rx.arm(0)?;
            if !more || self.waiting.is_empty() && self.tx.unconsumed()? == 0 {
                break;
            }
        }
        Ok(self.events.unmask(&ports[..pending])?)
    }

    fn take_chains(&mut self, log: &mut Log) -> Result<()> {
        let mut room = TxPacket::default();
        loop {
            let first = self.tx.req_cons();
            let Some(chain) = next_chain(&mut self.tx, &mut room)? else {
                break;
            };
            let slots = chain.slots();
            let words: Vec<Words> = (0..u32::from(slots.count))
                .map(|n| self.tx.consumed_words(first.wrapping_add(n)))
                .collect();
            let flags = (words[0][1] >> 16) as u16;
            let extra = if flags & NETTXF_EXTRA_INFO == 0 {
                0
            } else {
                words[1][0]
            };
            log.chain(&words, flags, extra)?;
            if let Chain::Packet(packet) = &chain {
                let head = packet.fragments()[0];
                let size = head.size.min(HEAD);
                let source = Side::Foreign {
                    domid: self.guest,
                    gref: GrantRef(head.gref),
                    offset: head.offset,
                };
                self.copy(source, Side::Local(0), size)?;
                let bytes = self.copies.memory().read(size.into());
                self.waiting
                    .extend(self.sink.answer(&bytes, packet.size.into()));
            }
            answer(&mut self.tx, slots, |_| NETIF_RSP_OKAY);
        }
        if self.tx.publish() {
            self.events.notify(self.ports[0])?;
        }
        Ok(())
    }

    /// Copies frames that wait into posted pages, one slot each.
    fn deliver(&mut self, log: &mut Log) -> Result<()> {
        while !self.waiting.is_empty() && self.rx.unconsumed()? > 0 {
            let frame = self.waiting.pop_front().expect("one waits");
            log.rx(self.rx.look_words(0))?;
            let request = self.rx.look(0);
            self.rx.consume(1);
            self.copies.memory().write(&frame);
            let dest = Side::Foreign {
                domid: self.guest,
                gref: GrantRef(request.gref),
                offset: 0,
            };
            self.copy(Side::Local(0), dest, u16::try_from(frame.len())?)?;
            self.rx.respond(RxResponse {
                id: request.id,
                offset: 0,
                flags: 0,
                status: i16::try_from(frame.len())?,
            });
        }
        if self.rx.publish() {
            self.events.notify(self.ports[1])?;
        }
        Ok(())
    }

    fn copy(&mut self, source: Side, dest: Side, len: u16) -> Result<()> {
        self.copies.clear();
        self.copies.push(source, dest, len);
        self.grants.copy(&mut self.copies)?;
        ensure!(
            self.copies.all_okay(),
            "grant copy from {source:?} to {dest:?} failed: {:?}",
            self.copies.status(0)
        );
        Ok(())
    }
}
