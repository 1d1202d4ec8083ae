//! What `netback status` shows, as the control socket sends it (JSON) and as a table.
use crate::observe::counters::{Drops, QueueStats, RingGauges, UplinkStats};
use crate::vif::features::Features;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Packets dropped, by the name of the reason; reasons that never happened are absent.
pub type DropCounts = BTreeMap<String, u64>;

/// The whole process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// The domain it runs in.
    pub domid: u16,
    /// Where the UMEM's frames are.
    pub frames: Frames,
    /// Threads of the data plane.
    pub workers: Vec<Worker>,
    /// Bridges, in the configuration's order.
    pub bridges: Vec<Bridge>,
    /// Devices.
    pub uplinks: Vec<Uplink>,
    /// Guests' interfaces.
    pub vifs: Vec<Vif>,
}

/// Frames of the UMEM by holder. The counts are read one after the other while packets move, so they add up to `total` only when nothing moves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Frames {
    /// All there are.
    pub total: u64,
    /// On free lists.
    pub free: u64,
    /// In backlogs of guests' queues.
    pub backlog: u64,
    /// Between workers.
    pub travelling: u64,
    /// With the kernel, to receive into.
    pub fill: u64,
    /// With the kernel, being sent.
    pub send: u64,
    /// Lost to the kernel with a socket.
    pub quarantined: u64,
    /// In none of these places: inside a worker's turn, or leaked where it stays so at rest.
    pub unaccounted: i64,
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// Guest queues it serves.
    pub queues: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Turns that found work.
    pub busy_turns: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Grant-copy calls.
    pub copy_calls: u64,
    /// Segments in them.
    pub copy_segments: u64,
    /// Packets in them.
    pub copy_packets: u64,
    /// Frames on its free list.
    pub frames_free: u64,
}

/// A bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its device, if any.
    pub uplink: Option<String>,
    /// Addresses learnt.
    pub learnt: usize,
    /// Times an address was not learnt for lack of room.
    pub not_learnt: u64,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Uplink {
    /// The interface.
    pub ifname: String,
    /// The bridge it is on.
    pub bridge: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The driver reads and writes frames itself.
    pub zero_copy: bool,
    /// It is up and has a carrier.
    pub link_up: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Queues.
    pub queues: Vec<UplinkQueue>,
}

/// A queue of a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UplinkQueue {
    /// Its number on the device.
    pub queue: u32,
    /// The worker that serves it.
    pub worker: u8,
    /// Frames received from the wire.
    pub recv_packets: u64,
    /// Their bytes.
    pub recv_bytes: u64,
    /// Frames sent.
    pub send_packets: u64,
    /// Their bytes.
    pub send_bytes: u64,
    /// Received and dropped.
    pub recv_drops: DropCounts,
    /// To be sent and dropped.
    pub send_drops: DropCounts,
    /// Frames with the kernel to receive into.
    pub held_fill: u64,
    /// Frames with the kernel being sent.
    pub held_send: u64,
    /// What the kernel counts of the socket, by its names.
    pub kernel: BTreeMap<String, u64>,
}
impl UplinkQueue {
    /// From a worker's counters.
    pub fn new(queue: u32, worker: u8, stats: &UplinkStats) -> Self {
        Self {
            queue,
            worker,
            recv_packets: stats.recv_packets.get(),
            recv_bytes: stats.recv_bytes.get(),
            send_packets: stats.send_packets.get(),
            send_bytes: stats.send_bytes.get(),
            recv_drops: drop_counts(&stats.recv_drops),
            send_drops: drop_counts(&stats.send_drops),
            held_fill: stats.held_fill.get(),
            held_send: stats.held_send.get(),
            kernel: BTreeMap::new(),
        }
    }
}

/// A guest's interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vif {
    /// `<domid>/<devid>`, as `netback disconnect` takes it.
    pub vif: String,
    /// The guest.
    pub domid: u16,
    /// The interface's number in it.
    pub devid: u32,
    /// The guest's MAC.
    pub mac: Option<String>,
    /// The bridge it is to be on.
    pub bridge: Option<String>,
    /// `served`, `waiting`, `refused`, `disabled`, `closing`, `closed`.
    pub service: String,
    /// Why it is refused or disabled.
    pub reason: Option<String>,
    /// Our state in xenstore.
    pub backend_state: String,
    /// The frontend's state in xenstore.
    pub frontend_state: String,
    /// What was negotiated; none where it is not served.
    pub features: Option<Features>,
    /// Queues in service.
    pub queues: Vec<Queue>,
}

/// Indices of a ring, free-running.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ring {
    /// Requests published by the frontend.
    pub req_prod: u64,
    /// Requests consumed.
    pub req_cons: u64,
    /// Where we asked to be woken.
    pub req_event: u64,
    /// Responses published.
    pub rsp_prod: u64,
    /// Responses written.
    pub rsp_prod_pvt: u64,
    /// Where the frontend asked to be woken.
    pub rsp_event: u64,
}
impl From<&RingGauges> for Ring {
    fn from(ring: &RingGauges) -> Self {
        Self {
            req_prod: ring.req_prod.get(),
            req_cons: ring.req_cons.get(),
            req_event: ring.req_event.get(),
            rsp_prod: ring.rsp_prod.get(),
            rsp_prod_pvt: ring.rsp_prod_pvt.get(),
            rsp_event: ring.rsp_event.get(),
        }
    }
}

/// A queue of a guest's interface; Tx and Rx are the guest's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Queue {
    /// Its number.
    pub queue: u16,
    /// The worker that serves it.
    pub worker: u8,
    /// Packets the guest sent that were forwarded.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Tx slots answered with ERROR.
    pub tx_errors: u64,
    /// Packets the guest sent that went nowhere.
    pub tx_drops: DropCounts,
    /// Packets that reached the guest.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Rx slots answered with an error.
    pub rx_errors: u64,
    /// Packets for the guest that did not reach it.
    pub rx_drops: DropCounts,
    /// Events sent to the frontend.
    pub notifications: u64,
    /// Events from the frontend.
    pub events: u64,
    /// Blank checksums completed.
    pub checksums_completed: u64,
    /// Packets to be segmented whose checksum was not said to be blank, and taken for it.
    pub checksum_fixups: u64,
    /// Bytes waiting for Rx slots.
    pub backlog_bytes: u64,
    /// Packets waiting for Rx slots.
    pub backlog_packets: u64,
    /// The Tx ring.
    pub tx_ring: Ring,
    /// The Rx ring.
    pub rx_ring: Ring,
}
impl Queue {
    /// From a worker's counters.
    pub fn new(queue: u16, worker: u8, stats: &QueueStats) -> Self {
        Self {
            queue,
            worker,
            tx_packets: stats.tx_packets.get(),
            tx_bytes: stats.tx_bytes.get(),
            tx_errors: stats.tx_errors.get(),
            tx_drops: drop_counts(&stats.tx_drops),
            rx_packets: stats.rx_packets.get(),
            rx_bytes: stats.rx_bytes.get(),
            rx_errors: stats.rx_errors.get(),
            rx_drops: drop_counts(&stats.rx_drops),
            notifications: stats.notifications.get(),
            events: stats.events.get(),
            checksums_completed: stats.checksums_completed.get(),
            checksum_fixups: stats.checksum_fixups.get(),
            backlog_bytes: stats.backlog_bytes.get(),
            backlog_packets: stats.backlog_packets.get(),
            tx_ring: (&stats.tx_ring).into(),
            rx_ring: (&stats.rx_ring).into(),
        }
    }
}

fn drop_counts(drops: &Drops) -> DropCounts {
    drops
        .nonzero()
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .collect()
}

/// The table for people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "netback {} in domain {}, process {}, up {}",
            self.version,
            self.domid,
            self.pid,
            duration(self.uptime_seconds)
        )?;
        let frames = &self.frames;
        writeln!(
            f,
            "frames   {} in all: {} free, {} to receive into, {} being sent, {} in backlogs, {} between workers, {} lost",
            frames.total,
            frames.free,
            frames.fill,
            frames.send,
            frames.backlog,
            frames.travelling,
            frames.quarantined
        )?;
        for worker in &self.workers {
            writeln!(
                f,
                "worker {} {} queues, {} turns ({} with work), {} sleeps, {} copy calls for {} packets",
                worker.index,
                worker.queues,
                worker.turns,
                worker.busy_turns,
                worker.sleeps,
                worker.copy_calls,
                worker.copy_packets
            )?;
        }
        for bridge in &self.bridges {
            let uplink = bridge.uplink.as_deref().unwrap_or("no uplink");
            writeln!(
                f,
                "bridge   {}: {uplink}, {} addresses learnt",
                bridge.name, bridge.learnt
            )?;
        }
        self.uplinks.iter().try_for_each(|uplink| uplink.fmt(f))?;
        if self.vifs.is_empty() {
            writeln!(
                f,
                "no vif: no guest has an interface with this domain as its backend"
            )?;
        }
        self.vifs.iter().try_for_each(|vif| vif.fmt(f))
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let link = if self.link_up { "up" } else { "DOWN" };
        writeln!(
            f,
            "uplink   {} on {}: link {link}, mtu {}, XDP {} {copy}, {} queues",
            self.ifname,
            self.bridge,
            self.mtu,
            self.xdp_mode,
            self.queues.len()
        )?;
        for queue in &self.queues {
            writeln!(
                f,
                "  queue {} (worker {})  recv {} packets {} bytes{}  send {} packets {} bytes{}",
                queue.queue,
                queue.worker,
                queue.recv_packets,
                queue.recv_bytes,
                dropped(&queue.recv_drops),
                queue.send_packets,
                queue.send_bytes,
                dropped(&queue.send_drops)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Vif {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "vif      {} on {}: {}, mac {}, backend {}, frontend {}",
            self.vif,
            self.bridge.as_deref().unwrap_or("-"),
            self.service,
            self.mac.as_deref().unwrap_or("-"),
            self.backend_state,
            self.frontend_state
        )?;
        if let Some(reason) = &self.reason {
            writeln!(f, "  because {reason}")?;
        }
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  queue {} (worker {})  tx {} packets {} bytes{}  rx {} packets {} bytes{}",
            self.queue,
            self.worker,
            self.tx_packets,
            self.tx_bytes,
            dropped(&self.tx_drops),
            self.rx_packets,
            self.rx_bytes,
            dropped(&self.rx_drops)
        )?;
        writeln!(
            f,
            "    tx ring {}/{}/{}  rx ring {}/{}/{} (req_prod/req_cons/rsp_prod)  backlog {} packets {} bytes  checksums {} completed {} repaired",
            self.tx_ring.req_prod,
            self.tx_ring.req_cons,
            self.tx_ring.rsp_prod,
            self.rx_ring.req_prod,
            self.rx_ring.req_cons,
            self.rx_ring.rsp_prod,
            self.backlog_packets,
            self.backlog_bytes,
            self.checksums_completed,
            self.checksum_fixups
        )
    }
}

/// `, dropped 3 runt 1 no_frame`, or nothing.
fn dropped(drops: &DropCounts) -> String {
    if drops.is_empty() {
        return String::new();
    }
    drops
        .iter()
        .fold(", dropped".to_owned(), |mut text, (reason, count)| {
            // Writing to a String cannot fail.
            let _ = write!(text, " {count} {reason}");
            text
        })
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
