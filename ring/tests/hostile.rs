//! A guest that writes anything anywhere, before and while we look.
#![cfg(not(loom))]
#[path = "common/arbitrary.rs"]
mod arbitrary;
mod common;

use arbitrary::{Outcome, tx_chain};
use common::{page, shadow};
use proptest::prelude::*;
use ring::back::BackRing;
use ring::packet::{Chain, TxPacket, answer, next_chain};
use ring::page::{FIRST_SLOT, PageWords, REQ_PROD, RSP_PROD};
use ring::wire::{Extra, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, Protocol, Tx, TxRequest};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// A slot that is nearly right, so that chains get long.
fn slot() -> impl Strategy<Value = [u32; 3]> {
    let data = (
        any::<u32>(),
        0u16..4200,
        0u16..16,
        any::<u16>(),
        prop_oneof![0u16..200, 0u16..5000, any::<u16>()],
    )
        .prop_map(|(gref, offset, flags, id, size)| {
            Tx::put_request(TxRequest {
                gref,
                offset,
                flags,
                id,
                size,
            })
        });
    let fits = (any::<u32>(), 0u16..2000, 0u16..16).prop_map(|(gref, size, flags)| {
        let flags = flags & NETTXF_MORE_DATA;
        Tx::put_request(TxRequest {
            gref,
            offset: 0,
            flags,
            id: 0,
            size: size + 14,
        })
    });
    let extra =
        (1u16..6, 0u16..2, any::<u16>(), any::<u32>()).prop_map(|(kind, more, low, high)| {
            [
                u32::from(kind | more << 8) | u32::from(low) << 16,
                high,
                0,
                0,
            ]
        });
    prop_oneof![2 => data, 6 => fits, 1 => extra, 1 => any::<[u32; 4]>()]
        .prop_map(|[a, b, c, _]| [a, b, c])
}

fn bytes(start: u32, ahead: u32, slots: &[[u32; 3]]) -> Vec<u8> {
    [start, ahead]
        .iter()
        .chain(slots.iter().flatten())
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..3200)) {
        tx_chain(&bytes);
    }

    #[test]
    fn nearly_right(start in any::<u32>(), ahead in 0u32..258, slots in proptest::collection::vec(slot(), 1..256)) {
        let outcome = tx_chain(&bytes(start, ahead, &slots));
        prop_assert!(ahead <= 256 || outcome.fatal);
    }
}

/// The generator reaches what it is to reach.
#[test]
fn outcomes_of_plain_pages() {
    let request = |flags, size| {
        let [a, b, c, _] = Tx::put_request(TxRequest {
            gref: 1,
            offset: 0,
            flags,
            id: 1,
            size,
        });
        [a, b, c]
    };
    let none = Outcome::default();
    assert_eq!(
        tx_chain(&bytes(8, 256, &[request(0, 60)])),
        Outcome {
            packets: 256,
            ..none
        }
    );
    assert_eq!(
        tx_chain(&bytes(8, 256, &[request(0, 13)])),
        Outcome {
            rejected: 256,
            ..none
        }
    );
    assert_eq!(
        tx_chain(&bytes(8, 256, &[request(NETTXF_MORE_DATA, 60)])),
        Outcome {
            fatal: true,
            ..none
        }
    );
    assert_eq!(
        tx_chain(&bytes(8, 257, &[request(0, 60)])),
        Outcome {
            fatal: true,
            ..none
        }
    );
    let [a, b, c, _] = Extra::MulticastAdd([1; 6]).to_words(false);
    let multicast = [request(NETTXF_EXTRA_INFO, 0), [a, b, c]];
    assert_eq!(
        tx_chain(&bytes(8, 256, &multicast)),
        Outcome {
            multicast: 128,
            ..none
        }
    );
}

/// Write sizes, offsets and flags of every slot again and again until told to stop: what passes a check in one read
/// fails it in the next.
fn flip(page: &PageWords, passes: &AtomicU32, stop: &AtomicBool) {
    let mut seed = 0x2545_f491_u32;
    while !stop.load(Relaxed) {
        for slot in 0..256 {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            let (offset, flags) = if seed & 7 == 0 {
                (4000, seed >> 8 & 12)
            } else {
                (0, seed >> 8 & 4)
            };
            let size = if seed & 3 == 0 {
                seed >> 16
            } else {
                14 + (seed >> 16 & 0xfff)
            };
            page[FIRST_SLOT + slot * 3 + 1].store(offset | flags << 16, Relaxed);
            page[FIRST_SLOT + slot * 3 + 2].store((slot as u32) | size << 16, Relaxed);
        }
        passes.fetch_add(1, Relaxed);
    }
}

/// Stops the guest also where an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// XSA-155 (CVE-2015-8550): slots change all the while; what was checked is what is used.
#[test]
fn slots_flip_while_we_look() {
    let page = page();
    let region = common::kept::<Tx>();
    let (passes, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let (mut packets, mut fatal) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| flip(&page, &passes, &stop));
        let mut round = 0u32;
        let mut room = TxPacket::default();
        // Ends when enough was seen, however the machine schedules the two of us.
        while passes.load(Relaxed) < 1000 || packets < 1000 || fatal < 100 {
            round = round.wrapping_add(1);
            let start = round.wrapping_mul(256);
            page[RSP_PROD].store(start, Relaxed);
            page[REQ_PROD].store(start.wrapping_add(256), Relaxed);
            let mut ring = BackRing::<Tx, _, _>::connect(page.clone(), shadow(&region))
                .expect("sound indices");
            loop {
                match next_chain(&mut ring, &mut room) {
                    Ok(None) => break,
                    Err(_) => {
                        fatal += 1;
                        break;
                    }
                    Ok(Some(chain)) => {
                        if let Chain::Packet(packet) = &chain {
                            packets += 1;
                            let head = ring.consumed_request(packet.slots.first);
                            assert_eq!(packet.size, head.size, "the copy that was checked");
                            let sum: u32 =
                                packet.fragments().iter().map(|f| u32::from(f.size)).sum();
                            assert_eq!(sum, u32::from(packet.size));
                            for f in packet.fragments() {
                                assert!(u32::from(f.offset) + u32::from(f.size) <= 4096, "{f:?}");
                            }
                        }
                        answer(&mut ring, chain.slots(), |_| 0);
                    }
                }
            }
        }
    });
}
