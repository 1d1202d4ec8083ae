//! The machines of the test, and which cases run on each.

use super::{
    Case, doctor, document, host_port, kinds, lifecycle, offloads, package, queues, residue,
    restart, traffic,
};
use crate::kernel::Generation;
use crate::kind::{DomainType, DriverType, Kind, Wanted, Xenstored};
use crate::machine::Machine;
use crate::options::{Backend, Nic};
use anyhow::Result;

/// A machine of the test.
#[derive(Clone, Copy)]
pub struct Boot {
    /// First part of its cases' names.
    pub name: &'static str,
    pub kind: Kind,
    pub nic: Nic,
    /// The cases are asked again with this one, which has a first part of their names of its own.
    pub second_nic: Option<(&'static str, Nic)>,
    /// One for each guest.
    pub kernels: &'static [Generation],
    pub driver_kernel: Generation,
    /// From its package, as an operator installs it.
    pub packaged: bool,
    /// Too long for every day.
    pub long: bool,
}

const fn boot(name: &'static str, nic: Nic, kernels: &'static [Generation]) -> Boot {
    Boot {
        name,
        kind: Kind::DEFAULT,
        nic,
        second_nic: None,
        kernels,
        driver_kernel: Generation::Stock,
        packaged: false,
        long: false,
    }
}

/// One that shows a kind.
const fn of_kind(name: &'static str, kind: Kind) -> Boot {
    Boot {
        kind,
        long: true,
        ..boot(name, Nic::Igb, &[Generation::Stock])
    }
}

const fn driver(driver: DriverType) -> Kind {
    Kind {
        driver,
        ..Kind::DEBIAN_13
    }
}

const fn guest(guest: DomainType) -> Kind {
    Kind {
        guest,
        ..Kind::DEBIAN_13
    }
}

/// The longest first.
pub const BOOTS: [Boot; 12] = [
    boot("igb", Nic::Igb, &Generation::GUESTS),
    Boot {
        packaged: true,
        ..boot("package", Nic::Igb, &[Generation::Stock])
    },
    Boot {
        kind: Kind::DEBIAN_12,
        driver_kernel: Generation::Latest,
        ..boot("zerocopy", Nic::Igb, &[Generation::Stock])
    },
    Boot {
        kind: Kind::DEBIAN_12,
        second_nic: Some(("virtio", Nic::Virtio)),
        ..boot("e1000", Nic::E1000, &[Generation::Stock])
    },
    Boot {
        kind: Kind::DEBIAN_12,
        long: true,
        ..boot("debian12", Nic::Igb, &Generation::GUESTS)
    },
    of_kind(
        "cxenstored",
        Kind {
            xenstored: Xenstored::C,
            ..Kind::DEBIAN_12
        },
    ),
    of_kind("pvh-guest", guest(DomainType::Pvh)),
    of_kind("hvm-guest", guest(DomainType::Hvm)),
    of_kind("hvm-driver", driver(DriverType::Hvm)),
    Boot {
        packaged: true,
        ..of_kind("hvm-package", driver(DriverType::Hvm))
    },
    of_kind("pvh-driver", driver(DriverType::Pvh)),
    of_kind("dom0", driver(DriverType::Dom0)),
];

impl Boot {
    /// The one whose cases can run on `machine`.
    pub fn of(machine: &Machine) -> Self {
        let fits = |boot: &&Self| {
            boot.kind == machine.kind()
                && boot.nic == machine.options.nic
                && boot.second_nic.map(|(_, nic)| nic) == machine.options.second_nic
                && boot.driver_kernel == machine.options.driver_kernel
                && boot.packaged == (machine.options.backend == Backend::Package)
        };
        let other = Self {
            nic: machine.options.nic,
            ..of_kind("other", machine.kind())
        };
        BOOTS.iter().find(fits).copied().unwrap_or(other)
    }

    /// Those that show one of the kinds asked for: of the daily ones all, else of the long ones, else one of its own.
    pub fn fitting(wanted: Wanted, all: bool) -> Vec<Self> {
        let fitting = || BOOTS.into_iter().filter(|boot| wanted.fits(boot.kind));
        let daily: Vec<Self> = fitting().filter(|boot| all || !boot.long).collect();
        let mut found = match daily.is_empty() {
            true => fitting().collect(),
            false => daily,
        };
        if found.is_empty() {
            found.push(of_kind("other", wanted.or(Kind::DEFAULT)));
        }
        found
    }

    /// Its cases, in the order in which they run.
    pub fn cases(self) -> Result<Vec<Case>> {
        let cases = if self.packaged {
            packaged(self.kind.driver.domain().unwrap_or(DomainType::Pv))?
        } else if self.long && self.kernels.len() == 1 {
            kinds::cases()
        } else {
            cases(self.nic, self.driver_kernel)
        };
        let mut named = within(self.name, cases);
        if let Some((name, _)) = self.second_nic {
            let mut again = vec![traffic::second_nic()];
            again.extend(traffic::short());
            // With another backend nothing changes the NIC.
            let again = again.into_iter().map(Case::ours_only).collect();
            named.extend(within(name, again));
        }
        Ok(named)
    }
}

fn within(name: &str, cases: Vec<Case>) -> Vec<Case> {
    let inside = |case: Case| Case {
        name: format!("{name}/{}", case.name),
        ..case
    };
    cases.into_iter().map(inside).collect()
}

/// The package's: the document, section by section, and what is asked of the machine as a section leaves it.
fn packaged(driver: DomainType) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (number, case) in document::cases(driver)? {
        cases.push(case);
        match number {
            document::GUEST => {
                cases.extend(doctor::cases());
                cases.extend(package::cases());
            }
            document::HOST_PORT => cases.extend(host_port::cases()),
            _ => {}
        }
    }
    Ok(cases.into_iter().map(Case::ours_only).collect())
}

/// Those of a machine with `nic`, and this kernel in its driver domain.
fn cases(nic: Nic, driver_kernel: Generation) -> Vec<Case> {
    match (nic, driver_kernel) {
        (Nic::Igb, Generation::Latest) => {
            let mut cases = vec![traffic::without_copies()];
            cases.extend(traffic::short());
            cases.extend(restart::cases());
            cases
        }
        (Nic::Igb, _) => {
            let mut cases = traffic::full();
            cases.extend(offloads::cases());
            cases.extend(restart::cases());
            cases.extend(lifecycle::cases());
            cases.extend(queues::cases());
            cases.extend(residue::cases());
            cases
        }
        (Nic::E1000 | Nic::Virtio, _) => {
            let mut cases = traffic::short();
            cases.extend(lifecycle::with_one_guest());
            cases
        }
    }
}
