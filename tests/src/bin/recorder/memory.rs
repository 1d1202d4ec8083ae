//! One page of ours that grant copies go to and come from.
#![allow(unsafe_code)] // `LocalMemory` is an unsafe trait: its implementer vouches for the memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use xen::grant::{LocalMemory, PAGE_SIZE};

/// A page, touched only between copies and by value.
pub struct Page(NonNull<u8>);

const LAYOUT: Layout = match Layout::from_size_align(PAGE_SIZE, PAGE_SIZE) {
    Ok(layout) => layout,
    Err(_) => panic!("a page is a layout"),
};

impl Page {
    /// Makes a page of zeroes.
    pub fn new() -> Self {
        // SAFETY: the layout has a size.
        let page = unsafe { alloc_zeroed(LAYOUT) };
        Self(NonNull::new(page).unwrap_or_else(|| handle_alloc_error(LAYOUT)))
    }

    /// Returns the first `length` bytes, at most a page.
    pub fn read(&self, length: usize) -> Vec<u8> {
        let length = length.min(PAGE_SIZE);
        let mut bytes = vec![0; length];
        // SAFETY: `length` bytes of the page are readable, and `bytes` is memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), bytes.as_mut_ptr(), length) };
        bytes
    }

    /// Writes `bytes` at the start of the page; bytes beyond a page are left out.
    pub fn write(&self, bytes: &[u8]) {
        let length = bytes.len().min(PAGE_SIZE);
        // SAFETY: `length` bytes of the page are writable, and `bytes` is memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr(), length) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and no copy runs: they take the page by reference.
        unsafe { dealloc(self.0.as_ptr(), LAYOUT) };
    }
}

// SAFETY: the page lives as long as the value, and no reference to its bytes is ever made.
unsafe impl LocalMemory for Page {
    fn base(&self) -> NonNull<u8> {
        self.0
    }

    fn len(&self) -> usize {
        PAGE_SIZE
    }
}
