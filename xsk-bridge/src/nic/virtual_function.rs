//! Virtual functions: one is promiscuous only if its physical function trusts it, and reports no error if it does not.
use super::{NicError, ioctl::Handle, named};
use crate::link;
use std::fs;
use std::path::Path;

/// Drivers that exist for virtual functions only: in a driver domain the driver is the only sign, because the physical function is in
/// another domain.
const DRIVERS: &[&str] = &["igbvf", "ixgbevf", "i40evf", "iavf", "fm10k"];

/// Refuses a virtual function whose physical function is in this domain and does not trust it. Returns a warning if that is unknown.
pub(super) fn check(device: &Handle, ifname: &str) -> Result<Option<String>, NicError> {
    if let Some((physical, vf)) = physical(ifname) {
        match link::trusts(&physical, vf).map_err(named(ifname)("ask for its trust"))? {
            Some(true) => return Ok(None),
            Some(false) => {
                return Err(NicError::Untrusted {
                    name: ifname.to_owned(),
                    physical,
                    vf,
                });
            }
            None => {}
        }
    } else if !DRIVERS.contains(&device.driver().unwrap_or_default().as_str()) {
        return Ok(None);
    }
    Ok(Some(format!(
        "{ifname} is a virtual function: it gets guests' frames only if its host has it trusted: \
         `ip link set dev <physical function> vf <number> trust on spoofchk off`"
    )))
}

/// Returns the physical function's interface and the virtual function's number, if this kernel has the physical function (sysfs, PCI).
fn physical(ifname: &str) -> Option<(String, u32)> {
    let device = Path::new("/sys/class/net").join(ifname).join("device");
    let ours = fs::canonicalize(&device).ok()?;
    let physical = fs::canonicalize(device.join("physfn")).ok()?;
    let mut interfaces = fs::read_dir(physical.join("net")).ok()?;
    let interface = interfaces.next()?.ok()?.file_name().into_string().ok()?;
    let number = fs::read_dir(&physical).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let number = name.strip_prefix("virtfn")?.parse().ok()?;
        (fs::canonicalize(entry.path()).ok()? == ours).then_some(number)
    })?;
    Some((interface, number))
}
