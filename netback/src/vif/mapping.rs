//! A file of words in memory, which outlives the process: a successor maps it again.
// mmap(2) and the words behind it.
#![allow(unsafe_code)]
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Some words of a mapped file.
#[derive(Debug)]
pub struct Words {
    first: NonNull<AtomicU32>,
    len: usize,
    _mapping: Arc<Mapping>,
}

impl Words {
    pub(crate) fn of(mapping: &Arc<Mapping>, start: usize, len: usize) -> Self {
        // The words stay where they are for as long as the mapping lives, which `_mapping` sees to.
        let words = &mapping.words()[start..start + len];
        Self {
            first: NonNull::from(words).cast(),
            len,
            _mapping: mapping.clone(),
        }
    }
}

// SAFETY: atomics that live as long as the mapping held beside them.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl AsRef<[AtomicU32]> for Words {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32] {
        // SAFETY: taken from a slice of this length of the mapping that `_mapping` keeps.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

/// A whole file in memory.
#[derive(Debug)]
pub struct Mapping {
    first: NonNull<AtomicU32>,
    len: usize,
}

// SAFETY: shared memory seen as atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `words` words of `file`, which is at least that long.
    pub(crate) fn new(file: &File, words: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the file is as long as `words`, so no access faults
        // (nobody but root can truncate it).
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 4,
                prot,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(at.cast()).expect("mmap does not return page 0");
        Ok(Self { first, len: words })
    }

    pub(crate) fn words(&self) -> &[AtomicU32] {
        // SAFETY: mapped with this length for as long as `self` lives; any bit pattern is a valid atomic.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no reference outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.len * 4) };
    }
}
