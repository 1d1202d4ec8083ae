//! Packets in several frames (AF_XDP's multi-buffer): what kernel and driver carry, as they say themselves.
use crate::device::{FRAME_OVERHEAD, capacity};
use crate::link::{Driver, Link};
use crate::packet::MAX_FRAMES;
use crate::xdp::Mode;
use rustix::io::Errno;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fmt;
use std::io;

/// Most frames of a packet that the kernel copies: the least that its fragments of a packet are configured to (MAX_SKB_FRAGS is 17 unless a
/// distribution raised it), of which some devices take the first frame as one too.
const COPIED: u32 = 17;
const _: () = assert!(COPIED as usize <= MAX_FRAMES);

/// What the kernel and a device's driver do with packets in several frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiBuffer {
    /// The kernel's AF_XDP carries them (Linux 6.6).
    pub kernel: bool,
    /// What the driver says of itself.
    pub driver: Driver,
}

/// Why a device carries no longer frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthLimit {
    /// The kernel's AF_XDP knows no packets in several frames.
    Kernel,
    /// The driver does not receive them under XDP.
    Driver,
    /// The driver does not carry them with zero-copy.
    ZeroCopy,
    /// The first socket on the shared memory was bound without them.
    Memory,
    /// A packet takes no more frames.
    Frames,
}

impl LengthLimit {
    /// What else lets longer frames pass, as the end of a line that says how to shorten them.
    pub fn otherwise(self) -> &'static str {
        match self {
            Self::Driver => ", or say xdp = \"generic\" for its bridge, which is slower",
            _ => "",
        }
    }
}

impl fmt::Display for LengthLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "AF_XDP of this kernel carries no frame in several buffers (Linux 6.6)",
            Self::Driver => "the driver receives no frame in several buffers under XDP",
            Self::ZeroCopy => "the driver carries no frame in several buffers with zero-copy",
            Self::Memory => {
                "the first interface, which holds the shared memory, carries no frame in several buffers"
            }
            Self::Frames => "a frame takes no more buffers",
        })
    }
}

impl MultiBuffer {
    /// Asks the kernel, and the driver of the device with this index. Nothing about the device changes.
    pub fn of(ifindex: u32) -> io::Result<Self> {
        let kernel = kernel_carries()?;
        let driver = match kernel {
            true => Driver::of(ifindex)?,
            false => Driver::default(),
        };
        Ok(Self { kernel, driver })
    }

    /// Most frames that a packet of the device takes, with the program in this mode, by zero-copy or not; or why it is one.
    pub fn frames(&self, mode: Mode, zero_copy: bool) -> Result<u32, LengthLimit> {
        if !self.kernel {
            return Err(LengthLimit::Kernel);
        }
        if mode == Mode::Native && !self.driver.receives_fragments {
            return Err(LengthLimit::Driver);
        }
        match (zero_copy, self.driver.zero_copy_fragments) {
            (false, _) => Ok(COPIED),
            (true, Some(frames @ 2..)) => Ok(frames.min(MAX_FRAMES as u32)),
            (true, _) => Err(LengthLimit::ZeroCopy),
        }
    }

    /// Most frames that a packet of the device will take once a program that is to run in this mode is attached, which runs in the kernel's
    /// stack where the driver has no XDP; or why it is one. Where a driver's zero-copy is in the way, the kernel copies.
    pub fn expected(&self, wanted: Mode) -> Result<u32, LengthLimit> {
        let mode = match self.driver.native {
            true => wanted,
            false => Mode::Generic,
        };
        self.frames(mode, false)
    }

    /// Whether asking for packets in several frames costs a device with this driver nothing: the kernel copies where a driver's zero-copy
    /// does not carry them.
    pub fn is_free(&self) -> bool {
        self.kernel && self.driver.zero_copy_fragments.is_none_or(|most| most > 1)
    }
}

/// The largest MTU that works, and why, where the device's is larger.
pub(super) fn fit_mtu(link: &Link, mode: Mode) -> Result<(), (u32, LengthLimit)> {
    if link.mtu <= largest_mtu(1) {
        return Ok(());
    }
    let Ok(can) = MultiBuffer::of(link.index) else {
        // Who may not ask may not bind a socket either, which asks again.
        return Ok(());
    };
    let (limit, why) = mtu_limit(can.expected(mode));
    match link.mtu > limit {
        true => Err((limit, why)),
        false => Ok(()),
    }
}

/// The largest MTU of a device, and why none is larger, by what [`MultiBuffer::frames`] says.
pub fn mtu_limit(frames: Result<u32, LengthLimit>) -> (u32, LengthLimit) {
    match frames {
        Ok(frames) => (largest_mtu(frames), LengthLimit::Frames),
        Err(why) => (largest_mtu(1), why),
    }
}

/// The largest MTU of a device whose packets take at most `frames` frames.
pub fn largest_mtu(frames: u32) -> u32 {
    (capacity(frames as usize) - FRAME_OVERHEAD) as u32
}

/// Whether the kernel knows the flag of a socket for packets in several frames. It looks at flags before it looks for the device, and
/// there is none with index 0 (net/xdp/xsk.c, xsk_bind).
fn kernel_carries() -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
    let nowhere = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_USE_SG, 0, 0);
    match rustix::net::bind(&socket, &nowhere) {
        Err(Errno::INVAL) => Ok(false),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_thing_in_the_way() {
        let all = |kernel, receives_fragments, zero_copy_fragments| MultiBuffer {
            kernel,
            driver: Driver {
                native: true,
                receives_fragments,
                zero_copy_fragments,
            },
        };
        let (native, stack) = (Mode::Native, Mode::Generic);
        let veth = all(true, true, None);
        assert_eq!(veth.frames(native, false), Ok(17));
        assert_eq!(
            all(false, true, None).frames(native, false),
            Err(LengthLimit::Kernel)
        );
        let old = all(true, false, Some(1));
        assert_eq!(old.frames(native, false), Err(LengthLimit::Driver));
        assert_eq!(old.frames(stack, false), Ok(17));
        assert_eq!(old.expected(native), Err(LengthLimit::Driver));
        let none = MultiBuffer {
            kernel: true,
            driver: Driver::default(),
        };
        assert_eq!(none.expected(native), Ok(17));
        let copies = all(true, true, Some(1));
        assert_eq!(copies.frames(native, true), Err(LengthLimit::ZeroCopy));
        assert_eq!(copies.frames(native, false), Ok(17));
        assert_eq!(all(true, true, Some(8)).frames(native, true), Ok(8));
        assert_eq!(all(true, true, Some(64)).frames(native, true), Ok(18));
        let free = [veth, old, copies, all(true, true, Some(8))];
        assert_eq!(
            free.map(|device| device.is_free()),
            [true, false, false, true]
        );
    }

    #[test]
    fn the_largest_mtu_is_what_the_frames_hold() {
        assert_eq!(largest_mtu(1), 3822);
        assert_eq!(largest_mtu(17), 65_262);
        assert_eq!(largest_mtu(18), 65_517);
    }
}
