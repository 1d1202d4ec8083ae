//! The daemon's lives, and how they end: a file in the run directory in which a process that crashes leaves a mark for its
//! successor. A crash is a panic or a fatal signal of our own making; what ends us from outside (SIGKILL, SIGTERM) leaves none.
// sigaction(2), raise(3).
#![allow(unsafe_code)]
use crate::vif::mapping::{Mapping, Words};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

/// Bytes of the file: a page.
const LEN: usize = 4096;
/// Word 0 is the number of the present life, word 1 that of the last one that crashed.
const WORDS: usize = 2;

/// The marks of this process, once it is to leave one.
static ARMED: OnceLock<Marks> = OnceLock::new();

/// The file `lives` of a run directory, mapped.
#[derive(Debug)]
pub struct Marks(Words);

/// A life of the daemon, from taking guests on to letting them go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its number, from 1.
    pub number: u32,
    /// The number of the one before it, where that crashed.
    pub crashed: Option<u32>,
}

impl Marks {
    /// Opens the file, which is made where there is none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let options = options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(run_dir.join("lives"))?;
        file.set_len(LEN as u64)?;
        let mapping = Arc::new(Mapping::new(&file, LEN / 4)?);
        Ok(Self(Words::of(&mapping, 0, WORDS)))
    }

    /// Begins the next life.
    pub fn begin(&self) -> Life {
        let [present, crashed] = [0, 1].map(|n| u32::from_le(self.0.as_ref()[n].load(Relaxed)));
        let number = present.wrapping_add(1).max(1);
        self.0.as_ref()[0].store(number.to_le(), Relaxed);
        Life {
            number,
            crashed: (present != 0 && crashed == present).then_some(present),
        }
    }

    /// Leaves the mark that the present life ended in a crash. Two words in memory: a signal handler may do it.
    pub fn crashed(&self) {
        let words = self.0.as_ref();
        words[1].store(words[0].load(Relaxed), Relaxed);
    }

    /// Has this process leave the mark when it panics, in any thread, or when a signal ends it that its own code raised.
    ///
    /// # Errors
    /// What sigaction(2) says.
    pub fn arm(self) -> io::Result<()> {
        if ARMED.set(self).is_err() {
            return Ok(());
        }
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            mark();
            report(panic);
        }));
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGABRT,
        ] {
            // SAFETY: all-zero bytes are a valid sigaction, with no signal blocked.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_fatal_signal as *const () as libc::sighandler_t;
            // The default action is back when the handler runs; a stack that overflowed cannot hold the handler's frame.
            action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
            // SAFETY: the handler does only what signal-safety(7) allows.
            if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

fn mark() {
    if let Some(marks) = ARMED.get() {
        marks.crashed();
    }
}

extern "C" fn on_fatal_signal(signal: libc::c_int) {
    mark();
    // SAFETY: no memory is involved. The signal is delivered when the handler returns, with its default action.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_knows_whether_the_one_before_it_crashed() {
        let dir = std::env::temp_dir().join(format!("netback-lives-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let lives = |number, crashed| Life { number, crashed };
        assert_eq!(Marks::open(&dir).unwrap().begin(), lives(1, None));
        // Ended from outside.
        let marks = Marks::open(&dir).unwrap();
        assert_eq!(marks.begin(), lives(2, None));
        marks.crashed();
        assert_eq!(Marks::open(&dir).unwrap().begin(), lives(3, Some(2)));
        assert_eq!(Marks::open(&dir).unwrap().begin(), lives(4, None));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
