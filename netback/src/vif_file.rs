//! The file of a vif: what a successor needs to serve its live rings, memory-mapped from tmpfs (root only).
use crate::worker::messages::VifId;
use ring::page::Shadow;
use ring::wire::{Rx, Tx};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

/// What tells these rings from others: the frontend's grants and its ends of the event channels, a queue each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose.
    pub vif: VifId,
    /// By queue number; at most 64.
    pub queues: Vec<RingIdentity>,
}

/// The frontend's own numbers for one queue, as it wrote them to xenstore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingIdentity {
    /// `tx-ring-ref`.
    pub tx_gref: u32,
    /// `rx-ring-ref`.
    pub rx_gref: u32,
    /// `event-channel-tx`, or `event-channel`.
    pub tx_port: u32,
    /// `event-channel-rx`, or `event-channel`.
    pub rx_port: u32,
}

/// Why a file left by a predecessor is of no use: the rings are then attached from `rsp_prod`, with a warning.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is not there, or cannot be mapped.
    #[error("{}: {1}", .0.display())]
    Io(PathBuf, io::Error),
    /// Not of this version, size or shape.
    #[error("{} is not a vif file of this version", .0.display())]
    Foreign(PathBuf),
    /// Of another vif, or of rings the frontend has since replaced.
    #[error("{} describes other rings", .0.display())]
    OtherRings(PathBuf),
}

/// A mapped vif file.
#[derive(Debug, Clone)]
pub struct VifFile {}

impl VifFile {
    /// A fresh file for rings that have just been connected; replaces an older one in one step.
    pub fn create(run_dir: &Path, identity: &Identity) -> io::Result<Self> {
        todo!()
    }
    /// The file a predecessor left, if it describes exactly these rings.
    pub fn reopen(run_dir: &Path, identity: &Identity) -> Result<Self, Unusable> {
        todo!()
    }
    /// Remove the file of a vif that was disconnected; one that is not there is fine.
    pub fn remove(run_dir: &Path, vif: VifId) -> io::Result<()> {
        todo!()
    }
    /// One queue's part.
    pub fn queue(&self, queue: u16) -> QueueFile {
        todo!()
    }
}

/// One queue's part of the file: the shadows of its two rings.
#[derive(Debug, Clone)]
pub struct QueueFile {}

/// The shadow of one ring, in the file.
#[derive(Debug)]
pub struct FileShadow {}

impl Shadow<Tx> for FileShadow {
    fn consumed(&self) -> &AtomicU32 {
        todo!()
    }
    fn requests(&self) -> &[AtomicU32] {
        todo!()
    }
}

impl Shadow<Rx> for FileShadow {
    fn consumed(&self) -> &AtomicU32 {
        todo!()
    }
    fn requests(&self) -> &[AtomicU32] {
        todo!()
    }
}
