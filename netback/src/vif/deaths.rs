//! Deaths of the daemon while a vif's packets were being worked on, kept in the vif's file: a packet that crashes the daemon would
//! crash each successor too, for its slots are consumed again.
//!
//! A death counts for a vif where the daemon crashed ([`crate::life`]) that had its queues, and left Tx slots consumed
//! and not answered. An end by a signal from outside (`kill -9`, an upgrade, a stop) counts for nobody.
use super::mapping::Words;
use std::sync::atomic::Ordering::Relaxed;

/// Words in the vif's file: the number of the life that has its queues, then when the deaths were (seconds since 1970).
pub(crate) const WORDS: usize = 1 + LIMIT;
/// Deaths within [`WINDOW`] that have a vif disabled.
const LIMIT: usize = 3;
/// Seconds within which [`LIMIT`] deaths have a vif disabled.
const WINDOW: u32 = 60;

/// How a vif is served, by its deaths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The vif is served with all others.
    Clear,
    /// One more death and it is disabled: it is served while no other suspect's slots are unanswered, so that it is known whose
    /// packet it is.
    Suspect,
    /// The vif is disabled.
    Disabled,
}

/// The words of a vif's deaths in its file.
#[derive(Debug)]
pub struct Deaths(Words);

impl Deaths {
    pub(super) fn new(words: Words) -> Self {
        Self(words)
    }

    /// The life whose workers have, or had, the vif's queues; 0: none since the last death was counted.
    pub fn life(&self) -> u32 {
        u32::from_le(self.0.as_ref()[0].load(Relaxed))
    }

    /// Notes the life whose workers get the vif's queues, before they do.
    pub fn set_life(&self, life: u32) {
        self.0.as_ref()[0].store(life.to_le(), Relaxed);
    }

    /// Counts a death at `now`; the oldest one is forgotten where there are more than matter.
    pub fn count(&self, now: u32) {
        let mut times = self.times();
        times.rotate_left(1);
        times[LIMIT - 1] = now;
        self.set(times);
        self.set_life(0);
    }

    /// Forgets every death.
    pub fn clear(&self) {
        self.set([0; LIMIT]);
    }

    /// How the vif is served at `now`. A vif that is disabled stays so.
    pub fn standing(&self, now: u32) -> Standing {
        let times = self.times();
        let within = |first: u32, last: u32| first != 0 && last.saturating_sub(first) <= WINDOW;
        if within(times[0], times[LIMIT - 1]) {
            Standing::Disabled
        } else if within(times[1], now) {
            Standing::Suspect
        } else {
            Standing::Clear
        }
    }

    fn times(&self) -> [u32; LIMIT] {
        std::array::from_fn(|n| u32::from_le(self.0.as_ref()[1 + n].load(Relaxed)))
    }

    fn set(&self, times: [u32; LIMIT]) {
        for (word, time) in self.0.as_ref()[1..].iter().zip(times) {
            word.store(time.to_le(), Relaxed);
        }
    }
}
