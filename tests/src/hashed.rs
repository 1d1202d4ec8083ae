//! TCP streams whose every byte is checked: what arrives is what was sent, whatever happens on the way.
use anyhow::{Context, Result, anyhow, ensure};
use lab::Host;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes that the stack is given at once: more than the longest packet.
const BLOCK: usize = 128 * 1024;
/// The longest silence, in which TCP tries again and again, before the stream counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one end of a stream saw.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    hash: u64,
}

type End = JoinHandle<io::Result<Seen>>;

/// Ends the sender of a stream when dropped, also of a stream that is never finished.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream of pseudo-random bytes, sent as fast as possible until [`Self::finish`].
pub struct HashedStream {
    stop: Stop,
    sender: End,
    receiver: End,
    name: String,
}

impl HashedStream {
    /// Connects `from` to `to` and starts to send; the connection may have to wait for a path.
    pub fn start(from: &Host, to: &Host) -> Result<Self> {
        let listener = to.namespace.run(|| TcpListener::bind((&*to.ipv4, 0)))??;
        let address = listener.local_addr()?;
        let socket = from
            .namespace
            .run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
        let name = format!("the stream from {} to {}", from.name, to.name);
        let socket = socket.with_context(|| name.clone())?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let (receiving, _) = listener.accept()?;
        receiving.set_read_timeout(Some(PATIENCE))?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Stop(stopped.clone());
        Ok(Self {
            stop,
            sender: std::thread::spawn(move || send(socket, &stopped)),
            receiver: std::thread::spawn(move || receive(receiving)),
            name,
        })
    }

    /// Ends the stream. The error is that it broke, carried nothing, or did not carry what was sent.
    pub fn finish(self) -> Result<()> {
        drop(self.stop);
        let name = self.name;
        let end = |end: End| end.join().map_err(|_| anyhow!("{name}: a thread panicked"));
        let sent = end(self.sender)?.with_context(|| format!("{name}, its sender"))?;
        let arrived = end(self.receiver)?.with_context(|| format!("{name}, its receiver"))?;
        ensure!(sent.bytes > 0, "{name} carried nothing");
        ensure!(
            sent == arrived,
            "{name}: sent {sent:?}, arrived {arrived:?}"
        );
        Ok(())
    }
}

fn send(mut socket: TcpStream, stop: &AtomicBool) -> io::Result<Seen> {
    let (mut hasher, mut bytes) = (DefaultHasher::new(), 0);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        socket.write_all(&block)?;
        hasher.write(&block);
        bytes += block.len() as u64;
    }
    let hash = hasher.finish();
    Ok(Seen { bytes, hash })
}

fn receive(mut socket: TcpStream) -> io::Result<Seen> {
    let (mut hasher, mut bytes) = (DefaultHasher::new(), 0);
    let mut block = vec![0; BLOCK];
    loop {
        match socket.read(&mut block)? {
            0 => break,
            n => {
                hasher.write(&block[..n]);
                bytes += n as u64;
            }
        }
    }
    let hash = hasher.finish();
    Ok(Seen { bytes, hash })
}
