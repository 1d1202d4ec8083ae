//! The remote shell: one command a connection.
//!
//! A frame is a type byte, a big-endian u32 length, and as many bytes. Host to domain: `C` the command (first), `I` its stdin (empty:
//! end of file). Domain to host: `O` stdout, `E` stderr, `X` the exit status as big-endian u32 (last). A host that hangs up ends the command,
//! not what a command that has ended left in the background.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest command accepted, bytes.
const COMMAND_LIMIT: u32 = 1 << 20;
/// How long output may still come once the command has ended: a background child of it can hold the pipes for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(300);

/// Serve until killed.
pub fn run(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        std::thread::spawn(move || {
            if let Err(error) = serve(connection) {
                eprintln!("rig-agent: {error}");
            }
        });
    }
    Ok(())
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let (kind, length) = header(&mut connection)?;
    if kind != b'C' || length > COMMAND_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut command = vec![0; length as usize];
    connection.read_exact(&mut command)?;
    let mut child = Command::new("/bin/bash")
        .arg("-c")
        .arg(String::from_utf8_lossy(&command).as_ref())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take().expect("stdin is piped");
    let (host, group) = (connection.try_clone()?, child.id());
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    std::thread::spawn(move || {
        feed(host, input);
        // What a command that ended has left in the background stays.
        if !seen.load(Ordering::Acquire) {
            end_group(group);
        }
    });
    let status = relay(&mut child, &connection, &ended)?;
    finish(&connection, status)
}

fn header(connection: &mut TcpStream) -> io::Result<(u8, u32)> {
    let mut bytes = [0; 5];
    connection.read_exact(&mut bytes)?;
    let [kind, length @ ..] = bytes;
    Ok((kind, u32::from_be_bytes(length)))
}

/// Host to stdin, closed at the host's end of file; returns when the host hangs up.
fn feed(mut host: TcpStream, input: ChildStdin) {
    let mut input = Some(input);
    let mut buffer = vec![0; 1 << 16];
    while let Ok((_, mut left)) = header(&mut host) {
        if left == 0 {
            input = None;
        }
        while left > 0 {
            let part = buffer.len().min(left as usize);
            if host.read_exact(&mut buffer[..part]).is_err() {
                break;
            }
            left -= part as u32;
            // A command that closed its stdin does not want the rest.
            if input
                .as_mut()
                .is_some_and(|pipe| pipe.write_all(&buffer[..part]).is_err())
            {
                input = None;
            }
        }
    }
}

fn end_group(group: u32) {
    let kill = format!("kill -TERM -- -{group}; sleep 0.2; kill -KILL -- -{group}");
    // It may end by itself meanwhile.
    let _ = Command::new("/bin/bash")
        .args(["-c", &kill])
        .stderr(Stdio::null())
        .status();
}

/// Both outputs to the host until the command has ended and its output with it.
fn relay(child: &mut Child, connection: &TcpStream, ended: &AtomicBool) -> io::Result<ExitStatus> {
    let host = Arc::new(Mutex::new(connection.try_clone()?));
    let (done, end) = mpsc::channel();
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    spawn_copy(b'O', stdout, Arc::clone(&host), done.clone());
    spawn_copy(b'E', stderr, host, done);
    let status = child.wait()?;
    ended.store(true, Ordering::Release);
    drain(&end);
    Ok(status)
}

fn spawn_copy(
    kind: u8,
    mut from: impl Read + Send + 'static,
    to: Arc<Mutex<TcpStream>>,
    done: Sender<()>,
) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let mut host = to.lock().expect("no writer panics");
            if write_frame(&mut host, kind, &buffer[..read]).is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
}

/// Wait for both copies, as long as the grace allows.
fn drain(end: &Receiver<()>) {
    for _ in 0..2 {
        if end.recv_timeout(OUTPUT_GRACE).is_err() {
            return;
        }
    }
}

fn write_frame(host: &mut TcpStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).expect("a frame is at most a buffer long");
    host.write_all(&[&[kind][..], &length.to_be_bytes()].concat())?;
    host.write_all(payload)
}

fn finish(mut connection: &TcpStream, status: ExitStatus) -> io::Result<()> {
    // As a shell reports it: 128 + signal.
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let frame = [
        &b"X"[..],
        &4_u32.to_be_bytes(),
        &code.cast_unsigned().to_be_bytes(),
    ]
    .concat();
    connection.write_all(&frame)?;
    connection.shutdown(Shutdown::Write)
}
