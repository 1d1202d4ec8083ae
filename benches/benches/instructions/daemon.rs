//! The worker of the real daemon, which runs under callgrind with simulated guests and carries steady load.
use crate::callgrind::{self, Count};
use crate::rig::Passed;
use anyhow::{Context, Result, ensure};
use benches::live::{Path, Rig};
use lab::daemon::StartOptions;
use netback::observe::status::Status;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Sizes of the frames that are counted.
pub const SIZES: [usize; 2] = [64, 1500];
/// How long the source sends. The worker is some fifty times slower than by itself, and finds a full burst in every turn.
const LOAD: Duration = Duration::from_secs(2);
/// Between two looks at whether packets still pass.
const LOOK: Duration = Duration::from_millis(200);
/// How long packets may pass after the source was stopped.
const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon under callgrind, with all that it serves.
pub struct Daemon {
    rig: Rig,
    directory: PathBuf,
}

impl Daemon {
    /// Starts the daemon. Its guests are connected when this returns.
    pub fn start() -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("netback-callgrind-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let profile = directory.join("profile");
        let wrapper = [
            // valgrind lets no other thread run while one waits in io_uring_enter(2), so the worker is to sleep in epoll.
            "strace".into(),
            "--daemonize=grandchild".into(),
            "--follow-forks".into(),
            "--seccomp-bpf".into(),
            "--output=/dev/null".into(),
            "--trace=io_uring_setup".into(),
            "--inject=io_uring_setup:error=ENOSYS".into(),
            "valgrind".into(),
            "--tool=callgrind".into(),
            "--quiet".into(),
            // What starts once is not counted, and starts sooner so.
            "--instr-atstart=no".into(),
            "--separate-threads=yes".into(),
            "--compress-pos=no".into(),
            format!("--callgrind-out-file={}", profile.display()),
        ];
        let rig = Rig::start(&StartOptions {
            wrapper: &wrapper,
            ..StartOptions::default()
        })?;
        let daemon = Self { rig, directory };
        daemon.control(&["--instr=on"])?;
        Ok(daemon)
    }

    /// Counts one path.
    pub fn count(&mut self, path: Path, size: usize) -> Result<Count> {
        // Caches fill and lists grow before anything is counted.
        self.load(path, size)?;
        self.control(&["--zero"])?;
        let before = self.passed(path)?;
        let after = self.load(path, size)?;
        self.control(&["--dump"])?;
        let passed = Passed {
            packets: after.packets - before.packets,
            operations: after.operations - before.operations,
            copied_bytes: None,
        };
        ensure!(
            passed.packets > 0,
            "no packet passed; {}",
            self.rig.last_words()
        );
        self.read_profiles(passed)
    }

    /// Has the path's source send for a while. Returns what has passed since the daemon started, once nothing is under way any more.
    fn load(&mut self, path: Path, size: usize) -> Result<Passed> {
        self.rig.send(path, size)?;
        std::thread::sleep(LOAD);
        self.rig.stop(path)?;
        let (stopped, mut before) = (Instant::now(), self.passed(path)?);
        loop {
            std::thread::sleep(LOOK);
            let now = self.passed(path)?;
            if now.packets == before.packets {
                return Ok(now);
            }
            ensure!(stopped.elapsed() < PATIENCE, "packets do not cease to pass");
            before = now;
        }
    }

    /// What has passed since the daemon started.
    fn passed(&self, path: Path) -> Result<Passed> {
        let status: Status = self.rig.status()?;
        let operations: u64 = status
            .workers
            .iter()
            .map(|worker| worker.counts.copy_segments)
            .sum();
        Ok(Passed {
            packets: self.rig.delivered(&status, path)? as usize,
            operations: operations as usize,
            copied_bytes: None,
        })
    }

    /// Runs callgrind_control(1) on the daemon.
    fn control(&self, arguments: &[&str]) -> Result<()> {
        let pid = self.rig.status()?.pid.to_string();
        let output = Command::new("callgrind_control")
            .args(arguments)
            .arg(pid)
            .output()
            .context("cannot start callgrind_control: apt install valgrind")?;
        ensure!(
            output.status.success(),
            "callgrind_control {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Reads what callgrind wrote of the worker, and removes what it wrote of all threads.
    fn read_profiles(&self, passed: Passed) -> Result<Count> {
        let mut count = None;
        for file in std::fs::read_dir(&self.directory)? {
            let file = file?.path();
            let text = std::fs::read_to_string(&file)?;
            std::fs::remove_file(&file)?;
            count = callgrind::count_worker(&text, passed)?.or(count);
        }
        count.context("callgrind wrote nothing of a worker")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
