//! Grant tables of all domains, and copies between the pages behind them, with Xen's refusals (xen/common/grant_table.c).
#![allow(unsafe_code)] // Copies go through raw memory, as the hypervisor's do.
use super::lock;
use crate::fake::OWN_DOMID;
use crate::grant::{
    CopyList, CopyStatus, DomId, GrantRef, GrantTable, LocalMemory, PAGE_SIZE, Segment, Side,
};
use std::collections::HashMap;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

/// A page of some domain, whoever has it mapped.
#[derive(Debug, Clone)]
pub struct Page {
    run: Arc<[[AtomicU32; 1024]]>,
    number: usize,
}

impl Page {
    /// A page filled with `byte`.
    pub fn filled(byte: u8) -> Self {
        Self::run(1, byte).remove(0)
    }

    /// Pages at adjacent addresses, filled with `byte`.
    pub(super) fn run(pages: usize, byte: u8) -> Vec<Self> {
        let word = || AtomicU32::new(u32::from_ne_bytes([byte; 4]));
        let run: Arc<[_]> = (0..pages)
            .map(|_| std::array::from_fn(|_| word()))
            .collect();
        let page = |number| Self {
            run: Arc::clone(&run),
            number,
        };
        (0..pages).map(page).collect()
    }

    /// The first of its bytes.
    pub(super) fn bytes(&self) -> NonNull<u8> {
        NonNull::from(&self.run[self.number]).cast()
    }

    /// Writes `bytes` from `offset`; both lie in the page.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE);
        // SAFETY: inside of the page, which is made of atomics; a test does not write where a copy does at the same time.
        unsafe {
            self.bytes()
                .add(offset)
                .copy_from(NonNull::from(bytes).cast(), bytes.len())
        }
    }

    /// `len` bytes from `offset`; both lie in the page.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= PAGE_SIZE);
        let mut bytes = vec![0; len];
        // SAFETY: as in `write`.
        unsafe {
            NonNull::from(&mut *bytes)
                .cast()
                .copy_from(self.bytes().add(offset), len)
        };
        bytes
    }
}

impl AsRef<[AtomicU32; 1024]> for Page {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32; 1024] {
        &self.run[self.number]
    }
}

impl Deref for Page {
    type Target = [AtomicU32; 1024];

    fn deref(&self) -> &Self::Target {
        self.as_ref()
    }
}

/// What the grantee may do with a page (`GTF_readonly`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it and write it.
    ReadWrite,
    /// Read it.
    ReadOnly,
}

/// A grant in use.
#[derive(Debug)]
struct Grant {
    page: Page,
    access: Access,
    to: DomId,
}

/// What one copy call was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// Segments in all.
    pub segments: usize,
    /// Segments from one domain's page to another's, none of them ours.
    pub foreign_to_foreign: usize,
    /// Segments of which a side is given by address.
    pub by_address: usize,
    /// Segments of which a side is a page of ours, by reference ([`OWN_DOMID`]).
    pub by_reference: usize,
    /// Bytes in all.
    pub bytes: usize,
}

#[derive(Debug, Default)]
struct Tables {
    /// By domain and reference; `None` was revoked.
    grants: HashMap<(u16, u32), Option<Grant>>,
    mapped: usize,
    calls: Vec<Call>,
    fail_call: bool,
    /// A segment of the next call, by place, and what becomes of it.
    fail_segment: Option<(usize, CopyStatus)>,
    /// A copy from or to this page of a domain's is a panic.
    poison: Option<(u16, u32)>,
}

/// The grant tables of all domains, and the driver domain's [`OWN_DOMID`] door to them. Clones are the same tables.
#[derive(Debug, Clone, Default)]
pub struct Grants(Arc<Mutex<Tables>>);

impl Grants {
    /// Grants the driver domain a fresh page, filled with 0xee but for `bytes` at `offset`.
    pub fn grant(
        &self,
        domid: u16,
        gref: u32,
        offset: usize,
        bytes: &[u8],
        access: Access,
    ) -> Page {
        let page = Page::filled(0xee);
        page.write(offset, bytes);
        self.grant_page(DomId(domid), gref, page.clone(), access, OWN_DOMID);
        page
    }

    /// Grants `page` to a domain.
    pub fn grant_page(&self, domid: DomId, gref: u32, page: Page, access: Access, to: DomId) {
        let grant = Grant { page, access, to };
        lock(&self.0).grants.insert((domid.0, gref), Some(grant));
    }

    /// Ends a grant; what is mapped stays so.
    pub fn revoke(&self, domid: u16, gref: u32) {
        if let Some(grant) = lock(&self.0).grants.get_mut(&(domid, gref)) {
            *grant = None;
        }
    }

    /// A domain is gone, and its grants with it; what is mapped stays so.
    pub fn destroy(&self, domid: u16) {
        lock(&self.0).grants.retain(|&(owner, _), _| owner != domid);
    }

    /// The first `len` bytes of a granted page.
    pub fn read(&self, domid: u16, gref: u32, len: usize) -> Vec<u8> {
        let tables = lock(&self.0);
        let grant = tables.grants[&(domid, gref)].as_ref();
        grant.expect("a grant in use").page.read(0, len)
    }

    /// Has the next call fail as a whole, after its segments were queued and said to be OKAY, as gntdev does.
    pub fn fail_next_call(&self) {
        lock(&self.0).fail_call = true;
    }

    /// Has whoever copies from or to a page panic, as a defect of the caller's would.
    pub fn poison(&self, domid: u16, gref: u32) {
        lock(&self.0).poison = Some((domid, gref));
    }

    /// Has segment `n` of the next call fail.
    pub fn fail_segment(&self, n: usize, status: CopyStatus) {
        lock(&self.0).fail_segment = Some((n, status));
    }

    /// The calls since the last time this was asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.0).calls)
    }

    /// Makes room for this many calls, so that counting them does not allocate.
    pub fn reserve_calls(&self, calls: usize) {
        lock(&self.0).calls.reserve(calls);
    }

    /// Number of pages that are mapped.
    pub fn mapped(&self) -> usize {
        lock(&self.0).mapped
    }

    /// Performs one call's copies. A function of its own, never inlined, so that a profile tells its cost from the caller's.
    #[inline(never)]
    fn perform_copies(&self, memory: NonNull<u8>, segments: &mut [Segment]) -> io::Result<()> {
        let base = memory.as_ptr().expose_provenance() as u64;
        let tables = &mut *lock(&self.0);
        let (fails, failing) = (
            std::mem::take(&mut tables.fail_call),
            tables.fail_segment.take(),
        );
        let mut call = Call::default();
        for (n, segment) in segments.iter_mut().enumerate() {
            let sides = segment.sides(base);
            call.count(sides, segment.bytes());
            let status = match failing {
                _ if fails => CopyStatus::OKAY,
                Some((failing, status)) if failing == n => status,
                _ => tables.copy(memory, sides, segment.bytes()),
            };
            segment.set_status(status);
        }
        tables.calls.push(call);
        match fails {
            true => Err(io::ErrorKind::InvalidInput.into()),
            false => Ok(()),
        }
    }
}

impl Call {
    fn count(&mut self, sides: [Side; 2], bytes: usize) {
        let is_own =
            |side: &Side| matches!(side, Side::Foreign { domid, .. } if *domid == OWN_DOMID);
        self.segments += 1;
        self.bytes += bytes;
        if sides.iter().any(|side| matches!(side, Side::Local(_))) {
            self.by_address += 1;
        } else if sides.iter().any(is_own) {
            self.by_reference += 1;
        } else {
            self.foreign_to_foreign += 1;
        }
    }
}

impl Tables {
    fn copy(&self, memory: NonNull<u8>, [source, dest]: [Side; 2], len: usize) -> CopyStatus {
        let from = match self.place(memory, source, Access::ReadOnly) {
            Ok(place) => place,
            Err(status) => return status,
        };
        let to = match self.place(memory, dest, Access::ReadWrite) {
            Ok(place) => place,
            Err(status) => return status,
        };
        // SAFETY: `CopyList::push` found both sides inside of a page, or of the memory, which its LocalMemory lets a copy read and
        // write. The pages are made of atomics and live as long as their grants.
        unsafe { to.copy_from(from, len) };
        CopyStatus::OKAY
    }

    /// The address of a side that may be accessed so.
    fn place(
        &self,
        memory: NonNull<u8>,
        side: Side,
        access: Access,
    ) -> Result<NonNull<u8>, CopyStatus> {
        match side {
            // SAFETY: inside of the memory (`CopyList::push`).
            Side::Local(at) => Ok(unsafe { memory.add(at as usize) }),
            Side::Foreign {
                domid,
                gref,
                offset,
            } => {
                assert_ne!(self.poison, Some((domid.0, gref.0)), "a poisoned page");
                let page = self.find(domid, gref, access)?;
                // SAFETY: inside of the page (`CopyList::push`).
                Ok(unsafe { page.bytes().add(offset.into()) })
            }
        }
    }

    /// The page behind a grant that lets the driver domain access it so.
    fn find(&self, domid: DomId, gref: GrantRef, access: Access) -> Result<&Page, CopyStatus> {
        let Some(grant) = self.grants.get(&(domid.0, gref.0)) else {
            let known = self.grants.keys().any(|&(owner, _)| owner == domid.0);
            return Err(match known {
                true => CopyStatus::BAD_GNTREF,
                false => CopyStatus::BAD_DOMAIN,
            });
        };
        match grant {
            Some(grant)
                if grant.to == OWN_DOMID
                    && (access == Access::ReadOnly || grant.access == Access::ReadWrite) =>
            {
                Ok(&grant.page)
            }
            _ => Err(CopyStatus::GENERAL_ERROR),
        }
    }
}

/// A page that the driver domain has mapped, counted until it is dropped.
#[derive(Debug)]
pub struct MappedPage {
    page: Page,
    grants: Grants,
}

impl AsRef<[AtomicU32; 1024]> for MappedPage {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32; 1024] {
        self.page.as_ref()
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        lock(&self.grants.0).mapped -= 1;
    }
}

impl GrantTable for Grants {
    type Page = MappedPage;

    fn map(&self, domid: DomId, gref: GrantRef) -> io::Result<MappedPage> {
        let mut tables = lock(&self.0);
        let page = tables.find(domid, gref, Access::ReadWrite);
        // gntdev says EINVAL, whatever the hypervisor said.
        let page = page.map_err(|_| io::ErrorKind::InvalidInput)?.clone();
        tables.mapped += 1;
        Ok(MappedPage {
            page,
            grants: self.clone(),
        })
    }

    #[inline]
    fn copy<M: LocalMemory>(&self, list: &mut CopyList<M>) -> io::Result<()> {
        list.issue(|memory, segments| self.perform_copies(memory.base(), segments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No local side is in these tests.
    struct NoMemory;

    // SAFETY: no byte is anybody's.
    unsafe impl LocalMemory for NoMemory {
        fn base(&self) -> NonNull<u8> {
            NonNull::without_provenance(std::num::NonZero::new(PAGE_SIZE).unwrap())
        }

        fn len(&self) -> usize {
            0
        }
    }

    fn side(domid: u16, gref: u32, offset: u16) -> Side {
        Side::Foreign {
            domid: DomId(domid),
            gref: GrantRef(gref),
            offset,
        }
    }

    fn copy(grants: &Grants, sides: &[(Side, Side)]) -> (bool, Vec<CopyStatus>) {
        let mut list = CopyList::with_capacity(NoMemory, sides.len());
        sides.iter().for_each(|&(from, to)| list.push(from, to, 4));
        let result = grants.copy(&mut list);
        (
            result.is_ok(),
            (0..sides.len()).map(|n| list.status(n)).collect(),
        )
    }

    fn tables() -> Grants {
        let grants = Grants::default();
        grants.grant(1, 8, 0, b"abcd", Access::ReadOnly);
        grants.grant(2, 8, 0, b"", Access::ReadWrite);
        grants
    }

    #[test]
    fn what_xen_refuses_is_refused() {
        let grants = tables();
        grants.grant(1, 9, 0, b"", Access::ReadWrite);
        grants.revoke(1, 9);
        let foreign = Page::filled(0);
        grants.grant_page(DomId(1), 10, foreign, Access::ReadWrite, DomId(7));
        let good = side(2, 8, 100);
        for (from, to, status) in [
            (side(1, 8, 0), good, CopyStatus::OKAY),
            (good, side(1, 8, 0), CopyStatus::GENERAL_ERROR),
            (side(1, 9, 0), good, CopyStatus::GENERAL_ERROR),
            (side(1, 10, 0), good, CopyStatus::GENERAL_ERROR),
            (side(1, 11, 0), good, CopyStatus::BAD_GNTREF),
            (side(3, 8, 0), good, CopyStatus::BAD_DOMAIN),
        ] {
            assert_eq!(
                copy(&grants, &[(from, to)]),
                (true, vec![status]),
                "{from:?}"
            );
        }
        assert_eq!(&grants.read(2, 8, 105)[99..], b"\xeeabcd\xee");
        assert!(grants.map(DomId(1), GrantRef(8)).is_err(), "read-only");
        assert_eq!(grants.mapped(), 0);
    }

    #[test]
    fn a_mapped_page_outlives_its_grant_and_is_counted() {
        let grants = tables();
        let page = grants.map(DomId(2), GrantRef(8)).unwrap();
        grants.destroy(2);
        assert_eq!(grants.mapped(), 1);
        assert_eq!(
            page.as_ref()[0].load(std::sync::atomic::Ordering::Relaxed),
            0xeeee_eeee
        );
        drop(page);
        assert_eq!(grants.mapped(), 0);
    }

    #[test]
    fn fails_where_it_is_told_to() {
        let (grants, good) = (tables(), (side(1, 8, 0), side(2, 8, 0)));
        grants.fail_segment(1, CopyStatus::BAD_PAGE);
        let statuses = vec![CopyStatus::OKAY, CopyStatus::BAD_PAGE];
        assert_eq!(copy(&grants, &[good, good]), (true, statuses));
        grants.fail_next_call();
        assert_eq!(
            copy(&grants, &[good, good]),
            (false, vec![CopyStatus::GENERAL_ERROR; 2])
        );
        assert_eq!(copy(&grants, &[good]), (true, vec![CopyStatus::OKAY]));
    }

    #[test]
    fn counts_by_kind() {
        let grants = tables();
        grants.grant(OWN_DOMID.0, 1, 0, b"", Access::ReadWrite);
        let own = side(OWN_DOMID.0, 1, 0);
        copy(
            &grants,
            &[
                (side(1, 8, 0), own),
                (side(1, 8, 0), side(2, 8, 0)),
                (own, side(2, 8, 0)),
            ],
        );
        let call = Call {
            segments: 3,
            foreign_to_foreign: 1,
            by_address: 0,
            by_reference: 2,
            bytes: 12,
        };
        assert_eq!(grants.take_calls(), [call]);
        assert_eq!(grants.take_calls(), []);
    }
}
