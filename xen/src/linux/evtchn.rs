//! `/dev/xen/evtchn` (include/uapi/xen/evtchn.h, drivers/xen/evtchn.c).
use super::{ioc, ioctl};
use crate::event::{EventChannels, Port};
use crate::grant::DomId;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

/// `struct ioctl_evtchn_unbind` and `struct ioctl_evtchn_notify`.
#[repr(C)]
struct PortArgument {
    port: u32,
}

const _: () = assert!(size_of::<BindInterdomain>() == 8 && size_of::<PortArgument>() == 4);
const IOCTL_EVTCHN_BIND_INTERDOMAIN: libc::Ioctl = ioc::<BindInterdomain>(b'E', 1);
const IOCTL_EVTCHN_UNBIND: libc::Ioctl = ioc::<PortArgument>(b'E', 3);
const IOCTL_EVTCHN_NOTIFY: libc::Ioctl = ioc::<PortArgument>(b'E', 4);

/// One open of the event-channel device; its ports die with it. Non-blocking.
#[derive(Debug)]
pub struct Evtchn {
    fd: OwnedFd,
}

impl Evtchn {
    /// Open the device.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            fd: super::open("/dev/xen/evtchn", libc::O_NONBLOCK)?.into(),
        })
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl EventChannels for Evtchn {
    fn bind(&self, remote: DomId, remote_port: Port) -> io::Result<Port> {
        let mut bind = BindInterdomain {
            remote_domain: remote.0.into(),
            remote_port: remote_port.0,
        };
        // SAFETY: the command takes this struct and keeps no pointer.
        let port = unsafe { ioctl(&self.fd, IOCTL_EVTCHN_BIND_INTERDOMAIN, &mut bind) }?;
        Ok(Port(port as u32))
    }

    fn unbind(&self, port: Port) -> io::Result<()> {
        // SAFETY: as in `bind`.
        unsafe {
            ioctl(
                &self.fd,
                IOCTL_EVTCHN_UNBIND,
                &mut PortArgument { port: port.0 },
            )
        }
        .map(drop)
    }

    fn notify(&self, port: Port) -> io::Result<()> {
        // SAFETY: as in `bind`.
        unsafe {
            ioctl(
                &self.fd,
                IOCTL_EVTCHN_NOTIFY,
                &mut PortArgument { port: port.0 },
            )
        }
        .map(drop)
    }

    fn pending(&self, ports: &mut [Port]) -> io::Result<usize> {
        if ports.is_empty() {
            return Ok(0);
        }
        // SAFETY: `Port` is a transparent u32, any bytes make one, and the length is the slice's.
        let read = unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                ports.as_mut_ptr().cast(),
                size_of_val(ports),
            )
        };
        if read >= 0 {
            return Ok(read as usize / size_of::<Port>());
        }
        match io::Error::last_os_error() {
            e if matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
            {
                Ok(0)
            }
            e => Err(e),
        }
    }

    fn unmask(&self, mut ports: &[Port]) -> io::Result<()> {
        // The driver takes at most a page at once and says how much it took.
        while !ports.is_empty() {
            // SAFETY: the bytes of a slice of transparent u32, with its length.
            let written = unsafe {
                libc::write(
                    self.fd.as_raw_fd(),
                    ports.as_ptr().cast(),
                    size_of_val(ports),
                )
            };
            if written < 0 {
                let e = io::Error::last_os_error();
                if e.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(e);
            }
            let taken = written as usize / size_of::<Port>();
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            ports = ports.get(taken..).unwrap_or_default();
        }
        Ok(())
    }
}
