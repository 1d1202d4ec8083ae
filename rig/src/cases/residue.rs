//! Guests that come and go leave nothing: no grant mapped, no event channel bound, no xenstore node, no domain half dead.

use super::Case;
use super::lifecycle::{complains, xl};
use super::xenstore::Snapshot;
use crate::domain;
use crate::kind::DriverType;
use crate::machine::Machine;
use crate::place::Place;
use anyhow::{Context, Result, ensure};

const NAME: &str = "brief";

pub fn cases() -> Vec<Case> {
    let mut cases = few();
    cases.push(Case::new("residue/20-rounds", |machine| rounds(machine, 20)).long());
    cases
}

/// The case that is short enough for every kind of machine.
pub fn few() -> Vec<Case> {
    vec![Case::new("residue/3-rounds", |machine| rounds(machine, 3))]
}

/// What Xen holds for the driver domain, and for whom.
#[derive(Debug)]
struct Held {
    /// Foreign pages that the driver domain has mapped.
    grants: usize,
    /// Its event channels, bound to a domain or waiting for one.
    ports: usize,
    /// As `xl list` has them.
    domains: usize,
}

impl Held {
    /// Whether a backend in such a domain holds what it held `before`. In dom0 fewer grants may be mapped, for blkback lets go of those that
    /// a disk has not used for a while.
    fn is_as(&self, before: &Self, driver: DriverType) -> bool {
        let grants = match driver {
            DriverType::Dom0 => self.grants <= before.grants,
            _ => self.grants == before.grants,
        };
        grants && (self.ports, self.domains) == (before.ports, before.domains)
    }
}

/// How a guest with a connected vif comes to its end.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Destroy,
    /// The guest is made anew, and that one is destroyed.
    Reboot,
    Shutdown,
    /// Its vif is taken from it before.
    Detach,
}

const ENDINGS: [Ending; 4] = [
    Ending::Destroy,
    Ending::Reboot,
    Ending::Shutdown,
    Ending::Detach,
];

/// A guest is made and comes to an end `count` times, after once that does not count: it may fill caches.
fn rounds(machine: &Machine, count: usize) -> Result<String> {
    machine.write(Place::Dom0, "/tmp/brief.cfg", &domain::brief(machine, NAME))?;
    machine.must(Place::Dom0, &format!("rm -f {LOGS}"))?;
    round(machine, Ending::Destroy)?;
    settle(machine)?;
    let (before, nodes) = (held(machine)?, Snapshot::take(machine)?);
    for ending in ENDINGS.into_iter().cycle().take(count) {
        round(machine, ending).with_context(|| format!("{ending:?}"))?;
    }
    settle(machine)?;
    let after = held(machine)?;
    ensure!(
        after.is_as(&before, machine.kind().driver),
        "before {before:?}, after {after:?}"
    );
    let changed = Snapshot::take(machine)?.since(&nodes);
    ensure!(changed.is_empty(), "xenstore changed: {changed:?}");
    // xl stays in the background to see how a domain ends, and writes there what it has to say of that.
    let said = machine.run(Place::Dom0, &format!("cat {LOGS}"))?.stdout;
    let said = String::from_utf8_lossy(&said);
    ensure!(!complains(&said), "xl complains: {said}");
    Ok(format!(
        "{count} rounds; {} grants, {} before; {} event channels, as before; no complaint of xl's",
        after.grants, before.grants, after.ports
    ))
}

/// Where xl logs in the background; beside them older ones with a number.
const LOGS: &str = "/var/log/xen/xl-brief.log*";

/// Wait until xl has taken apart a guest that has ended, which it does in the background where the guest has shut down. A guest that is
/// being taken apart has no name.
fn taken_apart(machine: &Machine) -> Result<()> {
    let ended = format!(
        "for n in $(seq 300); do xl list | grep -qE '^({NAME}|\\(null\\)) ' || exit 0; sleep 0.2; done; xl list; exit 1"
    );
    machine
        .must(Place::Dom0, &ended)
        .context("a guest that has ended is still there")
        .map(drop)
}

/// Wait until the toolstack has taken down every guest that has ended, and the backend has let go of what it keeps for a while for the
/// toolstack to see.
fn settle(machine: &Machine) -> Result<()> {
    taken_apart(machine)?;
    let owner = format!("$(xl domid {})", machine.kind().driver_domain());
    let gone = format!(
        "b=/local/domain/{owner}/backend/vif; for n in $(seq 150); do rest=; \
         for d in $(xenstore-list $b); do xl domname $d >/dev/null 2>&1 || rest=$d; done; \
         [ -z \"$rest\" ] && exit 0; sleep 0.1; done; echo $rest; exit 1"
    );
    machine
        .must(Place::Dom0, &gone)
        .context("a domain that is gone has still a vif")
        .map(drop)
}

fn round(machine: &Machine, ending: Ending) -> Result<()> {
    xl(machine, "create -q /tmp/brief.cfg")?;
    connected(machine)?;
    match ending {
        Ending::Destroy => {}
        Ending::Detach => drop(xl(machine, &format!("network-detach {NAME} 0"))?),
        Ending::Reboot => {
            let domid = machine.must(Place::Dom0, &format!("xl domid {NAME}"))?;
            xl(machine, &format!("reboot {NAME}"))?;
            let anew = format!(
                "for n in $(seq 600); do d=$(xl domid {NAME} 2>/dev/null) && [ $d != {} ] && exit 0; sleep 0.1; done; exit 1",
                domid.trim()
            );
            machine
                .must(Place::Dom0, &anew)
                .context("the guest does not come back from its reboot")?;
            connected(machine)?;
        }
        Ending::Shutdown => {
            xl(machine, &format!("shutdown -w {NAME}"))?;
            return taken_apart(machine);
        }
    }
    xl(machine, &format!("destroy {NAME}")).map(drop)
}

/// Wait until both ends of the vif say Connected. A guest that was made anew has a number before it has a vif, which names its backend.
fn connected(machine: &Machine) -> Result<()> {
    let wait = format!(
        "f=/local/domain/$(xl domid {NAME})/device/vif/0; for n in $(seq 600); do \
         b=$(xenstore-read $f/backend 2>/dev/null) && s=$(xenstore-read $f/state $b/state | tr '\\n' ' ') && \
         [ \"$s\" = '4 4 ' ] && exit 0; sleep 0.1; done; echo $s; exit 1"
    );
    machine
        .must(Place::Dom0, &wait)
        .context("the vif does not connect")
        .map(drop)
}

fn held(machine: &Machine) -> Result<Held> {
    let driver = machine.must(
        Place::Dom0,
        &format!("xl domid {}", machine.kind().driver_domain()),
    )?;
    let driver = driver.trim();
    let domains = machine.must(Place::Dom0, "xl list | wc -l")?;
    Ok(Held {
        grants: mapped_by(&dump(machine, 'g')?, driver),
        ports: ports_of(&dump(machine, 'e')?, driver),
        domains: domains.trim().parse().context("xl list printed nothing")?,
    })
}

/// What Xen prints for a debug key. Its console buffer is cleared before, so that it holds this alone.
fn dump(machine: &Machine, key: char) -> Result<String> {
    machine.must(
        Place::Dom0,
        &format!("xl dmesg -c >/dev/null; xl debug-keys {key}; sleep 1; xl dmesg"),
    )
}

/// Grants whose holder is `domain` and which it has mapped, in the dump of key g (xen/common/grant_table.c, gnttab_usage_print):
/// `[0x44d]      1 0x6cbb8 0x00000001          1 0x06cbb8 0x19`, that is reference, mapped by, frame, pin count, granted to, ...
fn mapped_by(dump: &str, domain: &str) -> usize {
    dump.lines()
        .filter_map(|line| {
            line.split_once(']')
                .filter(|(start, _)| start.contains("[0x"))
        })
        .filter(|(_, columns)| {
            let mut columns = columns.split_whitespace();
            columns.next() == Some(domain) && columns.nth(1).is_some_and(|pin| pin != "0x00000000")
        })
        .count()
}

/// Event channels of `domain` in the dump of key e (xen/common/event_channel.c, domain_dump_evtchn_info).
fn ports_of(dump: &str, domain: &str) -> usize {
    let title = format!("Event channel information for domain {domain}:");
    dump.lines()
        .skip_while(|line| !line.contains(&title))
        .skip(1)
        .take_while(|line| !line.contains("Event channel information"))
        .filter(|line| line.contains(": s="))
        .count()
}

#[cfg(test)]
mod tests {
    use super::{DriverType, Held, mapped_by, ports_of};

    #[test]
    fn what_is_left_behind_is_told_from_what_was_given_up() {
        let held = |grants, ports, domains| Held {
            grants,
            ports,
            domains,
        };
        let before = held(5, 10, 3);
        let dom0 = DriverType::Dom0;
        assert!(held(5, 10, 3).is_as(&before, dom0) && held(4, 10, 3).is_as(&before, dom0));
        assert!(held(5, 10, 3).is_as(&before, DriverType::Pv));
        assert!(!held(4, 10, 3).is_as(&before, DriverType::Pv));
        for more in [
            held(6, 10, 3),
            held(5, 11, 3),
            held(5, 9, 3),
            held(5, 10, 4),
        ] {
            assert!(!more.is_as(&before, dom0), "{more:?}");
        }
    }

    #[test]
    fn only_the_driver_domains_mapped_grants_count() {
        let dump = "(XEN) [0x24c]      0 0x6d920 0x00000001          0 0x06d920 0x19\n\
                    (XEN) [0x44d]      1 0x6cbb8 0x00000001          1 0x06cbb8 0x19\n\
                    (XEN) [0x44e]      1 0x6b470 0x00000000          1 0x06b470 0x19\n\
                    (XEN) gnttab_usage_print_all ] done\n";
        assert_eq!(mapped_by(dump, "1"), 1);
        assert_eq!(mapped_by(dump, "7"), 0);
    }

    #[test]
    fn ports_are_counted_up_to_the_next_domain() {
        let dump = "(XEN) Event channel information for domain 1:\n(XEN) Polling vCPUs: {}\n\
                    (XEN)        1 [0/0/  -   ]: s=3 n=0 x=0 d=0 p=24\n\
                    (XEN)        3 [0/0/  -   ]: s=5 n=0 x=0 v=0\n\
                    (XEN) Event channel information for domain 12:\n\
                    (XEN)        1 [0/0/  -   ]: s=3 n=0 x=0 d=0 p=31\n";
        assert_eq!(ports_of(dump, "1"), 2);
        assert_eq!(ports_of(dump, "12"), 1);
        assert_eq!(ports_of(dump, "2"), 0);
    }
}
