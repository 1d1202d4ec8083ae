//! A virtual function is promiscuous only as far as its physical function trusts it, and says nothing where it is not.
use super::{NicError, ioctl::Handle, named};
use crate::link;
use std::fs;
use std::path::Path;

/// Drivers of virtual functions only: in a driver domain, where the physical function is elsewhere, all there is to see.
const DRIVERS: &[&str] = &["igbvf", "ixgbevf", "i40evf", "iavf", "fm10k"];

/// Refuse a virtual function whose physical one is here and does not trust it; a warning where that cannot be known.
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

/// The physical function's interface and our number in it, where it is in this kernel (sysfs, PCI).
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
