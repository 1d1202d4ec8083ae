//! The uplink over AF_XDP: one socket on one queue of a device.
use crate::frame::Umem;
use crate::uplink::Counters;
use crate::xdp::Attachment;
use std::sync::Arc;
use std::time::Duration;

/// How to open a queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Never zero-copy. Sockets of one UMEM are all zero-copy or none: set it where the devices differ.
    pub copy: bool,
    /// SO_BUSY_POLL with SO_PREFER_BUSY_POLL: how long a receive call polls the driver.
    pub busy_poll: Option<Duration>,
}

/// Why the queue is not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// One queue of a device over AF_XDP.
#[derive(Debug)]
pub struct XskUplink {}

impl XskUplink {
    /// Bind `queue` of the device our program is on, with the rings of `umem`, and put the socket into the program's map.
    pub fn open(
        umem: &Umem,
        attachment: &Attachment,
        queue: u32,
        options: Options,
    ) -> Result<XskUplink, OpenError> {
        let _ = (umem, attachment, queue, options);
        todo!()
    }

    /// True when the driver reads and writes frames itself.
    pub fn zero_copy(&self) -> bool {
        todo!()
    }

    /// What this queue counts, to be read by any thread.
    pub fn counters(&self) -> Arc<Counters> {
        todo!()
    }
}
