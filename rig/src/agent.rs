//! The host's half of rig/agent: one command a connection (frames: see its `serve`).

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// What a command left behind.
#[derive(Debug, Default)]
pub struct Outcome {
    pub status: u32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Which stream a piece of output is from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Execute `command` with `stdin`, handing each piece of output to `see` as it comes; the exit status. Fails when `silence` passes
/// without a byte, or when the domain goes away.
pub fn execute(
    mut connection: TcpStream,
    command: &str,
    stdin: &mut (impl Read + ?Sized),
    silence: Duration,
    mut see: impl FnMut(Stream, &[u8]),
) -> Result<u32> {
    connection.set_read_timeout(Some(silence))?;
    connection.set_nodelay(true)?;
    write_frame(&mut connection, b'C', command.as_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = stdin.read(&mut buffer)?;
        write_frame(&mut connection, b'I', &buffer[..read])?;
        if read == 0 {
            break;
        }
    }
    loop {
        let (kind, payload) =
            read_frame(&mut connection).context("the domain's agent went away")?;
        match kind {
            b'O' => see(Stream::Stdout, &payload),
            b'E' => see(Stream::Stderr, &payload),
            b'X' => {
                // The agent ends the command's group when we hang up; do so now rather than when dropped late.
                let _ = connection.shutdown(Shutdown::Both);
                let status = payload
                    .try_into()
                    .ok()
                    .context("the agent sent a broken exit status")?;
                return Ok(u32::from_be_bytes(status));
            }
            other => bail!("the agent sent a frame of unknown type {other}"),
        }
    }
}

fn write_frame(connection: &mut TcpStream, kind: u8, payload: &[u8]) -> Result<()> {
    let length = u32::try_from(payload.len()).context("a command of 4 GiB")?;
    connection.write_all(&[&[kind][..], &length.to_be_bytes()].concat())?;
    Ok(connection.write_all(payload)?)
}

fn read_frame(connection: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    connection.read_exact(&mut header)?;
    let [kind, length @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    connection.read_exact(&mut payload)?;
    Ok((kind, payload))
}
