//! What a machine is made of: a release of Debian with its Xen, the types of its domains, and the program that keeps xenstore. Image,
//! machine and domains are built from one `Kind`.

use crate::debian::{BACKPORTS, NEXT_BACKPORTS};
use crate::kernel::Generation;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::fmt;

/// A Debian release: its Xen, its kernels, its user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian 12: Xen 4.17, Linux 6.1.
    Bookworm,
    /// Debian 13: Xen 4.20, Linux 6.12.
    Trixie,
}

impl Release {
    /// As Debian's archive has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// The version of its Xen, as in the names of packages.
    pub fn xen(self) -> &'static str {
        match self {
            Self::Bookworm => "4.17",
            Self::Trixie => "4.20",
        }
    }

    /// Its kernels, each once.
    pub fn kernels(self) -> &'static [Generation] {
        match self {
            Self::Bookworm => &[Generation::Stock, Generation::Backports, Generation::Latest],
            // Its backports are where the latest kernel is from.
            Self::Trixie => &[Generation::Stock, Generation::Backports],
        }
    }

    /// The one of `kernels` that is this generation.
    pub fn kernel(self, generation: Generation) -> Generation {
        match (self, generation) {
            (Self::Trixie, Generation::Latest) => Generation::Backports,
            _ => generation,
        }
    }

    /// The backports that a kernel is from, if from any.
    pub fn backports(self, generation: Generation) -> Option<&'static str> {
        match (self, generation) {
            (_, Generation::Stock) => None,
            (Self::Bookworm, Generation::Backports) => Some(BACKPORTS),
            _ => Some(NEXT_BACKPORTS),
        }
    }
}

/// How Xen runs a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DomainType {
    /// By hypercalls alone; needs nothing of the processor.
    Pv,
    /// By the processor's virtualisation, without an emulated PC.
    Pvh,
    /// By the processor's virtualisation, with a PC that a device model in dom0 emulates.
    Hvm,
}

impl DomainType {
    /// As in xl's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
            Self::Hvm => "hvm",
        }
    }
}

/// Where the backend under test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverType {
    /// In a PV domain that the NIC is passed through to.
    Pv,
    /// In a PVH domain, to which libxl passes nothing through: its uplink is a vif on dom0's bridge, and the NIC is dom0's.
    Pvh,
    /// In an HVM domain that the NIC is passed through to.
    Hvm,
    /// In dom0 itself, which has the NIC: there is no driver domain.
    Dom0,
}

impl DriverType {
    /// The type of the driver domain; none where there is no such domain.
    pub fn domain(self) -> Option<DomainType> {
        match self {
            Self::Pv => Some(DomainType::Pv),
            Self::Pvh => Some(DomainType::Pvh),
            Self::Hvm => Some(DomainType::Hvm),
            Self::Dom0 => None,
        }
    }
}

/// The program that keeps xenstore, in dom0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Xenstored {
    /// xenstored, the one that Xen supports for driver domains that nobody trusts.
    C,
    /// oxenstored, the one that Debian starts unless it is told otherwise.
    Ocaml,
}

/// What a machine is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub release: Release,
    pub driver: DriverType,
    pub guest: DomainType,
    pub xenstored: Xenstored,
}

impl Kind {
    /// The machine that is started where nothing else is asked for.
    pub const DEFAULT: Self = Self::DEBIAN_13;
    /// The kind on which the published comparison was measured and the stock netfronts were recorded.
    pub const DEBIAN_12: Self = Self {
        release: Release::Bookworm,
        driver: DriverType::Pv,
        guest: DomainType::Pv,
        xenstored: Xenstored::Ocaml,
    };
    /// Debian 13 with the xenstored that Xen supports for driver domains that nobody trusts.
    pub const DEBIAN_13: Self = Self {
        release: Release::Trixie,
        xenstored: Xenstored::C,
        ..Self::DEBIAN_12
    };

    /// Whether a domain runs by the processor's virtualisation, which the emulated processor must have then.
    pub fn virtualised(self) -> bool {
        self.guest != DomainType::Pv || !matches!(self.driver.domain(), None | Some(DomainType::Pv))
    }

    /// Whether a device model runs in dom0.
    pub fn device_model(self) -> bool {
        self.guest == DomainType::Hvm || self.driver == DriverType::Hvm
    }

    /// Whether the NIC is passed through to a driver domain.
    pub fn passed_through(self) -> bool {
        matches!(self.driver, DriverType::Pv | DriverType::Hvm)
    }

    /// The name of the driver domain for xl.
    pub fn driver_domain(self) -> &'static str {
        match self.driver {
            // So its first script calls it.
            DriverType::Dom0 => "dom0",
            _ => "driver-domain",
        }
    }

    /// For the commands that follow.
    pub fn to_json(self) -> Value {
        json!({
            "release": value_name(self.release),
            "driver_type": value_name(self.driver),
            "guest_type": value_name(self.guest),
            "xenstored": value_name(self.xenstored),
        })
    }

    /// What `to_json` made; None where it is from another version.
    pub fn of_json(value: &Value) -> Option<Self> {
        Some(Self {
            release: value_of(&value["release"])?,
            driver: value_of(&value["driver_type"])?,
            guest: value_of(&value["guest_type"])?,
            xenstored: value_of(&value["xenstored"])?,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = match self.driver.domain() {
            Some(domain) => format!("driver domain {}", domain.name()),
            None => "backend in dom0".into(),
        };
        let xenstored = match self.xenstored {
            Xenstored::C => "xenstored",
            Xenstored::Ocaml => "oxenstored",
        };
        let (release, xen, guest) = (self.release.name(), self.release.xen(), self.guest.name());
        write!(
            f,
            "Debian {release}, Xen {xen}, {driver}, guest {guest}, {xenstored}"
        )
    }
}

/// The parts of a kind that were asked for on the command line.
#[derive(Args, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Debian 12 with Xen 4.17, or Debian 13 with Xen 4.20.
    #[arg(long)]
    pub release: Option<Release>,
    /// The type of the driver domain, or dom0 for none.
    #[arg(long)]
    pub driver_type: Option<DriverType>,
    /// The type of the guests.
    #[arg(long)]
    pub guest_type: Option<DomainType>,
    /// The program that keeps xenstore.
    #[arg(long)]
    pub xenstored: Option<Xenstored>,
}

impl Wanted {
    /// With the rest as in `base`.
    pub fn or(self, base: Kind) -> Kind {
        Kind {
            release: self.release.unwrap_or(base.release),
            driver: self.driver_type.unwrap_or(base.driver),
            guest: self.guest_type.unwrap_or(base.guest),
            xenstored: self.xenstored.unwrap_or(base.xenstored),
        }
    }

    /// Whether `kind` is one of those asked for.
    pub fn fits(self, kind: Kind) -> bool {
        self.or(kind) == kind
    }
}

impl From<Kind> for Wanted {
    fn from(kind: Kind) -> Self {
        Self {
            release: Some(kind.release),
            driver_type: Some(kind.driver),
            guest_type: Some(kind.guest),
            xenstored: Some(kind.xenstored),
        }
    }
}

/// The name of a value on the command line.
pub fn value_name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .expect("no value is hidden")
        .get_name()
        .into()
}

/// The value that has this name on the command line.
pub fn value_of<T: ValueEnum>(name: &Value) -> Option<T> {
    T::from_str(name.as_str()?, false).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_as_it_was_written() {
        for kind in [Kind::DEFAULT, Kind::DEBIAN_12] {
            assert_eq!(Kind::of_json(&kind.to_json()), Some(kind));
        }
        assert_eq!(Kind::of_json(&json!({ "release": "trixie" })), None);
    }

    #[test]
    fn what_was_not_asked_for_is_as_in_the_base() {
        let wanted = Wanted {
            guest_type: Some(DomainType::Pvh),
            ..Wanted::default()
        };
        let kind = wanted.or(Kind::DEBIAN_12);
        assert_eq!(
            (kind.release, kind.guest),
            (Release::Bookworm, DomainType::Pvh)
        );
        assert!(kind.virtualised() && !kind.device_model());
        assert!(wanted.fits(kind) && !wanted.fits(Kind::DEBIAN_12));
        assert!(Wanted::default().fits(kind));
        assert!(!Kind::DEFAULT.virtualised());
    }
}
