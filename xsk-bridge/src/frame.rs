//! The process's one UMEM and its frames, as tokens that are moved and never copied.
//!
//! The memory is xsk-rs's where AF_XDP sockets use it ([`Umem::for_af_xdp`]) and an anonymous mapping otherwise
//! ([`Umem::new`]): everything but a socket takes either.
// Raw memory shared with the kernel and the hypervisor is turned into slices here, by the right of a token, and nowhere else.
#![allow(unsafe_code)]
use crate::packet::Packet;
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes of a frame: one page, so that a grant copy into it is one operation and AF_XDP accepts it.
pub const FRAME_SIZE: usize = 4096;
/// Where packet data starts in a frame: XDP_PACKET_HEADROOM (linux/bpf.h), the same for send and recv.
pub const DATA_OFFSET: usize = 256;
/// Most bytes of a packet in one frame.
pub const DATA_CAPACITY: usize = FRAME_SIZE - DATA_OFFSET;

/// A frame of the UMEM. Whoever has the token may touch the memory; not Clone, not Copy.
#[derive(Debug)]
pub struct Frame(pub(crate) u32);

impl Frame {
    /// Number of the frame in the UMEM.
    pub fn index(&self) -> u32 {
        self.0
    }

    /// Byte offset in the UMEM of the frame's data start.
    #[inline]
    pub fn data_offset(&self) -> u64 {
        self.0 as u64 * FRAME_SIZE as u64 + DATA_OFFSET as u64
    }
}

/// Descriptors of each ring of an AF_XDP socket, powers of two. The fill ring is as long as the receive ring, the completion
/// ring as long as the send ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rings {
    /// Fill and receive ring: frames the kernel may hold for packets to come.
    pub recv: u32,
    /// Send and completion ring: frames on their way out.
    pub send: u32,
}

impl Rings {
    /// Most frames one socket holds: its share in the sum that sizes the pool.
    pub const fn frames(&self) -> u32 {
        self.recv + self.send
    }
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            recv: 2048,
            send: 1024,
        }
    }
}

/// The process's one UMEM. Cheap to clone (shared), Send + Sync.
#[derive(Clone, Debug)]
pub struct Umem(Arc<Region>);

#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    len: usize,
    /// Frames that were with the kernel when their socket went away, not to be used again.
    quarantined: AtomicU32,
    /// By frame: the frame behind it in its packet. Written and read by whoever holds the packet; between threads a packet goes through
    /// a queue, which orders the accesses.
    links: Box<[AtomicU32]>,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Anonymous,
    #[cfg(feature = "af-xdp")]
    AfXdp(AfXdp),
}

/// What xsk-rs needs beside the memory: its handle, and the descriptor of each frame (it hands them out once, at creation).
#[cfg(feature = "af-xdp")]
#[derive(Debug)]
pub(crate) struct AfXdp {
    pub(crate) umem: xsk_rs::Umem,
    pub(crate) rings: Rings,
    descriptors: Box<[xsk_rs::FrameDesc]>,
    /// Whether the first socket was bound for packets in several frames: all sockets are what the first one is.
    pub(crate) multi_buffer: std::sync::OnceLock<bool>,
}

// SAFETY: `base` is a mapping that lives as long as the region; its bytes are reached only through frame tokens, of which
// there is one a frame.
unsafe impl Send for Region {}
// SAFETY: as above; the counter is atomic and xsk-rs's handle is Sync by itself.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        if matches!(self.backing, Backing::Anonymous) {
            // SAFETY: mapped by `Umem::new` with this length, and nobody holds the region any more.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

impl Umem {
    /// Allocate `frames` frames (anonymous memory, prefaulted) and all their tokens. No AF_XDP socket can use it.
    pub fn new(frames: u32) -> io::Result<(Umem, Vec<Frame>)> {
        if frames == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a UMEM needs at least one frame",
            ));
        }
        let len = frames as usize * FRAME_SIZE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap does not return page 0");
        Ok(Self::over(base, frames, Backing::Anonymous))
    }

    /// Allocate `frames` frames that AF_XDP sockets with rings of `rings` descriptors can use, and all their tokens. One for
    /// the process: every socket of every device and queue shares it.
    #[cfg(feature = "af-xdp")]
    pub fn for_af_xdp(frames: u32, rings: Rings) -> Result<(Umem, Vec<Frame>), UmemError> {
        use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
        let size = |n| QueueSize::new(n).map_err(|_| UmemError::RingSize(n));
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_SIZE as u32).expect("a page is a legal frame size"))
            .fill_queue_size(size(rings.recv)?)
            .comp_queue_size(size(rings.send)?)
            .build()
            .expect("a page holds the XDP headroom");
        let count = std::num::NonZeroU32::new(frames).ok_or(UmemError::NoFrames)?;
        let (umem, mut descriptors) =
            xsk_rs::Umem::new(config, count, false).map_err(|e| UmemError::from_xsk(&e, frames))?;
        let base = xsk_base(&umem, &mut descriptors[0]);
        let backing = Backing::AfXdp(AfXdp {
            umem,
            rings,
            descriptors: descriptors.into_boxed_slice(),
            multi_buffer: std::sync::OnceLock::new(),
        });
        Ok(Self::over(base, frames, backing))
    }

    fn over(base: NonNull<u8>, frames: u32, backing: Backing) -> (Umem, Vec<Frame>) {
        let region = Region {
            base,
            len: frames as usize * FRAME_SIZE,
            quarantined: AtomicU32::new(0),
            links: (0..frames).map(|_| AtomicU32::new(0)).collect(),
            backing,
        };
        (Umem(Arc::new(region)), (0..frames).map(Frame).collect())
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.0.base
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Frames in all. At any time: frames in pools + [`Held`](crate::device::Held) by devices + in packets +
    /// [`quarantined`](Self::quarantined) make this number; what is missing is a leak.
    pub fn frames(&self) -> u32 {
        (self.0.len / FRAME_SIZE) as u32
    }

    /// Frames that were in a ring when its socket was closed. The kernel may still write to or send from them, so they are out of use.
    pub fn quarantined(&self) -> u32 {
        self.0.quarantined.load(Relaxed)
    }

    /// The frame's data area, DATA_CAPACITY bytes.
    #[inline]
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: the token says that nobody writes to this frame while it is borrowed, and `start` is in the mapping.
        unsafe { slice::from_raw_parts(self.start(frame).as_ptr(), DATA_CAPACITY) }
    }

    /// The frame's data area, writable.
    #[inline]
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: there is one token a frame and it is borrowed mutably, so this is the only reference; in the mapping.
        unsafe { slice::from_raw_parts_mut(self.start(frame).as_ptr(), DATA_CAPACITY) }
    }

    /// All FRAME_SIZE bytes of the frame, headroom included: for memory that no packet device sees.
    #[inline]
    pub fn page<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: as in `data`; a frame is a whole page of the mapping.
        unsafe { slice::from_raw_parts(self.start(frame).as_ptr().sub(DATA_OFFSET), FRAME_SIZE) }
    }

    /// All FRAME_SIZE bytes of the frame, writable.
    #[inline]
    pub fn page_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `data_mut`; a frame is a whole page of the mapping.
        unsafe {
            slice::from_raw_parts_mut(self.start(frame).as_ptr().sub(DATA_OFFSET), FRAME_SIZE)
        }
    }

    /// Notes that `next` follows the frame with the number `previous` in a packet, whose chain owns it from here on.
    #[inline]
    pub(crate) fn link(&self, previous: u32, next: Frame) {
        self.0.links[previous as usize].store(next.0, Relaxed);
    }

    /// The data areas of `count` frames chained from the frame with the number `first`. The packet that owns the chain is borrowed by the
    /// caller for as long as the slices are.
    pub(crate) fn chain(&self, first: u32, count: u16) -> impl Iterator<Item = &[u8]> + Clone {
        let mut index = first;
        (0..count).map(move |n| {
            if n > 0 {
                index = self.0.links[index as usize].load(Relaxed);
            }
            // SAFETY: the caller's packet owns the frame and is borrowed, so nobody else writes to it; `at` checks the bounds.
            unsafe { slice::from_raw_parts(self.at(index).as_ptr(), DATA_CAPACITY) }
        })
    }

    /// The tokens of `count` frames chained from `first`.
    #[inline]
    pub(crate) fn unchain(&self, first: Frame, count: u16) -> impl Iterator<Item = Frame> + '_ {
        let mut index = first.0;
        (0..count).map(move |n| {
            if n > 0 {
                index = self.0.links[index as usize].load(Relaxed);
            }
            Frame(index)
        })
    }

    #[inline]
    fn start(&self, frame: &Frame) -> NonNull<u8> {
        self.at(frame.0)
    }

    /// First byte of the data of the frame with this number.
    #[inline]
    fn at(&self, index: u32) -> NonNull<u8> {
        let offset = Frame(index).data_offset() as usize;
        assert!(offset < self.0.len, "a frame of another UMEM");
        // SAFETY: within the mapping, by the line above.
        unsafe { self.0.base.add(offset) }
    }
}

#[cfg(feature = "af-xdp")]
impl Umem {
    pub(crate) fn af_xdp(&self) -> Option<&AfXdp> {
        match &self.0.backing {
            Backing::AfXdp(af_xdp) => Some(af_xdp),
            Backing::Anonymous => None,
        }
    }

    /// Note that `frames` tokens went down with a socket.
    pub(crate) fn quarantine(&self, frames: u32) {
        self.0.quarantined.fetch_add(frames, Relaxed);
    }

    /// Move `len` bytes of the frame from `offset` (from the frame's first byte) to where data starts: a driver that puts
    /// its own words before a packet shifts it.
    pub(crate) fn align_data(&self, frame: &mut Frame, offset: usize, len: usize) {
        let len = len
            .min(FRAME_SIZE - offset.min(FRAME_SIZE))
            .min(DATA_CAPACITY);
        let start = self.start(frame).as_ptr();
        // SAFETY: both ranges are in this frame, whose token we hold.
        unsafe { std::ptr::copy(start.sub(DATA_OFFSET).add(offset), start, len) };
    }
}

#[cfg(feature = "af-xdp")]
impl AfXdp {
    /// The descriptor of an untouched frame: its data start, no length.
    pub(crate) fn descriptor(&self, frame: &Frame) -> xsk_rs::FrameDesc {
        self.descriptors[frame.0 as usize]
    }

    /// The descriptor that sends the first `len` bytes of the frame's data.
    pub(crate) fn send_descriptor(&self, frame: &Frame, len: usize) -> xsk_rs::FrameDesc {
        let mut descriptor = self.descriptor(frame);
        // SAFETY: a descriptor of this UMEM whose token the caller holds; only its length is set, no byte is touched.
        unsafe { self.umem.data_mut(&mut descriptor) }
            .cursor()
            .set_pos(len);
        descriptor
    }
}

/// Where xsk-rs put its region: it tells no address, but lends the data area of a frame.
#[cfg(feature = "af-xdp")]
fn xsk_base(umem: &xsk_rs::Umem, first: &mut xsk_rs::FrameDesc) -> NonNull<u8> {
    assert_eq!(first.addr(), DATA_OFFSET, "xsk-rs's frame layout");
    // SAFETY: a descriptor of this UMEM, of which nobody else knows yet.
    let mut data = unsafe { umem.data_mut(first) };
    data.cursor().set_pos(DATA_CAPACITY);
    let address = data.contents_mut().as_mut_ptr().expose_provenance() - DATA_OFFSET;
    data.cursor().set_pos(0);
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("a mapping is not at 0")
}

/// Why there is no UMEM.
#[cfg(feature = "af-xdp")]
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// Asked for none.
    #[error("a UMEM needs at least one frame")]
    NoFrames,
    /// Ring sizes are powers of two.
    #[error("{0} is no ring size: use a power of two")]
    RingSize(u32),
    /// socket(AF_XDP) is not for everybody.
    #[error(
        "no permission for AF_XDP sockets: run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
    )]
    Permission,
    /// socket(AF_XDP): the kernel does not know the family.
    #[error("this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS")]
    NoAfXdp,
    /// The pages are charged to RLIMIT_MEMLOCK.
    #[error(
        "{0} frames of 4096 bytes are over the limit of locked memory: raise RLIMIT_MEMLOCK or grant CAP_IPC_LOCK"
    )]
    MemLock(u32),
    /// Anything else.
    #[error("cannot make a UMEM of {frames} frames: {source}")]
    Os {
        /// How many were asked for.
        frames: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

#[cfg(feature = "af-xdp")]
impl UmemError {
    fn from_xsk(error: &dyn std::error::Error, frames: u32) -> Self {
        let code = os_error(error);
        match code {
            Some(libc::EPERM | libc::EACCES) => Self::Permission,
            Some(libc::EAFNOSUPPORT) => Self::NoAfXdp,
            Some(libc::ENOBUFS) => Self::MemLock(frames),
            Some(code) => Self::Os {
                frames,
                source: io::Error::from_raw_os_error(code),
            },
            None => Self::Os {
                frames,
                source: io::Error::other(error.to_string()),
            },
        }
    }
}

/// The errno behind one of xsk-rs's errors.
#[cfg(feature = "af-xdp")]
pub(crate) fn os_error(error: &dyn std::error::Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

/// A worker's free frames.
#[derive(Debug)]
pub struct FramePool {
    free: Vec<Frame>,
    umem: Umem,
}

impl FramePool {
    /// An empty pool of frames of `umem`. Frames wander between workers, so it takes all of them without growing.
    pub fn new(umem: &Umem) -> Self {
        Self {
            free: Vec::with_capacity(umem.frames() as usize),
            umem: umem.clone(),
        }
    }

    /// A free frame; the one given back last, whose lines are still in the cache.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Gives a frame back.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        self.free.push(frame)
    }

    /// Gives all frames of a packet back.
    #[inline]
    pub fn recycle(&mut self, packet: Packet) {
        match packet.into_linear() {
            Ok(frame) => self.free.push(frame),
            Err(packet) => self.free.extend(packet.into_frames(&self.umem)),
        }
    }

    /// The UMEM whose frames these are.
    #[inline]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Number of free frames.
    #[inline]
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// True when there is no free frame.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
}

impl Extend<Frame> for FramePool {
    fn extend<T: IntoIterator<Item = Frame>>(&mut self, frames: T) {
        self.free.extend(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_has_its_own_bytes() {
        let (umem, mut frames) = Umem::new(4).unwrap();
        assert_eq!(umem.frames(), 4);
        for frame in &mut frames {
            let byte = frame.index() as u8 + 1;
            umem.data_mut(frame).fill(byte);
        }
        for frame in &frames {
            let byte = frame.index() as u8 + 1;
            assert!(umem.data(frame).iter().all(|b| *b == byte));
            assert_eq!(frame.data_offset() % FRAME_SIZE as u64, DATA_OFFSET as u64);
        }
        assert_eq!(umem.data(&frames[3]).len(), DATA_CAPACITY);
    }

    #[test]
    fn no_frames_is_an_error() {
        assert_eq!(
            Umem::new(0).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn the_pool_gives_back_what_was_given_last() {
        let (umem, frames) = Umem::new(3).unwrap();
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        assert_eq!(pool.len(), 3);
        let last = pool.take().unwrap();
        let index = last.index();
        pool.give(last);
        assert_eq!(pool.take().unwrap().index(), index);
        assert_eq!(pool.len(), 2);
    }

    #[test]
    #[should_panic(expected = "a frame of another UMEM")]
    fn a_token_of_a_larger_umem_reads_nothing() {
        let (small, _) = Umem::new(1).unwrap();
        let (_large, frames) = Umem::new(2).unwrap();
        small.data(&frames[1]);
    }
}
