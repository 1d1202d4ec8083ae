//! A hypervisor process, a driver domain, and agents in it.
use sim::client::{Counts, DomainCounts, Hypervisor};
use sim::domain::{Domain, DomainConfig};
use sim::toolstack::Toolstack;
use sim_machine::GNTALLOC_LIMIT;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xen::event::Port;
use xen::grant::DomId;
use xen::store::{Client, WatchEvent, XenStore};

/// Longer than anything takes on a loaded machine; only a failure waits so long.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Lab {
    pub toolstack: Toolstack,
    pub hypervisor: Hypervisor,
    pub driver: Domain,
    process: Child,
    dir: PathBuf,
}

impl Lab {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sim-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_sim-hypervisor"))
            .arg(&dir)
            .spawn()
            .unwrap();
        let hypervisor = Hypervisor::connect(&dir, LIMIT).unwrap();
        let toolstack = Toolstack::connect(&dir).unwrap();
        let driver = Domain::create(
            &dir,
            DomainConfig {
                name: "driver".into(),
                pages: GNTALLOC_LIMIT,
            },
        )
        .unwrap();
        Self {
            toolstack,
            hypervisor,
            driver,
            process,
            dir,
        }
    }

    pub fn guest(&self, name: &str, pages: u32) -> Domain {
        Domain::create(
            &self.dir,
            DomainConfig {
                name: name.into(),
                pages,
            },
        )
        .unwrap()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A process inside the driver domain.
    pub fn agent(&self) -> Agent {
        self.agent_charged("")
    }

    /// One whose copies cost what `SIM_COPY_COST` says.
    pub fn agent_charged(&self, cost: &str) -> Agent {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = self
            .dir
            .join(format!("agent-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent", "--ignored", "--quiet"])
            .env("AGENT_SOCKET", &path)
            .env("LD_PRELOAD", preload())
            .env("SIM_COPY_COST", cost)
            .env("SIM_DIR", &self.dir)
            .env("SIM_DOMID", self.driver.id().to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT * 6)).unwrap();
        Agent {
            child,
            socket: BufReader::new(stream),
        }
    }

    pub fn counts(&self, domid: DomId) -> DomainCounts {
        self.hypervisor
            .counts()
            .unwrap()
            .domain(domid)
            .cloned()
            .unwrap()
    }

    /// Wait until the counts are as they should be: deaths are noticed a moment after they happen.
    pub fn settle(&self, done: impl Fn(&Counts) -> bool) {
        let start = Instant::now();
        loop {
            let counts = self.hypervisor.counts().unwrap();
            if done(&counts) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{counts:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ports with events, waiting for the first.
    pub fn pending(&self, domain: &Domain) -> Vec<Port> {
        wait(domain);
        self.pending_now(domain)
    }

    pub fn pending_now(&self, domain: &Domain) -> Vec<Port> {
        let mut ports = [Port(0); 8];
        let n = domain.pending(&mut ports).unwrap();
        ports[..n].to_vec()
    }

    /// Pages of memory the hypervisor process has.
    pub fn resident_pages(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id())).unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// At least `n` watch events.
    pub fn events(&self, store: &mut Client<UnixStream>, n: usize) -> Vec<WatchEvent> {
        let (start, mut all) = (Instant::now(), Vec::new());
        while all.len() < n {
            assert!(start.elapsed() < LIMIT, "{all:?}");
            all.extend(store.events().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
        all
    }
}

fn wait(fd: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec {
        tv_sec: LIMIT.as_secs() as i64,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Agent {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl Agent {
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.socket.get_mut(), "{command}").unwrap();
    }

    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.socket.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the agent died");
        line.trim_end().to_owned()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The preload library, built beside this test: cargo builds no cdylib for a test that only preloads it.
fn preload() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        let target = exe.ancestors().nth(3).unwrap();
        let cargo = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "sim-preload",
                "--target-dir",
            ])
            .arg(target)
            .status();
        assert!(cargo.unwrap().success());
        target.join("debug/libsim_preload.so")
    })
}
