//! IOCTL_GNTDEV_GRANT_COPY, with the driver's habits (drivers/xen/gntdev.c): operations queue up to 16 and go in one hypercall;
//! a segment's status is set to OKAY when it is queued; a foreign side across a page is EINVAL for the whole call, and what was
//! queued since the last hypercall is never issued; a local side across a page becomes two operations.
use crate::device::Simulation;
use libc::c_int;
use sim_machine::control::Operation;
use sim_machine::grant::{Entry, Slot, status};
use sim_machine::{DomainArea, MAX_DOMAINS, Mapping, PAGE_SIZE};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// GNTDEV_COPY_BATCH.
const BATCH: usize = 16;
const SOURCE_GREF: u16 = 1;
const DEST_GREF: u16 = 2;

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
pub struct GrantCopy {
    count: u32,
    segments: *mut Segment,
}

/// `struct gntdev_grant_copy_segment`; a foreign side is `ref | offset << 32 | domid << 48`.
#[repr(C)]
pub struct Segment {
    source: u64,
    dest: u64,
    len: u16,
    flags: u16,
    status: i16,
}

/// One side of an operation.
#[derive(Clone, Copy)]
enum Side {
    Local(*mut u8),
    Foreign { domid: u16, gref: u32, offset: u16 },
}

impl Side {
    fn new(raw: u64, foreign: bool) -> Self {
        if foreign {
            Self::Foreign {
                domid: (raw >> 48) as u16,
                gref: raw as u32,
                offset: (raw >> 32) as u16,
            }
        } else {
            Self::Local(raw as *mut u8)
        }
    }

    /// The same side, `by` bytes on.
    fn forward(self, by: usize) -> Self {
        match self {
            Self::Local(at) => Self::Local(at.wrapping_add(by)),
            Self::Foreign {
                domid,
                gref,
                offset,
            } => Self::Foreign {
                domid,
                gref,
                offset: offset + by as u16,
            },
        }
    }

    /// Bytes to the end of the page.
    fn room(self) -> usize {
        PAGE_SIZE
            - match self {
                Self::Local(at) => at as usize % PAGE_SIZE,
                Self::Foreign { offset, .. } => usize::from(offset),
            }
    }
}

#[derive(Clone, Copy)]
struct Op {
    source: Side,
    dest: Side,
    len: usize,
    status: *mut i16,
}

/// What one call did.
#[derive(Default)]
struct Tally {
    hypercalls: u64,
    operations: u64,
    refused: u64,
    bytes: u64,
    revoked: u64,
}

/// Operations waiting for their hypercall.
struct Batch<'a> {
    simulation: &'a Simulation,
    ops: [Op; BATCH],
    queued: usize,
    tally: Tally,
}

/// # Safety
/// `copy` and the segments it names are valid, local sides for reading or writing as their segment says.
pub unsafe fn run(simulation: &Simulation, copy: *mut GrantCopy) -> io::Result<c_int> {
    // SAFETY: by the caller.
    let (count, segments) = unsafe { ((*copy).count, (*copy).segments) };
    let none = Op {
        source: Side::Local(ptr::null_mut()),
        dest: Side::Local(ptr::null_mut()),
        len: 0,
        status: ptr::null_mut(),
    };
    let mut batch = Batch {
        simulation,
        ops: [none; BATCH],
        queued: 0,
        tally: Tally::default(),
    };
    let result = (0..count as usize).try_for_each(|i| {
        // SAFETY: by the caller.
        unsafe { batch.segment(segments.add(i)) }
    });
    if result.is_ok() {
        // SAFETY: by the caller.
        unsafe { batch.issue() };
    }
    batch.tally.account(simulation);
    Costs::get().charge(&batch.tally);
    result.map(|()| 0)
}

impl Batch<'_> {
    /// # Safety
    /// As [`run`].
    unsafe fn segment(&mut self, segment: *mut Segment) -> io::Result<()> {
        // SAFETY: by the caller; only the status is written, by its own pointer.
        let (
            Segment {
                source,
                dest,
                len,
                flags,
                ..
            },
            status,
        ) = unsafe { (ptr::read(segment), &raw mut (*segment).status) };
        let (source, dest) = (
            Side::new(source, flags & SOURCE_GREF != 0),
            Side::new(dest, flags & DEST_GREF != 0),
        );
        let len = usize::from(len);
        let crosses = |side: Side| matches!(side, Side::Foreign { offset, .. } if usize::from(offset) + len > PAGE_SIZE);
        if flags & (SOURCE_GREF | DEST_GREF) == 0 || crosses(source) || crosses(dest) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: by the caller.
        unsafe { status.write(status::OKAY) };
        let mut copied = 0;
        while copied < len {
            if self.queued == BATCH {
                // SAFETY: as queued.
                unsafe { self.issue() };
            }
            let (source, dest) = (source.forward(copied), dest.forward(copied));
            let now = (len - copied).min(source.room()).min(dest.room());
            if let Some(op) = self.ops.get_mut(self.queued) {
                *op = Op {
                    source,
                    dest,
                    len: now,
                    status,
                };
            }
            self.queued += 1;
            copied += now;
        }
        Ok(())
    }

    /// The hypercall.
    ///
    /// # Safety
    /// What is queued is valid as [`run`] says.
    unsafe fn issue(&mut self) {
        if self.queued == 0 {
            return;
        }
        self.tally.hypercalls += 1;
        self.tally.operations += self.queued as u64;
        for op in self.ops.iter().take(self.queued) {
            // SAFETY: by the caller.
            let result = unsafe { perform(self.simulation, op, &mut self.tally.revoked) };
            match result {
                Ok(()) => self.tally.bytes += op.len as u64,
                Err(refusal) => {
                    self.tally.refused += 1;
                    // SAFETY: by the caller. The first failure of a segment in several operations stays.
                    unsafe {
                        if op.status.read() == status::OKAY {
                            op.status.write(refusal);
                        }
                    }
                }
            }
        }
        self.queued = 0;
    }
}

/// # Safety
/// The operation's local side is valid for its length.
#[inline]
unsafe fn perform(simulation: &Simulation, op: &Op, revoked: &mut u64) -> Result<(), i16> {
    let source = resolve(simulation, op.source, op.len, false)?;
    let dest = resolve(simulation, op.dest, op.len, true)?;
    // SAFETY: a local side by the caller; a foreign one lies inside its page inside its domain's mapping, which is never taken
    // away. Copied as overlapping, for a guest may grant one page twice.
    unsafe { ptr::copy(source.at, dest.at, op.len) };
    *revoked += u64::from(source.changed()) + u64::from(dest.changed());
    Ok(())
}

/// Where a side's bytes are.
struct Place<'a> {
    at: *mut u8,
    grant: Option<(&'a Slot, Entry)>,
}

impl Place<'_> {
    /// Whether the guest has changed the grant meanwhile.
    fn changed(&self) -> bool {
        self.grant
            .as_ref()
            .is_some_and(|(slot, entry)| slot.load().differs(*entry))
    }
}

#[inline]
fn resolve<'a>(
    simulation: &'a Simulation,
    side: Side,
    len: usize,
    write: bool,
) -> Result<Place<'a>, i16> {
    let (domid, gref, offset) = match side {
        Side::Local(at) => return Ok(Place { at, grant: None }),
        Side::Foreign {
            domid,
            gref,
            offset,
        } => (domid, gref, usize::from(offset)),
    };
    let (area, memory) = domain(simulation, domid).ok_or(status::BAD_DOMAIN)?;
    let slot = area.grant(gref).ok_or(status::BAD_GNTREF)?;
    let entry = slot.load();
    let frame = entry.frame_for(simulation.domid, write)? as usize;
    let start = frame * PAGE_SIZE + offset;
    if frame >= area.pages() as usize || start + len > memory.mapping.len() {
        return Err(status::BAD_PAGE);
    }
    Ok(Place {
        at: memory.mapping.base().as_ptr().wrapping_add(start),
        grant: Some((slot, entry)),
    })
}

/// A domain's memory, mapped by this process.
struct Memory {
    generation: u64,
    mapping: Mapping,
}

/// Once mapped, memory stays: a copy may be under way in any thread. The hypervisor punches the pages out when the domain dies,
/// so what stays is addresses.
static MEMORIES: [AtomicPtr<Memory>; MAX_DOMAINS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_DOMAINS];
static MAPPING: Mutex<()> = Mutex::new(());

#[inline]
fn domain(simulation: &Simulation, domid: u16) -> Option<(&DomainArea, &'static Memory)> {
    let area = simulation.machine.alive(domid)?;
    let generation = area.generation();
    match cached(domid) {
        Some(memory) if memory.generation == generation => Some((area, memory)),
        _ => map(simulation, area, domid).map(|memory| (area, memory)),
    }
}

fn cached(domid: u16) -> Option<&'static Memory> {
    // SAFETY: null, or leaked by `map`. Acquire: pairs with its Release.
    unsafe {
        MEMORIES
            .get(usize::from(domid))?
            .load(Ordering::Acquire)
            .as_ref()
    }
}

#[cold]
fn map(simulation: &Simulation, area: &DomainArea, domid: u16) -> Option<&'static Memory> {
    let _one = MAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = area.generation();
    if let Some(memory) = cached(domid).filter(|memory| memory.generation == generation) {
        return Some(memory);
    }
    let mut reply = simulation
        .control
        .call(Operation::Memory, [domid.into(), 0, 0], "")
        .ok()?;
    let mapping = Mapping::new(reply.take_fd().ok()?, reply.words[0] as usize * PAGE_SIZE).ok()?;
    // It may have died, and the number have been used again, since it was looked at.
    if generation == 0 || area.generation() != generation {
        return None;
    }
    let memory = Box::leak(Box::new(Memory {
        generation,
        mapping,
    }));
    MEMORIES
        .get(usize::from(domid))?
        .store(memory, Ordering::Release);
    Some(memory)
}

impl Tally {
    fn account(&self, simulation: &Simulation) {
        let Some(area) = simulation.machine.domain(simulation.domid) else {
            return;
        };
        let counters = &area.counters;
        counters.copy_calls.fetch_add(1, Ordering::Relaxed);
        counters
            .copy_hypercalls
            .fetch_add(self.hypercalls, Ordering::Relaxed);
        counters
            .copy_operations
            .fetch_add(self.operations, Ordering::Relaxed);
        counters.copy_bytes.fetch_add(self.bytes, Ordering::Relaxed);
        if self.refused > 0 {
            counters
                .copy_refused
                .fetch_add(self.refused, Ordering::Relaxed);
        }
        if self.revoked > 0 {
            counters
                .accessed_after_revoke
                .fetch_add(self.revoked, Ordering::Relaxed);
        }
    }
}

/// What a call costs beyond the memcpy, in nanoseconds: SIM_COPY_COST=call,hypercall,operation.
#[derive(Debug, Clone, Copy, Default)]
struct Costs {
    call: u64,
    hypercall: u64,
    operation: u64,
}

impl Costs {
    fn get() -> Self {
        static COSTS: OnceLock<Costs> = OnceLock::new();
        *COSTS.get_or_init(|| {
            let text = std::env::var("SIM_COPY_COST").unwrap_or_default();
            let mut fields = text
                .split(',')
                .map(|field| field.trim().parse().unwrap_or(0));
            let mut next = || fields.next().unwrap_or(0);
            Self {
                call: next(),
                hypercall: next(),
                operation: next(),
            }
        })
    }

    /// Spin for as long as the call would have cost, on top of what it took.
    fn charge(self, tally: &Tally) {
        let cost =
            self.call + self.hypercall * tally.hypercalls + self.operation * tally.operations;
        if cost == 0 {
            return;
        }
        let end = Instant::now() + Duration::from_nanos(cost);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }
}
