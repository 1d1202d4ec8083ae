//! The outage probe: numbered datagrams at a fixed rate, and at the other end the longest time without one.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Numbers that one run may carry; the receiver's memory is bounded by it.
const NUMBERS: usize = 1 << 20;

/// Send `hz` datagrams a second for `seconds`. Those that a late wake-up has missed are sent at once, so that the rate holds.
pub fn send(address: &str, hz: u32, seconds: u32) -> io::Result<()> {
    let any = if address.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    let start = Instant::now();
    let total = hz.saturating_mul(seconds);
    let (mut sent, mut refused) = (0_u32, 0_u32);
    while sent < total {
        let due = u32::try_from(start.elapsed().as_micros() * u128::from(hz) / 1_000_000)
            .unwrap_or(total)
            .min(total);
        while sent < due {
            // No route or a full queue for a moment is what the receiver is there to count.
            refused += u32::from(socket.send(&sent.to_be_bytes()).is_err());
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(1_000_000 / u64::from(hz.max(1))));
    }
    println!("{{\"sent\":{sent},\"refused\":{refused}}}");
    Ok(())
}

/// What arrived.
#[derive(Default)]
struct Tally {
    received: u32,
    duplicates: u32,
    reordered: u32,
    highest: u32,
    longest_gap: Duration,
}

/// Receive for `seconds` from the first datagram on (waiting at most as long for it), then print what arrived as one JSON object.
pub fn receive(port: u16, seconds: u64) -> io::Result<()> {
    let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
    let limit = Duration::from_secs(seconds);
    let mut seen = vec![false; NUMBERS];
    let mut tally = Tally::default();
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(limit))?;
    let first = socket.recv(&mut buffer)?;
    let start = Instant::now();
    let mut last = start;
    note(&mut tally, &mut seen, &buffer[..first]);
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    while start.elapsed() < limit {
        if let Ok(length) = socket.recv(&mut buffer) {
            let now = Instant::now();
            tally.longest_gap = tally.longest_gap.max(now - last);
            last = now;
            note(&mut tally, &mut seen, &buffer[..length]);
        }
    }
    // A stream that never came back is an outage up to the end.
    let silence = last.elapsed();
    println!(
        "{{\"received\":{},\"duplicates\":{},\"reordered\":{},\"highest\":{},\"longest_gap_ms\":{:.1},\"silence_at_end_ms\":{:.1}}}",
        tally.received,
        tally.duplicates,
        tally.reordered,
        tally.highest,
        tally.longest_gap.as_secs_f64() * 1e3,
        silence.as_secs_f64() * 1e3,
    );
    Ok(())
}

fn note(tally: &mut Tally, seen: &mut [bool], datagram: &[u8]) {
    let Ok(bytes) = datagram.try_into() else {
        return;
    };
    let number = u32::from_be_bytes(bytes);
    let Some(seen) = seen.get_mut(number as usize) else {
        return;
    };
    tally.received += 1;
    tally.duplicates += u32::from(std::mem::replace(seen, true));
    tally.reordered += u32::from(number < tally.highest);
    tally.highest = tally.highest.max(number);
}
