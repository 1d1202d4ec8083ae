//! A guest's control socket: one command a line, one JSON answer a line.
use super::counters::Report;
use super::generator::Stream;
use super::hostile::Hostile;
use super::netfront::parse_mac;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a test or the demo asks of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// All counters.
    Counters,
    /// Unload the driver: close the vif and wait for the backend.
    Close,
    /// Load the driver, or resume: fresh rings.
    Reconnect,
    /// Keep at most so many Rx buffers posted a queue.
    RxLimit(u32),
    /// Ask for multicast control, or no longer.
    MulticastControl(bool),
    /// Subscribe to (true) a multicast address, or no longer.
    Subscribe(bool, [u8; 6]),
    /// Do harm instead of moving packets; `None`: no longer. Where the rings were written to, only a reconnect makes them good.
    Hostile(Option<Hostile>),
    /// Start to send generated frames.
    Generate(Stream),
    /// Stop it.
    StopGenerator,
    /// End the guest's process.
    Quit,
}

impl std::str::FromStr for Command {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("counters", "") => Ok(Self::Counters),
            ("close", "") => Ok(Self::Close),
            ("reconnect", "") => Ok(Self::Reconnect),
            ("rx-limit", "all") => Ok(Self::RxLimit(u32::MAX)),
            ("rx-limit", n) => n
                .parse()
                .map(Self::RxLimit)
                .map_err(|_| format!("\"{n}\" is not a number of buffers")),
            ("multicast", "on") => Ok(Self::MulticastControl(true)),
            ("multicast", "off") => Ok(Self::MulticastControl(false)),
            ("subscribe", address) => mac(address).map(|address| Self::Subscribe(true, address)),
            ("unsubscribe", address) => mac(address).map(|address| Self::Subscribe(false, address)),
            ("storm", "") => Ok(Self::Hostile(Some(Hostile::Storm))),
            ("rage", seed) => match seed.parse() {
                Ok(seed @ 1..) => Ok(Self::Hostile(Some(Hostile::Rage(seed)))),
                _ => Err(format!("\"{seed}\" is not a seed from 1 on")),
            },
            ("calm", "") => Ok(Self::Hostile(None)),
            ("generate", "off") => Ok(Self::StopGenerator),
            ("generate", stream) => stream.parse().map(Self::Generate),
            ("quit", "") => Ok(Self::Quit),
            _ => Err(format!("unknown command \"{line}\"")),
        }
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    parse_mac(text).ok_or_else(|| format!("\"{text}\" is not a MAC address"))
}

/// The answer to any command: the guest's counters after it, or what was wrong with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done.
    Ok(Vec<Report>),
    /// Refused.
    Error(String),
}

/// Where guest `name` listens.
pub fn socket_path(sim_dir: &Path, name: &str) -> PathBuf {
    sim_dir.join(format!("guest-{name}.sock"))
}

/// The other end: talks to one guest.
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connect to guest `name`.
    pub fn connect(sim_dir: &Path, name: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket_path(sim_dir, name))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// Send a command line and take the answer: a report for each vif.
    pub fn command(&mut self, line: &str) -> io::Result<Vec<Report>> {
        self.reader
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        if self.reader.read_line(&mut answer)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the guest has gone",
            ));
        }
        match serde_json::from_str(&answer)? {
            Answer::Ok(reports) => Ok(reports),
            Answer::Error(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
        }
    }

    /// Counters of the first vif.
    pub fn counters(&mut self) -> io::Result<Report> {
        let reports = self.command("counters")?;
        reports
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the guest has no vif"))
    }
}

/// One connection to a guest, on the guest's side. Nonblocking; a peer that never ends its line is dropped.
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
}

/// Longest line taken.
const MAX_LINE: usize = 4096;

impl Connection {
    /// Serve `stream`.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
        })
    }

    /// The connection's descriptor.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Commands that have come in whole; `None`: the peer has gone.
    pub fn commands(&mut self) -> Option<Vec<String>> {
        let mut part = [0; 1024];
        loop {
            match io::Read::read(&mut self.stream, &mut part) {
                Ok(0) => return None,
                Ok(n) => self.input.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return None,
            }
            if self.input.len() > MAX_LINE {
                return None;
            }
        }
        let end = self
            .input
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |n| n + 1);
        let lines: Vec<u8> = self.input.drain(..end).collect();
        Some(
            String::from_utf8_lossy(&lines)
                .lines()
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Answer a command; false: the peer has gone, or does not read.
    pub fn answer(&mut self, answer: &Answer) -> bool {
        let Ok(mut text) = serde_json::to_string(answer) else {
            return false;
        };
        text.push('\n');
        self.stream.write_all(text.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Command;

    #[test]
    fn commands_are_read_from_their_lines() {
        assert_eq!("counters".parse(), Ok(Command::Counters));
        assert_eq!("rx-limit 0".parse(), Ok(Command::RxLimit(0)));
        assert_eq!("rx-limit all".parse(), Ok(Command::RxLimit(u32::MAX)));
        assert!(matches!(
            "generate size=64,count=1".parse(),
            Ok(Command::Generate(_))
        ));
        assert_eq!(
            "unsubscribe 01:00:5e:00:00:fb".parse(),
            Ok(Command::Subscribe(false, [1, 0, 0x5e, 0, 0, 0xfb]))
        );
        for bad in [
            "",
            "subscribe 01:00",
            "multicast",
            "rage 0",
            "counters now",
            "rx-limit -1",
            "generate size=1",
        ] {
            assert!(bad.parse::<Command>().is_err(), "{bad}");
        }
    }
}
