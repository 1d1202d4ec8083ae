//! The real netback in the driver domain's namespace, with the simulator's devices in front of it.
use super::manager::Manager;
use super::process::Process;
use super::{Directory, Namespace, programs};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use xen::grant::DomId;

/// How long one of its commands may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What grant copies cost where they are charged, in nanoseconds, as SIM_COPY_COST has it: a call, a hypercall, an operation.
///
/// - A call of the ioctl is one system call, measured as 170 ns on the 2-core shared machine of docs/benchmarks.md.
/// - A hypercall has at most 16 operations. No public figure: a PV guest's hypercall enters Xen by SYSCALL, so it is at least a call;
///   an exit from a PVH or HVM guest costs several times that. With 16 operations a hypercall it is 1/16 of the charge.
/// - An operation costs what kernel netback spends on one a packet, by the packet rates of Oracle's series for UEK with and without
///   grant copies (Tx 1.24 against 3.6 million a second is 0.53 us, Rx 1.02 against 2.04 is 0.49 us).
pub const COPY_COST: &str = "170,500,500";

/// A bridge of the configuration.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// Name that vifs choose it by.
    pub name: String,
    /// Interface behind it.
    pub uplink: Option<String>,
}

/// What a start of the daemon may ask for beyond its configuration.
#[derive(Debug, Default)]
pub struct StartOptions<'a> {
    /// What each grant copy costs beyond the memcpy, as SIM_COPY_COST has it; empty: nothing.
    pub copy_cost: &'a str,
    /// A program, with its arguments, that runs the daemon, as valgrind does; empty: the daemon runs by itself.
    pub wrapper: &'a [String],
}

/// The daemon's process and how to talk to it. Killed when dropped.
pub struct Daemon {
    process: Process,
    launch: Launch,
}

/// Everything that a start of the daemon needs, so that a restart loses no time.
struct Launch {
    program: PathBuf,
    namespace: String,
    environment: Vec<(&'static str, OsString)>,
    config: PathBuf,
    log: PathBuf,
    wrapper: Vec<String>,
    manager: Manager,
}

impl Daemon {
    /// A configuration for the lab: its directories, `workers` threads (0: the daemon's choice), `bridges`, then `more` TOML.
    pub fn config(directory: &Directory, workers: u16, bridges: &[Bridge], more: &str) -> String {
        let run_dir = directory.file("run");
        let bpf_dir = directory.file("bpf");
        let mut text = format!("[daemon]\nrun_dir = {run_dir:?}\nbpf_dir = {bpf_dir:?}\n");
        if workers > 0 {
            let _ = write!(text, "\n[workers]\ncount = {workers}\n");
        }
        for Bridge { name, uplink } in bridges {
            let _ = write!(text, "\n[[bridge]]\nname = {name:?}\n");
            if let Some(uplink) = uplink {
                let _ = writeln!(text, "uplink = {uplink:?}");
            }
        }
        text + more
    }

    /// Writes the configuration and starts the daemon on it.
    pub fn start(
        directory: &Directory,
        namespace: &Namespace,
        domain: DomId,
        config: &str,
        options: &StartOptions<'_>,
    ) -> Result<Self> {
        let launch = Launch {
            program: programs::path("netback")?,
            namespace: namespace.name().into(),
            environment: vec![
                ("LD_PRELOAD", programs::path("libsim_preload.so")?.into()),
                ("SIM_DIR", directory.path().into()),
                ("SIM_DOMID", domain.0.to_string().into()),
                ("SIM_COPY_COST", options.copy_cost.into()),
                // A panic is one line in the log.
                ("RUST_BACKTRACE", "0".into()),
            ],
            config: directory.file("netback.toml"),
            log: directory.file("netback.log"),
            wrapper: options.wrapper.to_vec(),
            manager: Manager::start(&directory.file("notify"))?,
        };
        std::fs::write(&launch.config, config)?;
        Ok(Self {
            process: launch.run()?,
            launch,
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// An error with what it logged where it has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        if !self.process.is_running() {
            bail!("the daemon has ended: {}", self.log_tail());
        }
        Ok(())
    }

    /// kill -9, and a new one on another configuration at once.
    pub fn restart_with(&mut self, config: &str) -> Result<()> {
        std::fs::write(&self.launch.config, config)?;
        self.kill_and_restart()
    }

    /// Starts a new daemon on the same configuration where this one has ended, as systemd does it. Returns how it ended.
    pub fn revive(&mut self) -> Result<Option<ExitStatus>> {
        let ended = self.process.wait(Duration::ZERO)?;
        if ended.is_some() {
            self.process = self.launch.run()?;
        }
        Ok(ended)
    }

    /// kill -9, and a new one on the same configuration at once.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = self.launch.run()?;
        Ok(())
    }

    /// kill -9, and the next one only with [`Self::start_again`].
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Another one on the same configuration.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = self.launch.run()?;
        Ok(())
    }

    /// The service manager's stand-in, which keeps descriptors from one daemon to the next.
    pub fn manager(&self) -> &Manager {
        &self.launch.manager
    }

    /// `netback <arguments> --config <ours>`; its stdout. `status`, `disconnect` and the like.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.launch.command(&[]);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.launch.config)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let (status, output) = Process::start("netback", &mut command)?.output(PATIENCE)?;
        if !status.success() {
            bail!(
                "netback {}: {status}; {}",
                arguments.join(" "),
                self.log_tail()
            );
        }
        Ok(output)
    }

    /// `netback status --json`.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.command(&["status", "--json"])?)
            .context("netback status printed no JSON")
    }

    /// The command line that a user at the terminal would type for `netback <arguments>`.
    pub fn command_line(&self, arguments: &str) -> String {
        let Launch {
            program,
            namespace,
            config,
            ..
        } = &self.launch;
        format!(
            "ip netns exec {namespace} {} {arguments} --config {}",
            program.display(),
            config.display()
        )
    }

    /// The last lines that it logged.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.launch.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join(" | ")
    }
}

impl Launch {
    /// `netback` in the driver domain, the simulator's devices before the real ones.
    fn command(&self, wrappers: &[OsString]) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "ip",
            "netns",
            "exec",
            &self.namespace,
            "env",
        ]);
        for (name, value) in &self.environment {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            command.arg(word);
        }
        command.args(wrappers).arg(&self.program);
        command
    }

    fn run(&self) -> Result<Process> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let (mut wrappers, _handed) = self.manager.hand_over()?;
        wrappers.extend(self.wrapper.iter().map(OsString::from));
        let mut command = self.command(&wrappers);
        command.args(["run", "--config"]).arg(&self.config);
        Process::start("netback", command.stdout(log.try_clone()?).stderr(log))
    }
}
