//! Pages that processes of a domain took through `/dev/xen/gntalloc`, as the domain's kernel keeps account of them: all of a
//! domain's processes together get [`GNTALLOC_LIMIT`] pages, the last of its memory, each granted by an entry of the table's end.
use super::domains::{Domain, Domains};
use rustix::io::Errno;
use sim_machine::grant::{ENTRIES, Entry, Slot};
use sim_machine::{DomainArea, GNTALLOC_LIMIT, Machine};
use std::collections::BTreeMap;

/// Of all domains.
#[derive(Default)]
pub struct Pages {
    /// By domain and frame, the handle that the page belongs to; none where that is gone and somebody else still has it mapped.
    taken: BTreeMap<(u16, u32), Option<u32>>,
}

/// A domain that lives.
pub struct Place<'a> {
    domid: u16,
    domain: &'a Domain,
    area: &'a DomainArea,
}

impl<'a> Place<'a> {
    /// The domain, if it lives.
    pub fn find(domains: &'a Domains, machine: &'a Machine, domid: u16) -> Option<Self> {
        Some(Self {
            domid,
            domain: domains.get(domid)?,
            area: machine.domain(domid)?,
        })
    }

    /// The grant that a frame has here.
    fn gref(&self, frame: u32) -> u32 {
        let from_the_end = self.domain.pages().saturating_sub(frame);
        (ENTRIES as u32).saturating_sub(from_the_end)
    }

    fn slot(&self, frame: u32) -> Option<&Slot> {
        self.area.grant(self.gref(frame))
    }

    /// Frames that nobody has.
    fn free(&self) -> impl Iterator<Item = u32> {
        let pages = self.domain.pages();
        (pages.saturating_sub(GNTALLOC_LIMIT)..pages).filter(|frame| {
            self.slot(*frame)
                .is_some_and(|slot| !slot.load().is_granted())
        })
    }
}

impl Pages {
    /// Take `count` pages for `handle` and grant them to domain `to`: frame and grant of each. ENOSPC: over the limit; ENOMEM:
    /// the domain has not so much memory.
    pub fn grant(
        &mut self,
        place: &Place<'_>,
        handle: u32,
        to: u16,
        count: u32,
    ) -> Result<Vec<(u32, u32)>, Errno> {
        self.sweep(place);
        let held = self.taken.range(of(place.domid)).count();
        if held.saturating_add(count as usize) > GNTALLOC_LIMIT as usize {
            return Err(Errno::NOSPC);
        }
        let frames: Vec<u32> = place.free().take(count as usize).collect();
        if frames.len() < count as usize {
            return Err(Errno::NOMEM);
        }
        for frame in &frames {
            // Nobody maps what is not granted.
            let _ = place
                .slot(*frame)
                .and_then(|slot| slot.replace(Entry::permit(*frame, to, false)));
            self.taken.insert((place.domid, *frame), Some(handle));
        }
        let with_gref = |frame| (frame, place.gref(frame));
        Ok(frames.into_iter().map(with_gref).collect())
    }

    /// Take back those of the frames that `handle` has.
    pub fn end(&mut self, place: &Place<'_>, handle: u32, frames: impl IntoIterator<Item = u32>) {
        for frame in frames {
            if let Some(holder) = self.taken.get_mut(&(place.domid, frame))
                && *holder == Some(handle)
            {
                *holder = None;
            }
        }
        self.sweep(place);
    }

    /// A handle is gone, and with it its pages.
    pub fn release(&mut self, place: &Place<'_>, handle: u32) {
        let frames: Vec<u32> = self
            .taken
            .range(of(place.domid))
            .filter(|(_, holder)| **holder == Some(handle))
            .map(|((_, frame), _)| *frame)
            .collect();
        self.end(place, handle, frames);
    }

    /// A domain is gone, with all its memory.
    pub fn forget(&mut self, domid: u16) {
        self.taken.retain(|(of, _), _| *of != domid);
    }

    /// Give back what belongs to no handle, but for what somebody else still has mapped.
    fn sweep(&mut self, place: &Place<'_>) {
        let gone: Vec<u32> = self
            .taken
            .range(of(place.domid))
            .filter(|(_, holder)| holder.is_none())
            .map(|((_, frame), _)| *frame)
            .filter(|frame| {
                place
                    .slot(*frame)
                    .is_some_and(|slot| slot.replace(Entry::NONE).is_some())
            })
            .collect();
        for frame in gone {
            place.domain.clear(frame, 1);
            self.taken.remove(&(place.domid, frame));
        }
    }
}

/// A domain's keys.
fn of(domid: u16) -> std::ops::RangeInclusive<(u16, u32)> {
    (domid, 0)..=(domid, u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_from_the_end_of_memory_and_table_and_no_further() {
        let (machine, _fd) = Machine::create().unwrap();
        let mut domains = Domains::default();
        let small = domains.create(&machine, "small".into(), 3).unwrap();
        let large = domains.create(&machine, "large".into(), 5000).unwrap();
        let mut pages = Pages::default();
        let end = ENTRIES as u32;
        let place = Place::find(&domains, &machine, small).unwrap();
        assert_eq!(
            pages.grant(&place, 1, small, 2),
            Ok(vec![(0, end - 3), (1, end - 2)])
        );
        assert_eq!(pages.grant(&place, 2, small, 2), Err(Errno::NOMEM));
        assert_eq!(pages.grant(&place, 2, small, 1), Ok(vec![(2, end - 1)]));
        assert_eq!(pages.grant(&place, 2, small, 1024), Err(Errno::NOSPC));
        // Another's page is not given up; a handle's are when it goes.
        pages.end(&place, 1, [2]);
        assert_eq!(pages.grant(&place, 1, small, 1), Err(Errno::NOMEM));
        pages.release(&place, 1);
        assert_eq!(
            pages.grant(&place, 2, small, 2),
            Ok(vec![(0, end - 3), (1, end - 2)])
        );
        let place = Place::find(&domains, &machine, large).unwrap();
        assert_eq!(
            pages.grant(&place, 3, small, 1),
            Ok(vec![(5000 - 1024, end - 1024)])
        );
        assert_eq!(pages.grant(&place, 3, small, 1024), Err(Errno::NOSPC));
        pages.forget(large);
        let taken: Vec<_> = pages.taken.keys().copied().collect();
        assert_eq!(taken, [(small, 0), (small, 1), (small, 2)]);
    }
}
