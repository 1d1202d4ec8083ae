//! Pings on a clock: an echo request leaves every millisecond, whether earlier ones were answered or not.
//!
//! ping(8) sends nothing while it waits for an answer of the last request (up to ten milliseconds), so one late answer hides all that would
//! have been late behind it, and where it waits for none it spins on the core that the guests' stacks need.
// recvmsg(2) with the kernel's time stamp has no safe wrapper in std or rustix.
#![allow(unsafe_code)]
use crate::place::{self, Priority};
use anyhow::{Context, Result};
use lab::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, connect, ipproto, send, socket_with,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two requests.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long an answer is waited for once the last request has left.
const PATIENCE: Duration = Duration::from_secs(1);
/// An ICMP header and ping(8)'s 56 bytes of data.
const REQUEST: usize = 8 + 56;
/// Bytes that hold an answer with the longest IPv4 header.
const ANSWER: usize = 60 + REQUEST;

/// What became of the pings of one run.
#[derive(Debug, Clone, Default)]
pub struct Pinged {
    /// Requests that left.
    pub sent: usize,
    /// Round trips of those that were answered, microseconds, in ascending order.
    round_trips: Vec<f64>,
    /// How late each request was sent, microseconds, in ascending order.
    late: Vec<f64>,
}

impl Pinged {
    /// Requests that no answer came for.
    pub fn lost(&self) -> usize {
        self.sent - self.round_trips.len()
    }

    /// The round trip in microseconds that `percent` of 100 requests stay within. A lost one stays within none: infinite where too many were
    /// lost.
    pub fn within(&self, percent: usize) -> f64 {
        self.percentile(&self.round_trips, percent)
    }

    /// The time in microseconds that `percent` of 100 requests were late within. No thread on their core has a higher priority than the one
    /// that sends them, so it is late where the kernel is busy there and lets nobody run.
    pub fn late_within(&self, percent: usize) -> f64 {
        self.percentile(&self.late, percent)
    }

    fn percentile(&self, sorted: &[f64], percent: usize) -> f64 {
        let last = (self.sent * percent).div_ceil(100).checked_sub(1);
        let found = last.and_then(|last| sorted.get(last));
        found.copied().unwrap_or(f64::INFINITY)
    }
}

/// Pings `address` from `from` for `time`, on one of `cores`. The thread that pings has real-time priority, so that it is on time on a busy
/// core.
pub fn ping(from: &Host, address: &str, time: Duration, cores: &CpuSet) -> Result<Pinged> {
    let address: Ipv4Addr = address.parse()?;
    from.namespace.run(|| {
        sched_setaffinity(None, cores).context("sched_setaffinity")?;
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        place::prefer(thread as u32, Priority::BeforeFirst)?;
        let mut pinger = Pinger::open(address).context("cannot open an ICMP socket")?;
        pinger.run(time).context("cannot ping")
    })?
}

/// A raw ICMP socket, when each request left, and when its answer came.
struct Pinger {
    socket: OwnedFd,
    /// Since the epoch, by sequence number.
    sent: Vec<Duration>,
    answered: Vec<Option<Duration>>,
    late: Vec<Duration>,
}

impl Pinger {
    fn open(address: Ipv4Addr) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let icmp = Some(ipproto::ICMP);
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, icmp)?;
        stamp(&socket)?;
        connect(&socket, &SocketAddrV4::new(address, 0))?;
        Ok(Self {
            socket,
            sent: Vec::new(),
            answered: Vec::new(),
            late: Vec::new(),
        })
    }

    /// A request that the pinger itself is late with is left out, rather than sent in a burst with the next.
    fn run(&mut self, time: Duration) -> io::Result<Pinged> {
        let (start, mut due) = (Instant::now(), Duration::ZERO);
        while due < time {
            self.collect_until(start + due)?;
            let elapsed = start.elapsed();
            self.late.push(elapsed - due);
            self.request()?;
            let slot = (elapsed.as_micros() / INTERVAL.as_micros()) as u32 + 1;
            due = INTERVAL * slot;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.answered.contains(&None) && Instant::now() < deadline {
            self.collect_until(Instant::now() + INTERVAL)?;
        }
        let pairs = self.sent.iter().zip(&self.answered);
        let times = pairs.filter_map(|(sent, answered)| Some((*answered)?.saturating_sub(*sent)));
        Ok(Pinged {
            sent: self.sent.len(),
            round_trips: ascending_us(times),
            late: ascending_us(self.late.iter().copied()),
        })
    }

    fn request(&mut self) -> io::Result<()> {
        let request = echo_request(self.sent.len() as u16);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.sent.push(now.unwrap_or_default());
        self.answered.push(None);
        match send(&self.socket, &request, SendFlags::DONTWAIT) {
            // A full queue loses the request, as any other would be lost.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes answers until `moment`.
    fn collect_until(&mut self, moment: Instant) -> io::Result<()> {
        loop {
            while let Some((sequence, at)) = receive(&self.socket)? {
                if let Some(answered) = self.answered.get_mut(usize::from(sequence)) {
                    answered.get_or_insert(at);
                }
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let timeout = Timespec {
                tv_sec: left.as_secs() as _,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(
                &mut [PollFd::new(&self.socket, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// `times` in microseconds, in ascending order.
fn ascending_us(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e6).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// An echo request with its checksum (RFC 792). All but its first four words is zero.
fn echo_request(sequence: u16) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    let type_and_code: u16 = 0x0800;
    let (sum, carry) = type_and_code.overflowing_add(sequence);
    request[..2].copy_from_slice(&type_and_code.to_be_bytes());
    request[2..4].copy_from_slice(&(!(sum + u16::from(carry))).to_be_bytes());
    request[6..8].copy_from_slice(&sequence.to_be_bytes());
    request
}

/// The sequence number of an echo reply in an IPv4 packet.
fn echo_reply(packet: &[u8]) -> Option<u16> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let icmp = packet.get(header..header + 8)?;
    (icmp[0] == 0).then(|| u16::from_be_bytes([icmp[6], icmp[7]]))
}

/// Has the kernel stamp what arrives at the moment in which its stack takes it from the device, as ping(8) does.
fn stamp(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: an option of four bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next answer: its sequence number, and when it arrived since the epoch. `None`: nothing now. What is no answer is left out.
fn receive(socket: &OwnedFd) -> io::Result<Option<(u16, Duration)>> {
    loop {
        let (mut packet, mut control) = ([0u8; ANSWER], [0u64; 8]);
        let mut part = libc::iovec {
            iov_base: packet.as_mut_ptr().cast(),
            iov_len: packet.len(),
        };
        // SAFETY: msghdr is plain data; zero is a value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: every pointer in the message is to a live buffer as long as it says.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let Ok(n) = usize::try_from(n) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            };
        };
        if let Some(answer) = echo_reply(&packet[..n]).zip(arrival(&message)) {
            return Ok(Some(answer));
        }
    }
}

/// The kernel's time stamp in a message that recvmsg(2) filled in.
fn arrival(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: recvmsg(2) has written whole headers into the control buffer, and the length of what it wrote.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return None;
    }
    // SAFETY: the data of this kind of header is a timespec, which need not be aligned.
    let time: libc::timespec = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::timespec>()
            .read_unaligned()
    };
    Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_all_ones() {
        for sequence in [0, 1, 0xf7ff, 0xf800, 0xffff] {
            let words = echo_request(sequence);
            let words = words
                .chunks(2)
                .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{sequence}");
        }
    }

    #[test]
    fn a_lost_ping_stays_within_no_time() {
        let pinged = Pinged {
            sent: 200,
            round_trips: (1..=198).map(f64::from).collect(),
            late: Vec::new(),
        };
        assert_eq!(
            (pinged.lost(), pinged.within(50), pinged.within(99)),
            (2, 100.0, 198.0)
        );
        let worse = Pinged {
            sent: 201,
            ..pinged
        };
        assert_eq!(worse.within(99), f64::INFINITY);
    }
}
