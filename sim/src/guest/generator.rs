//! Packets without a stack: numbered UDP frames made in the guest, and a sink that counts them.
use super::counters::SinkCounters;
use super::frame::{self, ETHERNET};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// IPv4 and UDP headers.
const HEADERS: usize = ETHERNET + 20 + 8;
/// Marks our frames, before the sequence number.
const MAGIC: [u8; 4] = *b"nbgn";
/// Smallest frame that holds marker and number.
const MIN_SIZE: usize = HEADERS + MAGIC.len() + 8;
/// Frames that a paced generator may catch up at once after it was held up.
const BURST: f64 = 64.0;
/// Generators whose numbers the sink follows; more are counted as `other`.
const MAX_SOURCES: usize = 1024;

/// What to send: `size=64,rate=0,count=1000,dst-mac=00:16:3e:00:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of each frame, 54 to 65535.
    pub size: usize,
    /// Frames a second; 0: as fast as the ring takes them.
    pub rate: u64,
    /// Frames in all; `None`: no end.
    pub count: Option<u64>,
    /// Destination.
    pub dst_mac: [u8; 6],
}

impl FromStr for Stream {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut stream = Self {
            size: 64,
            rate: 0,
            count: None,
            dst_mac: [0xff; 6],
        };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("\"{part}\" is not key=value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{key}: \"{value}\" is not a number"))
            };
            match key {
                "size" => stream.size = number()? as usize,
                "rate" => stream.rate = number()?,
                "count" => stream.count = Some(number()?),
                "dst-mac" => {
                    stream.dst_mac = super::netfront::parse_mac(value)
                        .ok_or_else(|| format!("\"{value}\" is not a MAC address"))?;
                }
                _ => {
                    return Err(format!(
                        "unknown key \"{key}\": size, rate, count and dst-mac are known"
                    ));
                }
            }
        }
        if !(MIN_SIZE..=0xffff).contains(&stream.size) {
            return Err(format!(
                "size: {} is not between {MIN_SIZE} and 65535",
                stream.size
            ));
        }
        Ok(stream)
    }
}

/// A running stream.
pub struct Generator {
    stream: Stream,
    template: Vec<u8>,
    sent: u64,
    allowance: f64,
    refilled: Instant,
}

impl Generator {
    /// Start sending from `source` now.
    pub fn new(stream: Stream, source: [u8; 6]) -> Self {
        Self {
            stream,
            template: template(&stream, source),
            sent: 0,
            allowance: 1.0,
            refilled: Instant::now(),
        }
    }

    /// Frames still to be sent; `None`: no end.
    pub fn left(&self) -> Option<u64> {
        self.stream.count.map(|count| count - self.sent)
    }

    /// How long until the next frame is due; `None`: all are sent.
    pub fn due(&mut self) -> Option<Duration> {
        if self.left() == Some(0) {
            return None;
        }
        if self.stream.rate == 0 {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let rate = self.stream.rate as f64;
        self.allowance = (self.allowance + (now - self.refilled).as_secs_f64() * rate)
            .min(BURST.max(rate / 500.0));
        self.refilled = now;
        Some(Duration::from_secs_f64(
            ((1.0 - self.allowance) / rate).max(0.0),
        ))
    }

    /// The next frame; the caller saw that it is due.
    pub fn next_frame(&mut self) -> &[u8] {
        let number = HEADERS + MAGIC.len();
        self.template[number..number + 8].copy_from_slice(&self.sent.to_be_bytes());
        self.sent += 1;
        self.allowance -= 1.0;
        &self.template
    }
}

/// Ethernet, IPv4 and UDP around marker, number and a pattern. The UDP checksum is 0, "none", so that only the number changes.
fn template(stream: &Stream, source: [u8; 6]) -> Vec<u8> {
    // Stream's size is at most 65535, so no length overflows.
    let mut bytes: Vec<u8> = (0..stream.size).map(|n| n as u8).collect();
    bytes[..6].copy_from_slice(&stream.dst_mac);
    bytes[6..12].copy_from_slice(&source);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip_length = (stream.size - ETHERNET) as u16;
    let ip = &mut bytes[ETHERNET..ETHERNET + 20];
    ip.fill(0);
    (ip[0], ip[8], ip[9]) = (0x45, 64, 17);
    ip[2..4].copy_from_slice(&ip_length.to_be_bytes());
    // TEST-NET-1: these frames are for a sink, not for a stack.
    ip[12..16].copy_from_slice(&[192, 0, 2, 1]);
    ip[16..20].copy_from_slice(&[192, 0, 2, 2]);
    let sum = frame::checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = &mut bytes[ETHERNET + 20..HEADERS];
    udp.fill(0);
    udp[..4].copy_from_slice(&[0x10, 0x00, 0x10, 0x00]);
    udp[4..6].copy_from_slice(&(ip_length - 20).to_be_bytes());
    bytes[HEADERS..HEADERS + 4].copy_from_slice(&MAGIC);
    bytes
}

/// Counts what generators sent, per source MAC in sequence.
#[derive(Default)]
pub struct Sink {
    /// What was seen.
    pub counters: SinkCounters,
    next: HashMap<[u8; 6], u64>,
}

impl Sink {
    /// Take note of a received frame.
    pub fn take(&mut self, frame: &[u8]) {
        let Some((source, number)) = numbered(frame) else {
            self.counters.other += 1;
            return;
        };
        if self.next.len() >= MAX_SOURCES && !self.next.contains_key(&source) {
            self.counters.other += 1;
            return;
        }
        self.counters.frames += 1;
        let pattern = frame.iter().enumerate().skip(MIN_SIZE);
        self.counters.corrupt += u64::from(pattern.into_iter().any(|(n, byte)| *byte != n as u8));
        let next = self.next.entry(source).or_insert(0);
        if number < *next {
            self.counters.late += 1;
        } else {
            self.counters.missing += number - *next;
            *next = number + 1;
        }
    }
}

/// Source and number of a generated frame.
fn numbered(frame: &[u8]) -> Option<([u8; 6], u64)> {
    let source = frame.get(6..12)?.try_into().ok()?;
    let marker = frame.get(HEADERS..HEADERS + 4)?;
    let number = frame.get(HEADERS + 4..MIN_SIZE)?.try_into().ok()?;
    (marker == MAGIC).then(|| (source, u64::from_be_bytes(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sink_knows_gaps_repeats_and_damage() {
        let stream: Stream = "size=100,count=5,dst-mac=00:16:3e:00:00:02"
            .parse()
            .unwrap();
        let mut generator = Generator::new(stream, [2; 6]);
        let frames: Vec<Vec<u8>> = (0..5).map(|_| generator.next_frame().to_vec()).collect();
        assert_eq!(generator.due(), None);
        let mut sink = Sink::default();
        for n in [0, 1, 4, 3] {
            sink.take(&frames[n]);
        }
        let mut bad = frames[4].clone();
        bad[99] ^= 1;
        sink.take(&bad);
        sink.take(&[0; 60]);
        assert_eq!(
            sink.counters,
            SinkCounters {
                frames: 5,
                missing: 2,
                late: 2,
                corrupt: 1,
                other: 1
            }
        );
    }

    #[test]
    fn a_generated_frame_has_valid_headers() {
        let stream = Stream {
            size: 64,
            rate: 0,
            count: None,
            dst_mac: [1; 6],
        };
        let bytes = template(&stream, [2; 6]);
        assert_eq!(frame::checksum(&bytes[14..34]), 0);
        assert!(frame::locate(&bytes).is_some_and(|l4| !l4.tcp && l4.start == 34));
    }

    #[test]
    fn a_stream_says_what_is_wrong_with_it() {
        for text in ["size=10", "size=70000", "speed=1", "size", "dst-mac=1:2"] {
            assert!(text.parse::<Stream>().is_err(), "{text}");
        }
    }
}
