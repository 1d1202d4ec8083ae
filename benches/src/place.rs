//! Where a bench runs: a network namespace of its own, veth pairs in it, the priority of its threads, and a clock that counts a thread's
//! cycles.
// setns(2) and clock_gettime(2) have no safe wrapper in std.
#![allow(unsafe_code)]
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A namespace which the calling thread is in from here on; removed when dropped.
#[derive(Debug)]
pub struct Place {
    name: String,
    dir: PathBuf,
}

impl Place {
    /// Make it. Needs root.
    pub fn enter() -> io::Result<Self> {
        let name = format!("bench-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir)?;
        run(&format!("ip netns add {name}"))?;
        let place = Self { name, dir };
        let file = File::open(format!("/run/netns/{}", place.name))?;
        // SAFETY: moves this thread into the namespace behind an open descriptor.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(place)
    }

    /// A veth pair, up.
    pub fn veth(&self, near: &str, far: &str) -> io::Result<()> {
        run(&format!("ip link add {near} type veth peer name {far}"))?;
        run(&format!("ip link set {near} up"))?;
        run(&format!("ip link set {far} up"))
    }

    /// For pins.
    pub fn bpf_dir(&self) -> PathBuf {
        self.dir.join("bpf")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.bpf_dir()).output();
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = run(&format!("ip netns del {}", self.name));
    }
}

/// A real-time priority: on its core a thread with one runs before whatever has a lower one or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before everything without a real-time priority.
    First = 1,
    /// Before `First` too.
    BeforeFirst = 2,
}

/// Gives thread `tid` a real-time priority.
pub fn prefer(tid: u32, priority: Priority) -> io::Result<()> {
    run(&format!("chrt --fifo --pid {} {tid}", priority as u8))
}

fn run(command: &str) -> io::Result<()> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// CPU time of the calling thread, kernel included; other programs' turns on the core are not in it.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Cycles of the time stamp counter in a nanosecond; 1 (so that cycles are nanoseconds) where there is none we know.
pub fn cycles_per_ns() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: reads a register.
        let counter = || unsafe { core::arch::x86_64::_rdtsc() };
        let (start, cycles) = (Instant::now(), counter());
        while start.elapsed() < Duration::from_millis(50) {}
        (counter() - cycles) as f64 / start.elapsed().as_nanos() as f64
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = Instant::now();
        1.0
    }
}
