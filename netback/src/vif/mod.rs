//! A vif towards xenstore: its life, and what its frontend says of it.
pub mod handshake;
pub mod state;

use crate::worker::messages::VifId;
use std::fmt;
use std::str::FromStr;

impl fmt::Display for VifId {
    /// `<domid>/<devid>`, as in its xenstore path.
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
