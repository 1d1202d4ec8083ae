//! Child processes that end with the value that holds them.
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running child; killed and waited for when dropped.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Start `command` in a process group of its own, so that Ctrl-C reaches only us.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.into(),
            child,
        })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line of its stdout, which had to be piped; more output is read and thrown away.
    pub fn first_line(&mut self) -> Result<String> {
        let stdout = self
            .child
            .stdout
            .take()
            .with_context(|| format!("stdout of {} is not piped", self.name))?;
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("{} ended before it was ready: {status}", self.name);
        }
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        Ok(line.trim_end().to_owned())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Send it a signal.
    pub fn signal(&self, signal: Signal) {
        // Its pid is not reused before we wait for it.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// kill -9, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ask it to end; an error where it did not within five seconds (then it is killed) or reported failure.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        match self.wait(GRACE)? {
            None => {
                self.kill();
                bail!(
                    "{} did not end {} s after SIGTERM",
                    self.name,
                    GRACE.as_secs()
                )
            }
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }

    /// Wait for it to end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            super::interrupt::sleep(Duration::from_millis(5))?;
        }
    }

    /// Wait for it and take all its stdout, which had to be piped.
    pub fn output(&mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let mut stdout = self
            .child
            .stdout
            .take()
            .with_context(|| format!("stdout of {} is not piped", self.name))?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let Some(status) = self.wait(limit)? else {
            self.kill();
            bail!("{} did not end within {} s", self.name, limit.as_secs());
        };
        let text = reader
            .join()
            .map_err(|_| anyhow::anyhow!("reading from {} panicked", self.name))??;
        Ok((status, text))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Run a short command to its end; what it printed to stderr is the error.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let why = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} {}: {}",
            command.get_program().to_string_lossy(),
            words.join(" "),
            why.trim()
        );
    }
    Ok(())
}

/// Whether `program` is in PATH.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
