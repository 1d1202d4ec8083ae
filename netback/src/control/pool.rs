//! The workers, as the control thread holds them.
use super::Error;
use crate::config::Config;
use crate::hypervisor::{Doors, Hypervisor};
use crate::observe::counters::WorkerStats;
use crate::worker::messages::{FromWorker, ToWorker};
use crate::worker::wake::Waker;
use crate::worker::{self, WorkerHandle, WorkerSetup};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xsk_bridge::frame::{Frame, Umem};

/// How long a worker may take to leave its loop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A worker.
pub struct Member<H: Hypervisor> {
    handle: WorkerHandle<H>,
    /// Messages that the worker's mailbox had no room for, in order.
    outbox: VecDeque<ToWorker<H>>,
    /// The worker's grants, on which the control thread maps rings.
    pub grants: Arc<H::Grants>,
    /// The worker's event channels, on which the control thread binds and unbinds ports.
    pub events: Arc<H::Events>,
    /// The worker's counters.
    pub stats: Arc<WorkerStats>,
    /// Queues that were handed to the worker and are not back.
    pub queues: usize,
}

impl<H: Hypervisor> Member<H> {
    /// The worker's thread has ended, because it was told to stop or by a defect.
    pub fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }
}

/// All workers, in the order of their numbers.
pub struct Pool<H: Hypervisor>(pub Vec<Member<H>>);

impl<H: Hypervisor> Pool<H> {
    /// Starts a worker for each of `doors`, with an even share of the frames.
    pub fn start(
        config: &Config,
        doors: Vec<Doors<H>>,
        umem: &Umem,
        frames: Vec<Frame>,
        waker: &Arc<Waker>,
    ) -> Result<Self, Error> {
        let count = doors.len();
        let meshes =
            worker::mesh(count as u8).map_err(|error| Error::Worker("connect workers", error))?;
        let mut shares: Vec<Vec<Frame>> = (0..count)
            .map(|_| Vec::with_capacity(frames.len() / count + 1))
            .collect();
        for (n, frame) in frames.into_iter().enumerate() {
            shares[n % count].push(frame);
        }
        let mut members = Vec::with_capacity(count);
        for (index, ((doors, mesh), frames)) in
            doors.into_iter().zip(meshes).zip(shares).enumerate()
        {
            let (grants, events) = (Arc::new(doors.grants), Arc::new(doors.events));
            let stats = Arc::<WorkerStats>::default();
            let setup = WorkerSetup::<H> {
                index: index as u8,
                mesh,
                grants: grants.clone(),
                events: events.clone(),
                granted: doors.granted,
                umem: umem.clone(),
                frames,
                poll: Duration::from_micros(config.workers.poll_us.into()),
                core: config.workers.pin.then_some(index),
                stats: stats.clone(),
                control: waker.clone(),
            };
            let handle =
                worker::spawn(setup).map_err(|error| Error::Worker("start a worker", error))?;
            members.push(Member {
                handle,
                outbox: VecDeque::new(),
                grants,
                events,
                stats,
                queues: 0,
            });
        }
        Ok(Self(members))
    }

    /// The worker with the fewest queues.
    pub fn least_busy(&self) -> u8 {
        let busy = self
            .0
            .iter()
            .enumerate()
            .min_by_key(|(_, member)| member.queues);
        busy.map_or(0, |(index, _)| index as u8)
    }

    /// Posts a message to a worker, behind those that still wait.
    pub fn send(&mut self, worker: u8, message: ToWorker<H>) {
        self.0[usize::from(worker)].outbox.push_back(message);
        self.flush();
    }

    /// Posts a message to every worker.
    pub fn send_all(&mut self, message: impl Fn() -> ToWorker<H>) {
        for member in &mut self.0 {
            member.outbox.push_back(message());
        }
        self.flush();
    }

    /// Posts the messages that wait, as far as there is room. Returns false where some still wait.
    pub fn flush(&mut self) -> bool {
        for member in &mut self.0 {
            while let Some(message) = member.outbox.pop_front() {
                if let Err(message) = member.handle.send(message) {
                    member.outbox.push_front(message);
                    break;
                }
            }
        }
        self.0.iter().all(|member| member.outbox.is_empty())
    }

    /// The next message of any worker.
    pub fn receive(&mut self) -> Option<(u8, FromWorker<H>)> {
        let mut members = self.0.iter().enumerate();
        members.find_map(|(index, member)| Some((index as u8, member.handle.receive()?)))
    }

    /// Has every worker leave its loop and leave rings and keys as they are. Returns false where a worker did not, or panicked.
    pub fn stop(mut self) -> bool {
        self.send_all(|| ToWorker::Stop);
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut running: Vec<bool> = vec![true; self.0.len()];
        while running.contains(&true) && Instant::now() < deadline {
            self.flush();
            match self.receive() {
                Some((worker, FromWorker::Stopped)) => running[usize::from(worker)] = false,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        let stopped = !running.contains(&true);
        // A worker that does not answer is not joined, which would wait for ever.
        stopped
            && self
                .0
                .into_iter()
                .map(|member| member.handle.join())
                .fold(true, |all, ended| all & ended)
    }
}
