//! Where a command can run: the domains of the machine, and the peer beside it.

use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;

/// Most guests of one machine.
pub const MAX_GUESTS: u8 = 4;

/// A domain, or the other end of the NIC's cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Dom0,
    DriverDomain,
    /// From 1 on.
    Guest(u8),
    Peer,
}

impl Place {
    /// Last byte of the address on the management network (10.0.2.0/24, as QEMU's user network has it).
    pub fn management(self) -> u8 {
        match self {
            Self::Dom0 | Self::Peer => 15,
            Self::DriverDomain => 16,
            Self::Guest(number) => 16 + number,
        }
    }

    /// The port of the instance's loopback that leads to the domain's agent.
    pub fn agent_port(self) -> u16 {
        7000 + u16::from(self.management())
    }

    /// Last part of the address on the network under test (10.9.0.0/24 and fd09::/64).
    pub fn tested(self) -> u8 {
        match self {
            Self::Guest(number) => 9 + number,
            Self::DriverDomain => 2,
            Self::Dom0 | Self::Peer => 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dom0 => f.write_str("dom0"),
            Self::DriverDomain => f.write_str("driver-domain"),
            Self::Guest(1) => f.write_str("guest"),
            Self::Guest(number) => write!(f, "guest{number}"),
            Self::Peer => f.write_str("peer"),
        }
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let guests = (1..=MAX_GUESTS).map(Self::Guest);
        let mut places = [Self::Dom0, Self::DriverDomain, Self::Peer]
            .into_iter()
            .chain(guests);
        match places.find(|place| place.to_string() == name) {
            Some(place) => Ok(place),
            None => bail!("there is no {name}: dom0, driver-domain, guest, guest2, ..., peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for place in [
            Place::Dom0,
            Place::DriverDomain,
            Place::Guest(1),
            Place::Guest(2),
            Place::Peer,
        ] {
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        }
        assert!("guest9".parse::<Place>().is_err());
    }
}
