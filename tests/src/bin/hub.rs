//! A hub for simulated guests: the least that a backend can be, on the traits of `xen` and `ring`, which shows simulator and netfront without
//! netback in between. The hub serves every vif of the domains named as arguments, floods every packet, and never resets a vif.
// Implements `LocalMemory`, by which the hub vouches for the memory that grant copies go to.
#![allow(unsafe_code)]
use anyhow::{Context, Result};
use ring::back::BackRing;
use ring::packet::{Chain, Checksum, TxPacket, answer, next_chain};
use ring::shadow::HeapShadow;
use ring::wire::{
    NETIF_RSP_ERROR, NETIF_RSP_OKAY, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_MORE_DATA,
    Rx, RxResponse, Tx,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::ptr::NonNull;
use xen::event::{EventChannels, Port};
use xen::grant::{CopyList, CopyStatus, DomId, GrantRef, GrantTable, LocalMemory, PAGE_SIZE, Side};
use xen::linux::{Evtchn, Gntdev, MappedPage, open_store};
use xen::store::{Client, Transaction, XenStore};

/// Pages of one packet: a page for each slot.
const PAGES: usize = 32;

fn main() -> Result<()> {
    let mut hub = Hub {
        grants: Gntdev::open()?,
        events: Evtchn::open()?,
        store: open_store()?,
        copies: CopyList::with_capacity(Memory::new()?, PAGES),
        queues: Vec::new(),
    };
    for domain in std::env::args().skip(1) {
        hub.connect(DomId(domain.parse()?))?;
    }
    hub.serve()
}

/// Page-aligned memory for one packet.
struct Memory(NonNull<u8>);

// SAFETY: the mapping lives as long as the process and no reference to its bytes is ever made.
unsafe impl LocalMemory for Memory {
    fn base(&self) -> NonNull<u8> {
        self.0
    }
    fn len(&self) -> usize {
        PAGES * PAGE_SIZE
    }
}

impl Memory {
    fn new() -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                PAGES * PAGE_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Self(NonNull::new(base.cast()).context("mapped at 0")?))
    }
}

/// One queue of one guest.
struct Queue {
    domain: DomId,
    number: usize,
    tx: BackRing<Tx, MappedPage, HeapShadow<Tx>>,
    rx: BackRing<Rx, MappedPage, HeapShadow<Rx>>,
    tx_port: Port,
    rx_port: Port,
}

/// A packet in local memory: slot n's bytes at the start of page n.
struct Packet {
    sizes: Vec<u16>,
    checksum: Checksum,
}

struct Hub {
    grants: Gntdev,
    events: Evtchn,
    store: Client<File>,
    copies: CopyList<Memory>,
    queues: Vec<Queue>,
}

impl Hub {
    /// Offers every feature to vif 0 of `domain`, waits for its frontend, and maps its rings.
    fn connect(&mut self, domain: DomId) -> Result<()> {
        let back = format!("backend/vif/{domain}/0");
        let front = self.read(&format!("{back}/frontend"))?;
        let offers = [
            ("feature-rx-copy", "1"),
            ("feature-sg", "1"),
            ("feature-ipv6-csum-offload", "1"),
            ("feature-split-event-channels", "1"),
            ("multi-queue-max-queues", "4"),
            ("state", "2"),
        ];
        for (key, value) in offers {
            self.store
                .write(Transaction::NONE, &format!("{back}/{key}"), value)?;
        }
        while self.read(&format!("{front}/state")).ok().as_deref() != Some("4") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let count: usize = self
            .read(&format!("{front}/multi-queue-num-queues"))?
            .parse()?;
        for number in 0..count {
            let keys = if count == 1 {
                front.clone()
            } else {
                format!("{front}/queue-{number}")
            };
            self.take_queue(domain, number, &keys)?;
        }
        self.store
            .write(Transaction::NONE, &format!("{back}/state"), "4")?;
        Ok(())
    }

    fn take_queue(&mut self, domain: DomId, number: usize, keys: &str) -> Result<()> {
        let shared = self.number(&format!("{keys}/event-channel"));
        let port = |hub: &mut Self, key: &str| {
            shared
                .as_ref()
                .map(|port| *port)
                .or_else(|_| hub.number(&format!("{keys}/{key}")))
        };
        let (tx_remote, rx_remote) = (
            port(self, "event-channel-tx")?,
            port(self, "event-channel-rx")?,
        );
        let tx_port = self.events.bind(domain, Port(tx_remote))?;
        let rx_port = if rx_remote == tx_remote {
            tx_port
        } else {
            self.events.bind(domain, Port(rx_remote))?
        };
        let tx_ring = GrantRef(self.number(&format!("{keys}/tx-ring-ref"))?);
        let rx_ring = GrantRef(self.number(&format!("{keys}/rx-ring-ref"))?);
        let tx_page = self.grants.map(domain, tx_ring)?;
        let rx_page = self.grants.map(domain, rx_ring)?;
        let tx = BackRing::connect(tx_page, HeapShadow::default())?;
        let rx = BackRing::connect(rx_page, HeapShadow::default())?;
        self.queues.push(Queue {
            domain,
            number,
            tx,
            rx,
            tx_port,
            rx_port,
        });
        Ok(())
    }

    fn read(&mut self, path: &str) -> Result<String> {
        Ok(self.store.read(Transaction::NONE, path)?)
    }

    fn number(&mut self, path: &str) -> Result<u32> {
        Ok(self.read(path)?.parse()?)
    }

    fn serve(mut self) -> Result<()> {
        let mut ports = [Port(0); 64];
        loop {
            let mut busy = false;
            for from in 0..self.queues.len() {
                while self.forward(from)? {}
                busy |= self.queues[from].tx.arm(0)?;
            }
            if !busy {
                poll(&mut [PollFd::new(&self.events, PollFlags::IN)], None)?;
            }
            let n = self.events.pending(&mut ports)?;
            self.events.unmask(&ports[..n])?;
        }
    }

    /// Copies one packet of queue `from` to every other guest. Returns false where there was none.
    fn forward(&mut self, from: usize) -> Result<bool> {
        let mut room = TxPacket::default();
        let Some(chain) = next_chain(&mut self.queues[from].tx, &mut room)? else {
            return Ok(false);
        };
        let packet = match &chain {
            Chain::Packet(packet) => {
                let fetched = self.fetch(self.queues[from].domain, packet);
                fetched.then(|| Packet {
                    sizes: packet.fragments().iter().map(|f| f.size).collect(),
                    checksum: packet.checksum,
                })
            }
            _ => None,
        };
        let status = if packet.is_some() {
            NETIF_RSP_OKAY
        } else {
            NETIF_RSP_ERROR
        };
        let queue = &mut self.queues[from];
        answer(&mut queue.tx, chain.slots(), |_| status);
        let (domain, number) = (queue.domain, queue.number);
        if queue.tx.publish() {
            self.events.notify(queue.tx_port)?;
        }
        if let Some(packet) = packet {
            for to in 0..self.queues.len() {
                // To each guest once, on the queue of the same number if the guest has so many.
                let count = self
                    .queues
                    .iter()
                    .filter(|queue| queue.domain == self.queues[to].domain)
                    .count();
                if self.queues[to].domain != domain && self.queues[to].number == number % count {
                    self.deliver(to, &packet)?;
                }
            }
        }
        Ok(true)
    }

    fn fetch(&mut self, domid: DomId, packet: &ring::packet::TxPacket) -> bool {
        self.copies.clear();
        for (page, fragment) in packet.fragments().iter().enumerate() {
            let source = Side::Foreign {
                domid,
                gref: GrantRef(fragment.gref),
                offset: fragment.offset,
            };
            let dest = Side::Local((page * PAGE_SIZE) as u64);
            self.copies.push(source, dest, fragment.size);
        }
        self.grants.copy(&mut self.copies).is_ok() && self.copies.all_okay()
    }

    /// Copies the packet into the posted buffers of queue `to`, or drops it where they are too few.
    fn deliver(&mut self, to: usize, packet: &Packet) -> Result<()> {
        let queue = &mut self.queues[to];
        let slots = packet.sizes.len() as u32;
        if queue.rx.unconsumed()? < slots {
            return Ok(());
        }
        self.copies.clear();
        let mut responses = Vec::new();
        for (n, size) in packet.sizes.iter().enumerate() {
            let request = queue.rx.look(n as u32);
            let dest = Side::Foreign {
                domid: queue.domain,
                gref: GrantRef(request.gref),
                offset: 0,
            };
            let source = Side::Local((n * PAGE_SIZE) as u64);
            self.copies.push(source, dest, *size);
            let mut flags = if n + 1 < packet.sizes.len() {
                NETRXF_MORE_DATA
            } else {
                0
            };
            flags |= match packet.checksum {
                Checksum::Blank => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
                Checksum::Validated => NETRXF_DATA_VALIDATED,
                Checksum::None => 0,
            };
            responses.push(RxResponse {
                id: request.id,
                offset: 0,
                flags,
                status: *size as i16,
            });
        }
        queue.rx.consume(slots);
        self.grants.copy(&mut self.copies)?;
        for (n, mut response) in responses.into_iter().enumerate() {
            if self.copies.status(n) != CopyStatus::OKAY {
                response.status = NETIF_RSP_ERROR;
            }
            queue.rx.respond(response);
        }
        if queue.rx.publish() {
            self.events.notify(queue.rx_port)?;
        }
        Ok(())
    }
}
