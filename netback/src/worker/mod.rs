//! A worker: one thread, run to completion, nothing shared on the packet path.
//!
//! The life of a packet in it is `crate::path`.
pub(crate) mod channels;
#[cfg(feature = "bench-harness")]
pub mod driver;
mod inbox;
pub mod mailbox;
pub mod messages;
mod polling;
mod run;
mod sleep;
#[cfg(test)]
mod tests;
pub mod wake;

use crate::copy::staging::Staging;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::WorkerStats;
use crate::path::batch::Batch;
use crate::path::fabric::Fabric;
use crate::path::ports::Ports;
use channels::EventPorts;
use crossbeam_queue::ArrayQueue;
use mailbox::MeshEnd;
use messages::{FromWorker, ToWorker};
use polling::Polling;
use sleep::Sleeper;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wake::Waker;
use xen::grant::GrantedMemory;
use xsk_bridge::frame::{Frame, FramePool, Umem};

pub use mailbox::mesh;

/// Messages between control and a worker, each way.
const MESSAGES: usize = 1024;

/// What a worker is made of.
pub struct WorkerSetup<H: Hypervisor> {
    /// Its number, as in [`crate::path::ports::ServedBy`].
    pub index: u8,
    /// Its end of the queues between workers: one element of [`mesh`].
    pub mesh: MeshEnd,
    /// Its own descriptor of gntdev.
    pub grants: Arc<H::Grants>,
    /// Its own descriptor of evtchn; control binds and unbinds ports on it.
    pub events: Arc<H::Events>,
    /// Staging memory, [`STAGING_PAGES`](crate::bounds::STAGING_PAGES) pages of it, where the kernel grants us some.
    pub granted: Option<Box<dyn GrantedMemory>>,
    /// The process's UMEM.
    pub umem: Umem,
    /// Its share of the frames; [`frames_needed`](crate::bounds::frames_needed) says how many are enough.
    pub frames: Vec<Frame>,
    /// How long it polls without work before it sleeps, at most (`polling`).
    pub poll: Duration,
    /// The core to pin it to.
    pub core: Option<usize>,
    /// Written by it alone.
    pub stats: Arc<WorkerStats>,
    /// Woken when a [`FromWorker`] was posted.
    pub control: Arc<Waker>,
}

/// Control's hold on a worker.
pub struct WorkerHandle<H: Hypervisor> {
    to: Arc<ArrayQueue<ToWorker<H>>>,
    from: Arc<ArrayQueue<FromWorker<H>>>,
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
    ended: Arc<AtomicBool>,
}

/// Tells control that the worker's thread ends, whether it returns or panics: guests wait for a successor then.
struct Ending {
    ended: Arc<AtomicBool>,
    control: Arc<Waker>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Pairs with the load in `WorkerHandle::is_finished`.
        self.ended.store(true, Ordering::Release);
        self.control.wake();
    }
}

impl<H: Hypervisor> WorkerHandle<H> {
    /// Post a message and wake the worker.
    ///
    /// # Errors
    /// The message itself, where the queue is full (try again after a while).
    pub fn send(&self, message: ToWorker<H>) -> Result<(), ToWorker<H>> {
        self.to.push(message)?;
        self.waker.wake();
        Ok(())
    }

    /// The next message from the worker.
    pub fn receive(&self) -> Option<FromWorker<H>> {
        self.from.pop()
    }

    /// The thread has ended, or is about to; without [`FromWorker::Stopped`] it panicked.
    pub fn is_finished(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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
    let waker = setup.mesh.waker().clone();
    let (name, core) = (format!("netback-w{}", setup.index), setup.core);
    let ended = Arc::new(AtomicBool::new(false));
    let ending = Ending {
        ended: ended.clone(),
        control: setup.control.clone(),
    };
    let mut worker = Worker::new(setup, to.clone(), from.clone())?;
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let _ending = ending;
        if let Some(core) = core {
            run::pin(core);
        }
        worker.run();
    })?;
    Ok(WorkerHandle {
        to,
        from,
        waker,
        thread,
        ended,
    })
}

/// A worker's state. Its turn is in [`crate::path`].
pub(crate) struct Worker<H: Hypervisor> {
    pub(crate) grants: Arc<H::Grants>,
    events: Arc<H::Events>,
    pub(crate) fabric: Fabric<H>,
    pub(crate) batch: Batch,
    event_ports: EventPorts,
    sleeper: Sleeper,
    /// Queues whose rings are looked at every turn.
    pub(crate) active: Vec<u16>,
    /// Queues with something to publish, or to notify of, at the end of the turn.
    pub(crate) touched: Vec<u16>,
    /// Place in `active` of the queue that the next turn begins with.
    pub(crate) rotation: usize,
    pub(crate) turn_number: u64,
    /// Since the worker began: the switch's clock.
    pub(crate) seconds: u32,
    started: Instant,
    /// The last turn had work.
    busy: bool,
    stopping: bool,
    polling: Polling,
    pub(crate) stats: Arc<WorkerStats>,
    inbox: Arc<ArrayQueue<ToWorker<H>>>,
    outbox: Arc<ArrayQueue<FromWorker<H>>>,
    /// For control, that its queue had no room for.
    replies: VecDeque<FromWorker<H>>,
    control: Arc<Waker>,
    waker: Arc<Waker>,
}

impl<H: Hypervisor> Worker<H> {
    fn new(
        setup: WorkerSetup<H>,
        inbox: Arc<ArrayQueue<ToWorker<H>>>,
        outbox: Arc<ArrayQueue<FromWorker<H>>>,
    ) -> io::Result<Self> {
        let mut pool = FramePool::new(&setup.umem);
        pool.extend(setup.frames);
        let staging = Staging::new(setup.granted, &mut pool);
        let waker = setup.mesh.waker().clone();
        let mut sleeper = Sleeper::new()?;
        sleeper.watch(sleep::EVENTS, setup.events.as_fd())?;
        sleeper.watch(sleep::WAKER, waker.as_fd())?;
        let fabric = Fabric::new(Ports::new(setup.index), setup.mesh, pool);
        let started = fabric.now;
        Ok(Self {
            grants: setup.grants,
            events: setup.events,
            fabric,
            batch: Batch::new(staging, &setup.umem),
            event_ports: EventPorts::new(started),
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
            waker,
        })
    }
}
