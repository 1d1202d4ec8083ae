//! Segments merged as a worker merges those for one queue: nothing of a stream overtakes the stream's packet that is open.
#![allow(dead_code, missing_docs)]
use xsk_bridge::offload::coalesce::{Coalescer, Copied, Room, Segment};
use xsk_bridge::offload::flows::{Behind, Flows, OPEN_FLOWS};
use xsk_bridge::packet::Offload;

/// Pages of memory, as many as are asked for up to a bound.
#[derive(Clone)]
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
pub fn coalesce(packets: &[Vec<u8>], limit: usize, pages: &Pages) -> Vec<Left> {
    let open = || Open {
        coalescer: Coalescer::default(),
        first: &[],
        pages: pages.clone(),
    };
    let mut merge = Merge {
        flows: Flows::default(),
        open: std::array::from_fn(|_| open()),
        recent: None,
        left: Vec::new(),
    };
    for packet in packets {
        merge.offer(packet, limit);
    }
    merge.close_all();
    merge.left
}

/// All that arrives in one go, into pages like a guest's.
pub fn merged(packets: &[Vec<u8>]) -> Vec<Left> {
    coalesce(packets, 65_535, &Pages::new(4096, 17))
}

/// Packets by stream, those of one in the order in which they are: nothing is said of the order of streams.
pub fn in_streams(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.sort_by(|a, b| stream(a).cmp(&stream(b)));
    packets
}

/// What tells a packet's stream from others: EtherType, protocol, addresses and ports.
pub fn stream(packet: &[u8]) -> [&[u8]; 3] {
    let at = |from: usize, to: usize| packet.get(from..to).unwrap_or_default();
    match at(12, 14) {
        [8, 0] => [at(12, 14), at(23, 24), at(26, 38)],
        _ => [at(12, 14), at(20, 21), at(22, 58)],
    }
}

struct Open<'a> {
    coalescer: Coalescer,
    first: &'a [u8],
    pages: Pages,
}

impl<'a> Open<'a> {
    fn append(&mut self, segment: &Segment, packet: &[u8], limit: usize) -> Copied {
        let coalescer = &mut self.coalescer;
        if coalescer.segments() == 0 {
            coalescer.set_headers(self.first);
        }
        let fits = coalescer
            .takes(segment, packet)
            .is_some_and(|len| len <= limit);
        if !fits
            || coalescer.segments() == 0
                && coalescer.copy_first(self.first, &mut self.pages) != Copied::Right
        {
            return Copied::NoRoom;
        }
        coalescer.append(segment, packet, &mut self.pages)
    }

    /// As [`Self::append`], of a segment that has the packet's headers.
    fn follow(&mut self, segment: &Segment, packet: &[u8], limit: usize) -> Copied {
        let fits = self
            .coalescer
            .follows(segment)
            .is_some_and(|len| len <= limit);
        match fits {
            true => self.coalescer.append(segment, packet, &mut self.pages),
            false => Copied::NoRoom,
        }
    }
}

struct Merge<'a> {
    flows: Flows,
    open: [Open<'a>; OPEN_FLOWS],
    /// The place of the packet that grew last, while the packet is open.
    recent: Option<usize>,
    left: Vec<Left>,
}

impl<'a> Merge<'a> {
    fn offer(&mut self, packet: &'a [u8], limit: usize) {
        if let Some(place) = self.recent {
            let open = &mut self.open[place];
            let next = open.coalescer.next(packet);
            if next.is_some_and(|segment| open.follow(&segment, packet, limit) == Copied::Right) {
                return;
            }
        }
        let Some(segment) = Segment::of(packet) else {
            match Behind::of(packet) {
                Behind::Nothing => {}
                Behind::Flow(flow) => {
                    if let Some(place) = self.flows.find(flow) {
                        self.close(place);
                    }
                }
                Behind::Everything => self.close_all(),
            }
            return self.alone(packet);
        };
        if let Some(place) = self.flows.find(segment.flow()) {
            match self.open[place].append(&segment, packet, limit) {
                Copied::Right => return self.recent = Some(place),
                Copied::Wrong => {
                    self.close(place);
                    return self.alone(packet);
                }
                Copied::NoRoom => self.close(place),
            }
        }
        if segment.is_last() {
            return self.alone(packet);
        }
        let place = self.flows.vacant().unwrap_or_else(|oldest| {
            self.close(oldest);
            oldest
        });
        self.flows.open(place, segment.flow());
        self.open[place].coalescer.begin(&segment);
        self.open[place].first = packet;
    }

    fn close_all(&mut self) {
        while let Some(place) = self.flows.any() {
            self.close(place);
        }
    }

    fn close(&mut self, place: usize) {
        self.flows.close(place);
        self.recent = self.recent.filter(|&recent| recent != place);
        let Open {
            coalescer,
            first,
            pages,
        } = &mut self.open[place];
        if coalescer.segments() == 0 {
            let first = *first;
            return self.alone(first);
        }
        let offload = coalescer.finish(pages);
        let left = Left {
            bytes: pages.take(coalescer.len()),
            offload,
            segments: coalescer.segments(),
        };
        self.left.push(left);
    }

    fn alone(&mut self, packet: &[u8]) {
        self.left.push(Left {
            bytes: packet.to_vec(),
            offload: Offload::default(),
            segments: 1,
        });
    }
}
