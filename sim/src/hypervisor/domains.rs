//! Domains: their numbers, their memory, and who has which of their pages mapped.
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::io::Errno;
use sim_machine::grant::status;
use sim_machine::{MAX_DOMAINS, Machine, PAGE_SIZE};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;

/// Domains that live, and dead ones of which somebody still has a page mapped.
#[derive(Default)]
pub struct Domains {
    all: BTreeMap<u16, Domain>,
    last: u16,
    generation: u64,
}

/// One domain.
pub struct Domain {
    /// What it is called.
    pub name: String,
    /// Its memory.
    pub memory: OwnedFd,
    pages: u32,
    alive: bool,
    /// Mapped grants: their frame and how often.
    mapped: HashMap<u32, (u32, u32)>,
}

impl Domains {
    /// A new domain's number.
    pub fn create(&mut self, machine: &Machine, name: String, pages: u32) -> io::Result<u16> {
        let free = |id: &u16| !self.all.contains_key(id);
        let next = (self.last + 1..MAX_DOMAINS as u16)
            .chain(1..=self.last)
            .find(free);
        let domid = next.ok_or(io::ErrorKind::StorageFull)?;
        let memory = memfd_create(format!("domain-{domid}"), MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, u64::from(pages) * PAGE_SIZE as u64)?;
        self.last = domid;
        self.generation += 1;
        machine
            .domain(domid)
            .ok_or(io::ErrorKind::StorageFull)?
            .live(self.generation, pages);
        self.all.insert(
            domid,
            Domain {
                name,
                memory,
                pages,
                alive: true,
                mapped: HashMap::new(),
            },
        );
        Ok(domid)
    }

    /// A living domain.
    pub fn get(&self, domid: u16) -> Option<&Domain> {
        self.all.get(&domid).filter(|domain| domain.alive)
    }

    /// Living domains and those that are gone but for mapped pages.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Domain)> {
        self.all.iter().map(|(domid, domain)| (*domid, domain))
    }

    /// The domain dies. Its memory is given back but for pages that somebody has mapped, as on Xen. True: it lived.
    pub fn destroy(&mut self, machine: &Machine, domid: u16) -> bool {
        let Some(domain) = self.all.get_mut(&domid).filter(|domain| domain.alive) else {
            return false;
        };
        domain.alive = false;
        if let Some(area) = machine.domain(domid) {
            area.die();
        }
        domain.give_back();
        if domain.mapped.is_empty() {
            self.all.remove(&domid);
        }
        true
    }

    /// `by` maps a grant. The inner error is a GNTST_* status.
    pub fn map(
        &mut self,
        machine: &Machine,
        by: u16,
        domid: u16,
        gref: u32,
        readonly: bool,
    ) -> Result<Result<u32, i16>, Errno> {
        let (Some(domain), Some(area)) = (
            self.all.get_mut(&domid).filter(|domain| domain.alive),
            machine.alive(domid),
        ) else {
            return Ok(Err(status::BAD_DOMAIN));
        };
        let Some(slot) = area.grant(gref) else {
            return Ok(Err(status::BAD_GNTREF));
        };
        // Marked first, so that the guest cannot take it back between the look and the mark.
        slot.mark();
        let entry = slot.load();
        let frame = entry.frame_for(by, !readonly).and_then(|frame| {
            if frame < domain.pages {
                Ok(frame)
            } else {
                Err(status::BAD_PAGE)
            }
        });
        match frame {
            Ok(frame) => domain.mapped.entry(gref).or_insert((frame, 0)).1 += 1,
            Err(_) if !domain.mapped.contains_key(&gref) => slot.unmark(),
            Err(_) => {}
        }
        Ok(frame)
    }

    /// A mapping is gone.
    pub fn unmap(&mut self, machine: &Machine, domid: u16, gref: u32) {
        let Some(domain) = self.all.get_mut(&domid) else {
            return;
        };
        let Some((_, times)) = domain.mapped.get_mut(&gref) else {
            return;
        };
        *times -= 1;
        if *times > 0 {
            return;
        }
        domain.mapped.remove(&gref);
        if domain.alive {
            if let Some(slot) = machine.domain(domid).and_then(|area| area.grant(gref)) {
                slot.unmark();
            }
            return;
        }
        domain.give_back();
        if domain.mapped.is_empty() {
            self.all.remove(&domid);
        }
    }
}

impl Domain {
    /// Grants mapped.
    pub fn mapped(&self) -> usize {
        self.mapped.len()
    }

    /// Whether it lives.
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// Pages of memory.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Punch out every page that is not mapped: others have the memory mapped too, and must find zeros there, not a signal.
    fn give_back(&self) {
        let mut kept: Vec<u32> = self.mapped.values().map(|(frame, _)| *frame).collect();
        kept.sort_unstable();
        let mut from = 0;
        for end in kept.into_iter().chain([self.pages]) {
            if end > from {
                self.clear(from, end - from);
            }
            from = from.max(end + 1);
        }
    }

    /// Give back pages, which are zeros then.
    pub fn clear(&self, first: u32, count: u32) {
        let (offset, len) = (
            u64::from(first) * PAGE_SIZE as u64,
            u64::from(count) * PAGE_SIZE as u64,
        );
        // A failure leaves the memory to the last close.
        let _ = fallocate(
            &self.memory,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        );
    }
}
