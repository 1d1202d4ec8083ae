//! Each malformation and outcome of a Tx chain, one row each (netif.md section 5: Linux's contract).
#![cfg(not(loom))]
mod common;
use common::{Slot, data, ends, push, scratch};
use ring::malformation::Malformation as M;
use ring::packet::{Chain, Checksum, Fatal, Gso, GsoKind, TxPacket, answer, next_chain};
use ring::wire::{
    Extra, NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_CSUM_BLANK as BLANK,
    NETTXF_DATA_VALIDATED as VALIDATED, NETTXF_EXTRA_INFO as EXTRA, NETTXF_MORE_DATA as MORE,
};

/// Index near the wrap, so that every row crosses it.
const START: u32 = u32::MAX - 2;

fn chain_of(slots: &[Slot]) -> Result<Option<Chain<'static>>, Fatal> {
    let (mut front, mut back) = ends(START);
    push(&mut front, slots);
    let chain = next_chain(&mut back, scratch());
    if chain.is_err() {
        assert_eq!(back.req_cons(), START, "a fatal chain is not consumed");
    }
    chain
}

fn fatal(slots: &[Slot]) -> M {
    match chain_of(slots) {
        Err(Fatal::Chain(why)) => {
            assert!(why.is_fatal(), "{why}");
            why
        }
        other => panic!("not fatal: {other:?}"),
    }
}

/// Rejected for `why`, every slot consumed and answered ERROR, extras NULL.
fn rejected(slots: &[Slot]) -> M {
    let (mut front, mut back) = ends(START);
    push(&mut front, slots);
    let Ok(Some(Chain::Rejected { slots: taken, why })) = next_chain(&mut back, scratch()) else {
        panic!("not rejected")
    };
    assert!(!why.is_fatal(), "{why}");
    assert_eq!(usize::from(taken.count), slots.len());
    answer(&mut back, taken, |_| NETIF_RSP_ERROR);
    let _ = back.publish();
    for slot in slots {
        let (_, response) = front.pop().expect("answered");
        match slot {
            Slot::Data(request) => assert_eq!(
                (response.id, response.status),
                (request.id, NETIF_RSP_ERROR)
            ),
            _ => assert_eq!(response.status, NETIF_RSP_NULL),
        }
    }
    assert_eq!(front.free(), 256);
    why
}

fn packet(slots: &[Slot]) -> &'static TxPacket {
    match chain_of(slots) {
        Ok(Some(Chain::Packet(packet))) => {
            assert_eq!(usize::from(packet.slots.count), slots.len());
            let sum: u32 = packet.fragments().iter().map(|f| u32::from(f.size)).sum();
            assert_eq!(sum, u32::from(packet.size));
            packet
        }
        other => panic!("not a packet: {other:?}"),
    }
}

fn gso(size: u16, kind: u8) -> Extra {
    Extra::Gso {
        size,
        kind,
        features: 0,
    }
}

/// A packet of `later` slots of `each` bytes behind a head of `own` bytes.
fn long(own: u16, later: u16, each: u16) -> Vec<Slot> {
    let total = own + later * each;
    let mut slots = vec![data(1, 0, total, if later == 0 { 0 } else { MORE })];
    for n in 1..=later {
        slots.push(data(
            1 + u32::from(n),
            0,
            each,
            if n == later { 0 } else { MORE },
        ));
    }
    slots
}

#[test]
fn nothing_published_is_nothing() {
    assert!(matches!(chain_of(&[]), Ok(None)));
}

#[test]
fn one_slot() {
    let packet = packet(&[data(7, 100, 60, 0)]);
    assert_eq!(
        (packet.slots.first, packet.slots.extras, packet.size),
        (START, 0, 60)
    );
    let [only] = packet.fragments() else {
        panic!("{packet:?}")
    };
    assert_eq!(
        (only.gref, only.offset, only.size, only.slot),
        (7, 100, 60, 0)
    );
}

#[test]
fn first_length_is_total_less_the_others() {
    let packet = packet(&[
        data(1, 96, 9000, MORE),
        data(2, 0, 4096, MORE),
        data(3, 8, 3000, 0),
    ]);
    let pieces: Vec<_> = packet
        .fragments()
        .iter()
        .map(|f| (f.gref, f.offset, f.size, f.slot))
        .collect();
    assert_eq!(pieces, [(1, 96, 1904, 0), (2, 0, 4096, 1), (3, 8, 3000, 2)]);
}

#[test]
fn chain_ends_where_the_packet_ends() {
    let (mut front, mut back) = ends(START);
    push(
        &mut front,
        &[data(1, 0, 100, MORE), data(2, 0, 40, 0), data(3, 0, 60, 0)],
    );
    let mut counts = vec![];
    while let Some(chain) = next_chain(&mut back, scratch()).unwrap() {
        counts.push(chain.slots().count);
    }
    assert_eq!(counts, [2, 1]);
}

#[test]
fn slots_19_forwarded_20_and_21_rejected_22_fatal() {
    assert_eq!(packet(&long(100, 18, 10)).fragments().len(), 19);
    assert_eq!(rejected(&long(100, 19, 10)), M::TooManySlots { most: 19 });
    assert_eq!(rejected(&long(100, 20, 10)), M::TooManySlots { most: 19 });
    assert_eq!(fatal(&long(100, 21, 10)), M::FarTooManySlots { most: 21 });
    assert_eq!(fatal(&long(100, 200, 10)), M::FarTooManySlots { most: 21 });
}

/// XSA-432 (CVE-2023-34319): nineteen slots with totals of at most 128 bytes.
#[test]
fn nineteen_slots_with_small_totals() {
    for own in 1..=110 {
        let slots = long(own, 18, 1);
        if own < 14 {
            assert_eq!(rejected(&slots), M::HeadTooShort { size: own });
        } else {
            assert_eq!(packet(&slots).fragments().len(), 19);
        }
    }
}

/// XSA-423 (CVE-2022-3643): a header spread over one-byte slots.
#[test]
fn header_in_one_byte_slots() {
    for later in 1..=18 {
        assert_eq!(rejected(&long(1, later, 1)), M::HeadTooShort { size: 1 });
        assert_eq!(packet(&long(14, later, 1)).size, 14 + later);
    }
}

/// XSA-448 (CVE-2023-46838): zero-length fragments: answered OKAY, their grants never touched.
#[test]
fn zero_size_slots_are_answered_and_not_touched() {
    let all = packet(&long(60, 18, 0));
    assert_eq!(all.fragments().len(), 1);
    let mixed = [
        data(1, 0, 100, MORE),
        data(2, 4096, 0, MORE),
        data(3, 0, 40, MORE),
        data(4, 0, 0, 0),
    ];
    let (mut front, mut back) = ends(START);
    push(&mut front, &mixed);
    let Ok(Some(Chain::Packet(packet))) = next_chain(&mut back, scratch()) else {
        panic!()
    };
    let touched: Vec<_> = packet
        .fragments()
        .iter()
        .map(|f| (f.gref, f.slot, f.size))
        .collect();
    assert_eq!(touched, [(1, 0, 60), (3, 2, 40)]);
    answer(&mut back, packet.slots, |_| NETIF_RSP_OKAY);
    let _ = back.publish();
    assert_eq!(
        std::iter::from_fn(|| front.pop())
            .filter(|(_, r)| r.status == NETIF_RSP_OKAY)
            .count(),
        4
    );
}

#[test]
fn zero_size_head() {
    assert_eq!(rejected(&[data(1, 0, 0, 0)]), M::HeadTooShort { size: 0 });
    let with_extra = [
        data(1, 0, 0, EXTRA | MORE),
        Slot::Extra(gso(1000, 1), false),
        data(2, 0, 0, 0),
    ];
    assert_eq!(rejected(&with_extra), M::HeadTooShort { size: 0 });
    // All of the total in the later slots.
    assert_eq!(
        rejected(&[data(1, 0, 60, MORE), data(2, 0, 60, 0)]),
        M::HeadTooShort { size: 0 }
    );
}

#[test]
fn head_of_13_rejected_14_forwarded() {
    assert_eq!(rejected(&[data(1, 0, 13, 0)]), M::HeadTooShort { size: 13 });
    assert_eq!(packet(&[data(1, 0, 14, 0)]).size, 14);
    // Too short comes before crossing the page: rejected, not fatal.
    assert_eq!(
        rejected(&[data(1, 4090, 13, 0)]),
        M::HeadTooShort { size: 13 }
    );
}

#[test]
fn head_inside_its_page() {
    assert_eq!(packet(&[data(1, 4096 - 60, 60, 0)]).size, 60);
    assert_eq!(
        fatal(&[data(1, 4096 - 59, 60, 0)]),
        M::HeadCrossesPage {
            offset: 4037,
            size: 60
        }
    );
    assert_eq!(
        fatal(&[data(1, 0xffff, 0xffff, 0)]),
        M::HeadCrossesPage {
            offset: 0xffff,
            size: 0xffff
        }
    );
    // The head's own length counts, not the total.
    assert_eq!(
        packet(&[data(1, 4000, 4096, MORE), data(2, 0, 4000, 0)]).fragments()[0].size,
        96
    );
}

#[test]
fn fragment_inside_its_page() {
    let with = |offset, size| [data(1, 0, 5000, MORE), data(2, offset, size, 0)];
    assert_eq!(packet(&with(96, 4000)).size, 5000);
    assert_eq!(
        fatal(&with(97, 4000)),
        M::FragmentCrossesPage {
            slot: 1,
            offset: 97,
            size: 4000
        }
    );
    assert_eq!(
        fatal(&with(0xffff, 0xffff)),
        M::FragmentCrossesPage {
            slot: 1,
            offset: 0xffff,
            size: 0xffff
        }
    );
    // Also where the chain is rejected already.
    let mut slots = long(100, 19, 10);
    slots[19] = data(9, 4095, 10, 0);
    assert_eq!(
        fatal(&slots),
        M::FragmentCrossesPage {
            slot: 19,
            offset: 4095,
            size: 10
        }
    );
}

#[test]
fn fragment_larger_than_what_is_left() {
    let slots = [
        data(1, 0, 100, MORE),
        data(2, 0, 60, MORE),
        data(3, 0, 41, MORE),
        data(4, 0, 4096, 0),
    ];
    assert_eq!(
        rejected(&slots),
        M::FragmentExceedsTotal {
            slot: 2,
            size: 41,
            remaining: 40
        }
    );
}

#[test]
fn chain_past_the_requests_is_fatal_at_once() {
    assert_eq!(
        fatal(&[data(1, 0, 100, MORE)]),
        M::Incomplete { available: 1 }
    );
    assert_eq!(
        fatal(&[data(1, 0, 100, MORE), data(2, 0, 10, MORE)]),
        M::Incomplete { available: 2 }
    );
    // The chain's end was written but not published.
    let (mut front, mut back) = ends(START);
    push(&mut front, &[data(1, 0, 100, MORE)]);
    if let Slot::Data(request) = data(2, 0, 40, 0) {
        front.push(request);
    }
    assert_eq!(
        next_chain(&mut back, scratch()).unwrap_err(),
        Fatal::Chain(M::Incomplete { available: 1 })
    );
}

#[test]
fn chain_published_since_the_last_look_is_seen() {
    let (mut front, mut back) = ends(START);
    push(&mut front, &[data(1, 0, 100, MORE)]);
    assert_eq!(back.unconsumed(), Ok(1));
    push(&mut front, &[data(2, 0, 40, 0)]);
    assert_eq!(
        next_chain(&mut back, scratch())
            .unwrap()
            .expect("whole")
            .slots()
            .count,
        2
    );
}

#[test]
fn missing_extra() {
    assert_eq!(
        fatal(&[data(1, 0, 100, EXTRA)]),
        M::MissingExtra { available: 1 }
    );
    let more = [data(1, 0, 100, EXTRA), Slot::Extra(gso(1000, 1), true)];
    assert_eq!(fatal(&more), M::MissingExtra { available: 2 });
}

#[test]
fn unknown_extra() {
    for kind in [0, 6, 7, 255] {
        let slots = [data(1, 0, 100, EXTRA), Slot::Raw([u32::from(kind), 0, 0])];
        assert_eq!(fatal(&slots), M::UnknownExtra { kind, slot: 1 });
    }
}

#[test]
fn gso_extra() {
    let with = |size, kind, flags| {
        [
            data(1, 0, 1000, EXTRA | flags),
            Slot::Extra(gso(size, kind), false),
        ]
    };
    assert_eq!(fatal(&with(0, 1, BLANK)), M::GsoSizeZero);
    for kind in [0, 3, 255] {
        assert_eq!(fatal(&with(100, kind, BLANK)), M::UnknownGso { kind });
    }
    let blank = packet(&with(100, 1, BLANK));
    assert_eq!(
        blank.gso,
        Some(Gso {
            size: 100,
            kind: GsoKind::TcpV4
        })
    );
    assert_eq!(
        (blank.checksum, blank.checksum_fixup, blank.slots.extras),
        (Checksum::Blank, false, 1)
    );
    // Without csum_blank: fixed up, to be counted.
    let fixed = packet(&with(100, 2, VALIDATED));
    assert_eq!(
        fixed.gso,
        Some(Gso {
            size: 100,
            kind: GsoKind::TcpV6
        })
    );
    assert_eq!(
        (fixed.checksum, fixed.checksum_fixup),
        (Checksum::Blank, true)
    );
}

#[test]
fn bad_gso_of_a_rejected_packet_is_not_fatal() {
    let slots = [data(1, 0, 13, EXTRA), Slot::Extra(gso(0, 9), false)];
    assert_eq!(rejected(&slots), M::HeadTooShort { size: 13 });
}

#[test]
fn last_of_duplicate_extras_wins() {
    let slots = [
        data(1, 0, 1000, EXTRA),
        Slot::Extra(gso(0, 9), true),
        Slot::Extra(gso(7, 1), true),
        Slot::Extra(gso(8, 2), false),
    ];
    let packet = packet(&slots);
    assert_eq!(
        packet.gso,
        Some(Gso {
            size: 8,
            kind: GsoKind::TcpV6
        })
    );
    assert_eq!(packet.slots.extras, 3);
}

#[test]
fn several_extras_then_fragments() {
    let hash = Extra::Hash {
        kind: 1,
        algorithm: 1,
        value: [1, 2, 3, 4],
    };
    let slots = [
        data(1, 0, 2000, EXTRA | MORE | BLANK),
        Slot::Extra(gso(500, 1), true),
        Slot::Extra(hash, true),
        Slot::Extra(Extra::Xdp { headroom: 0x7fff }, false),
        data(2, 0, 1500, 0),
    ];
    let packet = packet(&slots);
    assert_eq!(packet.hash, Some((1, 0x0403_0201)));
    assert_eq!((packet.slots.extras, packet.slots.count), (3, 5));
    let pieces: Vec<_> = packet
        .fragments()
        .iter()
        .map(|f| (f.slot, f.size))
        .collect();
    assert_eq!(pieces, [(0, 500), (4, 1500)]);
}

#[test]
fn hash_of_unknown_type_is_ignored() {
    let hash = Extra::Hash {
        kind: 4,
        algorithm: 1,
        value: [1, 2, 3, 4],
    };
    assert_eq!(
        packet(&[data(1, 0, 60, EXTRA), Slot::Extra(hash, false)]).hash,
        None
    );
}

#[test]
fn extra_flag_of_a_later_fragment_means_nothing() {
    assert_eq!(
        packet(&[data(1, 0, 100, MORE), data(2, 0, 40, EXTRA)])
            .slots
            .extras,
        0
    );
}

#[test]
fn extras_fill_the_ring() {
    let mut slots = vec![data(1, 0, 60, EXTRA)];
    slots.extend((0..255).map(|n| Slot::Extra(gso(100, 1), n < 254)));
    assert_eq!(packet(&slots).slots.extras, 255);
    // ... and go on for ever.
    slots[255] = Slot::Extra(gso(100, 1), true);
    assert_eq!(fatal(&slots), M::MissingExtra { available: 256 });
}

#[test]
fn multicast_extras() {
    let address = [0x33, 0x33, 0, 0, 0, 0xfb];
    let check = |slots: &[Slot], want_add: bool| match chain_of(slots) {
        Ok(Some(Chain::Multicast {
            slots: taken,
            address: got,
            add,
        })) => {
            assert_eq!(
                (got, add, usize::from(taken.count)),
                (address, want_add, slots.len())
            );
        }
        other => panic!("{other:?}"),
    };
    let add = Extra::MulticastAdd(address);
    let del = Extra::MulticastDel(address);
    // The dummy request has no data: neither its size nor its offset is looked at.
    check(&[data(0, 0xffff, 0, EXTRA), Slot::Extra(add, false)], true);
    check(&[data(0, 0, 0, EXTRA), Slot::Extra(del, false)], false);
    check(
        &[
            data(0, 0, 0, EXTRA),
            Slot::Extra(del, true),
            Slot::Extra(add, false),
        ],
        true,
    );
    check(
        &[
            data(0, 0, 0, EXTRA),
            Slot::Extra(gso(0, 0), true),
            Slot::Extra(del, false),
        ],
        false,
    );
}

#[test]
fn multicast_chain_ends_with_its_extras() {
    let (mut front, mut back) = ends(START);
    let add = Slot::Extra(Extra::MulticastAdd([1; 6]), false);
    push(
        &mut front,
        &[data(0, 0, 0, EXTRA | MORE), add, data(1, 0, 60, 0)],
    );
    assert!(matches!(
        next_chain(&mut back, scratch()),
        Ok(Some(Chain::Multicast { .. }))
    ));
    assert!(matches!(
        next_chain(&mut back, scratch()),
        Ok(Some(Chain::Packet(_)))
    ));
}

#[test]
fn checksum_flags() {
    for (flags, checksum) in [
        (0, Checksum::None),
        (VALIDATED, Checksum::Validated),
        (BLANK, Checksum::Blank),
        (BLANK | VALIDATED, Checksum::Blank),
    ] {
        let packet = packet(&[data(1, 0, 60, flags)]);
        assert_eq!((packet.checksum, packet.checksum_fixup), (checksum, false));
    }
}

/// A failed grant copy: ERROR on that slot, OKAY on the rest, NULL on the extra; ids as sent.
#[test]
fn answer_by_slot() {
    let slots = [
        data(1, 0, 2000, EXTRA | MORE),
        Slot::Extra(gso(500, 1), false),
        data(2, 0, 500, MORE),
        data(3, 0, 500, 0),
    ];
    let (mut front, mut back) = ends(START);
    push(&mut front, &slots);
    let Ok(Some(Chain::Packet(packet))) = next_chain(&mut back, scratch()) else {
        panic!()
    };
    answer(&mut back, packet.slots, |slot| {
        if slot == 2 {
            NETIF_RSP_ERROR
        } else {
            NETIF_RSP_OKAY
        }
    });
    assert!(back.publish());
    let got: Vec<_> = std::iter::from_fn(|| front.pop())
        .map(|(_, r)| (r.id, r.status))
        .collect();
    // The extra's id field is its type and flags, as Linux leaves it.
    assert_eq!(
        got,
        [(1 ^ 0x5a5a, 0), (1, 1), (2 ^ 0x5a5a, -1), (3 ^ 0x5a5a, 0)]
    );
}

#[test]
fn errors_are_one_line() {
    for why in [
        M::Incomplete { available: 3 },
        M::GsoSizeZero,
        M::FragmentCrossesPage {
            slot: 2,
            offset: 9,
            size: 4090,
        },
    ] {
        assert!(!why.to_string().contains('\n') && !why.to_string().is_empty());
    }
}
