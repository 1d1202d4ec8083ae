//! IPv6 on a device, switched off and on again: the host port has the device's MAC address, and two interfaces must not speak for one
//! address.
use std::io;
use std::path::PathBuf;

fn switch(ifname: &str) -> PathBuf {
    format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6").into()
}

/// Whether IPv6 is off on the device; `None` where the kernel has no IPv6.
pub(super) fn is_off(ifname: &str) -> io::Result<Option<bool>> {
    match std::fs::read_to_string(switch(ifname)) {
        Ok(text) => Ok(Some(text.trim() == "1")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Switches IPv6 off on the device, which drops its IPv6 addresses, or on.
pub(super) fn set_off(ifname: &str, off: bool) -> io::Result<()> {
    std::fs::write(switch(ifname), if off { "1" } else { "0" })
}
