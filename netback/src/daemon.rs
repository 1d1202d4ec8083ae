//! From the command line to a serving process: everything that needs privilege or a device node is opened here.
use crate::bounds::STAGING_PAGES;
use crate::config::{self, Config};
use crate::control::signals::Signals;
use crate::control::socket::Listener;
use crate::control::{Control, Ended, Failed, Setup};
use crate::descriptors::Descriptors;
use crate::devices;
use crate::hypervisor::{Doors, Linux};
use crate::life::Marks;
use crate::uninstall;
use rustix::fs::{FlockOperation, flock};
use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use xen::grant::{DomId, GrantedMemory};
use xen::linux::{Evtchn, Gntalloc, Gntdev};
use xsk_bridge::frame::{Frame, Rings, Umem};

/// How long a run directory's lock may stay with a process that is ending, and with one that may be about to.
const DYING_PATIENCE: Duration = Duration::from_secs(10);
const LIVING_PATIENCE: Duration = Duration::from_millis(200);

/// Why a command ends without success: one line, and the exit status.
#[derive(Debug)]
pub enum Failure {
    /// Wrong input or a wrong environment: exit status 2.
    Input(String),
    /// Something failed at run time: exit status 1.
    Runtime(String),
}
impl Failure {
    /// The line.
    pub fn line(&self) -> &str {
        match self {
            Self::Input(line) | Self::Runtime(line) => line,
        }
    }
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Runtime(_) => 1,
        }
    }
}
impl From<config::ConfigError> for Failure {
    fn from(error: config::ConfigError) -> Self {
        Self::Input(error.to_string())
    }
}
impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Uplink(line) => Self::Input(line),
            Failed::Broken(error) => Self::Runtime(error.to_string()),
        }
    }
}

/// `netback run`: serve until a signal.
pub fn run(path: &Path) -> Result<(), Failure> {
    let config = read(path)?;
    let descriptors = Rc::new(RefCell::new(Descriptors::inherited()));
    refuse_beside_kernel_netback(Path::new("/sys"))?;
    let _lock = lock(&config.daemon.run_dir)?;
    // Without a mark a crash counts for no vif, and everything else is as it was.
    if let Err(error) = Marks::open(&config.daemon.run_dir).and_then(Marks::arm) {
        warn!("a crash of netback will leave no mark: {error}");
    }
    // From here on a signal is a wish to stop, not a death.
    let signals =
        Signals::catch().map_err(|error| Failure::Runtime(format!("signals: {error}")))?;
    let signals = Arc::new(signals);
    let mut control = start(path, &config, &signals, &descriptors)?;
    devices::remove_forgotten_hosts(&config, &descriptors);
    loop {
        let ended = control.run();
        match ended.map_err(|error| Failure::Runtime(error.to_string()))? {
            Ended::Stopped => return Ok(()),
            Ended::BeginAnew { running, next } => {
                control = begin_anew(path, &running, &next, &signals, &descriptors)?;
            }
        }
    }
}

/// Reads the configuration, and says in the log what is missing from one that serves nobody.
fn read(path: &Path) -> Result<Config, config::ConfigError> {
    let config = Config::load(path)?;
    if config.bridges.is_empty() {
        warn!("{}: {}", path.display(), config::NO_BRIDGE);
    }
    Ok(config)
}

/// Starts with `next` in place of `running`, or with `running` again where `next` cannot be served: an error in a configuration that
/// was reloaded does not end the service.
fn begin_anew(
    path: &Path,
    running: &Config,
    next: &Config,
    signals: &Arc<Signals>,
    descriptors: &Rc<RefCell<Descriptors>>,
) -> Result<Control<Linux, LinuxStore>, Failure> {
    let failure = match start(path, next, signals, descriptors) {
        Ok(control) => {
            give_back_uplinks(running, next);
            devices::remove_forgotten_hosts(next, descriptors);
            return Ok(control);
        }
        Err(failure) => failure,
    };
    // What was right a moment ago is no wrong input.
    let failed = |failure: Failure| Failure::Runtime(failure.line().into());
    if next == running {
        return Err(failed(failure));
    }
    warn!(
        "the reloaded configuration cannot be served, the one before stays in force: {}",
        failure.line()
    );
    // Those that were opened before the one that could not be.
    give_back_uplinks(next, running);
    let control = start(path, running, signals, descriptors).map_err(failed)?;
    devices::remove_forgotten_hosts(running, descriptors);
    Ok(control)
}

/// Gives the kernel back the network cards that `config` names as uplinks and `next` does not.
fn give_back_uplinks(config: &Config, next: &Config) {
    let uplinks = |config: &Config| -> Vec<String> {
        let uplinks = config.bridges.iter();
        uplinks.filter_map(|bridge| bridge.uplink.clone()).collect()
    };
    let mut kept = uplinks(next);
    for ifname in uplinks(config) {
        if kept.contains(&ifname) {
            continue;
        }
        // Several bridges may have it.
        kept.push(ifname.clone());
        match uninstall::take_off(&config.daemon, &ifname) {
            Ok(()) => info!(
                uplink = ifname,
                "no longer an uplink: given back to the kernel"
            ),
            Err(failure) => warn!(uplink = ifname, "not given back: {}", failure.line()),
        }
    }
}

/// The connection to the xenstored of this machine.
type LinuxStore = xen::store::Client<File>;

/// Opens everything and starts to serve.
fn start(
    path: &Path,
    config: &Config,
    signals: &Arc<Signals>,
    descriptors: &Rc<RefCell<Descriptors>>,
) -> Result<Control<Linux, LinuxStore>, Failure> {
    let environment = |error: io::Error| Failure::Input(error.to_string());
    let mut store = xen::linux::open_store().map_err(environment)?;
    let domid = store.domid().map_err(|error| {
        Failure::Input(format!("cannot learn the number of our domain: {error}"))
    })?;
    let doors = doors(config.worker_count(), domid).map_err(environment)?;
    let (umem, frames) = umem(config)?;
    let socket = &config.daemon.control_socket;
    let listener = Listener::bind(socket)
        .map_err(|error| Failure::Input(format!("{}: {error}", socket.display())))?;
    let reload = path.to_owned();
    let control = Control::start(Setup::<Linux, _> {
        reload: Box::new(move || read(&reload)),
        store,
        domid,
        doors,
        open_device: devices::uplink_opener(config, &umem),
        open_host: devices::host_opener(config, &umem, descriptors),
        umem,
        frames,
        listener,
        signals: signals.clone(),
        config: config.clone(),
    })?;
    // Not run by systemd: then there is nobody to tell.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    Ok(control)
}

/// A worker's own descriptors each.
fn doors(workers: u16, domid: DomId) -> io::Result<Vec<Doors<Linux>>> {
    let mut gntalloc = Gntalloc::open();
    let mut granted = || -> Option<Box<dyn GrantedMemory>> {
        let pages = gntalloc.as_ref().ok()?.grant(domid, STAGING_PAGES);
        // Asked once in vain is enough.
        let pages = pages.map_err(|refusal| gntalloc = Err(refusal)).ok()?;
        Some(Box::new(pages))
    };
    let doors = (0..workers).map(|_| {
        Ok(Doors {
            grants: Gntdev::open()?,
            events: Evtchn::open()?,
            granted: granted(),
        })
    });
    let doors = doors.collect::<io::Result<_>>()?;
    if let Err(reason) = gntalloc {
        warn!(%reason, "no bounce buffers: small packets cost more processor time");
    }
    Ok(doors)
}

/// Kernel netback serves every vif of the domain, and two backends cannot.
fn refuse_beside_kernel_netback(sys: &Path) -> Result<(), Failure> {
    let cure = "`modprobe -r xen-netback`, and keep it from loading with `blacklist xen-netback` in /etc/modprobe.d";
    let driver = sys.join("bus/xen-backend/drivers/vif");
    let bound = std::fs::read_dir(&driver).into_iter().flatten().flatten();
    let bound = bound
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vif-"))
        .count();
    if bound > 0 {
        return Err(Failure::Input(format!(
            "the kernel's xen-netback serves {bound} vifs of this domain: shut their guests down or detach them, then {cure}"
        )));
    }
    if driver.exists() || sys.join("module/xen_netback").exists() {
        return Err(Failure::Input(format!(
            "the kernel's xen-netback is loaded and would take every vif: {cure}"
        )));
    }
    Ok(())
}

/// Make the run directory and lock it for the process's life.
fn lock(run_dir: &Path) -> Result<File, Failure> {
    let failed = |path: &Path, error: io::Error| unusable(path, &error);
    let make = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir);
    make.map_err(|error| failed(run_dir, error))?;
    let path: PathBuf = run_dir.join("lock");
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(|error| failed(&path, error))?;
    if let Err(holder) = take(&mut file) {
        let line = format!(
            "another netback (pid {holder}) serves {}",
            run_dir.display()
        );
        return Err(Failure::Input(line));
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| failed(&path, error))?;
    Ok(file)
}

/// A file or directory of the process that cannot be used.
pub(crate) fn unusable(path: &Path, error: &io::Error) -> Failure {
    let cure = match error.kind() {
        io::ErrorKind::PermissionDenied => ": run as root",
        _ => "",
    };
    Failure::Input(format!("{}: {error}{cure}", path.display()))
}

/// Lock the file, waiting for a holder that is on its way out: a killed process keeps its locks until its memory is gone, which takes
/// the kernel a while. The error is the holder's process.
fn take(file: &mut File) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        if flock(&*file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(());
        }
        let mut holder = String::new();
        // What cannot be read is not named.
        let _ = file
            .rewind()
            .and_then(|()| file.read_to_string(&mut holder));
        let holder = holder.trim();
        let patience = if is_dying(Path::new("/proc"), holder) {
            DYING_PATIENCE
        } else {
            LIVING_PATIENCE
        };
        if begun.elapsed() > patience {
            return Err(holder.to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Is a process gone, ended, or ending (proc(5): state, flags with PF_EXITING, pending SIGKILL)?
fn is_dying(proc: &Path, pid: &str) -> bool {
    const PF_EXITING: u32 = 4;
    const SIGKILL: u64 = 1 << 8;
    let read = |file: &str| std::fs::read_to_string(proc.join(pid).join(file));
    let Ok(stat) = read("stat") else { return true };
    // The name, in parentheses, may hold anything.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let flags: u32 = fields
        .nth(5)
        .and_then(|flags| flags.parse().ok())
        .unwrap_or(0);
    let status = read("status").unwrap_or_default();
    let pending = status.lines().filter_map(|line| {
        line.strip_prefix("SigPnd:")
            .or(line.strip_prefix("ShdPnd:"))
    });
    let killed = pending
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & SIGKILL != 0);
    ended || killed || flags & PF_EXITING != 0
}

/// The process's one UMEM.
fn umem(config: &Config) -> Result<(Umem, Vec<Frame>), Failure> {
    let (frames, needed) = (config.frames(), config.frames_needed());
    if frames < needed {
        warn!(
            "umem.frames is {frames}: with fewer than {needed} frames may run out, and packets are dropped as no_frame"
        );
    }
    make_umem(frames, config.may_have_uplinks())
}

#[cfg(feature = "af-xdp")]
fn make_umem(frames: u32, wired: bool) -> Result<(Umem, Vec<Frame>), Failure> {
    if !wired {
        return Umem::new(frames).map_err(|error| Failure::Runtime(format!("umem: {error}")));
    }
    Umem::for_af_xdp(frames, Rings::default()).map_err(|error| Failure::Input(error.to_string()))
}

#[cfg(not(feature = "af-xdp"))]
fn make_umem(frames: u32, _wired: bool) -> Result<(Umem, Vec<Frame>), Failure> {
    Umem::new(frames).map_err(|error| Failure::Runtime(format!("umem: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("netback-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_second_daemon_on_a_run_directory_is_refused_by_name() {
        let dir = dir("lock");
        let first = lock(&dir.join("run")).unwrap();
        let refused = lock(&dir.join("run")).unwrap_err();
        let line = format!(
            "another netback (pid {}) serves {}",
            std::process::id(),
            dir.join("run").display()
        );
        assert_eq!((refused.line(), refused.status()), (&*line, 2));
        drop(first);
        drop(lock(&dir.join("run")).unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_killed_predecessor_is_waited_for() {
        let dir = dir("dying");
        let first = lock(&dir).unwrap();
        // Its pid is that of a process that has ended.
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        std::fs::write(dir.join("lock"), ended.id().to_string()).unwrap();
        let releases = std::thread::spawn(move || {
            std::thread::sleep(LIVING_PATIENCE * 2);
            drop(first);
        });
        drop(lock(&dir).unwrap());
        releases.join().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_process_is_dying_by_its_state_its_flags_or_its_signals() {
        let dir = dir("proc");
        let process = |state: &str, flags: u32, pending: &str| {
            std::fs::create_dir_all(dir.join("7")).unwrap();
            let stat = format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 100 0");
            std::fs::write(dir.join("7/stat"), stat).unwrap();
            let status = format!("Name:\ta\nSigPnd:\t0000000000000000\nShdPnd:\t{pending}\n");
            std::fs::write(dir.join("7/status"), status).unwrap();
            is_dying(&dir, "7")
        };
        let none = "0000000000000000";
        assert!(!process("S", 0x40_0040, none));
        assert!(!process("R", 0x40_0040, "0000000000004000"));
        assert!(process("Z", 0x40_0040, none));
        assert!(process("R", 0x40_0044, none));
        assert!(process("S", 0x40_0040, "0000000000000100"));
        assert!(is_dying(&dir, "8"));
        assert!(!is_dying(
            Path::new("/proc"),
            &std::process::id().to_string()
        ));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn kernel_netback_is_named_with_its_cure() {
        let sys = dir("sys");
        assert!(refuse_beside_kernel_netback(&sys).is_ok());
        std::fs::create_dir_all(sys.join("module/xen_netback")).unwrap();
        let loaded = refuse_beside_kernel_netback(&sys).unwrap_err();
        assert!(
            loaded.line().contains("is loaded")
                && loaded.line().contains("modprobe -r xen-netback"),
            "{}",
            loaded.line()
        );
        std::fs::create_dir_all(sys.join("bus/xen-backend/drivers/vif/vif-3-0")).unwrap();
        let bound = refuse_beside_kernel_netback(&sys).unwrap_err();
        assert!(bound.line().contains("serves 1 vifs"), "{}", bound.line());
        assert_eq!(bound.status(), 2);
        std::fs::remove_dir_all(sys).unwrap();
    }
}
