//! Grant entries, version 1, as the guest writes them and the hypervisor reads them (xen/include/public/grant_table.h,
//! `struct grant_entry_v1`: flags u16, domid u16, frame u32), here one word so that it is read whole.
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of a domain's table: Xen's default of 64 frames of 512.
pub const ENTRIES: usize = 32768;
/// First entry a guest hands out; Xen keeps those below (GNTTAB_NR_RESERVED_ENTRIES).
pub const FIRST: u32 = 8;

const GTF_PERMIT_ACCESS: u64 = 1;
const GTF_TYPE_MASK: u64 = 3;
const GTF_READONLY: u64 = 4;
/// GTF_reading | GTF_writing: the hypervisor's marks that the page is mapped.
const GTF_IN_USE: u64 = 8 | 16;

/// `GNTST_okay` and why a grant cannot be used.
pub mod status {
    /// Done.
    pub const OKAY: i16 = 0;
    /// Not granted, to somebody else, or read-only and written.
    pub const GENERAL_ERROR: i16 = -1;
    /// No such domain.
    pub const BAD_DOMAIN: i16 = -2;
    /// Beyond the table.
    pub const BAD_GNTREF: i16 = -3;
    /// The entry names a page the guest does not have.
    pub const BAD_PAGE: i16 = -9;
    /// The range crosses a page.
    pub const BAD_COPY_ARG: i16 = -10;
}

/// One entry's value.
#[derive(Debug, Clone, Copy)]
pub struct Entry(u64);

impl Entry {
    /// Nothing granted.
    pub const NONE: Self = Self(0);

    /// Access of domain `to` to `frame`.
    pub fn permit(frame: u32, to: u16, readonly: bool) -> Self {
        let flags = GTF_PERMIT_ACCESS | if readonly { GTF_READONLY } else { 0 };
        Self(flags | u64::from(to) << 16 | u64::from(frame) << 32)
    }

    /// Whether the guest offers anything here.
    pub fn is_granted(self) -> bool {
        self.0 & GTF_TYPE_MASK != 0
    }

    /// The frame, where domain `to` may use it so; else a GNTST_* status.
    pub fn frame_for(self, to: u16, write: bool) -> Result<u32, i16> {
        let permitted = self.0 & GTF_TYPE_MASK == GTF_PERMIT_ACCESS && (self.0 >> 16) as u16 == to;
        if !permitted || (write && self.0 & GTF_READONLY != 0) {
            return Err(status::GENERAL_ERROR);
        }
        Ok((self.0 >> 32) as u32)
    }

    /// Whether the guest has changed what it offers; the hypervisor's marks do not count.
    pub fn differs(self, other: Self) -> bool {
        (self.0 ^ other.0) & !GTF_IN_USE != 0
    }
}

/// An entry where it lies.
#[derive(Debug)]
#[repr(transparent)]
pub struct Slot(AtomicU64);

impl Slot {
    /// As it is now. Acquire: pairs with the guest's [`Self::replace`], so its page's bytes are seen as they were granted.
    #[inline]
    pub fn load(&self) -> Entry {
        Entry(self.0.load(Ordering::Acquire))
    }

    /// The guest's store; None where the other side has it mapped.
    pub fn replace(&self, entry: Entry) -> Option<()> {
        let change = |old: u64| (old & GTF_IN_USE == 0).then_some(entry.0);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
            .map(drop)
            .ok()
    }

    /// The hypervisor's marks, set when first mapped.
    pub fn mark(&self) {
        self.0.fetch_or(GTF_IN_USE, Ordering::AcqRel);
    }

    /// The marks taken off when last unmapped.
    pub fn unmark(&self) {
        self.0.fetch_and(!GTF_IN_USE, Ordering::AcqRel);
    }

    /// The domain is gone.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_for_one_domain_and_one_direction() {
        let (free, readonly) = (Entry::permit(9, 3, false), Entry::permit(9, 3, true));
        assert_eq!(free.frame_for(3, true), Ok(9));
        assert_eq!(free.frame_for(4, false), Err(status::GENERAL_ERROR));
        assert_eq!(readonly.frame_for(3, false), Ok(9));
        assert_eq!(readonly.frame_for(3, true), Err(status::GENERAL_ERROR));
        assert_eq!(Entry::NONE.frame_for(0, false), Err(status::GENERAL_ERROR));
    }

    #[test]
    fn a_mapped_entry_cannot_be_replaced_and_its_marks_are_no_change() {
        let slot = Slot(AtomicU64::new(0));
        assert!(slot.replace(Entry::permit(1, 3, false)).is_some());
        let before = slot.load();
        slot.mark();
        assert!(slot.replace(Entry::NONE).is_none());
        assert!(!slot.load().differs(before));
        slot.unmark();
        assert!(slot.replace(Entry::permit(2, 3, false)).is_some());
        assert!(
            slot.load().differs(before),
            "taken back: a copy that began before is found out"
        );
    }
}
