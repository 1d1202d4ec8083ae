//! Datagrams of every size there and back, each byte compared.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

/// How long one answer may take; emulated domains that share a core with a build are slow at times.
const PATIENCE: Duration = Duration::from_secs(2);

/// Send every datagram back, until killed.
pub fn answer(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // The asker counts what is missing.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Ask once with every `step`th payload size from `first` on, and with `last`; prints how many answers were missing and how many differed.
pub fn sweep(address: &str, first: u16, last: u16, step: u16) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    let sizes = (first..last)
        .step_by(usize::from(step.max(1)))
        .chain([last]);
    let mut asked = 0;
    for size in sizes {
        asked += 1;
        match ask(&socket, &pattern(size)) {
            Some(true) => {}
            Some(false) => wrong.push(size),
            None => missing.push(size),
        }
    }
    println!("{{\"asked\":{asked},\"missing\":{missing:?},\"wrong\":{wrong:?}}}");
    Ok(())
}

/// Bytes that differ from size to size and from place to place, so that a shifted or stale buffer shows.
fn pattern(size: u16) -> Vec<u8> {
    let mut state = u32::from(size).wrapping_mul(0x9e37_79b9) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    })
    .take(size.into())
    .collect()
}

/// Whether the answer was right, None without one. A late answer to an earlier question is skipped.
fn ask(socket: &UdpSocket, question: &[u8]) -> Option<bool> {
    let mut buffer = vec![0; 1 << 16];
    socket.send(question).ok()?;
    loop {
        let length = socket.recv(&mut buffer).ok()?;
        if length >= question.len() {
            return Some(&buffer[..length] == question);
        }
    }
}
