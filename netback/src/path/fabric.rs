//! Everything that a worker's packets come from and go to.
use super::ports::Ports;
use super::uplink::UplinkQueue;
use crate::bounds::FLOOD_BYTES;
use crate::hypervisor::Hypervisor;
use crate::queue::Queue;
use crate::worker::mailbox::MeshEnd;
use std::time::Instant;
use xsk_bridge::frame::FramePool;
use xsk_bridge::switch::PortId;

/// The queues and devices of a worker, its neighbours, and its frames.
pub(crate) struct Fabric<H: Hypervisor> {
    /// The queues, by slot.
    pub queues: Vec<Option<Queue<H>>>,
    /// The device queues, by slot.
    pub uplinks: Vec<Option<UplinkQueue>>,
    pub ports: Ports,
    pub mesh: MeshEnd,
    /// By worker: the turn in which a packet for that worker was last deferred. No later packet of that turn may overtake it.
    pub barriers: Vec<u64>,
    pub pool: FramePool,
    /// Queues with a backlog, by slot.
    pub waiting: Vec<u16>,
    /// When the turn began.
    pub now: Instant,
    floods: FloodBudget,
}

impl<H: Hypervisor> Fabric<H> {
    pub fn new(ports: Ports, mesh: MeshEnd, pool: FramePool) -> Self {
        Self {
            queues: Vec::new(),
            uplinks: Vec::new(),
            ports,
            barriers: vec![0; mesh.workers()],
            mesh,
            pool,
            waiting: Vec::new(),
            now: Instant::now(),
            floods: FloodBudget::default(),
        }
    }

    /// Begins a turn.
    pub fn begin(&mut self) {
        self.now = Instant::now();
        self.mesh.collect_frames(&mut self.pool);
        for uplink in self.uplinks.iter_mut().flatten() {
            uplink.begin(&mut self.pool, self.now);
        }
    }

    /// Bytes of copies that floods from `port` may still cost in the turn with this number.
    pub fn flood_budget(&mut self, port: PortId, turn: u64) -> &mut usize {
        self.floods.of(port, turn)
    }
}

/// What the floods of each port may still cost in a turn. No port's share is another's.
#[derive(Debug, Default)]
struct FloodBudget {
    /// By port number: the turn, and what is left of the port's share in it.
    left: Vec<(u64, usize)>,
}

impl FloodBudget {
    fn of(&mut self, port: PortId, turn: u64) -> &mut usize {
        let at = usize::from(port.0);
        if self.left.len() <= at {
            self.left.resize(at + 1, (0, 0));
        }
        let (last, left) = &mut self.left[at];
        if *last != turn {
            (*last, *left) = (turn, FLOOD_BYTES);
        }
        left
    }
}

/// The queue in `slot`, unless it broke the protocol.
#[inline]
pub(crate) fn live<H: Hypervisor>(
    queues: &mut [Option<Queue<H>>],
    slot: u16,
) -> Option<&mut Queue<H>> {
    queues[usize::from(slot)]
        .as_mut()
        .filter(|queue| queue.rogue.is_none())
}
