//! Every recorded Tx chain is a packet, and is answered as netfront expects; recorded Rx requests are as netfront posts them.

use crate::{Recording, recordings};
use ring::back::BackRing;
use ring::front::FrontRing;
use ring::packet::{Chain, Checksum, GsoKind, TxPacket, answer, next_chain};
use ring::page::PageWords;
use ring::shadow::HeapShadow;
use ring::wire::{NETIF_RSP_NULL, NETIF_RSP_OKAY, Protocol, Rx, Tx, Words};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

type Back = BackRing<Tx, Arc<PageWords>, HeapShadow<Tx>>;
type Front = FrontRing<Tx, Arc<PageWords>>;

fn rings() -> (Front, Back) {
    let page: Arc<PageWords> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
    let front = Front::init(Arc::clone(&page));
    let back = Back::connect(page, HeapShadow::default()).expect("an empty ring connects");
    (front, back)
}

fn words(slot: &str) -> Words {
    let mut words = [0; 4];
    for (word, text) in words.iter_mut().zip(slot.split(' ')) {
        *word = u32::from_str_radix(text, 16).expect("a word is hexadecimal");
    }
    words
}

fn chain(line: &str) -> Vec<Words> {
    line.split(',').map(words).collect()
}

/// Room for a packet that a test may keep.
fn scratch() -> &'static mut TxPacket {
    Box::leak(Box::default())
}

/// Has `ring` read a chain that is alone in its ring, and checks the answers. Returns what `ring` made of the chain.
fn packet(recording: &Recording, slots: &[Words]) -> &'static TxPacket {
    let (mut front, mut back) = rings();
    for slot in slots {
        front.push_words(slot);
    }
    assert!(front.publish(), "an armed backend is to be notified");
    let found = next_chain(&mut back, scratch())
        .expect("a stock chain is not fatal")
        .expect("a chain is there");
    let Chain::Packet(packet) = found else {
        panic!("{}: {found:?} from {slots:x?}", recording.name)
    };
    assert_eq!(
        usize::from(packet.slots.count),
        slots.len(),
        "{}: {slots:x?}",
        recording.name
    );
    answer(&mut back, packet.slots, |_| NETIF_RSP_OKAY);
    assert!(back.publish(), "a new frontend asks to be told");
    for (n, slot) in slots.iter().enumerate() {
        let (_, response) = front.pop().expect("every slot is answered");
        let extra = (1..=usize::from(packet.slots.extras)).contains(&n);
        if extra {
            assert_eq!(response.status, NETIF_RSP_NULL);
        } else {
            assert_eq!(
                (response.status, response.id),
                (NETIF_RSP_OKAY, Tx::request(*slot).id)
            );
        }
    }
    packet
}

#[test]
fn every_chain_is_a_packet_and_is_answered_slot_by_slot() {
    for recording in recordings() {
        let mut count = 0;
        for line in recording.of("tx") {
            let slots = chain(line);
            let packet = packet(&recording, &slots);
            let sum: u32 = packet
                .fragments()
                .iter()
                .map(|fragment| u32::from(fragment.size))
                .sum();
            assert_eq!(sum, u32::from(packet.size), "{}: {line}", recording.name);
            assert_eq!(
                packet.size,
                Tx::request(slots[0]).size,
                "{}: {line}",
                recording.name
            );
            count += 1;
        }
        assert!(count >= 50, "{}: {count} chains", recording.name);
    }
}

#[test]
fn the_recordings_hold_what_a_backend_must_take() {
    for recording in recordings() {
        let packets: Vec<&TxPacket> = recording
            .of("tx")
            .map(|line| packet(&recording, &chain(line)))
            .collect();
        let any = |what: &str, test: &dyn Fn(&TxPacket) -> bool| {
            assert!(
                packets.iter().any(|packet| test(packet)),
                "{}: no {what}",
                recording.name
            );
        };
        any("one-slot packet", &|packet| packet.slots.count == 1);
        any("chain of 10 slots or more", &|packet| {
            packet.slots.count >= 10
        });
        any("GSO over IPv4", &|packet| {
            packet.gso.is_some_and(|gso| gso.kind == GsoKind::TcpV4)
        });
        any("GSO over IPv6", &|packet| {
            packet.gso.is_some_and(|gso| gso.kind == GsoKind::TcpV6)
        });
        any("packet of more than 32 KiB", &|packet| {
            packet.size > 32 << 10
        });
        any("blank checksum", &|packet| {
            packet.checksum == Checksum::Blank
        });
        any("complete checksum", &|packet| {
            packet.checksum != Checksum::Blank
        });
        assert!(
            !packets.iter().any(|packet| packet.checksum_fixup),
            "{}: GSO without a blank checksum",
            recording.name
        );
    }
}

#[test]
fn chains_in_one_ring_come_out_in_order() {
    for recording in recordings() {
        let (mut front, mut back) = rings();
        let mut pushed = Vec::new();
        for slots in recording.of("tx").map(chain) {
            if front.free() < slots.len() as u32 {
                break;
            }
            for slot in &slots {
                front.push_words(slot);
            }
            pushed.push(slots);
        }
        assert!(front.publish(), "an armed backend is to be notified");
        for slots in &pushed {
            let chain = next_chain(&mut back, scratch())
                .expect("no chain is fatal")
                .expect("as many as were pushed");
            assert_eq!(usize::from(chain.slots().count), slots.len());
            answer(&mut back, chain.slots(), |_| NETIF_RSP_OKAY);
        }
        assert!(
            next_chain(&mut back, scratch())
                .expect("no chain is fatal")
                .is_none()
        );
        assert!(back.publish(), "netfront asked to be told");
    }
}

/// netfront finds its buffer by the slot of the answer, so request ids follow the slots.
#[test]
fn rx_requests_carry_their_slot_as_id_and_a_grant_each() {
    for recording in recordings() {
        let requests: Vec<_> = recording
            .of("rx")
            .map(|line| Rx::request(words(line)))
            .collect();
        assert!(
            requests.len() >= 10,
            "{}: {} requests",
            recording.name,
            requests.len()
        );
        assert!(
            requests
                .iter()
                .all(|request| request.gref != 0 && request.pad == 0)
        );
        assert_eq!(requests[0].id, 0, "{}", recording.name);
        let wraps = requests.windows(2).filter(|pair| {
            let next = (u32::from(pair[0].id) + 1) % Rx::ENTRIES;
            u32::from(pair[1].id) != next
        });
        // Only the first connection: after the reload there is a new ring.
        assert!(wraps.count() <= 1, "{}", recording.name);
    }
}

/// netfront fills its Rx ring before it says Connected.
#[test]
fn the_rx_ring_is_full_when_it_connects() {
    for recording in recordings() {
        let rings: Vec<&str> = recording.of("rings").collect();
        assert_eq!(
            rings.len(),
            2,
            "{}: connected, and again after the reload",
            recording.name
        );
        for indices in rings {
            let (_, rx) = indices.split_once(' ').expect("two indices");
            assert!(
                rx.parse::<u32>().expect("an index") >= 18,
                "{}: {indices}",
                recording.name
            );
        }
    }
}
