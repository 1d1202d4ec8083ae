//! A frontend that sends the same frame and takes what it is sent. All its pages are granted once.
use crate::rig::Fake;
use anyhow::{Context, Result, ensure};
use netback::hypervisor::Hypervisor;
use netback::vif::id::{QueueId, VifId};
use ring::front::FrontRing;
use ring::wire::{NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, Rx, RxRequest, Tx, TxRequest};
use xen::event::Port;
use xen::fake::{Access, Grants, OWN_DOMID, Page};
use xen::grant::{DomId, GrantRef, GrantTable, PAGE_SIZE};
use xsk_bridge::switch::PortId;

/// Grant references of the rings, and the first ones of Tx and Rx buffers.
const TX_RING: u32 = 8;
const RX_RING: u32 = 9;
const TX_BUFFERS: u32 = 1000;
const RX_BUFFERS: u32 = 2000;
/// Slots of a ring.
const SLOTS: u32 = 256;

pub struct Guest {
    number: u8,
    tx: FrontRing<Tx, Page>,
    rx: FrontRing<Rx, Page>,
    next_tx: u32,
    next_rx: u32,
}

impl Guest {
    pub fn new(number: u8, grants: &Grants) -> Self {
        let (tx, rx) = (Page::filled(0), Page::filled(0));
        let domid = DomId(number.into());
        for (gref, page) in [(TX_RING, &tx), (RX_RING, &rx)] {
            grants.grant_page(domid, gref, page.clone(), Access::ReadWrite, OWN_DOMID);
        }
        for buffer in 0..SLOTS {
            grants.grant(domid.0, RX_BUFFERS + buffer, 0, &[], Access::ReadWrite);
        }
        Self {
            number,
            tx: FrontRing::init(tx),
            rx: FrontRing::init(rx),
            next_tx: 0,
            next_rx: 0,
        }
    }

    pub fn id(&self) -> QueueId {
        let domid = DomId(self.number.into());
        let vif = VifId { domid, devid: 0 };
        QueueId { vif, queue: 0 }
    }

    pub fn port(&self) -> PortId {
        PortId(10 + u16::from(self.number))
    }

    pub fn event(&self) -> Port {
        Port(100 + u32::from(self.number))
    }

    pub fn mac(&self) -> [u8; 6] {
        [0, 0x16, 0x3e, 0, 0, self.number]
    }

    /// References of the rings, Tx first.
    pub const RINGS: [u32; 2] = [TX_RING, RX_RING];

    /// The rings as the backend maps them, Tx first.
    pub fn map(
        &self,
        grants: &Grants,
    ) -> Result<[<<Fake as Hypervisor>::Grants as GrantTable>::Page; 2]> {
        let domid = self.id().vif.domid;
        Ok([
            grants.map(domid, GrantRef(TX_RING))?,
            grants.map(domid, GrantRef(RX_RING))?,
        ])
    }

    /// Puts the frame that this guest sends into its Tx buffers.
    pub fn load(&self, grants: &Grants, frame: &[u8]) {
        for buffer in 0..SLOTS {
            let offset = place(buffer, frame.len());
            grants.grant(
                self.number.into(),
                TX_BUFFERS + buffer,
                offset,
                frame,
                Access::ReadOnly,
            );
        }
    }

    /// Sends `count` packets of `size` bytes, a slot each; whether the backend asked for an event.
    pub fn send(&mut self, count: usize, size: usize) -> bool {
        for _ in 0..count {
            let buffer = self.next_tx % SLOTS;
            self.tx.push(TxRequest {
                gref: TX_BUFFERS + buffer,
                offset: place(buffer, size) as u16,
                flags: 0,
                id: buffer as u16,
                size: size as u16,
            });
            self.next_tx += 1;
        }
        self.tx.publish()
    }

    /// Posts all the Rx buffers that the ring takes; whether the backend asked for an event.
    pub fn post(&mut self) -> bool {
        for _ in 0..self.rx.free() {
            let buffer = self.next_rx % SLOTS;
            self.rx.push(RxRequest {
                id: buffer as u16,
                pad: 0,
                gref: RX_BUFFERS + buffer,
            });
            self.next_rx += 1;
        }
        self.rx.publish()
    }

    /// Reads all answers to what was sent; how many.
    pub fn read_answers(&mut self) -> Result<usize> {
        let mut answers = 0;
        while let Some((_, answer)) = self.tx.pop() {
            ensure!(
                answer.status == 0,
                "a packet was answered {}",
                answer.status
            );
            answers += 1;
        }
        Ok(answers)
    }

    /// Reads all packets of `size` bytes, a slot each; how many.
    pub fn receive(&mut self, size: usize) -> Result<usize> {
        let mut packets = 0;
        while let Some((_, response)) = self.rx.pop() {
            let status = usize::try_from(response.status);
            ensure!(
                status == Ok(size),
                "an Rx response says {}",
                response.status
            );
            packets += 1;
        }
        Ok(packets)
    }

    /// Reads all packets that were merged of segments of `size` bytes with `headers` bytes of headers; of how many segments.
    pub fn receive_merged(&mut self, size: usize, headers: usize) -> Result<usize> {
        let (mut segments, mut bytes) = (0, 0);
        while let Some((_, response)) = self.rx.pop() {
            ensure!(
                response.status > 0,
                "an Rx response says {}",
                response.status
            );
            bytes += response.status as usize;
            if response.flags & NETRXF_EXTRA_INFO != 0 {
                self.rx.pop_words().context("an extra was announced")?;
            }
            if response.flags & NETRXF_MORE_DATA == 0 {
                segments += (bytes - headers) / (size - headers);
                bytes = 0;
            }
        }
        Ok(segments)
    }
}

/// Where in its page a buffer's frame begins: not always at the same place, as in life.
fn place(buffer: u32, size: usize) -> usize {
    (buffer as usize * 66) % (PAGE_SIZE - size + 1)
}
