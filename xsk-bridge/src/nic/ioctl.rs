//! The device requests: flags (net/if.h) and ethtool (linux/ethtool.h, linux/sockios.h).
// ioctl(2) takes pointers.
#![allow(unsafe_code)]
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GRXRINGS: u32 = 0x2d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// A device by name, and a socket for requests to it.
#[derive(Debug)]
pub(crate) struct Handle {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

/// struct ethtool_channels without its command: the most channels there can be, and the channels there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(C)]
pub(super) struct Channels {
    pub max_rx: u32,
    pub max_tx: u32,
    pub max_other: u32,
    pub max_combined: u32,
    pub rx: u32,
    pub tx: u32,
    pub other: u32,
    pub combined: u32,
}

/// One offload: its name, whether it is on, whether it can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Feature {
    pub name: String,
    pub on: bool,
    pub changeable: bool,
}

impl Handle {
    pub(crate) fn open(ifname: &str) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        let mut name = [0; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(ifname.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        Ok(Self { socket, name })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn ioctl(&self, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: an ifreq as the request wants it; for ethtool, `ethtool` vouches for what it points to.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), code, &raw mut *request) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the device's flags, IFF_*.
    pub(super) fn flags(&self) -> io::Result<i32> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the request filled in this member.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags } as u16))
    }

    pub(super) fn set_flags(&self, flags: i32) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = flags as u16 as i16;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Returns whether the device is up and has a carrier; false if it is gone. A device's flags show a lost carrier up to a second
    /// late, so they are read only if the driver does not answer.
    pub(crate) fn link_is_up(&self) -> bool {
        let mut words = [ETHTOOL_GLINK, 0]; // struct ethtool_value
        match self.ethtool(&mut words) {
            Ok(()) => words[1] != 0,
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let wanted = libc::IFF_UP | libc::IFF_RUNNING;
                self.flags().is_ok_and(|flags| flags & wanted == wanted)
            }
            Err(_) => false,
        }
    }

    /// Makes an ethtool request: `words` starts with the command and is as long as the kernel takes it to be, answer included.
    fn ethtool(&self, words: &mut [u32]) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        self.ioctl(libc::SIOCETHTOOL, &mut request)
    }

    pub(super) fn channels(&self) -> io::Result<Channels> {
        let mut words = [0; 9];
        words[0] = ETHTOOL_GCHANNELS;
        self.ethtool(&mut words)?;
        let [
            _,
            max_rx,
            max_tx,
            max_other,
            max_combined,
            rx,
            tx,
            other,
            combined,
        ] = words;
        Ok(Channels {
            max_rx,
            max_tx,
            max_other,
            max_combined,
            rx,
            tx,
            other,
            combined,
        })
    }

    pub(super) fn set_channels(&self, c: Channels) -> io::Result<()> {
        self.ethtool(&mut [
            ETHTOOL_SCHANNELS,
            c.max_rx,
            c.max_tx,
            c.max_other,
            c.max_combined,
            c.rx,
            c.tx,
            c.other,
            c.combined,
        ])
    }

    /// Returns the number of receive rings, for a driver without channels.
    pub(super) fn recv_rings(&self) -> io::Result<u32> {
        let mut words = [0; 48]; // struct ethtool_rxnfc; cmd, flow_type, u64 data
        words[0] = ETHTOOL_GRXRINGS;
        self.ethtool(&mut words)?;
        Ok(words[2])
    }

    /// Returns the driver's name.
    pub(super) fn driver(&self) -> io::Result<String> {
        let mut words = [0; 49]; // struct ethtool_drvinfo, 196 bytes: cmd, driver[32], ...
        words[0] = ETHTOOL_GDRVINFO;
        self.ethtool(&mut words)?;
        Ok(text(&bytes(&words[1..9])))
    }

    /// Returns every offload of the device.
    pub(super) fn features(&self) -> io::Result<Vec<Feature>> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_gfeatures: cmd, size, then blocks of available, requested, active, never_changed.
        let mut words = vec![0; 2 + blocks * 4];
        (words[0], words[1]) = (ETHTOOL_GFEATURES, blocks as u32);
        self.ethtool(&mut words)?;
        let bit = |i: usize, word: usize| words[2 + i / 32 * 4 + word] >> (i % 32) & 1 == 1;
        let feature = |(i, name)| Feature {
            name,
            on: bit(i, 2),
            changeable: bit(i, 0) && !bit(i, 3),
        };
        Ok(names.into_iter().enumerate().map(feature).collect())
    }

    /// Requests offloads on or off. The driver may ignore the request without an error, so the caller reads the offloads again.
    pub(super) fn set_features(&self, wanted: &[(&str, bool)]) -> io::Result<()> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_sfeatures: cmd, size, then blocks of valid, requested.
        let mut words = vec![0; 2 + blocks * 2];
        (words[0], words[1]) = (ETHTOOL_SFEATURES, blocks as u32);
        for (i, name) in names.iter().enumerate() {
            if let Some((_, on)) = wanted.iter().find(|(n, _)| n == name) {
                words[2 + i / 32 * 2] |= 1 << (i % 32);
                words[3 + i / 32 * 2] |= u32::from(*on) << (i % 32);
            }
        }
        self.ethtool(&mut words)
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: cmd, reserved, u64 mask, then a count for each set in the mask.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
        self.ethtool(&mut info)?;
        let count = info[4] as usize;
        // struct ethtool_gstrings: cmd, set, count, then the names.
        let mut words = vec![0; 3 + count * ETH_GSTRING_LEN / 4];
        (words[0], words[1], words[2]) = (ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32);
        self.ethtool(&mut words)?;
        let names = bytes(&words[3..]);
        Ok(names.chunks(ETH_GSTRING_LEN).map(text).collect())
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
