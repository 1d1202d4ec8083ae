//! A worker: one thread, run to completion, nothing shared on the packet path.
pub mod bell;
pub mod messages;

use crate::hypervisor::Hypervisor;
use crate::stats::WorkerStats;
use bell::Bell;
use crossbeam_queue::ArrayQueue;
use messages::{FromWorker, ToWorker};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use xsk_bridge::frame::{Frame, Umem};

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
    /// The process's UMEM.
    pub umem: Umem,
    /// Its share of the frames; [`frames_needed`] says how many are enough.
    pub frames: Vec<Frame>,
    /// How long it polls without work before it sleeps.
    pub poll: Duration,
    /// The core to pin it to.
    pub core: Option<usize>,
    /// Written by it alone.
    pub stats: Arc<WorkerStats>,
    /// Rung when a [`FromWorker`] was posted.
    pub control: Arc<Bell>,
}

/// A worker's end of the queues between workers.
pub struct MeshEnd {}

/// The ends of the queues between `workers` workers, in order of their index.
pub fn mesh(workers: u8) -> io::Result<Vec<MeshEnd>> {
    todo!()
}

/// Frames that all workers together need so that nothing is ever dropped for want of one.
pub fn frames_needed(workers: u32, queues: u32, uplink_queues: u32) -> u32 {
    todo!()
}

/// Control's hold on a worker.
pub struct WorkerHandle<H: Hypervisor> {
    to: Arc<ArrayQueue<ToWorker<H>>>,
    from: Arc<ArrayQueue<FromWorker<H>>>,
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

impl<H: Hypervisor> WorkerHandle<H> {
    /// Post a message and wake the worker; the message comes back when the queue is full (try again after a while).
    pub fn send(&self, message: ToWorker<H>) -> Result<(), ToWorker<H>> {
        todo!()
    }
    /// The next message from the worker.
    pub fn receive(&self) -> Option<FromWorker<H>> {
        todo!()
    }
    /// Wait for the thread to end (after `ToWorker::Stop`); false: it panicked.
    pub fn join(self) -> bool {
        todo!()
    }
}

/// Start a worker's thread.
pub fn spawn<H: Hypervisor>(setup: WorkerSetup<H>) -> io::Result<WorkerHandle<H>> {
    todo!()
}
