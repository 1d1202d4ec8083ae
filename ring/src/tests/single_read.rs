//! XSA-155: each word of a request is read from the guest's page exactly once, whatever is asked about it later.
use super::page;
use crate::back::BackRing;
use crate::front::FrontRing;
use crate::packet::{Chain, TxPacket, answer, next_chain};
use crate::page::{FIRST_SLOT, REQ_PROD, slot_word};
use crate::shadow::HeapShadow;
use crate::sync::Ordering::Relaxed;
use crate::sync::counted::{count_loads, counted_loads};
use crate::wire::{Extra, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, Rx, RxRequest, Tx, TxRequest};

#[test]
fn a_chain_reads_each_word_once() {
    let page = page();
    let mut front = FrontRing::<Tx, _>::init(page.clone());
    let mut back: BackRing<Tx, _, HeapShadow<_>> =
        BackRing::connect(page.clone(), Default::default()).unwrap();
    front.push(TxRequest {
        gref: 1,
        offset: 0,
        flags: NETTXF_EXTRA_INFO | NETTXF_MORE_DATA,
        id: 1,
        size: 900,
    });
    front.push_words(
        &Extra::Gso {
            size: 100,
            kind: 1,
            features: 0,
        }
        .to_words(false),
    );
    front.push(TxRequest {
        gref: 2,
        offset: 0,
        flags: NETTXF_MORE_DATA,
        id: 2,
        size: 400,
    });
    front.push(TxRequest {
        gref: 3,
        offset: 0,
        flags: 0,
        id: 3,
        size: 400,
    });
    let _ = front.publish();

    count_loads();
    assert_eq!(back.unconsumed(), Ok(4));
    assert_eq!(back.look(0).size, 900);
    let mut room = TxPacket::default();
    let Ok(Some(Chain::Packet(packet))) = next_chain(&mut back, &mut room) else {
        panic!("not a packet")
    };
    assert_eq!(packet.fragments().len(), 3);
    answer(&mut back, packet.slots, |_| 0);
    let loads = counted_loads();
    let of = |word: usize| {
        loads
            .get(&std::ptr::from_ref(&page[word]).addr())
            .copied()
            .unwrap_or(0)
    };
    for word in 0..12 {
        assert_eq!(of(FIRST_SLOT + word), 1, "word {word} of the slots");
    }
    assert_eq!(of(REQ_PROD), 1, "one read of req_prod for the chain");
}

#[test]
fn a_change_after_the_look_is_not_seen() {
    let page = page();
    let mut front = FrontRing::<Rx, _>::init(page.clone());
    let mut back: BackRing<Rx, _, HeapShadow<_>> =
        BackRing::connect(page.clone(), Default::default()).unwrap();
    for id in 0..3 {
        front.push(RxRequest {
            id,
            pad: 0,
            gref: 100 + u32::from(id),
        });
    }
    let _ = front.publish();
    assert_eq!(back.unconsumed(), Ok(3));
    // Out of order: what lies between is copied too.
    let seen = back.look(2);
    for index in 0..3 {
        page[slot_word::<Rx>(index)].store(0xdead, Relaxed);
        page[slot_word::<Rx>(index) + 1].store(0xbeef, Relaxed);
    }
    assert_eq!(
        (back.look(2), back.look(0).gref, back.look(1).gref),
        (seen, 100, 101)
    );
    back.consume(3);
    assert_eq!(
        (0..3)
            .map(|index| back.consumed_request(index).gref)
            .collect::<Vec<_>>(),
        [100, 101, 102]
    );
}
