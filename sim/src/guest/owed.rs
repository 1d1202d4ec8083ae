//! Which events of a ring are not spurious, told apart exactly enough to hold a backend to it.

/// A backend may send one event each time its responses pass the index that we armed. It publishes first and notifies
/// then, so we may have taken a response before its event arrives: that one is owed.
#[derive(Debug, Default)]
pub struct Owed {
    passed: bool,
    count: u32,
}

impl Owed {
    /// Responses were seen.
    pub fn saw_responses(&mut self) {
        if !self.passed {
            self.passed = true;
            self.count += 1;
        }
    }

    /// The next event was asked for.
    pub fn armed(&mut self) {
        self.passed = false;
    }

    /// An event has arrived; false: none was owed. Events merge, and between publishing and notifying a backend is at most
    /// once for each ring: so at most one more stays owed.
    pub fn take(&mut self) -> bool {
        let owed = self.count > 0;
        self.count = self.count.saturating_sub(1).min(1);
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::Owed;

    #[test]
    fn a_response_taken_before_its_event_leaves_that_event_owed_and_no_other() {
        let mut owed = Owed::default();
        owed.saw_responses();
        owed.armed();
        owed.saw_responses();
        assert!(owed.take() && owed.take());
        assert!(!owed.take());
    }

    #[test]
    fn many_responses_behind_one_armed_index_are_one_event() {
        let mut owed = Owed::default();
        (0..5).for_each(|_| owed.saw_responses());
        assert!(owed.take());
        assert!(!owed.take());
    }
}
