//! The names of vifs and of their queues.
use super::handshake;
use std::fmt;
use std::str::FromStr;
use xen::grant::DomId;

/// A vif: frontend domain and device id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VifId {
    /// The frontend's domain.
    pub domid: DomId,
    /// The vif's number in that domain.
    pub devid: u32,
}

/// One queue of a vif.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// The vif whose queue it is.
    pub vif: VifId,
    /// The queue's number, from 0.
    pub queue: u16,
}

impl fmt::Display for VifId {
    /// Writes `<domid>/<devid>`, as in the vif's xenstore path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domid.0, self.devid)
    }
}

impl FromStr for VifId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (domid, devid) = text.split_once('/').unwrap_or((text, ""));
        handshake::parse_id(domid, devid)
            .ok_or_else(|| format!("{text:?} is not a vif: name it DOMID/DEVID as `netback status` does, for example 3/0"))
    }
}
