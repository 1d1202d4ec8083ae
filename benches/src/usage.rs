//! What a thread used of the machine, as Linux accounts it (`/proc/<pid>/task/<tid>/schedstat`, Documentation/scheduler/sched-stats).
use anyhow::{Context, Result, bail};
use std::fs;
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So far, or in a window as the difference of two.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// On a core, kernel included.
    pub ran: Duration,
    /// Ready to run while another had the core.
    pub waited: Duration,
}

impl Usage {
    /// Of the calling thread.
    pub fn of_this_thread() -> Result<Self> {
        Self::read(Path::new("/proc/thread-self/schedstat"))
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "{}: a kernel with CONFIG_SCHED_INFO is needed",
                path.display()
            )
        })?;
        let mut times = text.split_whitespace().map(|word| word.parse());
        match (times.next(), times.next()) {
            (Some(Ok(ran)), Some(Ok(waited))) => Ok(Self {
                ran: Duration::from_nanos(ran),
                waited: Duration::from_nanos(waited),
            }),
            _ => bail!("{} says {text:?}", path.display()),
        }
    }
}

impl Sub for Usage {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// A thread of another process.
#[derive(Debug)]
pub struct Thread {
    id: u32,
    schedstat: PathBuf,
}

impl Thread {
    /// The thread of process `pid` whose name is `name`.
    pub fn find(pid: u32, name: &str) -> Result<Self> {
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if comm.trim_end() == name {
                let id = task.file_name().to_string_lossy().parse()?;
                let schedstat = task.path().join("schedstat");
                return Ok(Self { id, schedstat });
            }
        }
        bail!("process {pid} has no thread {name}")
    }

    /// The thread's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the thread used so far.
    pub fn usage(&self) -> Result<Usage> {
        Usage::read(&self.schedstat)
    }
}
