//! Pages of the driver domain, granted to itself.
#![allow(unsafe_code)] // What is in them is copied through raw memory, for the hypervisor writes to it.
use super::grants::{Access, Grants, Page};
use crate::grant::{DomId, GrantRef, GrantedMemory, PAGE_SIZE};
use std::slice;

/// The driver domain's number.
pub const OWN_DOMID: DomId = DomId(99);

/// Pages at adjacent addresses that belong to the driver domain and are granted to it, as gntalloc gives them.
pub struct OwnPages {
    pages: Vec<Page>,
    grefs: Vec<GrantRef>,
}

impl OwnPages {
    /// `pages` pages, with references from `first` on.
    pub fn new(grants: &Grants, first: u32, pages: usize) -> Self {
        let own = Self {
            pages: Page::run(pages, 0xee),
            grefs: (first..).map(GrantRef).take(pages).collect(),
        };
        for (gref, page) in own.grefs.iter().zip(&own.pages) {
            grants.grant_page(
                OWN_DOMID,
                gref.0,
                page.clone(),
                Access::ReadWrite,
                OWN_DOMID,
            );
        }
        own
    }
}

impl GrantedMemory for OwnPages {
    fn domid(&self) -> DomId {
        OWN_DOMID
    }

    fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }

    fn bytes(&self) -> &[u8] {
        let len = self.pages.len() * PAGE_SIZE;
        // SAFETY: the run of pages that the first one begins lives as long as `self`; only copies of the holder's own write there, and
        // the holder has no slice of it while it makes one.
        unsafe { slice::from_raw_parts(self.pages[0].bytes().as_ptr(), len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.pages.len() * PAGE_SIZE;
        // SAFETY: as in `bytes`, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.pages[0].bytes().as_ptr(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_behind_the_grants() {
        let grants = Grants::default();
        let mut pages = OwnPages::new(&grants, 5, 2);
        pages.bytes_mut()[PAGE_SIZE - 2..PAGE_SIZE + 2].copy_from_slice(b"abcd");
        assert_eq!(
            &grants.read(OWN_DOMID.0, 5, PAGE_SIZE)[PAGE_SIZE - 3..],
            b"\xeeab"
        );
        assert_eq!(grants.read(OWN_DOMID.0, 6, 3), b"cd\xee");
        assert_eq!(&pages.bytes()[PAGE_SIZE - 2..PAGE_SIZE + 2], b"abcd");
    }
}
