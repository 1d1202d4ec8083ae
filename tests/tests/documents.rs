//! docs/from-kernel-netback.md, typed: the old lines beside a kernel bridge, the new ones beside netback.
//!
//! In a block ```` ```console ```` a line `kernel# ip link` or `netback# netback status` is a command, and the lines up to the next one
//! are its output: `...` alone is any number of lines, and within a line any text. A block ```` ```toml ```` takes the place of the
//! tables of its kind in the configuration.
use anyhow::{Context, Result, bail, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use lab::namespace::Namespace;
use tests::tools::wait_reachable;
use tests::{keys, wait_for};

const DOCUMENT: &str = include_str!("../../docs/from-kernel-netback.md");

/// The beginning of a command's line in the document, and what is run in its place.
enum Step {
    Kernel(String, Vec<String>),
    Netback(String, Vec<String>),
    Config(String),
}

fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match kind {
            "toml" => steps.push(Step::Config(block.join("\n") + "\n")),
            "console" => {
                for line in block {
                    if let Some(command) = line.strip_prefix("kernel# ") {
                        steps.push(Step::Kernel(command.into(), Vec::new()));
                    } else if let Some(command) = line.strip_prefix("netback# ") {
                        steps.push(Step::Netback(command.into(), Vec::new()));
                    } else if let Some(Step::Kernel(_, output) | Step::Netback(_, output)) =
                        steps.last_mut()
                    {
                        output.push(line.into());
                    }
                }
            }
            other => bail!("a block {other:?}"),
        }
    }
    Ok(steps)
}

/// Whether `said` is what the document shows, however many blanks are between words.
fn matches(shown: &[String], said: &[String]) -> bool {
    match shown {
        [] => said.is_empty(),
        [any, rest @ ..] if any == "..." => (0..=said.len()).any(|n| matches(rest, &said[n..])),
        [line, rest @ ..] => {
            said.first().is_some_and(|first| line_matches(line, first)) && matches(rest, &said[1..])
        }
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once("...") {
        None => pattern == line,
        Some((head, rest)) => line.strip_prefix(head).is_some_and(|line| {
            rest.is_empty()
                || line
                    .char_indices()
                    .any(|(at, _)| line_matches(rest, &line[at..]))
        }),
    }
}

fn words(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

/// A driver domain with kernel netback, as far as its tools can tell: a card, a bridge and a guest's interface.
struct Kernel(Namespace);

impl Kernel {
    fn new() -> Result<Self> {
        let namespace = Namespace::create(format!("nbk{}", std::process::id()))?;
        for (name, peer) in [("eth0", "far0"), ("vif3.0", "far1")] {
            namespace.ip(&["link", "add", name, "type", "veth", "peer", "name", peer])?;
        }
        Ok(Self(namespace))
    }

    fn type_line(&self, command: &str) -> Result<String> {
        let output = self.0.command("sh").args(["-c", command]).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kernel# {command}: {error}");
        // The hotplug script that the guest's configuration names.
        if command.ends_with("xenbr0 up") && command.contains("set xenbr0") {
            self.0
                .ip(&["link", "set", "vif3.0", "master", "xenbr0", "up"])?;
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The driver domain with netback.
struct Ours {
    lab: Lab,
    bridge: String,
    vif: String,
}

impl Ours {
    /// Two cards, and a guest that waits for a bridge.
    fn new() -> Result<Self> {
        let mut lab = Lab::new()?;
        lab.add_outside("outside", "eth0", 1)?;
        lab.add_outside("beside", "eth1", 1)?;
        lab.add_guest(GuestConfig::new("guest"))?;
        let mut ours = Self {
            lab,
            bridge: String::new(),
            vif: String::new(),
        };
        let config = ours.config();
        ours.lab.start_daemon(&config)?;
        wait_for("netback answers", || {
            Ok(ours.lab.daemon()?.status().is_ok())
        })?;
        Ok(ours)
    }

    fn config(&self) -> String {
        let base = lab::daemon::Daemon::config(self.lab.directory(), 1, &[], "");
        format!("{base}\n{}\n{}", self.vif, self.bridge)
    }

    fn write(&mut self, block: &str) -> Result<()> {
        let table = match block.starts_with("[[bridge]]") {
            true => &mut self.bridge,
            false => &mut self.vif,
        };
        block.clone_into(table);
        std::fs::write(self.lab.directory().file("netback.toml"), self.config())?;
        Ok(())
    }

    fn type_line(&mut self, command: &str) -> Result<String> {
        let typed: Vec<&str> = command.split_whitespace().collect();
        match &*typed {
            ["netback", words @ ..] => self.lab.daemon()?.command(words),
            ["systemctl", "reload", "netback"] => {
                let process = self.lab.daemon()?.process();
                process.signal(rustix::process::Signal::HUP);
                Ok(String::new())
            }
            ["xenstore-write", key, value] => {
                let (_, key) = key.rsplit_once('/').context("no path")?;
                keys::set(&mut self.lab, 0, key, Some(value))?;
                Ok(String::new())
            }
            _ => bail!("nobody knows how to type {command:?}"),
        }
    }
}

#[test]
fn every_line_of_the_way_from_kernel_netback_does_what_is_shown() -> Result<()> {
    let kernel = Kernel::new()?;
    let mut ours = Ours::new()?;
    // The guest of the document is domain 3.
    let vif = format!("{}/0", ours.lab.guests[0].domid);
    let own = |text: &str| text.replace("3/0", &vif);
    let (mut typed, mut connected) = (0, false);
    for step in steps()? {
        match step {
            Step::Kernel(command, shown) => {
                let said = kernel.type_line(&command)?;
                let shown: Vec<String> = words(&shown.join("\n"));
                ensure!(
                    shown.is_empty() || matches(&shown, &words(&said)),
                    "kernel# {command}: the document shows {shown:?}, there was {said}"
                );
                typed += 1;
            }
            Step::Config(block) => ours.write(&block)?,
            Step::Netback(command, shown) => {
                let (command, shown) = (own(&command), words(&own(&shown.join("\n"))));
                let mut said = String::new();
                let result = wait_for("what the document shows", || {
                    // A daemon that begins anew does not answer for a moment.
                    let answer = ours.type_line(&command);
                    let answered = answer.is_ok();
                    said = answer.unwrap_or_else(|error| format!("{error:#}"));
                    Ok(answered && (shown.is_empty() || matches(&shown, &words(&said))))
                });
                result.with_context(|| {
                    format!("netback# {command}: the document shows {shown:?}, there was {said}")
                })?;
                if command.starts_with("systemctl") && !connected {
                    ours.lab.connect_guests()?;
                    wait_reachable(&ours.lab.guests[0].host, &ours.lab.outside[0].host)?;
                    connected = true;
                }
                typed += 1;
            }
        }
    }
    ensure!(typed > 20, "only {typed} lines were found");
    Ok(())
}
