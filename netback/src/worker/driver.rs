//! A worker that is turned by hand, without a thread: for benches that count what a turn costs (feature `bench-harness`).
use super::messages::ToWorker;
use super::{MESSAGES, Worker, WorkerSetup};
use crate::hypervisor::Hypervisor;
use crossbeam_queue::ArrayQueue;
use std::io;
use std::sync::Arc;

pub use crate::path::ports::ServedBy;

/// A worker and the queue of messages to it.
pub struct Driver<H: Hypervisor> {
    worker: Worker<H>,
    to: Arc<ArrayQueue<ToWorker<H>>>,
}

impl<H: Hypervisor> Driver<H> {
    /// A worker that serves nothing yet.
    ///
    /// # Errors
    /// There is nothing to sleep on.
    pub fn new(setup: WorkerSetup<H>) -> io::Result<Self> {
        let (to, from) = (
            Arc::new(ArrayQueue::new(MESSAGES)),
            Arc::new(ArrayQueue::new(MESSAGES)),
        );
        let worker = Worker::new(setup, to.clone(), from)?;
        Ok(Self { worker, to })
    }

    /// Posts a message that the next turn reads; the queue must have room.
    pub fn send(&self, message: ToWorker<H>) {
        assert!(self.to.push(message).is_ok(), "too many messages");
    }

    /// One turn; false where there was nothing to do.
    pub fn turn(&mut self) -> bool {
        self.worker.turn()
    }
}
