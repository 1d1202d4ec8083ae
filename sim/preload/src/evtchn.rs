//! `/dev/xen/evtchn` (include/uapi/xen/evtchn.h).
use crate::device::simulation;
use libc::{c_int, c_ulong, c_void};
use sim_machine::control::Operation;
use std::io;

/// `_IOC_TYPE` bits of its requests.
pub const IOCTL_TYPE: c_ulong = (b'E' as c_ulong) << 8;

const BIND_INTERDOMAIN: c_ulong = 8 << 16 | IOCTL_TYPE | 1;
const BIND_UNBOUND_PORT: c_ulong = 4 << 16 | IOCTL_TYPE | 2;
const UNBIND: c_ulong = 4 << 16 | IOCTL_TYPE | 3;
const NOTIFY: c_ulong = 4 << 16 | IOCTL_TYPE | 4;

/// # Safety
/// `argument` is what the request says.
pub unsafe fn ioctl(handle: u32, request: c_ulong, argument: *mut c_void) -> io::Result<c_int> {
    let words = argument.cast::<u32>();
    // SAFETY: every request has one word at least, and BIND_INTERDOMAIN two.
    let (first, second) = unsafe {
        match request {
            BIND_INTERDOMAIN => (words.read(), words.add(1).read()),
            BIND_UNBOUND_PORT | UNBIND | NOTIFY => (words.read(), 0),
            _ => return Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    };
    let simulation = simulation()?;
    let call = |operation, words| simulation.control.call(operation, words, "");
    match request {
        BIND_INTERDOMAIN => Ok(call(Operation::Bind, [handle, first, second])?.words[0] as c_int),
        BIND_UNBOUND_PORT => {
            Ok(call(Operation::AllocUnbound, [handle, first, 0])?.words[0] as c_int)
        }
        UNBIND => call(Operation::Close, [handle, first, 0]).map(|_| 0),
        _ => notify(handle, first),
    }
}

fn notify(handle: u32, port: u32) -> io::Result<c_int> {
    let simulation = simulation()?;
    let slot = simulation
        .machine
        .domain(simulation.domid)
        .and_then(|area| area.port(port));
    if slot
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?
        .handle()
        != handle
    {
        return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
    }
    simulation.wakers.notify(
        &simulation.machine,
        &simulation.control,
        simulation.domid,
        port,
    )?;
    Ok(0)
}

/// write(2): unmask the ports that are the handle's; at most a page at once. How many bytes were taken.
pub fn unmask(handle: u32, bytes: &[u8]) -> io::Result<c_int> {
    let simulation = simulation()?;
    let bytes = bytes.get(..bytes.len().min(4096)).unwrap_or_default();
    for chunk in bytes.chunks_exact(4) {
        let port = chunk.try_into().map_or(0, u32::from_ne_bytes);
        let slot = simulation
            .machine
            .domain(simulation.domid)
            .and_then(|area| area.port(port));
        if slot.is_some_and(|slot| slot.unmask(handle)) {
            simulation.wakers.wake(&simulation.control, handle, port)?;
        }
    }
    Ok((bytes.len() / 4 * 4) as c_int)
}
