//! What a guest counts, as its control socket reports it.
use serde::{Deserialize, Serialize};

/// One queue's counters; every one only grows, across reconnects too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueCounters {
    /// Packets handed to the backend.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Ring slots they took, extras included.
    pub tx_slots: u64,
    /// Of them, packets with `NETTXF_csum_blank`.
    pub tx_csum_blank: u64,
    /// Of them, packets with a GSO extra.
    pub tx_gso: u64,
    /// Packets that could not be sent: too large, or too many slots for a backend without feature-sg.
    pub tx_dropped: u64,
    /// Tx responses with status ERROR or DROPPED.
    pub tx_errors: u64,
    /// Multicast requests answered with ERROR: the backend's list was full.
    pub multicast_refused: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Ring slots they took, extras included.
    pub rx_slots: u64,
    /// Of them, packets with `NETRXF_csum_blank`.
    pub rx_csum_blank: u64,
    /// Of them, packets with `NETRXF_data_validated` and a complete checksum.
    pub rx_validated: u64,
    /// Packets lost to a negative status, a bad response or a blank checksum where there is none.
    pub rx_errors: u64,
    /// Rx responses whose id is not that of the request in their slot (Linux looks at the slot only).
    pub rx_wrong_ids: u64,
    /// Events we sent to the backend.
    pub notifications: u64,
    /// Events received.
    pub events: u64,
    /// Of them, events that no response called for (see [`super::owed`]).
    pub spurious_events: u64,
    /// Responses that Linux's netfront would complain about.
    pub protocol_errors: u64,
}

impl std::ops::AddAssign for QueueCounters {
    fn add_assign(&mut self, other: Self) {
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.tx_slots += other.tx_slots;
        self.tx_csum_blank += other.tx_csum_blank;
        self.tx_gso += other.tx_gso;
        self.tx_dropped += other.tx_dropped;
        self.tx_errors += other.tx_errors;
        self.multicast_refused += other.multicast_refused;
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.rx_slots += other.rx_slots;
        self.rx_csum_blank += other.rx_csum_blank;
        self.rx_validated += other.rx_validated;
        self.rx_errors += other.rx_errors;
        self.rx_wrong_ids += other.rx_wrong_ids;
        self.notifications += other.notifications;
        self.events += other.events;
        self.spurious_events += other.spurious_events;
        self.protocol_errors += other.protocol_errors;
    }
}

/// What the sink saw of frames made by generators (see [`super::generator`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkCounters {
    /// Generated frames received.
    pub frames: u64,
    /// Sequence numbers skipped so far.
    pub missing: u64,
    /// Frames whose sequence number was below one already seen: duplicates, or overtaken.
    pub late: u64,
    /// Generated frames whose contents were not as sent.
    pub corrupt: u64,
    /// Frames from elsewhere.
    pub other: u64,
}

/// A guest's answer to `counters`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its domain.
    pub domid: u16,
    /// The frontend's xenbus state as netfront holds it.
    pub state: u32,
    /// Queues in use; 0 while not connected.
    pub queues: usize,
    /// Why netfront disabled itself, if it did; only a reconnect revives it.
    pub disabled: Option<String>,
    /// The latest protocol error that did not disable it.
    pub last_protocol_error: Option<String>,
    /// Times that it connected, the first included.
    pub connects: u64,
    /// Rx buffers posted and not answered, all queues.
    pub rx_posted: u32,
    /// Tx slots not answered, all queues.
    pub tx_pending: u32,
    /// All queues together.
    pub total: QueueCounters,
    /// Each queue.
    pub queue: Vec<QueueCounters>,
    /// What the sink saw.
    pub sink: SinkCounters,
    /// Frames that the running generator has yet to send; `None`: it has no end, or there is none.
    pub generator_left: Option<u64>,
}
