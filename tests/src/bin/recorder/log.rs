//! The recording: every xenstore line, and a few chains of each shape.

use anyhow::{Context, Result};
use ring::wire::Words;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;

/// Chains kept of one shape (slots, extras, flags of the head).
const OF_A_SHAPE: u32 = 4;
/// Bytes of chains kept in all.
const CHAIN_BYTES: usize = 60_000;
/// Rx requests kept in all.
const RX_REQUESTS: u32 = 300;

/// The file, and what is in it so far.
pub struct Log {
    file: File,
    shapes: HashMap<(usize, u16, u32), u32>,
    chain_bytes: usize,
    rx: u32,
}

impl Log {
    /// Makes the file `path`, into which a conversation with xenstore is recorded.
    pub fn create(path: &str) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {path}"))?;
        Ok(Self {
            file,
            shapes: HashMap::new(),
            chain_bytes: 0,
            rx: 0,
        })
    }

    /// Writes a line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.file, "{line}")?)
    }

    /// Writes a chain of Tx requests, of which `flags` are its head's, and `gso` is the first word of its GSO extra or 0.
    pub fn chain(&mut self, slots: &[Words], flags: u16, gso: u32) -> Result<()> {
        // The low byte of the word is the extra's type, the high half the segment size, which says little.
        let seen = self
            .shapes
            .entry((slots.len(), flags, gso & 0xffff))
            .or_default();
        if *seen == OF_A_SHAPE || self.chain_bytes > CHAIN_BYTES {
            return Ok(());
        }
        *seen += 1;
        let mut line = String::from("tx");
        for (n, words) in slots.iter().enumerate() {
            let separator = if n == 0 { ' ' } else { ',' };
            write!(
                line,
                "{separator}{:x} {:x} {:x}",
                words[0], words[1], words[2]
            )?;
        }
        self.chain_bytes += line.len();
        self.line(&line)
    }

    /// Writes a posted Rx request.
    pub fn rx(&mut self, words: Words) -> Result<()> {
        self.rx += 1;
        if self.rx > RX_REQUESTS {
            return Ok(());
        }
        self.line(&format!("rx {:x} {:x}", words[0], words[1]))
    }
}
