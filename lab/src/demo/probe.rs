//! A probe: numbered UDP packets at 1 kHz from one host to another, each arrival stamped by a monotonic clock.
use crate::Host;
use anyhow::Result;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two packets.
const INTERVAL: Duration = Duration::from_millis(1);
/// Where receivers listen.
const PORT: u16 = 7777;

/// A running probe of one direction.
pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<std::io::Result<u64>>,
    receiver: JoinHandle<std::io::Result<Vec<(Instant, u64)>>>,
}

/// What a probe saw.
pub struct Arrivals {
    /// Packets sent.
    pub sent: u64,
    /// When which number arrived, in order of arrival.
    pub arrivals: Vec<(Instant, u64)>,
}

impl Probe {
    /// Send from `from` to `to` until [`Self::finish`].
    pub fn start(from: &Host, to: &Host) -> Result<Self> {
        let receiver = to.namespace.udp_socket(&format!("{}:{PORT}", to.ipv4))?;
        let sender = from.namespace.udp_socket(&format!("{}:0", from.ipv4))?;
        let address: SocketAddr = format!("{}:{PORT}", to.ipv4).parse()?;
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_sender, stop_receiver) = (stop.clone(), stop.clone());
        Ok(Self {
            stop,
            sender: std::thread::spawn(move || send(&sender, address, &stop_sender)),
            receiver: std::thread::spawn(move || receive(&receiver, &stop_receiver)),
        })
    }

    /// Stop it; what arrived.
    pub fn finish(self) -> Result<Arrivals> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| std::io::Error::other("a probe's thread panicked");
        let sent = self.sender.join().map_err(panicked)??;
        let arrivals = self.receiver.join().map_err(panicked)??;
        Ok(Arrivals { sent, arrivals })
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, stop: &AtomicBool) -> std::io::Result<u64> {
    let start = Instant::now();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        // A full queue below drops the packet: that is what is measured. No catching up: a late sender is no outage of the path.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        number += 1;
        let next = INTERVAL.as_nanos() as u64
            * (start.elapsed().as_nanos() as u64 / INTERVAL.as_nanos() as u64 + 1);
        std::thread::sleep(Duration::from_nanos(next).saturating_sub(start.elapsed()));
    }
    Ok(number)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> std::io::Result<Vec<(Instant, u64)>> {
    let mut arrivals = Vec::new();
    let mut packet = [0; 8];
    loop {
        match socket.recv(&mut packet) {
            Ok(8) => arrivals.push((Instant::now(), u64::from_be_bytes(packet))),
            Ok(_) => {}
            // The timeout: after the sender has stopped, what is under way has arrived by now.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(arrivals);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

impl Arrivals {
    /// From `moment` to the end of the longest silence that ends after it: the first packet that the path carried again.
    /// (What was already past the daemon at that moment still arrives and is no sign of life.) `None`: nothing came after it.
    pub fn outage(&self, moment: Instant) -> Option<Duration> {
        let times = self.arrivals.windows(2).map(|pair| (pair[0].0, pair[1].0));
        let (_, end) = times
            .filter(|(_, end)| *end > moment)
            .max_by_key(|(start, end)| *end - *start)?;
        Some(end - moment)
    }

    /// How many packets arrived within each `step`, from `before` ahead of `moment` to `after` behind it.
    pub fn histogram(&self, moment: Instant, [before, after, step]: [Duration; 3]) -> Vec<u64> {
        let length = ((before + after).as_nanos() / step.as_nanos()) as usize;
        let mut packets = vec![0; length];
        for (arrived, _) in &self.arrivals {
            let since_begin = (*arrived + before).checked_duration_since(moment);
            let place = since_begin.map(|time| (time.as_nanos() / step.as_nanos()) as usize);
            if let Some(count) = place.and_then(|place| packets.get_mut(place)) {
                *count += 1;
            }
        }
        packets
    }

    /// Numbers that arrived more than once.
    pub fn duplicates(&self) -> u64 {
        let mut numbers: Vec<u64> = self.arrivals.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64
    }

    /// Packets that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent - (self.arrivals.len() as u64 - self.duplicates()).min(self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outage_ends_with_the_longest_silence_after_the_moment() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let arrivals = [
            (0, 0),
            (1, 1),
            (12, 2),
            (80, 60),
            (81, 61),
            (81, 61),
            (82, 62),
        ]
        .map(|(ms, n)| (at(ms), n))
        .to_vec();
        let seen = Arrivals { sent: 63, arrivals };
        assert_eq!(seen.outage(at(10)), Some(Duration::from_millis(70)));
        assert_eq!(seen.outage(at(90)), None);
        let part = [5, 75, 40].map(Duration::from_millis);
        assert_eq!(seen.histogram(at(10), part), [1, 4]);
        assert_eq!(seen.duplicates(), 1);
        assert_eq!(seen.lost(), 57);
    }
}
