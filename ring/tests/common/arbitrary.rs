//! One body for property test and fuzzer: whatever a guest writes into its Tx ring, we end, and answer each slot once.
use ring::back::BackRing;
use ring::packet::{Chain, MAX_DATA_SLOTS, MIN_HEAD, TxPacket, answer, next_chain};
use ring::page::{FIRST_SLOT, PageWords, REQ_PROD, RSP_PROD};
use ring::shadow::HeapShadow;
use ring::wire::Tx;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What came out of a page.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub packets: u32,
    pub rejected: u32,
    pub multicast: u32,
    pub fatal: bool,
}

/// `bytes`: where indices start, how far `req_prod` is ahead of that, then the slots, repeated to fill the ring.
pub fn tx_chain(bytes: &[u8]) -> Outcome {
    let mut words = bytes.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(word)
    });
    let start = words.next().unwrap_or(0);
    let ahead = words.next().unwrap_or(0);
    let slots: Vec<u32> = words.collect();
    let page: Arc<PageWords> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
    for n in 0..768 {
        let word = if slots.is_empty() {
            0
        } else {
            slots[n % slots.len()]
        };
        page[FIRST_SLOT + n].store(word, Relaxed);
    }
    page[RSP_PROD].store(start, Relaxed);
    page[REQ_PROD].store(start.wrapping_add(ahead), Relaxed);
    drain(page, start, ahead)
}

fn drain(page: Arc<PageWords>, start: u32, ahead: u32) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok(mut ring) = BackRing::<Tx, _, _>::connect(page.clone(), HeapShadow::default()) else {
        assert!(ahead > 256, "refused a sound ring");
        return Outcome {
            fatal: true,
            ..outcome
        };
    };
    let mut slots = 0;
    let mut room = TxPacket::default();
    loop {
        let chain = match next_chain(&mut ring, &mut room) {
            Ok(Some(chain)) => chain,
            Ok(None) => break,
            Err(_) => {
                outcome.fatal = true;
                break;
            }
        };
        check(&chain);
        match &chain {
            Chain::Packet(_) => outcome.packets += 1,
            Chain::Rejected { .. } => outcome.rejected += 1,
            Chain::Multicast { .. } => outcome.multicast += 1,
        }
        let mut asked = 0;
        answer(&mut ring, chain.slots(), |_| {
            asked += 1;
            0
        });
        assert_eq!(
            asked,
            chain.slots().count - u16::from(chain.slots().extras),
            "a status for each data slot"
        );
        slots += u32::from(chain.slots().count);
        // Not published: slots are not reused, so the ring's content is consumed once.
    }
    assert!(slots <= ahead, "{slots} slots out of {ahead}");
    assert_eq!(
        ring.next_response(),
        start.wrapping_add(slots),
        "each slot is answered once"
    );
    assert!(
        outcome.fatal || slots == ahead,
        "{slots} slots of {ahead} and nothing fatal"
    );
    let _ = ring.publish();
    assert_eq!(page[RSP_PROD].load(Relaxed), start.wrapping_add(slots));
    outcome
}

fn check(chain: &Chain) {
    let slots = chain.slots();
    assert!((1..=256).contains(&slots.count) && u16::from(slots.extras) < slots.count);
    match chain {
        Chain::Packet(packet) => {
            let fragments = packet.fragments();
            assert!(
                (1..=MAX_DATA_SLOTS).contains(&fragments.len()) && fragments[0].size >= MIN_HEAD
            );
            let mut sum = 0;
            let mut last = None;
            for fragment in fragments {
                assert!(
                    fragment.size > 0
                        && u32::from(fragment.offset) + u32::from(fragment.size) <= 4096
                );
                assert!(u16::from(fragment.slot) < slots.count && Some(fragment.slot) > last);
                last = Some(fragment.slot);
                sum += u32::from(fragment.size);
            }
            assert_eq!(sum, u32::from(packet.size));
            assert!(packet.gso.is_none_or(|gso| gso.size > 0));
        }
        Chain::Rejected { why, .. } => assert!(!why.is_fatal()),
        Chain::Multicast { .. } => assert!(slots.extras > 0),
    }
}
