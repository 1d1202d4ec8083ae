//! The file of a vif: what a successor needs to serve its live rings, memory-mapped from tmpfs (root only).
//!
//! Little-endian words: a page of header, then a fixed part for each queue, each ring's shadow on pages of its own.
//!
//! | word | header |
//! |---|---|
//! | 0, 1 | magic "netback\0" |
//! | 2 | version |
//! | 3, 4, 5 | domid, devid, number of queues |
//! | 16 + 4n.. | queue n: tx-ring-ref, rx-ring-ref, event-channel-tx, event-channel-rx |
//! | 272.. | deaths, see [`crate::vif::deaths`] |
//! | 512.. | the multicast list, see [`crate::vif::multicast`] |
use super::deaths::Deaths;
use super::mapping::{Mapping, Words};
use crate::vif::id::VifId;
use ring::page::{PageWords, RSP_PROD};
use ring::shadow::{RegionShadow, Shadow, shadow_words};
use ring::wire::{Rx, Tx};
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Most queues of a vif.
pub const MAX_QUEUES: usize = 64;

const MAGIC: [u32; 2] = [u32::from_le_bytes(*b"netb"), u32::from_le_bytes(*b"ack\0")];
/// Changes whenever the layout, or a shadow's, does.
const VERSION: u32 = 1;
const PAGE_WORDS: usize = 1024;
const QUEUE_IDENTITY: usize = 16;
const DEATHS: usize = QUEUE_IDENTITY + 4 * MAX_QUEUES;
const MULTICAST: usize = 512;
const TX_WORDS: usize = shadow_words::<Tx>().next_multiple_of(PAGE_WORDS);
const RX_WORDS: usize = shadow_words::<Rx>().next_multiple_of(PAGE_WORDS);
const QUEUE_WORDS: usize = TX_WORDS + RX_WORDS;

const _: () = assert!(DEATHS + super::deaths::WORDS <= MULTICAST);
const _: () = assert!(MULTICAST + crate::vif::multicast::WORDS <= PAGE_WORDS);

/// What tells these rings from others: the frontend's grants and its ends of the event channels, a queue each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The vif whose rings these are.
    pub vif: VifId,
    /// The rings of each queue, by its number; at most [`MAX_QUEUES`].
    pub queues: Vec<RingIdentity>,
}

impl Identity {
    /// The words of the header that say whose rings these are.
    fn words(&self) -> [u32; DEATHS] {
        let mut words = [0; DEATHS];
        words[..2].copy_from_slice(&MAGIC);
        words[2] = VERSION;
        words[3] = self.vif.domid.0.into();
        words[4] = self.vif.devid;
        words[5] = self.queues.len() as u32;
        for (at, queue) in words[QUEUE_IDENTITY..]
            .chunks_exact_mut(4)
            .zip(&self.queues)
        {
            at.copy_from_slice(&[queue.tx_gref, queue.rx_gref, queue.tx_port, queue.rx_port]);
        }
        words
    }

    fn file_words(&self) -> io::Result<usize> {
        if self.queues.is_empty() || self.queues.len() > MAX_QUEUES {
            let reason = format!(
                "a vif file holds 1 to {MAX_QUEUES} queues, not {}",
                self.queues.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(PAGE_WORDS + self.queues.len() * QUEUE_WORDS)
    }
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
    /// The file is not there, or cannot be mapped.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
    /// The file has another version, size or owner.
    #[error("{} is not a vif file of this version", .0.display())]
    Foreign(PathBuf),
    /// The file is that of another vif, or of rings that the frontend has replaced since.
    #[error("{} describes other rings", .0.display())]
    OtherRings(PathBuf),
}

/// A mapped vif file.
#[derive(Debug, Clone)]
pub struct VifFile(Arc<Mapping>);

impl VifFile {
    /// Makes a new file for rings that have just been connected, which replaces an older one in one step.
    ///
    /// # Errors
    /// What the file system says; `InvalidInput` for a number of queues that a file cannot hold.
    pub fn create(run_dir: &Path, identity: &Identity) -> io::Result<Self> {
        let words = identity.file_words()?;
        let path = path(run_dir, identity.vif);
        let fresh = path.with_extension("new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        // The umask may only take rights away; the mode is exactly this.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len((words * 4) as u64)?;
        let mapping = Mapping::new(&file, words)?;
        for (word, value) in mapping.words().iter().zip(identity.words()) {
            word.store(value.to_le(), Relaxed);
        }
        std::fs::rename(&fresh, &path)?;
        Ok(Self(Arc::new(mapping)))
    }

    /// Maps the file that a predecessor left, if it describes exactly these rings.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub fn reopen(run_dir: &Path, identity: &Identity) -> Result<Self, Unusable> {
        let path = path(run_dir, identity.vif);
        let failed = |error| Unusable::Io(path.clone(), error);
        let words = identity.file_words().map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let uid = rustix::process::geteuid().as_raw();
        let ours = metadata.uid() == uid && metadata.mode() & 0o077 == 0;
        if !metadata.is_file() || !ours || metadata.len() < (PAGE_WORDS * 4) as u64 {
            return Err(Unusable::Foreign(path));
        }
        let file_words = (metadata.len() / 4) as usize;
        let mapping = Mapping::new(&file, file_words).map_err(failed)?;
        let expected = identity.words();
        let matches = |range: std::ops::Range<usize>| {
            let found = &mapping.words()[range.clone()];
            found
                .iter()
                .zip(&expected[range])
                .all(|(word, value)| u32::from_le(word.load(Relaxed)) == *value)
        };
        if !matches(0..3) {
            return Err(Unusable::Foreign(path));
        }
        if !matches(3..DEATHS) || file_words != words {
            return Err(Unusable::OtherRings(path));
        }
        Ok(Self(Arc::new(mapping)))
    }

    /// Removes the file of a vif that was disconnected. A file that is not there is no error.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(run_dir: &Path, vif: VifId) -> io::Result<()> {
        match std::fs::remove_file(path(run_dir, vif)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// The deaths of the daemon that count for this vif.
    pub fn deaths(&self) -> Deaths {
        Deaths::new(Words::of(&self.0, DEATHS, super::deaths::WORDS))
    }

    /// The multicast list.
    pub fn multicast(&self) -> Words {
        Words::of(&self.0, MULTICAST, crate::vif::multicast::WORDS)
    }

    /// The part of the file for one queue.
    ///
    /// # Panics
    /// Where the identity has no such queue.
    pub fn queue(&self, queue: u16) -> QueueFile {
        let start = PAGE_WORDS + usize::from(queue) * QUEUE_WORDS;
        assert!(
            start + QUEUE_WORDS <= self.0.words().len(),
            "the vif file has no queue {queue}"
        );
        QueueFile {
            mapping: self.0.clone(),
            start,
        }
    }
}

fn path(run_dir: &Path, vif: VifId) -> PathBuf {
    run_dir.join(format!("vif-{}-{}", vif.domid.0, vif.devid))
}

/// The part of the file for one queue: the shadows of its two rings.
#[derive(Debug, Clone)]
pub struct QueueFile {
    mapping: Arc<Mapping>,
    start: usize,
}

impl QueueFile {
    /// Notes that nothing of both rings is consumed but what their pages call answered. Written before any worker has the
    /// rings, so that a successor can take them over from the first moment on.
    pub fn begin(&self, tx_page: &PageWords, rx_page: &PageWords) {
        self.tx()
            .consumed()
            .store(tx_page[RSP_PROD].load(Relaxed), Relaxed);
        self.rx()
            .consumed()
            .store(rx_page[RSP_PROD].load(Relaxed), Relaxed);
    }

    /// How far the Tx ring's requests were consumed.
    pub fn tx_consumed(&self) -> u32 {
        self.tx().consumed().load(Relaxed)
    }

    /// The Tx ring's shadow.
    pub(crate) fn tx(&self) -> FileShadow<Tx> {
        RegionShadow::new(Words::of(&self.mapping, self.start, TX_WORDS)).expect("sized for it")
    }

    /// The Rx ring's shadow.
    pub(crate) fn rx(&self) -> FileShadow<Rx> {
        let start = self.start + TX_WORDS;
        RegionShadow::new(Words::of(&self.mapping, start, RX_WORDS)).expect("sized for it")
    }
}

/// The shadow of one ring, in the file.
pub(crate) type FileShadow<D> = RegionShadow<D, Words>;

#[cfg(test)]
mod tests {
    use super::*;
    use xen::grant::DomId;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("netback-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn identity(queues: usize) -> Identity {
        let queue = |n: usize| {
            let n = n as u32 * 4;
            RingIdentity {
                tx_gref: n,
                rx_gref: n + 1,
                tx_port: n + 2,
                rx_port: n + 3,
            }
        };
        Identity {
            vif: VifId {
                domid: DomId(7),
                devid: 2,
            },
            queues: (0..queues).map(queue).collect(),
        }
    }

    #[test]
    fn a_successor_reads_what_was_written() {
        let dir = Dir::new("vif-file-reopen");
        let file = VifFile::create(&dir.0, &identity(3)).unwrap();
        let shadow = file.queue(2).tx();
        shadow.consumed().store(41, Relaxed);
        shadow.requests()[767].store(9, Relaxed);
        file.queue(2).rx().requests()[511].store(11, Relaxed);
        drop(file);
        let file = VifFile::reopen(&dir.0, &identity(3)).unwrap();
        assert_eq!(file.queue(2).tx().consumed().load(Relaxed), 41);
        assert_eq!(file.queue(2).tx().requests()[767].load(Relaxed), 9);
        assert_eq!(file.queue(2).rx().requests()[511].load(Relaxed), 11);
        assert_eq!(file.queue(1).rx().consumed().load(Relaxed), 0);
        assert_eq!(file.queue(1).tx().requests().len(), 768);
    }

    #[test]
    fn a_file_of_other_rings_another_version_or_open_to_others_is_refused() {
        let dir = Dir::new("vif-file-refuse");
        let vif = identity(1).vif;
        assert!(matches!(
            VifFile::reopen(&dir.0, &identity(1)),
            Err(Unusable::Io(..))
        ));
        let file = VifFile::create(&dir.0, &identity(2)).unwrap();
        let mut other = identity(2);
        other.queues[1].rx_port += 1;
        assert!(matches!(
            VifFile::reopen(&dir.0, &other),
            Err(Unusable::OtherRings(_))
        ));
        assert!(matches!(
            VifFile::reopen(&dir.0, &identity(1)),
            Err(Unusable::OtherRings(_))
        ));
        let mode = |mode| {
            std::fs::set_permissions(path(&dir.0, vif), Permissions::from_mode(mode)).unwrap()
        };
        mode(0o644);
        assert!(matches!(
            VifFile::reopen(&dir.0, &identity(2)),
            Err(Unusable::Foreign(_))
        ));
        mode(0o600);
        assert!(VifFile::reopen(&dir.0, &identity(2)).is_ok());
        file.0.words()[2].store(VERSION + 1, Relaxed);
        assert!(matches!(
            VifFile::reopen(&dir.0, &identity(2)),
            Err(Unusable::Foreign(_))
        ));
        std::fs::write(path(&dir.0, vif), b"short").unwrap();
        assert!(matches!(
            VifFile::reopen(&dir.0, &identity(2)),
            Err(Unusable::Foreign(_))
        ));
        VifFile::remove(&dir.0, vif).unwrap();
        VifFile::remove(&dir.0, vif).unwrap();
    }

    #[test]
    fn only_root_reads_it_and_a_new_one_replaces_the_old_in_one_step() {
        let dir = Dir::new("vif-file-mode");
        let old = VifFile::create(&dir.0, &identity(1)).unwrap();
        old.queue(0).tx().consumed().store(5, Relaxed);
        let new = VifFile::create(&dir.0, &identity(1)).unwrap();
        assert_eq!(new.queue(0).tx().consumed().load(Relaxed), 0);
        assert_eq!(
            old.queue(0).tx().consumed().load(Relaxed),
            5,
            "the old mapping is another file"
        );
        let metadata = std::fs::metadata(path(&dir.0, identity(1).vif)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1);
        assert!(VifFile::create(&dir.0, &identity(0)).is_err());
        assert!(VifFile::create(&dir.0, &identity(MAX_QUEUES + 1)).is_err());
    }
}
