//! A bare sender in a thread and a namespace of its own, which sends on command and says what that took.
use crate::sender::{BATCH, BareSender};
use crate::usage::Usage;
use anyhow::{Context, Result, anyhow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Batches between two looks at whether to stop.
const ROUND: usize = 16 * BATCH;

/// What was sent from start to stop, and what it cost the sending thread.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Packets that the kernel took.
    pub packets: usize,
    /// How long it was.
    pub elapsed: Duration,
    /// Of the sending thread.
    pub usage: Usage,
}

/// The thread; it ends with this value.
#[derive(Debug)]
pub struct Station {
    frames: Sender<Vec<u8>>,
    results: Receiver<Result<Sent>>,
    sending: Arc<AtomicBool>,
}

impl Station {
    /// Bind queue 0 of `ifname` in a thread that `enter` puts into its namespace and onto its core.
    pub fn start(
        ifname: &str,
        enter: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (frames, jobs) = channel::<Vec<u8>>();
        let (answers, results) = channel();
        let sending = Arc::new(AtomicBool::new(false));
        let (ifname, running) = (ifname.to_owned(), sending.clone());
        std::thread::spawn(move || {
            let mut sender = match enter().and_then(|()| BareSender::open(&ifname, &[])) {
                Ok(sender) => sender,
                Err(error) => {
                    let _ = answers.send(Err(error));
                    return;
                }
            };
            while let Ok(frame) = jobs.recv() {
                if answers.send(job(&mut sender, &frame, &running)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            frames,
            results,
            sending,
        })
    }

    /// Send `frame` again and again, as fast as it goes.
    pub fn send(&self, frame: &[u8]) {
        self.sending.store(true, Ordering::Relaxed);
        // Where the thread has ended, `stop` says why.
        let _ = self.frames.send(frame.to_vec());
    }

    /// Enough.
    pub fn stop(&self) -> Result<Sent> {
        self.sending.store(false, Ordering::Relaxed);
        self.results
            .recv()
            .map_err(|_| anyhow!("the sender's thread is gone"))?
            .context("bare sender")
    }
}

/// At least one round, so that a station told to send and to stop at once has sent something.
fn job(sender: &mut BareSender, frame: &[u8], running: &AtomicBool) -> Result<Sent> {
    sender.load(frame)?;
    let (start, before, mut packets) = (Instant::now(), Usage::of_this_thread()?, 0);
    loop {
        packets += sender.send(ROUND, frame.len())?;
        if !running.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(Sent {
        packets,
        elapsed: start.elapsed(),
        usage: Usage::of_this_thread()? - before,
    })
}
