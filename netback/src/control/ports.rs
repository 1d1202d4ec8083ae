//! Numbers of bridge ports.
use std::collections::BTreeSet;
use xsk_bridge::switch::PortId;

/// The port numbers that are in use: 16 bits for the process's life, so numbers are used again.
#[derive(Debug, Default)]
pub(super) struct PortNumbers {
    last: u16,
    used: BTreeSet<u16>,
}

impl PortNumbers {
    /// Takes a number that no port has, if there is one. A number that was just given back is the last to be taken again, for a worker may
    /// still hold frames for its port.
    pub fn take(&mut self) -> Option<PortId> {
        for _ in 0..u16::MAX {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.used.insert(self.last) {
                return Some(PortId(self.last));
            }
        }
        None
    }

    /// Gives back the number of a port that is no more.
    pub fn give(&mut self, port: PortId) {
        self.used.remove(&port.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_but_zero_is_taken_once_and_again_when_it_was_given_back() {
        let mut numbers = PortNumbers::default();
        let taken: BTreeSet<_> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(taken.len(), usize::from(u16::MAX));
        assert!(!taken.contains(&PortId(0)));
        numbers.give(PortId(7));
        assert_eq!((numbers.take(), numbers.take()), (Some(PortId(7)), None));
    }
}
