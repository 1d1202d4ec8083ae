//! Every limit of the data path, each with the sum or the source that it comes from. Limits are in bytes, frames or operations; where one
//! is in packets, a packet counts with what it costs beside its bytes.
use ring::packet::MAX_DATA_SLOTS;
use std::time::Duration;
use xen::grant::PAGE_SIZE;
use xsk_bridge::frame::{FRAME_SIZE, Rings};
use xsk_bridge::packet::MAX_FRAMES;

/// Most bytes of a packet (netif.h: the size of a Tx request is 16 bits; an IP packet's limit the other way).
pub const MAX_PACKET: usize = 65_535;

/// Bytes of a packet that a turn, a queue's share and a backlog's share count at least: an operation of Xen's grant copy costs as much as
/// moving ten kilobytes, and answers, notifications and look-ups come on top.
pub const PACKET_COST: usize = 4096;
/// Most chains consumed in one turn over all queues: what a crash has sent twice, at most.
pub const TURN_CHAINS: usize = 128;
/// Bytes consumed in one turn over all queues, each chain counted with [`PACKET_COST`] at least; one packet may exceed it.
pub const TURN_BYTES: usize = TURN_CHAINS * PACKET_COST;
/// Bytes that a queue may consume in one turn before the others have had theirs (deficit round robin), counted as [`TURN_BYTES`].
pub const QUEUE_QUANTUM: usize = TURN_BYTES / 2;

/// Frames taken in one turn from one device; one packet of a host port may exceed it. No merged packet waits for another turn, and 45
/// segments fill one: 128 make 45, 45 and 38, where 64 made 45 and 19.
pub const TURN_RECEIVED: usize = 128;
/// Packets taken in one turn from all other workers.
pub const TURN_PARCELS: usize = 256;
/// Packets of one kind taken in one turn from one other worker.
pub const LANE_PARCELS: usize = 32;

/// Packets placed on Rx rings in one turn over all queues.
pub const TURN_PLACED: usize = 256;
/// Bytes that leave one backlog in one turn, each packet counted with [`PACKET_COST`] at least; one packet may exceed it.
pub const BACKLOG_QUANTUM: usize = 64 * PACKET_COST;
/// Most operations of one packet's copy into posted pages: each begins at an end of a fragment, of a piece, or of a page.
pub const PACKET_OPERATIONS: usize = 2 * MAX_DATA_SLOTS + MAX_PACKET.div_ceil(PAGE_SIZE);

/// A packet up to this size is fetched whole at once; of a longer one, [`HEAD_FETCH`] bytes for the switch to look at, and the rest goes
/// straight to where it belongs.
pub const WHOLE_FETCH: usize = PAGE_SIZE / 2;
/// Bytes fetched of a packet longer than [`WHOLE_FETCH`]: all headers (Linux's netback copies 128).
pub const HEAD_FETCH: usize = 256;

/// Pages of staging memory a worker uses: the heads of a turn, what lies behind the heads of eight packets of the longest kind, and small
/// packets towards guests. Where a turn has used them up, the rest waits for the next.
pub const STAGING_PAGES: usize = TURN_CHAINS * WHOLE_FETCH / PAGE_SIZE
    + 8 * MAX_DATA_SLOTS
    + TURN_PLACED * WHOLE_FETCH / PAGE_SIZE;
/// Bytes of staging memory that the intake of chains leaves: for the longest packet, and for packets towards guests.
pub const STAGING_KEPT: usize = (MAX_DATA_SLOTS + 2 * MAX_FRAMES) * PAGE_SIZE;

/// Most bytes that may wait for one guest queue, whatever the configuration asks for: four times Linux's limit (512 KiB since XSA-392).
pub const MAX_BACKLOG_BYTES: u32 = 2 * 1024 * 1024;
/// Most packets that wait for one guest queue: eight Rx rings' worth.
pub const BACKLOG_PACKETS: usize = 2048;
/// Most frames that hold the packets of one backlog: packets are packed, and the first and the last frame may be in part empty.
pub const BACKLOG_FRAMES: usize = MAX_BACKLOG_BYTES as usize / FRAME_SIZE + 2;
/// Frames that every backlog may hold, whatever others hold: 32 KiB.
pub const BACKLOG_MINIMUM: usize = 8;
/// Frames in the pool for the minimum of a worker's backlogs, which no backlog takes beyond its own minimum.
pub const BACKLOG_MINIMUMS: usize = 64 * BACKLOG_MINIMUM;
/// Frames in the pool for the backlogs of a worker: the minimum of 64, and eight full ones of the default size. Beyond its minimum one
/// backlog takes at most as many frames as it leaves free, so that many slow guests share them.
pub const BACKLOG_SHARE: usize = BACKLOG_MINIMUMS + 8 * 512 * 1024 / FRAME_SIZE;
/// Frames that the packets to be segmented of one turn are cut into: as many of the longest as a turn takes, at Ethernet's MTU.
pub const TURN_SEGMENTS: usize = (TURN_BYTES / MAX_PACKET + 1) * MAX_PACKET.div_ceil(1448);
/// Free frames that no backlog touches: what a turn sends to devices and to other workers, segments and copies of floods included.
pub const BACKLOG_RESERVE: usize = TURN_CHAINS + TURN_SEGMENTS + MAX_FRAMES + FLOOD_COPIES;

/// Bytes of copies that floods from one port may cost in one turn, each copy counted with [`FLOOD_COST`] at least. The uplink's copy is
/// not counted, and is made first.
pub const FLOOD_BYTES: usize = 256 * FLOOD_COST;
/// Bytes that a copy of a flooded packet counts at least.
pub const FLOOD_COST: usize = 1024;
/// Frames that the floods of one turn take at most, over all ports.
pub const FLOOD_COPIES: usize = 256;

/// Frames that wait for room in a device's send ring. Queues stop consuming when there is no room; this takes what was on its way already
/// (a turn of queues that had not sent to the device before, floods, other workers' packets).
pub const OUTBOX: usize = 256;
/// How long a queue's requests wait because the destination of its last packets is full; then packets for that destination are dropped by
/// name, and those for others go on. A device at line rate empties a send ring of 1024 frames in 12 ms at 1 Gbit/s.
pub const HOLD: Duration = Duration::from_millis(50);

/// How long packets may wait for a guest because of its rate: a queue that is longer costs every connection that much more delay.
pub const PACED_WAIT: Duration = Duration::from_millis(100);
/// Bytes that may wait for a guest because of its rate, however low it is: two packets of the longest kind.
pub const PACED_LEAST: usize = 2 * MAX_PACKET;
/// Segments that a packet for a device is worth a call of its own for, where the device segments itself and AF_XDP copies: on the
/// emulated machine a call costs 32 us before the bytes are counted, and a frame by AF_XDP 12.
pub const LANE_SEGMENTS: usize = 4;
/// How long to wait before a packet that the kernel had no room for is tried again: it copies up to 64 KB before it finds that out. At
/// 10 Gbit/s the longest packet leaves in 52 us.
pub const LANE_RETRY: Duration = Duration::from_micros(100);
/// Packets that wait behind one that the kernel had no room for: what a device queue may bring in one turn.
pub const KEPT: usize = 1024 + OUTBOX;

/// Packets that one worker has sent to another and that are not taken yet, for guests and for devices each.
pub const PARCELS: usize = 256;
/// Frames on their way home that their owner has not taken yet; what does not fit waits where it is.
pub const HOMEBOUND: usize = 1024;

/// How long payload goes by staging memory, rather than from page to page, after a page-to-page copy failed: Xen does not say on which
/// side, so both are suspected, and the copy in two steps tells which.
pub const SUSPICION: Duration = Duration::from_secs(1);

/// Frames that all workers together need so that none is ever missing where no backlog is full: the sum of everybody who can hold some.
/// Between workers a packet counts as one frame; where packets of several fill that way, the pool may run dry, and packets are dropped by
/// name (`no_frame`).
pub fn frames_needed(workers: u32, uplink_queues: u32, rings: Rings, host_queues: u32) -> u32 {
    let (workers, uplinks) = (workers as usize, uplink_queues as usize);
    let hosts = host_queues as usize;
    let worker = BACKLOG_RESERVE + BACKLOG_SHARE + TURN_RECEIVED + STAGING_PAGES;
    // A packet of which a part has come is beside the rings, and the last one that waits to be sent may have many frames.
    let uplink = rings.frames() as usize + 2 * MAX_FRAMES + OUTBOX;
    // Between each two workers: packets for guests and for devices, and frames on their way home.
    let lane = 2 * PARCELS + HOMEBOUND;
    // What a host port reads into, and the packets of a turn's look at it.
    let host = 2 * MAX_FRAMES + TURN_RECEIVED;
    let sum = workers * worker
        + uplinks * uplink
        + hosts * host
        + workers * workers.saturating_sub(1) * lane;
    u32::try_from(sum).unwrap_or(u32::MAX)
}
