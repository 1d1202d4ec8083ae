//! `/dev/xen/gntalloc` (include/uapi/xen/gntalloc.h, drivers/xen/gntalloc.c).
use super::{ioc, ioctl};
use crate::grant::{DomId, GrantRef, GrantedMemory, PAGE_SIZE};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

/// `struct ioctl_gntalloc_alloc_gref`, declared with one reference and as long as its `count` says.
#[repr(C)]
struct AllocGref<const N: usize> {
    domid: u16,
    flags: u16,
    count: u32,
    index: u64,
    gref_ids: [u32; N],
}

/// `struct ioctl_gntalloc_dealloc_gref`.
#[repr(C)]
struct DeallocGref {
    index: u64,
    count: u32,
}

const _: () = assert!(size_of::<AllocGref<1>>() == 24 && size_of::<DeallocGref>() == 16);
const IOCTL_GNTALLOC_ALLOC_GREF: libc::Ioctl = ioc::<AllocGref<1>>(b'G', 5);
const IOCTL_GNTALLOC_DEALLOC_GREF: libc::Ioctl = ioc::<DeallocGref>(b'G', 6);
const GNTALLOC_FLAG_WRITABLE: u16 = 1;
/// The driver's `limit`, unless raised, for all who have the device open together.
const PAGES_MAX: usize = 1024;

/// One open of the device that allocates pages and grants them.
#[derive(Debug, Clone)]
pub struct Gntalloc {
    fd: Arc<OwnedFd>,
}

impl Gntalloc {
    /// Open the device.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            fd: Arc::new(super::open("/dev/xen/gntalloc", 0)?.into()),
        })
    }

    /// Allocate 1 to 1024 pages of zeros that `domid` may read and write. `StorageFull`: everybody's pages together would be
    /// more than the module's parameter `limit`.
    pub fn grant(&self, domid: DomId, pages: usize) -> io::Result<GrantedPages> {
        if !(1..=PAGES_MAX).contains(&pages) {
            let line = format!("{pages} granted pages asked for, which must be 1 to {PAGES_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, line));
        }
        let mut alloc = AllocGref {
            domid: domid.0,
            flags: GNTALLOC_FLAG_WRITABLE,
            count: pages as u32,
            index: 0,
            gref_ids: [0; PAGES_MAX],
        };
        // SAFETY: the command takes this struct with room for `count` references, just checked, and keeps no pointer.
        unsafe { ioctl(&self.fd, IOCTL_GNTALLOC_ALLOC_GREF, &mut alloc) }
            .map_err(|e| refused(&e, pages))?;
        let grefs = alloc.gref_ids.into_iter().take(pages).map(GrantRef);
        GrantedPages::map(&self.fd, alloc.index, domid, grefs.collect())
    }

    fn forget(fd: &OwnedFd, index: u64, count: usize) {
        // SAFETY: the command takes this struct and keeps no pointer. A failure leaves the pages to the descriptor's close.
        let _ = unsafe {
            ioctl(
                fd,
                IOCTL_GNTALLOC_DEALLOC_GREF,
                &mut DeallocGref {
                    index,
                    count: count as u32,
                },
            )
        };
    }
}

#[cold]
fn refused(error: &io::Error, pages: usize) -> io::Error {
    let cure = if error.kind() == io::ErrorKind::StorageFull {
        "; raise /sys/module/xen_gntalloc/parameters/limit"
    } else {
        ""
    };
    io::Error::new(
        error.kind(),
        format!("/dev/xen/gntalloc could not grant {pages} pages: {error}{cure}"),
    )
}

/// Pages of ours that a domain may read and write; unmapped, and the grants taken back, when dropped.
#[derive(Debug)]
pub struct GrantedPages {
    base: NonNull<u8>,
    index: u64,
    domid: DomId,
    grefs: Box<[GrantRef]>,
    fd: Arc<OwnedFd>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for GrantedPages {}

impl GrantedPages {
    fn map(
        fd: &Arc<OwnedFd>,
        index: u64,
        domid: DomId,
        grefs: Box<[GrantRef]>,
    ) -> io::Result<Self> {
        let base = super::map_shared(fd, index, grefs.len() * PAGE_SIZE)
            .inspect_err(|_| Gntalloc::forget(fd, index, grefs.len()))?;
        Ok(Self {
            base,
            index,
            domid,
            grefs,
            fd: Arc::clone(fd),
        })
    }
}

impl GrantedMemory for GrantedPages {
    #[inline]
    fn domid(&self) -> DomId {
        self.domid
    }

    #[inline]
    fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped with this length until drop. Only a copy that names these grants writes there behind our back, and that is a
        // call of the holder's own, during which it has no slice of the memory.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.grefs.len() * PAGE_SIZE) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.grefs.len() * PAGE_SIZE) }
    }
}

impl Drop for GrantedPages {
    fn drop(&mut self) {
        // The driver keeps a page that is mapped, so munmap comes first.
        // SAFETY: our own mapping, of which no slice outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.grefs.len() * PAGE_SIZE) };
        Gntalloc::forget(&self.fd, self.index, self.grefs.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// Two pages of a file, which is mapped like the device.
    fn pages() -> GrantedPages {
        let file = File::from(memory_file());
        file.set_len(3 * PAGE_SIZE as u64).unwrap();
        let grefs = [GrantRef(9), GrantRef(8)].into();
        let index = PAGE_SIZE as u64;
        GrantedPages::map(&Arc::new(file.into()), index, DomId(3), grefs).unwrap()
    }

    fn memory_file() -> OwnedFd {
        use std::os::fd::FromRawFd;
        // SAFETY: a new descriptor that nobody else owns.
        unsafe {
            let fd = libc::memfd_create(c"granted".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        }
    }

    #[test]
    fn requests_are_the_header_s_numbers() {
        // include/uapi/xen/gntalloc.h, expanded by a C compiler.
        assert_eq!(IOCTL_GNTALLOC_ALLOC_GREF, 0x18_4705);
        assert_eq!(IOCTL_GNTALLOC_DEALLOC_GREF, 0x10_4706);
        assert_eq!(std::mem::offset_of!(AllocGref<1>, gref_ids), 16);
    }

    #[test]
    fn what_is_written_is_read_over_pages() {
        let mut pages = pages();
        assert_eq!(pages.domid(), DomId(3));
        assert_eq!(pages.grefs(), [GrantRef(9), GrantRef(8)]);
        pages.bytes_mut()[PAGE_SIZE - 2..PAGE_SIZE + 2].copy_from_slice(&[1, 2, 3, 4]);
        pages.bytes_mut()[2 * PAGE_SIZE - 1] = 5;
        let mut expected = [0; 2 * PAGE_SIZE];
        expected[PAGE_SIZE - 2..PAGE_SIZE + 2].copy_from_slice(&[1, 2, 3, 4]);
        expected[2 * PAGE_SIZE - 1] = 5;
        assert!(pages.bytes() == expected);
    }

    #[test]
    fn a_dropped_mapping_is_gone() {
        let pages = pages();
        let base = pages.base.as_ptr();
        let mut resident = 0u8;
        // SAFETY: mincore(2) looks at addresses only, and says ENOMEM of those that are not mapped.
        let mut mapped = || unsafe { libc::mincore(base.cast(), PAGE_SIZE, &raw mut resident) };
        assert_eq!(mapped(), 0);
        drop(pages);
        assert_eq!(mapped(), -1);
    }

    #[test]
    fn what_no_request_can_hold_is_refused() {
        let device = Gntalloc {
            fd: Arc::new(memory_file()),
        };
        for pages in [0, PAGES_MAX + 1, usize::MAX] {
            assert_eq!(
                device.grant(DomId(3), pages).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
        let refused = device.grant(DomId(3), 1).unwrap_err().to_string();
        assert!(
            refused.starts_with("/dev/xen/gntalloc could not grant 1 pages: "),
            "{refused}"
        );
    }

    #[test]
    fn a_full_driver_is_told_with_its_cure() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let line = refused(&full, 512).to_string();
        assert!(
            line.ends_with("raise /sys/module/xen_gntalloc/parameters/limit"),
            "{line}"
        );
    }
}
