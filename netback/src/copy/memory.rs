//! The UMEM as memory that grant copies go to and come from.
#![allow(unsafe_code)] // `LocalMemory` is an unsafe trait: its implementer vouches for the memory.
use std::ptr::NonNull;
use xen::grant::LocalMemory;
use xsk_bridge::frame::Umem;

/// The UMEM, as the copies of a worker see it.
pub(crate) struct UmemMemory(pub Umem);

// SAFETY: the UMEM is one mapping that lives as long as a clone of it. A copy names bytes of frames whose tokens the worker holds, in
// its batch or in a packet, and the worker, one thread, has no reference to a frame's data while it makes the call.
unsafe impl LocalMemory for UmemMemory {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
