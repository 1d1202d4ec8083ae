//! The process's one UMEM and its frames, as tokens that are moved and never copied.
/// Bytes of a frame: one page, so that a grant copy into it is one operation and AF_XDP accepts it.
pub const FRAME_SIZE: usize = 4096;
/// Where packet data starts in a frame: XDP_PACKET_HEADROOM, the same for send and recv.
pub const DATA_OFFSET: usize = 256;
/// Most bytes of a packet in one frame.
pub const DATA_CAPACITY: usize = FRAME_SIZE - DATA_OFFSET;

/// A frame of the UMEM. Whoever has the token may touch the memory; not Clone, not Copy.
#[derive(Debug)]
pub struct Frame(pub(crate) u32);
impl Frame {
    /// Number of the frame in the UMEM.
    pub fn index(&self) -> u32 { self.0 }
    /// Byte offset in the UMEM of the frame's data start.
    pub fn data_offset(&self) -> u64 { self.0 as u64 * FRAME_SIZE as u64 + DATA_OFFSET as u64 }
}

/// The process's one UMEM. Cheap to clone (shared), Send + Sync.
#[derive(Clone, Debug)]
pub struct Umem { /* Arc */ }
impl Umem {
    /// Allocate `frames` frames (anonymous memory, prefaulted) and all their tokens.
    pub fn new(frames: u32) -> std::io::Result<(Umem, Vec<Frame>)> { todo!() }
    /// First byte.
    pub fn base(&self) -> std::ptr::NonNull<u8> { todo!() }
    /// Bytes.
    pub fn len(&self) -> usize { todo!() }
    /// The frame's data area, DATA_CAPACITY bytes.
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] { todo!() }
    /// The frame's data area, writable.
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] { todo!() }
}

/// A worker's free list.
#[derive(Debug, Default)]
pub struct FramePool { free: Vec<Frame> }
impl FramePool {
    pub fn with_capacity(frames: usize) -> Self { Self { free: Vec::with_capacity(frames) } }
    pub fn take(&mut self) -> Option<Frame> { self.free.pop() }
    pub fn give(&mut self, frame: Frame) { self.free.push(frame) }
    pub fn len(&self) -> usize { self.free.len() }
    pub fn is_empty(&self) -> bool { self.free.is_empty() }
}
