//! A worker: one thread, run to completion, nothing shared on the packet path.
//!
//! [`turn`] is the life of a packet; [`batch`] what a turn works on; [`fabric`] what packets can go to.
mod arrivals;
mod batch;
mod bounce;
mod deliver;
pub(crate) mod events;
mod fabric;
mod flow;
mod inbox;
pub mod mailbox;
pub(crate) mod memory;
pub mod messages;
mod polling;
pub(crate) mod ports;
mod run;
mod sleep;
#[cfg(test)]
mod tests;
mod turn;
pub mod wake;
mod wire;

use crate::hypervisor::Hypervisor;
use crate::observe::counters::WorkerStats;
use crate::queue::backlog::BACKLOG_FRAMES;
use batch::{Batch, TURN_CHAINS, TURN_RECEIVED};
use bounce::Bounce;
use crossbeam_queue::ArrayQueue;
use events::Desk;
use fabric::{FLOOD_COPIES, Fabric};
use mailbox::{HOMEBOUND, MeshEnd, PARCELS};
use messages::{FromWorker, ToWorker};
use polling::Polling;
use ports::Ports;
use sleep::Sleeper;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wake::Bell;
use wire::OUTBOX;
use xen::grant::GrantedMemory;
use xsk_bridge::frame::{Frame, FramePool, Rings, Umem};
use xsk_bridge::packet::MAX_FRAMES;

pub use bounce::BOUNCE_PAGES;
pub use mailbox::mesh;

/// Messages between control and a worker, each way.
const MESSAGES: usize = 1024;

/// What a worker is made of.
pub struct WorkerSetup<H: Hypervisor> {
    /// Its number, as in [`messages::PortPlace`].
    pub index: u8,
    /// Its end of the queues between workers: one element of [`mesh`].
    pub mesh: MeshEnd,
    /// Its own descriptor of gntdev.
    pub grants: Arc<H::Grants>,
    /// Its own descriptor of evtchn; control binds and unbinds ports on it.
    pub events: Arc<H::Events>,
    /// At least [`BOUNCE_PAGES`] pages for bounce buffers, where the kernel gives us some.
    pub granted: Option<Box<dyn GrantedMemory>>,
    /// The process's UMEM.
    pub umem: Umem,
    /// Its share of the frames; [`frames_needed`] says how many are enough.
    pub frames: Vec<Frame>,
    /// How long it polls without work before it sleeps, at most ([`polling`]).
    pub poll: Duration,
    /// The core to pin it to.
    pub core: Option<usize>,
    /// Written by it alone.
    pub stats: Arc<WorkerStats>,
    /// Rung when a [`FromWorker`] was posted.
    pub control: Arc<Bell>,
}

/// Frames that all workers together need so that nothing is ever dropped for want of one: the sum of everybody who can hold some.
pub fn frames_needed(workers: u32, queues: u32, uplink_queues: u32, rings: Rings) -> u32 {
    // A turn's packets, one frame each or a few large ones; what it receives; the copies of its floods.
    let turn = TURN_CHAINS + MAX_FRAMES + TURN_RECEIVED + FLOOD_COPIES;
    // The fill ring and the send ring, with the kernel, and what waits for the send ring.
    let uplink = rings.frames() as usize + OUTBOX;
    // Packets between each two workers, and frames on their way home.
    let lane = PARCELS + HOMEBOUND;
    let (workers, queues, uplinks) = (workers as usize, queues as usize, uplink_queues as usize);
    let sum = workers * turn
        + queues * BACKLOG_FRAMES
        + uplinks * uplink
        + workers * workers.saturating_sub(1) * lane;
    u32::try_from(sum).unwrap_or(u32::MAX)
}

/// Control's hold on a worker.
pub struct WorkerHandle<H: Hypervisor> {
    to: Arc<ArrayQueue<ToWorker<H>>>,
    from: Arc<ArrayQueue<FromWorker<H>>>,
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

impl<H: Hypervisor> WorkerHandle<H> {
    /// Post a message and wake the worker.
    ///
    /// # Errors
    /// The message itself, where the queue is full (try again after a while).
    pub fn send(&self, message: ToWorker<H>) -> Result<(), ToWorker<H>> {
        self.to.push(message)?;
        self.bell.ring();
        Ok(())
    }

    /// The next message from the worker.
    pub fn receive(&self) -> Option<FromWorker<H>> {
        self.from.pop()
    }

    /// The thread has ended; without [`FromWorker::Stopped`] it panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Wait for the thread to end (after [`ToWorker::Stop`]); false: it panicked.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// Start a worker's thread.
///
/// # Errors
/// No thread, or nothing to sleep on.
pub fn spawn<H: Hypervisor>(setup: WorkerSetup<H>) -> io::Result<WorkerHandle<H>> {
    let to = Arc::new(ArrayQueue::new(MESSAGES));
    let from = Arc::new(ArrayQueue::new(MESSAGES));
    let bell = setup.mesh.bell().clone();
    let (name, core) = (format!("netback-w{}", setup.index), setup.core);
    let mut worker = Worker::new(setup, to.clone(), from.clone())?;
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        if let Some(core) = core {
            run::pin(core);
        }
        worker.run();
    })?;
    Ok(WorkerHandle {
        to,
        from,
        bell,
        thread,
    })
}

/// A worker's state. Its turn is in [`turn`].
pub(crate) struct Worker<H: Hypervisor> {
    grants: Arc<H::Grants>,
    events: Arc<H::Events>,
    fabric: Fabric<H>,
    batch: Batch,
    desk: Desk,
    sleeper: Sleeper,
    /// Queues whose rings are looked at every turn.
    active: Vec<u16>,
    /// Queues with something to publish, or to notify of, at the end of the turn.
    touched: Vec<u16>,
    rotation: usize,
    turn_number: u64,
    /// Since the worker began: the switch's clock.
    seconds: u32,
    started: Instant,
    /// The last turn had work.
    busy: bool,
    stopping: bool,
    polling: Polling,
    stats: Arc<WorkerStats>,
    inbox: Arc<ArrayQueue<ToWorker<H>>>,
    outbox: Arc<ArrayQueue<FromWorker<H>>>,
    /// For control, that its queue had no room for.
    replies: VecDeque<FromWorker<H>>,
    control: Arc<Bell>,
    bell: Arc<Bell>,
}

impl<H: Hypervisor> Worker<H> {
    fn new(
        setup: WorkerSetup<H>,
        inbox: Arc<ArrayQueue<ToWorker<H>>>,
        outbox: Arc<ArrayQueue<FromWorker<H>>>,
    ) -> io::Result<Self> {
        // Frames are alike and wander, so a pool takes all of them without growing.
        let mut pool = FramePool::with_capacity(setup.umem.frames() as usize);
        pool.extend(setup.frames);
        let bell = setup.mesh.bell().clone();
        let mut sleeper = Sleeper::new()?;
        sleeper.watch(sleep::EVENTS, Some(setup.events.as_fd()));
        sleeper.watch(sleep::BELL, Some(bell.as_fd()));
        let fabric = Fabric::new(
            Ports::new(setup.index),
            setup.mesh,
            setup.umem.clone(),
            pool,
        );
        let started = fabric.now;
        Ok(Self {
            grants: setup.grants,
            events: setup.events,
            fabric,
            batch: Batch::new(&setup.umem, setup.granted.map(Bounce::new)),
            desk: Desk::new(started),
            sleeper,
            active: Vec::new(),
            touched: Vec::new(),
            rotation: 0,
            turn_number: 0,
            seconds: 0,
            started,
            busy: false,
            stopping: false,
            polling: Polling::new(setup.poll),
            stats: setup.stats,
            inbox,
            outbox,
            replies: VecDeque::new(),
            control: setup.control,
            bell,
        })
    }
}
