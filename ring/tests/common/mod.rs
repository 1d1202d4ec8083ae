//! A guest's end and ours on a page in the heap.
#![allow(dead_code)] // Each test binary uses its part.
use ring::back::BackRing;
use ring::front::FrontRing;
use ring::packet::TxPacket;
use ring::page::PageWords;
use ring::shadow::{HeapShadow, RegionShadow, shadow_words};
use ring::wire::{Extra, Protocol, Tx, TxRequest};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

pub type Page = Arc<PageWords>;
/// A shadow that outlives a back ring, as the mapped file does.
pub type Kept = Arc<[AtomicU32]>;

pub fn page() -> Page {
    Arc::new(std::array::from_fn(|_| AtomicU32::new(0)))
}

pub fn kept<D: Protocol>() -> Kept {
    (0..shadow_words::<D>())
        .map(|_| AtomicU32::new(0))
        .collect()
}

pub fn shadow<D: Protocol>(region: &Kept) -> RegionShadow<D, Kept> {
    RegionShadow::new(region.clone()).expect("long enough")
}

/// Room for a packet that a test may keep.
pub fn scratch() -> &'static mut TxPacket {
    Box::leak(Box::default())
}

pub type Front<D> = FrontRing<D, Page>;
pub type Back<D> = BackRing<D, Page, HeapShadow<D>>;

/// Both ends, every index at `start`.
pub fn ends<D: Protocol>(start: u32) -> (Front<D>, Back<D>) {
    let page = page();
    let front = FrontRing::init_at(page.clone(), start);
    (
        front,
        BackRing::connect(page, HeapShadow::default()).expect("a sound ring"),
    )
}

/// What a test pushes into one Tx slot.
#[derive(Debug, Clone, Copy)]
pub enum Slot {
    Data(TxRequest),
    Extra(Extra, bool),
    Raw([u32; 3]),
}

pub fn push(front: &mut Front<Tx>, slots: &[Slot]) {
    for slot in slots {
        match *slot {
            Slot::Data(request) => front.push(request),
            Slot::Extra(extra, more) => front.push_words(&extra.to_words(more)),
            Slot::Raw(words) => front.push_words(&words),
        };
    }
    let _ = front.publish();
}

/// A data slot whose id is its size's complement, so that ids differ.
pub fn data(gref: u32, offset: u16, size: u16, flags: u16) -> Slot {
    Slot::Data(TxRequest {
        gref,
        offset,
        flags,
        id: gref as u16 ^ 0x5a5a,
        size,
    })
}
