//! Segments merged as a worker merges those for one queue: nothing overtakes a packet that is open.
#![allow(dead_code, missing_docs)]
use xsk_bridge::offload::coalesce::{Coalescer, Copied, Room, Segment};
use xsk_bridge::packet::Offload;

/// Pages of memory, as many as are asked for up to a bound.
pub struct Pages {
    size: usize,
    most: usize,
    pages: Vec<Vec<u8>>,
}

impl Pages {
    pub fn new(size: usize, most: usize) -> Self {
        Self {
            size,
            most,
            pages: Vec::new(),
        }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = self.pages.concat();
        self.pages.clear();
        bytes.truncate(len);
        bytes
    }
}

impl Room for Pages {
    fn reserve(&mut self, len: usize) -> bool {
        let count = len.div_ceil(self.size);
        if count > self.most {
            return false;
        }
        self.pages
            .resize(self.pages.len().max(count), vec![0xee; self.size]);
        true
    }

    fn at(&mut self, position: usize) -> &mut [u8] {
        &mut self.pages[position / self.size][position % self.size..]
    }
}

/// A packet that leaves, and of how many it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub bytes: Vec<u8>,
    pub offload: Offload,
    pub segments: usize,
}

/// What leaves where `packets` arrive in one go; no packet is longer than `limit` or needs more pages than `pages` has.
pub fn coalesce(packets: &[Vec<u8>], limit: usize, pages: &mut Pages) -> Vec<Left> {
    let mut merge = Merge {
        coalescer: Coalescer::default(),
        first: None,
        pages,
        left: Vec::new(),
    };
    for packet in packets {
        merge.offer(packet, limit);
    }
    merge.close();
    merge.left
}

/// All that arrives in one go, into pages like a guest's.
pub fn merged(packets: &[Vec<u8>]) -> Vec<Left> {
    coalesce(packets, 65_535, &mut Pages::new(4096, 17))
}

struct Merge<'a> {
    coalescer: Coalescer,
    /// The first segment of the open packet.
    first: Option<&'a [u8]>,
    pages: &'a mut Pages,
    left: Vec<Left>,
}

impl<'a> Merge<'a> {
    fn offer(&mut self, packet: &'a [u8], limit: usize) {
        let Some(segment) = Segment::of(packet) else {
            self.close();
            return self.alone(packet);
        };
        if let Some(first) = self.first
            && let Some(len) = self.coalescer.takes(&segment, packet)
            && len <= limit
            && (self.coalescer.segments() > 0
                || self.coalescer.copy_first(first, self.pages) == Copied::Right)
        {
            match self.coalescer.append(&segment, packet, self.pages) {
                Copied::Right => return,
                Copied::Wrong => {
                    self.close();
                    return self.alone(packet);
                }
                Copied::NoRoom => {}
            }
        }
        self.close();
        match self.coalescer.begin(&segment, packet) {
            true => self.first = Some(packet),
            false => self.alone(packet),
        }
    }

    fn close(&mut self) {
        let Some(first) = self.first.take() else {
            return;
        };
        if self.coalescer.segments() == 0 {
            return self.alone(first);
        }
        let offload = self.coalescer.finish(self.pages);
        self.left.push(Left {
            bytes: self.pages.take(self.coalescer.len()),
            offload,
            segments: self.coalescer.segments(),
        });
    }

    fn alone(&mut self, packet: &[u8]) {
        self.left.push(Left {
            bytes: packet.to_vec(),
            offload: Offload::default(),
            segments: 1,
        });
    }
}
