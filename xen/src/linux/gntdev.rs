//! `/dev/xen/gntdev` (include/uapi/xen/gntdev.h, drivers/xen/gntdev.c).
use super::{ioc, ioctl};
use crate::grant::{
    CopySegment, CopyStatus, DomId, GrantRef, GrantTable, LocalMemory, PAGE_SIZE, Side,
};
use std::io;
use std::mem::MaybeUninit;
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

/// `struct gntdev_grant_copy_segment`; a side is a pointer, or `ref | offset << 32 | domid << 48`.
#[repr(C)]
struct RawSegment {
    source: RawSide,
    dest: RawSide,
    len: u16,
    flags: u16,
    status: i16,
}

#[repr(C)]
#[derive(Clone, Copy)]
union RawSide {
    local: *mut u8,
    foreign: RawForeign,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawForeign {
    gref: u32,
    offset: u16,
    domid: u16,
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
struct GrantCopy {
    count: u32,
    segments: *mut RawSegment,
}

const _: () = assert!(size_of::<MapGrantRef>() == 24 && size_of::<UnmapGrantRef>() == 16);
const _: () = assert!(
    size_of::<RawSegment>() == 24 && size_of::<RawSide>() == 8 && size_of::<GrantCopy>() == 16
);
const IOCTL_GNTDEV_MAP_GRANT_REF: libc::Ioctl = ioc::<MapGrantRef>(b'G', 0);
const IOCTL_GNTDEV_UNMAP_GRANT_REF: libc::Ioctl = ioc::<UnmapGrantRef>(b'G', 1);
const IOCTL_GNTDEV_GRANT_COPY: libc::Ioctl = ioc::<GrantCopy>(b'G', 8);
/// GNTCOPY_source_gref, GNTCOPY_dest_gref (xen/include/public/grant_table.h).
const GNTCOPY_SOURCE_GREF: u16 = 1;
const GNTCOPY_DEST_GREF: u16 = 2;
/// Segments an ioctl: a raw array on the stack (6 KiB) needs neither a lock nor an allocation, and the kernel issues a
/// hypercall for every 16 anyway.
const SEGMENTS_PER_CALL: usize = 256;

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

    fn copy(&self, memory: &impl LocalMemory, segments: &mut [CopySegment]) -> io::Result<()> {
        let result = check(memory.len() as u64, segments).and_then(|()| {
            segments
                .chunks_mut(SEGMENTS_PER_CALL)
                .try_for_each(|chunk| self.call(memory, chunk))
        });
        if result.is_err() {
            // gntdev says OKAY of a segment when it is queued, so after a failed call no status tells the truth.
            segments
                .iter_mut()
                .for_each(|segment| segment.status = CopyStatus::GENERAL_ERROR);
        }
        result
    }
}

impl Gntdev {
    /// One ioctl. GNTST_eagain (a paged-out guest page) never comes back: the kernel retries it and answers
    /// GNTST_bad_page when it gives up (drivers/xen/grant-table.c, gnttab_retry_eagain_gop).
    fn call(&self, memory: &impl LocalMemory, segments: &mut [CopySegment]) -> io::Result<()> {
        let mut raw = [const { MaybeUninit::<RawSegment>::uninit() }; SEGMENTS_PER_CALL];
        for (raw, segment) in raw.iter_mut().zip(segments.iter()) {
            raw.write(RawSegment::new(memory.base(), segment));
        }
        let mut copy = GrantCopy {
            count: segments.len() as u32,
            segments: raw.as_mut_ptr().cast(),
        };
        // SAFETY: `count` initialised segments (at most SEGMENTS_PER_CALL by `chunks_mut`), whose local sides `check`
        // found inside memory that LocalMemory's implementer lets a copy read and write.
        unsafe { ioctl(&self.fd, IOCTL_GNTDEV_GRANT_COPY, &mut copy) }?;
        for (raw, segment) in raw.iter().zip(segments.iter_mut()) {
            // SAFETY: initialised above; the kernel writes only the status.
            segment.status = CopyStatus(unsafe { raw.assume_init_ref() }.status);
        }
        Ok(())
    }
}

impl RawSegment {
    fn new(base: NonNull<u8>, segment: &CopySegment) -> Self {
        let side = |side: &Side, flag: u16| match *side {
            // Checked to lie inside the memory; the kernel dereferences it, not we.
            Side::Local(offset) => (
                RawSide {
                    local: base.as_ptr().wrapping_add(offset as usize),
                },
                0,
            ),
            Side::Foreign {
                domid,
                gref,
                offset,
            } => (
                RawSide {
                    foreign: RawForeign {
                        gref: gref.0,
                        offset,
                        domid: domid.0,
                    },
                },
                flag,
            ),
        };
        let (source, from) = side(&segment.source, GNTCOPY_SOURCE_GREF);
        let (dest, to) = side(&segment.dest, GNTCOPY_DEST_GREF);
        // Not OKAY until the kernel says so.
        Self {
            source,
            dest,
            len: segment.len,
            flags: from | to,
            status: CopyStatus::GENERAL_ERROR.0,
        }
    }
}

/// The bounds of [`GrantTable::copy`]; with them no guest value can make the ioctl itself fail.
fn check(memory_len: u64, segments: &[CopySegment]) -> io::Result<()> {
    let into_local = matches!(
        segments.first(),
        Some(CopySegment {
            dest: Side::Local(_),
            ..
        })
    );
    for segment in segments {
        let to_local = matches!(segment.dest, Side::Local(_));
        if to_local && matches!(segment.source, Side::Local(_)) {
            return refuse("a segment with two local sides");
        }
        if to_local != into_local {
            return refuse("both directions in one call");
        }
        for side in [segment.source, segment.dest] {
            let (offset, end) = match side {
                Side::Foreign { offset, .. } => (u64::from(offset), PAGE_SIZE as u64),
                Side::Local(offset) => (offset % PAGE_SIZE as u64, PAGE_SIZE as u64),
            };
            if offset + u64::from(segment.len) > end {
                return refuse("a segment that crosses a page");
            }
            if let Side::Local(offset) = side
                && offset
                    .checked_add(segment.len.into())
                    .is_none_or(|end| end > memory_len)
            {
                return refuse("a segment outside of local memory");
            }
        }
    }
    Ok(())
}

#[cold]
fn refuse(what: &'static str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: Side = Side::Foreign {
        domid: DomId(1),
        gref: GrantRef(8),
        offset: 0,
    };

    fn segment(source: Side, dest: Side, len: u16) -> CopySegment {
        CopySegment {
            source,
            dest,
            len,
            status: CopyStatus::OKAY,
        }
    }

    #[test]
    fn requests_are_the_header_s_numbers() {
        // include/uapi/xen/gntdev.h and evtchn.h, expanded by a C compiler.
        assert_eq!(IOCTL_GNTDEV_MAP_GRANT_REF, 0x18_4700);
        assert_eq!(IOCTL_GNTDEV_UNMAP_GRANT_REF, 0x10_4701);
        assert_eq!(IOCTL_GNTDEV_GRANT_COPY, 0x10_4708);
    }

    #[test]
    fn bounds() {
        let last = |offset| Side::Foreign {
            domid: DomId(1),
            gref: GrantRef(8),
            offset,
        };
        let good = [
            segment(FOREIGN, Side::Local(0), 4096),
            segment(last(4095), Side::Local(8191), 1),
            segment(FOREIGN, Side::Local(8192), 0),
        ];
        assert!(check(8192, &good).is_ok());
        let bad = [
            segment(FOREIGN, Side::Local(4096), 4097),
            segment(last(1), Side::Local(0), 4096),
            segment(last(u16::MAX), Side::Local(0), u16::MAX),
            segment(FOREIGN, Side::Local(1), 4096),
            segment(FOREIGN, Side::Local(8192), 1),
            segment(FOREIGN, Side::Local(u64::MAX), 1),
            segment(Side::Local(0), Side::Local(4096), 1),
        ];
        for bad in bad {
            assert_eq!(
                check(8192, &[bad]).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn directions_do_not_mix_into_local() {
        assert!(
            check(
                4096,
                &[
                    segment(FOREIGN, Side::Local(0), 1),
                    segment(Side::Local(0), FOREIGN, 1)
                ]
            )
            .is_err()
        );
        assert!(
            check(
                4096,
                &[
                    segment(FOREIGN, FOREIGN, 1),
                    segment(FOREIGN, Side::Local(0), 1)
                ]
            )
            .is_err()
        );
        assert!(
            check(
                4096,
                &[
                    segment(FOREIGN, FOREIGN, 1),
                    segment(Side::Local(0), FOREIGN, 1)
                ]
            )
            .is_ok()
        );
    }
}
