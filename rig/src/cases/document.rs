//! docs/driver-domain.md typed as it is written, section by section: each stands on those before it.

use super::{Case, package};
use crate::disks;
use crate::document::{self, Action, Section, Step};
use crate::domain;
use crate::kind::DomainType;
use crate::machine::{LINUX, Machine};
use crate::place::Place;
use anyhow::{Context, Result, bail, ensure};

const TEXT: &str = include_str!("../../../docs/driver-domain.md");
/// In dom0: how many sections are behind us, or which one failed.
const PROGRESS: &str = "/run/document";

/// By its number in the document.
const INSTALL: usize = 3;
pub const GUEST: usize = 4;
pub const HOST_PORT: usize = 5;
pub const UPGRADE: usize = 6;
pub const REMOVE: usize = 7;

/// What the document says of a machine and what the rig has in its place. Which disks a driver domain with an emulated PC has is the
/// machine's.
fn substitutions(emulated: Option<[String; 2]>) -> Vec<(&'static str, String)> {
    // The rig's kernels start faster with these, and know by them who they are; names of NICs are udev's in the driver domain.
    let guest = format!(
        "{LINUX} rig.role=guest rig.ip=10.0.2.{} rig.number={}",
        Place::Guest(1).management(),
        Place::Guest(1).tested()
    );
    let driver_domain = format!(
        "root=/dev/xvda {} rig.ip=10.0.2.{}",
        LINUX.replace("net.ifnames=0 ", ""),
        Place::DriverDomain.management()
    );
    vec![
        // Both domains boot one kernel and one initramfs of the rig.
        (
            "/var/lib/xen/debian/vmlinuz",
            "/rig/boot/vmlinux-stock".into(),
        ),
        (
            "/var/lib/xen/debian/initrd.img",
            "/rig/boot/initramfs-stock".into(),
        ),
        // Their disks are dom0's virtio disks.
        (
            "'phy:/dev/vg/driver-domain,xvda,w'",
            match emulated {
                None => "'phy:/dev/vdd,xvda,w'".into(),
                Some([boot, system]) => format!("'phy:{boot},hda,w', 'phy:{system},xvde,w'"),
            },
        ),
        // This controller reads by DMA, the one that is meant where nothing is said does not. The clock is the machine's own, for QEMU reports
        // the instruction RDTSCP as RDTSC, and Xen ends a domain whose instruction is not the reported one.
        (
            "boot = \"c\"",
            "boot = \"c\"\nhdtype = \"ahci\"\ntsc_mode = \"native\"".into(),
        ),
        ("/dev/vg/guest,xvda,w", "/dev/vdb,xvda,r".into()),
        ("root=/dev/xvda ro console=hvc0", guest),
        ("root=/dev/xvda console=hvc0", driver_domain),
        // A vif of dom0's each, by which the rig types in the domain; the driver domain's is the document's own.
        ("00:16:3e:0a:00:01", "00:16:3e:00:00:02".into()),
        (
            "vif = ['mac=00:16:3e:09:",
            "vif = ['mac=00:16:3e:00:00:11,bridge=xenbr0', 'mac=00:16:3e:09:".into(),
        ),
        // The host at the other end of the cable.
        ("192.0.2.1", "10.9.0.1".into()),
        // The driver domain itself, on the same network.
        (
            "192.0.2.2",
            format!("10.9.0.{}", Place::DriverDomain.tested()),
        ),
    ]
}

fn in_the_rig(machine: &Machine, text: &str) -> String {
    let substitute = |text: String, (document, rig): &(&str, String)| text.replace(document, rig);
    let disks = disks::of_emulated_domain(&machine.options, Place::DriverDomain);
    substitutions(disks)
        .iter()
        .fold(text.to_owned(), substitute)
}

/// A case for each section that has something to type, with its number.
pub fn cases(driver: DomainType) -> Result<Vec<(usize, Case)>> {
    let sections = document::sections(TEXT, driver)?;
    let typed = sections.iter().filter(|section| !section.steps.is_empty());
    Ok(typed
        .map(|section| (section.number, case(section)))
        .collect())
}

fn case(section: &Section) -> Case {
    let words = section.title.to_lowercase().replace(' ', "-");
    let name = format!("document/{}-{words}", section.number);
    let number = section.number;
    let case = Case::new(name, move |machine| match number {
        UPGRADE => package::upgrade(machine),
        REMOVE => package::remove(machine),
        _ => walk(machine, number),
    });
    if number >= REMOVE { case.long() } else { case }
}

/// Go on to the end of section `number`, from wherever the machine is.
pub fn walk(machine: &Machine, number: usize) -> Result<String> {
    let progress = machine.run(Place::Dom0, &format!("cat {PROGRESS} 2>/dev/null"))?;
    let progress = String::from_utf8_lossy(&progress.stdout).trim().to_owned();
    let done: usize = match progress.as_str() {
        "" => 0,
        text => text
            .parse()
            .ok()
            .with_context(|| format!("the document's {text}"))?,
    };
    let mut typed = 0;
    let driver = machine.kind().driver.domain().unwrap_or(DomainType::Pv);
    for section in document::sections(TEXT, driver)? {
        if (done + 1..=number).contains(&section.number) {
            let outcome = perform(machine, &section);
            let progress = match &outcome {
                Ok(()) => section.number.to_string(),
                Err(_) => format!("section {} failed before", section.number),
            };
            machine.write(Place::Dom0, PROGRESS, &progress)?;
            outcome.with_context(|| format!("section {}", section.number))?;
            typed += section.steps.len();
        }
    }
    ensure!(
        done <= number,
        "the machine is at the end of section {done}"
    );
    Ok(format!("{typed} steps as written"))
}

fn perform(machine: &Machine, section: &Section) -> Result<()> {
    if section.number == INSTALL {
        package::deliver(machine)?;
    }
    for step in &section.steps {
        take(machine, step)?;
    }
    if section.number == GUEST {
        machine.must(Place::Guest(1), domain::MARK_LOG)?;
    }
    Ok(())
}

fn take(machine: &Machine, step: &Step) -> Result<()> {
    // Domains that the last step has created are still booting.
    machine.await_agent(step.place)?;
    match &step.action {
        Action::Write { path, text } => machine.write(step.place, path, &in_the_rig(machine, text)),
        Action::Type { command, output } => {
            let command = in_the_rig(machine, command);
            let outcome = machine.run(step.place, &format!("cd /root; {command}"))?;
            let said = String::from_utf8_lossy(&outcome.stdout);
            if outcome.status != 0 {
                let errors = String::from_utf8_lossy(&outcome.stderr);
                bail!(
                    "{}# {command}: status {}: {said}{errors}",
                    step.place,
                    outcome.status
                );
            }
            let shown: Vec<String> = output
                .iter()
                .map(|line| in_the_rig(machine, line))
                .collect();
            document::compare(&shown, &said).with_context(|| format!("{}# {command}", step.place))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_that_can_be_typed() {
        for driver in [DomainType::Pv, DomainType::Hvm] {
            can_be_typed(&document::sections(TEXT, driver).unwrap());
        }
    }

    fn can_be_typed(sections: &[Section]) {
        let numbers: Vec<usize> = sections.iter().map(|section| section.number).collect();
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
        for (number, word) in [
            (INSTALL, "Install"),
            (GUEST, "guest"),
            (HOST_PORT, "own address"),
            (UPGRADE, "upgrade"),
            (REMOVE, "Remove"),
        ] {
            let section = &sections[number - 1];
            assert!(section.title.contains(word), "{}", section.title);
            assert!(!section.steps.is_empty(), "{}", section.title);
        }
    }

    #[test]
    fn every_substitution_has_something_to_replace() {
        for (document, _) in substitutions(None) {
            assert!(TEXT.contains(document), "{document}");
        }
    }
}
