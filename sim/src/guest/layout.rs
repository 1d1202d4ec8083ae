//! How a packet lies in the guest's pages, and so how many slots it takes.
use super::frame::{ETHERNET, locate};
use std::str::FromStr;

/// Bytes of a page.
const PAGE: usize = 4096;
/// Linux gives up above this many slots and linearises (`MAX_XEN_SKB_FRAGS + 1`).
pub const MAX_SLOTS: usize = 18;
/// Where payload fragments come from in Linux: a 32 KiB area that sockets fill one behind the other.
const AREA: usize = 32 * 1024;

/// Which shape packets are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// As Linux's stack builds them: TCP headers in a slot of their own and payload where the socket's area left it,
    /// anything else in one piece at a rolling offset that sometimes crosses a page.
    #[default]
    Linux,
    /// In as few slots as can be, from the start of a page.
    Linear,
    /// A first slot and then pieces of this many bytes, until only one slot is left for the rest.
    Scatter(u16),
}

impl FromStr for Layout {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("scatter=").map(str::parse)) {
            ("linux", _) => Ok(Self::Linux),
            ("linear", _) => Ok(Self::Linear),
            (_, Some(Ok(size @ 1..=4096))) => Ok(Self::Scatter(size)),
            _ => Err(format!(
                "\"{text}\" is not a layout: linux, linear, scatter=<1..4096>"
            )),
        }
    }
}

/// One slot's data: `size` bytes at `offset` of a page of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the page.
    pub offset: u16,
    /// Bytes; `offset + size <= 4096`.
    pub size: u16,
}

/// Cuts packets up; remembers where the last one ended, as an allocator does.
#[derive(Debug, Default)]
pub struct Cutter {
    layout: Layout,
    linear_at: usize,
    area_at: usize,
    pieces: Vec<Piece>,
}

impl Cutter {
    /// A cutter for one queue.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            pieces: Vec::with_capacity(2 * MAX_SLOTS),
            ..Self::default()
        }
    }

    /// The pieces of `frame` in order: at least one, at most [`MAX_SLOTS`], the first at least 14 bytes (or the whole
    /// frame); `single` forces one slot. `None`: it cannot be sent so.
    pub fn cut(&mut self, frame: &[u8], single: bool) -> Option<&[Piece]> {
        self.pieces.clear();
        if single {
            self.pieces(0, frame.len());
            return (self.pieces.len() == 1).then_some(self.pieces.as_slice());
        }
        match self.layout {
            Layout::Linux => self.as_linux(frame),
            Layout::Linear => self.pieces(0, frame.len()),
            Layout::Scatter(size) => self.scatter(usize::from(size), frame.len()),
        }
        if self.pieces.len() > MAX_SLOTS
            || usize::from(self.pieces.first()?.size) < ETHERNET.min(frame.len())
        {
            // skb_linearize, or the bounce that Linux does for a first slot below an Ethernet header.
            self.pieces.clear();
            self.pieces(0, frame.len());
        }
        (self.pieces.len() <= MAX_SLOTS).then_some(self.pieces.as_slice())
    }

    /// `size` bytes from `offset` of a run of pages.
    fn pieces(&mut self, mut offset: usize, mut size: usize) {
        while size > 0 {
            offset %= PAGE;
            let here = size.min(PAGE - offset);
            // Both are at most PAGE.
            self.pieces.push(Piece {
                offset: offset as u16,
                size: here as u16,
            });
            offset += here;
            size -= here;
        }
    }

    fn as_linux(&mut self, frame: &[u8]) {
        let payload = locate(frame)
            .filter(|l4| l4.tcp)
            .and_then(|l4| l4.payload(frame))
            .filter(|at| *at < frame.len());
        // skb heads are cache-line aligned with an odd reserve before the Ethernet header.
        self.linear_at = (self.linear_at + 704) % PAGE;
        let head = payload.unwrap_or(frame.len());
        self.pieces(self.linear_at + 2, head);
        let rest = frame.len() - head;
        if rest > 0 {
            if self.area_at + rest > AREA {
                self.area_at = 0;
            }
            self.pieces(self.area_at, rest);
            self.area_at += rest;
        }
    }

    fn scatter(&mut self, size: usize, mut left: usize) {
        let mut here = size.max(ETHERNET).min(left);
        while left > 0 {
            if self.pieces.len() == MAX_SLOTS - 1 {
                here = left;
            }
            // The whole rest may not fit one page: `cut` then falls back to the linear shape.
            let offset = if here <= PAGE {
                (PAGE - here).min(self.pieces.len() * 64)
            } else {
                0
            };
            self.pieces(offset, here);
            left -= here;
            here = size.min(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP/IPv4 frame of `size` bytes.
    fn tcp(size: usize) -> Vec<u8> {
        let mut frame = vec![0u8; size];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = 6;
        frame[46] = 0x80;
        frame
    }

    #[test]
    fn every_cut_covers_the_frame_within_pages_and_slots() {
        for layout in [
            Layout::Linux,
            Layout::Linear,
            Layout::Scatter(1),
            Layout::Scatter(100),
            Layout::Scatter(4096),
        ] {
            let mut cutter = Cutter::new(layout);
            for size in (54..1600).step_by(7).chain([4096, 9000, 40_000, 65_535]) {
                for frame in [tcp(size), vec![0; size]] {
                    let pieces = cutter.cut(&frame, false).unwrap();
                    assert!(
                        pieces.len() <= MAX_SLOTS,
                        "{layout:?} {size}: {} slots",
                        pieces.len()
                    );
                    assert!(usize::from(pieces[0].size) >= ETHERNET);
                    assert!(
                        pieces
                            .iter()
                            .all(|p| p.size > 0
                                && usize::from(p.offset) + usize::from(p.size) <= PAGE)
                    );
                    assert_eq!(
                        pieces.iter().map(|p| usize::from(p.size)).sum::<usize>(),
                        size
                    );
                }
            }
        }
    }

    #[test]
    fn tcp_as_linux_sends_it_has_its_headers_apart_and_sometimes_a_third_slot() {
        let mut cutter = Cutter::new(Layout::Linux);
        let frame = tcp(1514);
        let counts: Vec<usize> = (0..64)
            .map(|_| cutter.cut(&frame, false).unwrap().len())
            .collect();
        assert!(counts.contains(&2) && counts.contains(&3));
    }

    #[test]
    fn without_scatter_gather_a_packet_has_one_slot_or_is_not_sent() {
        let mut cutter = Cutter::new(Layout::Linux);
        assert_eq!(cutter.cut(&tcp(1514), true).unwrap().len(), 1);
        assert_eq!(cutter.cut(&tcp(5000), true), None);
    }
}
