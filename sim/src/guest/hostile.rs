//! What a guest does that is out to harm: arbitrary words in its ring pages, and events without end.
use super::queue::Queue;
use crate::domain::Domain;
use ring::page::SharedPage;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two strikes: twenty thousand a second, and the processor is left to others.
pub const PAUSE: Duration = Duration::from_micros(50);
/// Words written a strike and page.
const WORDS: usize = 8;
/// Words before the first slot (ring.h): indices, events, padding.
const HEADER: u64 = 16;
/// One strike in so many writes an index that is no small step forward.
const WILD: u64 = 16;

/// The guest's mood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostile {
    /// Events on every channel; the rings are left alone and go on.
    Storm,
    /// Events, and words of a generator with this state in the pages of every ring.
    Rage(u64),
}

impl Hostile {
    /// Another strike.
    pub fn strike(&mut self, domain: &Domain, queues: &[Queue]) {
        for queue in queues {
            if let Self::Rage(state) = self {
                queue
                    .pages()
                    .into_iter()
                    .for_each(|page| scribble(state, page));
            }
            for port in [queue.tx_port, queue.rx_port] {
                // Where nobody is bound any more Xen drops it.
                let _ = domain.notify(port);
            }
        }
    }
}

/// Write into slots, and then have some of them, or far too many, looked at.
fn scribble(state: &mut u64, page: &impl SharedPage) {
    let words = page.words();
    for _ in 0..WORDS {
        let at = HEADER + next(state) % (words.len() as u64 - HEADER);
        words[at as usize].store(next(state) as u32, Ordering::SeqCst);
    }
    let value = next(state) as u32;
    if next(state).is_multiple_of(WILD) {
        words[(next(state) % HEADER) as usize].store(value, Ordering::SeqCst);
    } else {
        // The request producer is the first word.
        words[0].fetch_add(value % 4, Ordering::SeqCst);
    }
}

/// xorshift64; the same seed strikes the same way.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}
