//! Waking a handle: its number is written to the pipe that its owner waits on.
use crate::Machine;
use crate::control::{Connection, Operation};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{PoisonError, RwLock};

/// Write ends of other handles' pipes; the hypervisor is asked for each once.
#[derive(Debug, Default)]
pub struct Wakers {
    pipes: RwLock<HashMap<u32, OwnedFd>>,
}

impl Wakers {
    /// An event from `port` of `domid` to its other end; dropped where nobody is bound, as Xen does.
    pub fn notify(
        &self,
        machine: &Machine,
        control: &Connection,
        domid: u16,
        port: u32,
    ) -> io::Result<()> {
        if let Some(area) = machine.domain(domid) {
            area.counters
                .notifications
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if let Some((handle, port, far)) = machine.notify(domid, port) {
            self.wake(control, handle, port)?;
            far.written();
        }
        Ok(())
    }

    /// Write `port` to the pipe of `handle`; nothing where the handle has died.
    pub fn wake(&self, control: &Connection, handle: u32, port: u32) -> io::Result<()> {
        if let Some(pipe) = self
            .pipes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
        {
            match rustix::io::retry_on_intr(|| rustix::io::write(pipe, &port.to_ne_bytes())) {
                Ok(_) => return Ok(()),
                Err(Errno::PIPE) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mut pipes = self.pipes.write().unwrap_or_else(PoisonError::into_inner);
        pipes.remove(&handle);
        let pipe = match control.call(Operation::Waker, [handle, 0, 0], "") {
            Ok(mut reply) => reply.take_fd()?,
            Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(()),
            Err(e) => return Err(e),
        };
        match rustix::io::retry_on_intr(|| rustix::io::write(&pipe, &port.to_ne_bytes())) {
            Ok(_) => drop(pipes.insert(handle, pipe)),
            Err(Errno::PIPE) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}
