//! A network namespace of its own for each test, with veth pairs in it, and a packet socket on the far end.
#![allow(unsafe_code)]
#![allow(dead_code, missing_docs)]
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a test waits for what must come; only reached where it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// EtherType for local experiments (IEEE 802): nothing else uses it.
pub const ETHERTYPE: u16 = 0x88b5;

/// A network namespace, which the calling thread is in from here on, and a directory for pins and records.
pub struct Namespace {
    name: String,
    dir: PathBuf,
}

impl Namespace {
    pub fn enter() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "this test needs root");
        let name = format!(
            "xsk-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        run(&format!("ip netns add {name}"));
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        // SAFETY: moves this thread into the namespace behind an open descriptor.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        // Only what the tests send is on the wire.
        run(&format!(
            "ip netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
        ));
        Self { name, dir }
    }

    pub fn bpf_dir(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    pub fn run_dir(&self) -> &Path {
        &self.dir
    }

    /// A pair of `queues` queues at both ends, up; the far end with the settings that keep unfinished checksums and tags out of it.
    pub fn veth(&self, near: &str, far: &str, queues: u32) {
        let n = format!("numrxqueues {queues} numtxqueues {queues}");
        run(&format!(
            "ip link add {near} {n} type veth peer name {far} {n}"
        ));
        run(&format!("ip link set {near} up"));
        run(&format!("ip link set {far} up"));
        self.ethtool(&format!("-K {far} tx off txvlan off"));
        let deadline = Instant::now() + PATIENCE;
        while ![near, far]
            .iter()
            .all(|end| run(&format!("ip link show {end}")).contains("state UP"))
        {
            assert!(Instant::now() < deadline, "{near} and {far} do not come up");
        }
    }

    /// Frames that an XDP program on a veth end of one queue dropped.
    pub fn xdp_drops(&self, ifname: &str) -> u64 {
        let statistics = self.ethtool(&format!("-S {ifname}"));
        let mut lines = statistics.lines().map(str::trim);
        let drops = lines.find_map(|line| line.strip_prefix("rx_queue_0_xdp_drops: "));
        drops.expect("veth counts drops").parse().unwrap()
    }

    /// Waits for what must come.
    pub fn wait_until(&self, what: &str, mut happened: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !happened() {
            assert!(Instant::now() < deadline, "it never happens: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes a number to a file of the namespace's own /sys.
    pub fn write(&self, path: &str, value: u64) {
        let script = format!("echo {value} > {path}");
        let arguments = ["netns", "exec", &self.name, "sh", "-c", &script];
        let output = Command::new("ip").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{path}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub fn ethtool(&self, arguments: &str) -> String {
        run(&format!("ethtool {arguments}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.bpf_dir()).output();
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Run a command of words without blanks in this thread's namespace.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A packet socket on the far end of a pair.
pub struct PacketSocket(pub OwnedFd);

impl PacketSocket {
    pub fn bind(ifname: &str, ethertype: u16) -> Self {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size: i32 = 64 << 20;
        let name = std::ffi::CString::new(ifname).unwrap();
        // SAFETY: an option of four bytes, and a sockaddr_ll as long as we say.
        unsafe {
            let option = (&raw const size).cast();
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                option,
                4,
            );
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = ethertype.to_be();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let len = size_of_val(&address) as u32;
            let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len);
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        }
        Self(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // SAFETY: a buffer of ours.
            let n =
                unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if n == frame.len() as isize {
                return;
            }
            let error = io::Error::last_os_error();
            let full = matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN));
            assert!(full && Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next frame, if there is one now. What we sent ourselves is not seen: a packet socket bound to one EtherType does
    /// not get outgoing frames.
    pub fn recv(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        // SAFETY: a buffer of ours.
        let n = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            let down = error.raw_os_error() == Some(libc::ENETDOWN);
            assert!(down || error.kind() == io::ErrorKind::WouldBlock, "{error}");
            return None;
        }
        buffer.truncate(n as usize);
        Some(buffer)
    }
}

/// Frame number `n` of `len` bytes, every byte of it telling.
pub fn frame(n: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..18].copy_from_slice(&n.to_be_bytes());
    for (i, byte) in frame[18..].iter_mut().enumerate() {
        *byte = (n as usize * 31 + i * 7) as u8;
    }
    frame
}

/// Every length from a minimal to a full frame, in turn and not in order.
pub fn length(n: u32) -> usize {
    60 + (n as usize * 397) % (1514 - 60 + 1)
}
