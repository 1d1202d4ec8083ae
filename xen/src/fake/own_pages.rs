//! Pages of the driver domain, granted to itself.
#![allow(unsafe_code)] // What is in them is copied through raw memory, for the hypervisor writes to it.
use super::grants::{Access, Grants, Page};
use crate::grant::{DomId, GrantRef, GrantedMemory, PAGE_SIZE};
use std::ptr::NonNull;

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

    /// The address of `len` bytes from `offset`.
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset + len <= self.pages.len() * PAGE_SIZE);
        // SAFETY: inside of the run of pages that the first one begins.
        unsafe { self.pages[0].bytes().add(offset) }
    }
}

impl GrantedMemory for OwnPages {
    fn domid(&self) -> DomId {
        OWN_DOMID
    }

    fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: `at` has checked the bounds; `into` is the caller's, and the pages are made of atomics.
        unsafe {
            NonNull::from(&mut *into)
                .cast()
                .copy_from_nonoverlapping(from, into.len())
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: as in `read`.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(from).cast(), from.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_behind_the_grants() {
        let grants = Grants::default();
        let pages = OwnPages::new(&grants, 5, 2);
        pages.write(PAGE_SIZE - 2, b"abcd");
        assert_eq!(
            &grants.read(OWN_DOMID.0, 5, PAGE_SIZE)[PAGE_SIZE - 3..],
            b"\xeeab"
        );
        assert_eq!(grants.read(OWN_DOMID.0, 6, 3), b"cd\xee");
        let mut bytes = [0; 4];
        pages.read(PAGE_SIZE - 2, &mut bytes);
        assert_eq!(&bytes, b"abcd");
    }

    #[test]
    #[should_panic(expected = "offset + len")]
    fn nothing_is_reached_beyond_the_pages() {
        OwnPages::new(&Grants::default(), 5, 1).write(PAGE_SIZE, b"a");
    }
}
