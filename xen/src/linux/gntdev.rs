//! `/dev/xen/gntdev` (include/uapi/xen/gntdev.h, drivers/xen/gntdev.c).
use super::{ioc, ioctl};
use crate::grant::{CopyList, DomId, GrantRef, GrantTable, LocalMemory, PAGE_SIZE, Segment};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// `struct ioctl_gntdev_map_grant_ref` with one `struct ioctl_gntdev_grant_ref`.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    index: u64,
    domid: u32,
    gref: u32,
}

/// `struct ioctl_gntdev_unmap_grant_ref`.
#[repr(C)]
struct UnmapGrantRef {
    index: u64,
    count: u32,
    pad: u32,
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
struct GrantCopy {
    count: u32,
    segments: *mut Segment,
}

const _: () = assert!(size_of::<MapGrantRef>() == 24 && size_of::<UnmapGrantRef>() == 16);
const _: () = assert!(size_of::<GrantCopy>() == 16);
const IOCTL_GNTDEV_MAP_GRANT_REF: libc::Ioctl = ioc::<MapGrantRef>(b'G', 0);
const IOCTL_GNTDEV_UNMAP_GRANT_REF: libc::Ioctl = ioc::<UnmapGrantRef>(b'G', 1);
const IOCTL_GNTDEV_GRANT_COPY: libc::Ioctl = ioc::<GrantCopy>(b'G', 8);

/// One open of the grant device. Its kernel-side batch is behind a mutex, so each worker has its own.
#[derive(Debug, Clone)]
pub struct Gntdev {
    fd: Arc<OwnedFd>,
}

impl Gntdev {
    /// Open the device.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            fd: Arc::new(super::open("/dev/xen/gntdev", 0)?.into()),
        })
    }

    fn forget(fd: &OwnedFd, index: u64) {
        // SAFETY: the command takes this struct and keeps no pointer. A failure leaves the grant to the descriptor's close.
        let _ = unsafe {
            ioctl(
                fd,
                IOCTL_GNTDEV_UNMAP_GRANT_REF,
                &mut UnmapGrantRef {
                    index,
                    count: 1,
                    pad: 0,
                },
            )
        };
    }
}

/// A guest's page in our address space, read-write; unmapped, and the grant given back, when dropped.
#[derive(Debug)]
pub struct MappedPage {
    words: NonNull<[AtomicU32; 1024]>,
    index: u64,
    fd: Arc<OwnedFd>,
}

// SAFETY: the page is shared memory behind atomics, and the mapping belongs to the process, not to a thread.
unsafe impl Send for MappedPage {}
// SAFETY: as above.
unsafe impl Sync for MappedPage {}

impl AsRef<[AtomicU32; 1024]> for MappedPage {
    fn as_ref(&self) -> &[AtomicU32; 1024] {
        // SAFETY: page aligned, 4096 bytes, mapped until drop; only ever accessed as atomics.
        unsafe { self.words.as_ref() }
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // The driver wants munmap before the ioctl.
        // SAFETY: our own mapping, no reference outlives self.
        unsafe { libc::munmap(self.words.as_ptr().cast(), PAGE_SIZE) };
        Gntdev::forget(&self.fd, self.index);
    }
}

impl GrantTable for Gntdev {
    type Page = MappedPage;

    fn map(&self, domid: DomId, gref: GrantRef) -> io::Result<MappedPage> {
        let mut map = MapGrantRef {
            count: 1,
            pad: 0,
            index: 0,
            domid: domid.0.into(),
            gref: gref.0,
        };
        // SAFETY: the command takes this struct with `count` references and keeps no pointer.
        unsafe { ioctl(&self.fd, IOCTL_GNTDEV_MAP_GRANT_REF, &mut map) }?;
        // The hypercall happens here and may refuse.
        let page = super::map_shared(&self.fd, map.index, PAGE_SIZE)
            .inspect_err(|_| Self::forget(&self.fd, map.index))?;
        Ok(MappedPage {
            words: page.cast(),
            index: map.index,
            fd: Arc::clone(&self.fd),
        })
    }

    /// One ioctl for the whole list: the driver reads one segment at a time, takes any number, and issues a hypercall for every
    /// 16. GNTST_eagain (a paged-out guest page) never comes back: the kernel retries it and answers GNTST_bad_page when it gives
    /// up (drivers/xen/grant-table.c, gnttab_retry_eagain_gop).
    #[inline]
    fn copy<M: LocalMemory>(&self, list: &mut CopyList<M>) -> io::Result<()> {
        list.issue(|_, segments| {
            let mut copy = GrantCopy {
                count: segments.len() as u32,
                segments: segments.as_mut_ptr(),
            };
            // SAFETY: `count` segments of the list, which the kernel writes only the statuses of. Their local sides lie inside of
            // the memory that the list owns (`CopyList::push`), which its LocalMemory lets a copy read and write.
            unsafe { ioctl(&self.fd, IOCTL_GNTDEV_GRANT_COPY, &mut copy) }?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_header_s_numbers() {
        // include/uapi/xen/gntdev.h and evtchn.h, expanded by a C compiler.
        assert_eq!(IOCTL_GNTDEV_MAP_GRANT_REF, 0x18_4700);
        assert_eq!(IOCTL_GNTDEV_UNMAP_GRANT_REF, 0x10_4701);
        assert_eq!(IOCTL_GNTDEV_GRANT_COPY, 0x10_4708);
    }
}
