//! `netback doctor` in the rig: something is broken, the doctor names it with its cure, the cure is typed as it stands there, and the
//! doctor names it no more. One boot serves all; each case leaves the machine as it found it.

use super::Case;
use super::document::{self, GUEST};
use super::package::NIC;
use super::traffic::ping_both_families;
use crate::machine::{Machine, quote};
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const HERE: Place = Place::DriverDomain;
const DOM0: Place = Place::Dom0;

/// One broken set-up. In the commands `$nic` is the uplink and `$config` the configuration.
struct Broken {
    /// The case's name.
    what: &'static str,
    /// The finding that must name it.
    check: &'static str,
    /// Breaks it.
    make: &'static [(Place, &'static str)],
    /// The shell in which the doctor is asked and its cure typed, with {} for the commands; an ordinary one of root where empty.
    shell: &'static str,
    /// What the cure leaves different from before.
    mend: &'static [(Place, &'static str)],
}

const fn broken(
    what: &'static str,
    check: &'static str,
    make: &'static [(Place, &'static str)],
    mend: &'static [(Place, &'static str)],
) -> Broken {
    Broken {
        what,
        check,
        make,
        shell: "",
        mend,
    }
}

const fn in_shell(what: &'static str, check: &'static str, shell: &'static str) -> Broken {
    Broken {
        what,
        check,
        make: &[],
        shell,
        mend: &[],
    }
}

/// Stops it and takes its program off the NIC, as before its first start.
const ASIDE: (Place, &str) = (
    HERE,
    "cp $config /run/rig-config; systemctl stop netback && netback uninstall",
);
const KEEP: (Place, &str) = (HERE, "cp $config /run/rig-config");
const START: (Place, &str) = (HERE, "systemctl start netback");
/// The configuration as before; what a cure has kept beside it, as an operator wants it, is in the way of the removal later.
const RESTORE: (Place, &str) = (
    HERE,
    "rm -f $config.~*~ && cp /run/rig-config $config && systemctl restart netback",
);
/// The end of the guest's second vif.
const DETACH: (Place, &str) = (DOM0, "xl network-detach guest 00:16:3e:09:00:e1");

const TABLE: &[Broken] = &[
    broken(
        "not-running",
        "not-running",
        &[(HERE, "systemctl stop netback")],
        &[],
    ),
    broken(
        "blacklist-missing",
        "kernel-netback-autoload",
        &[(
            HERE,
            "mv /usr/lib/modprobe.d/netback.conf /run/rig-modprobe",
        )],
        &[(
            HERE,
            "rm /etc/modprobe.d/netback.conf; mv /run/rig-modprobe /usr/lib/modprobe.d/netback.conf",
        )],
    ),
    broken(
        "no-gntdev",
        "no-gntdev",
        &[(HERE, "systemctl stop netback && modprobe -r xen-gntdev")],
        &[START],
    ),
    broken(
        "no-evtchn",
        "no-evtchn",
        &[(HERE, "systemctl stop netback && modprobe -r xen-evtchn")],
        &[START],
    ),
    // It runs without, so it is running when the doctor is asked.
    broken(
        "no-gntalloc",
        "no-gntalloc",
        &[(
            HERE,
            "systemctl stop netback && modprobe -r xen-gntalloc && systemctl start netback",
        )],
        &[],
    ),
    broken(
        "gntalloc-limit",
        "gntalloc-limit",
        // What the package had set is put back: later cases look at it.
        &[(
            HERE,
            "cd /sys/module/xen_gntalloc/parameters && cat limit > /run/gntalloc-limit && echo 1 > limit",
        )],
        &[(
            HERE,
            "cat /run/gntalloc-limit > /sys/module/xen_gntalloc/parameters/limit",
        )],
    ),
    broken(
        "no-xenbus",
        "no-xenbus",
        &[(HERE, "rm /dev/xen/xenbus")],
        &[],
    ),
    broken(
        "door-closed",
        "door-closed",
        &[(HERE, "chmod 060 /dev/xen/gntdev")],
        &[],
    ),
    broken(
        "bpffs-not-mounted",
        "bpffs",
        &[ASIDE, (HERE, "umount /sys/fs/bpf")],
        &[START],
    ),
    in_shell(
        "memlock-low",
        "memlock",
        "setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock bash -c 'ulimit -l 64; {}'",
    ),
    in_shell(
        "no-capability",
        "capabilities",
        "setpriv --bounding-set=-net_raw,-net_admin --inh-caps=-net_raw,-net_admin bash -c '{}'",
    ),
    in_shell(
        "not-root",
        "capabilities",
        "setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all bash -c '{}'",
    ),
    broken(
        "run-dir-on-disk",
        "run-dir",
        &[
            KEEP,
            (
                HERE,
                "sed -i 's|^\\[daemon\\]|&\\nrun_dir = \"/var/lib/rig\"|' $config",
            ),
        ],
        &[RESTORE],
    ),
    broken(
        "config-wrong",
        "config",
        &[KEEP, (HERE, "echo 'nonsense = 1' >> $config")],
        &[RESTORE],
    ),
    broken(
        "config-missing",
        "config",
        &[KEEP, (HERE, "rm $config")],
        &[RESTORE],
    ),
    broken(
        "uplink-missing",
        "uplink-missing",
        &[
            KEEP,
            (HERE, "sed -i 's/^uplink.*/uplink = \"eth9\"/' $config"),
        ],
        &[RESTORE],
    ),
    broken(
        "bridge-unknown",
        "bridge-unknown",
        &[KEEP, (HERE, "sed -i 's/xenbr0/xenbr9/' $config")],
        &[RESTORE],
    ),
    broken(
        "not-promiscuous",
        "not-promiscuous",
        &[(HERE, "ip link set dev $nic promisc off")],
        &[],
    ),
    broken(
        "nic-down",
        "uplink-down",
        &[(HERE, "ip link set dev $nic down")],
        &[],
    ),
    broken(
        "vlan-offload-on",
        "uplink-offloads",
        &[(HERE, "ethtool -K $nic rxvlan on")],
        &[],
    ),
    broken(
        "nic-addressed",
        "uplink-addressed",
        &[KEEP, (HERE, "ip address add 198.51.100.7/24 dev $nic")],
        &[RESTORE],
    ),
    broken(
        "nic-enslaved",
        "uplink-enslaved",
        &[(
            HERE,
            "ip link add rigbr type bridge && ip link set dev $nic master rigbr",
        )],
        &[(HERE, "ip link del rigbr")],
    ),
    broken(
        "other-program-native",
        "uplink-in-use",
        &[
            PIN,
            ASIDE,
            (
                HERE,
                "bpftool net attach xdpdrv pinned /sys/fs/bpf/rig dev $nic",
            ),
        ],
        &[UNPIN, START],
    ),
    broken(
        "other-program-generic",
        "uplink-in-use",
        &[
            PIN,
            ASIDE,
            (
                HERE,
                "bpftool net attach xdpgeneric pinned /sys/fs/bpf/rig dev $nic",
            ),
        ],
        &[UNPIN, START],
    ),
    broken(
        "mtu-beyond-native-xdp",
        "uplink-mtu",
        &[ASIDE, (HERE, "ip link set dev $nic mtu 3500")],
        &[(HERE, "ip link set dev $nic mtu 1500"), START],
    ),
    broken(
        "mtu-beyond-af-xdp",
        "uplink-mtu",
        &[ASIDE, (HERE, "ip link set dev $nic mtu 9000")],
        &[(HERE, "ip link set dev $nic mtu 1500"), START],
    ),
    broken(
        "guest-address-twice",
        "duplicate-mac",
        &[(
            DOM0,
            "xl network-attach guest mac=00:16:3e:09:00:01 bridge=xenbr0 backend=driver-domain",
        )],
        &[],
    ),
    broken(
        "guest-mtu",
        "guest-mtu",
        &[(DOM0, ATTACH_LARGE)],
        &[(HERE, "ip link set dev $nic mtu 1500"), DETACH],
    ),
    broken(
        "kernel-netback-loaded",
        "kernel-netback-loaded",
        &[
            (DOM0, "xl network-detach guest 00:16:3e:09:00:01"),
            (HERE, "modprobe xen-netback"),
        ],
        &[
            (
                DOM0,
                "xl network-attach guest mac=00:16:3e:09:00:01 bridge=xenbr0 backend=driver-domain",
            ),
            (Place::Guest(1), GUEST_BACK),
        ],
    ),
];

/// Our own program, kept for somebody else to attach.
const PIN: (Place, &str) = (
    HERE,
    "bpftool prog pin id $(ip -details link show dev $nic | sed -n 's/.*prog\\/xdp id \\([0-9]*\\).*/\\1/p') /sys/fs/bpf/rig",
);
const UNPIN: (Place, &str) = (HERE, "rm /sys/fs/bpf/rig");
const ATTACH_LARGE: &str =
    "xl network-attach guest mac=00:16:3e:09:00:e1 bridge=xenbr0 backend=driver-domain mtu=2000";
/// Name and address of the vif under test, as at boot, once its device is there.
const GUEST_BACK: &str = r#"arg() { sed -n "s/.*rig\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
load() { :; }
. /rig/init-guest 2>/dev/null; ip link show dev test0"#;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, broken) in TABLE.iter().enumerate() {
        let case = Case::new(format!("doctor/{}", broken.what), |machine| {
            named_and_cured(machine, broken)
        });
        // A second way to a finding is not for every day.
        let again = TABLE[..at].iter().any(|other| other.check == broken.check);
        cases.push(if again { case.long() } else { case });
    }
    cases.push(Case::new("doctor/healthy", healthy));
    cases
}

fn named_and_cured(machine: &Machine, broken: &Broken) -> Result<String> {
    document::walk(machine, GUEST)?;
    let before = ask(machine, "", "")?;
    ensure!(
        before.finding(broken.check).is_none(),
        "it is named before anything is broken"
    );
    // What is broken is mended whatever becomes of the case, or the next ones would not be about what they say.
    let outcome = make(machine, broken.make).and_then(|()| cured(machine, broken));
    let mended = make(machine, broken.mend);
    let line = outcome?;
    mended?;
    Ok(line)
}

fn cured(machine: &Machine, broken: &Broken) -> Result<String> {
    let report = ask(machine, broken.shell, "")?;
    let finding = report
        .finding(broken.check)
        .with_context(|| format!("not named; the doctor says {}", report.json))?;
    let status = match finding["severity"].as_str() {
        Some("error") => 2,
        Some("warning") => 1,
        _ => 0,
    };
    ensure!(
        report.status >= status && status > 0,
        "exit status {} with {finding}",
        report.status
    );
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let (what, cure) = (text("what"), text("cure"));
    ensure!(
        !format!("{what}{cure}").contains('\n'),
        "more than one line: {finding}"
    );
    let typed = commands(&cure);
    ensure!(!typed.is_empty(), "no command in the cure: {cure}");
    let after = type_and_ask(machine, broken, &typed)?;
    ensure!(
        after.finding(broken.check).is_none(),
        "still named after {typed:?}: {}",
        after.json
    );
    Ok(format!("{what}; {cure}"))
}

/// Type the cure where it says, in the very shell the doctor was asked in where that is what was broken.
fn type_and_ask(machine: &Machine, broken: &Broken, typed: &[(Place, String)]) -> Result<Report> {
    let asks_itself = typed.iter().any(|(_, command)| command == "netback doctor");
    if !broken.shell.is_empty() && !asks_itself {
        let line: Vec<&str> = typed.iter().map(|(_, command)| &**command).collect();
        return ask(machine, broken.shell, &format!("{} && ", line.join(" && ")));
    }
    for (place, command) in typed.iter().filter(|_| !asks_itself) {
        machine
            .must(*place, command)
            .with_context(|| format!("the cure {command:?}"))?;
    }
    ask(machine, "", "")
}

fn make(machine: &Machine, commands: &[(Place, &str)]) -> Result<()> {
    for (place, command) in commands {
        machine.must(
            *place,
            &format!("nic={NIC} config=/etc/netback/netback.toml; {command} 2>&1"),
        )?;
    }
    Ok(())
}

/// What the doctor said.
struct Report {
    status: u32,
    json: Value,
}

impl Report {
    fn finding(&self, check: &str) -> Option<&Value> {
        let mut findings = self.json["findings"].as_array()?.iter();
        findings.find(|finding| finding["check"] == check)
    }
}

/// `before` and then the doctor, in `shell`.
fn ask(machine: &Machine, shell: &str, before: &str) -> Result<Report> {
    let asked = format!("{before}netback doctor --json");
    let line = if shell.is_empty() {
        asked
    } else {
        // The shell's own quotes are around it.
        let inner = quote(&asked);
        shell.replace("{}", inner.trim_matches('\''))
    };
    let outcome = machine.run(HERE, &line)?;
    let json = serde_json::from_slice(&outcome.stdout).with_context(|| {
        format!(
            "`{line}` printed no JSON: {}",
            String::from_utf8_lossy(&outcome.stderr).trim()
        )
    })?;
    Ok(Report {
        status: outcome.status,
        json,
    })
}

/// What a cure has typed, and where: what stands in backquotes, up to `; or`.
fn commands(cure: &str) -> Vec<(Place, String)> {
    let way = cure.split("; or ").next().unwrap_or(cure);
    let parts: Vec<&str> = way.split('`').collect();
    parts
        .chunks_exact(2)
        .map(|pair| {
            let place = if pair[0].trim_end().ends_with("in dom0:") {
                DOM0
            } else {
                HERE
            };
            (place, pair[1].to_owned())
        })
        .collect()
}

/// After all that, nothing stands in the way and the guest has its network.
fn healthy(machine: &Machine) -> Result<String> {
    document::walk(machine, GUEST)?;
    // What was set last may still have the link settle.
    machine.must(
        HERE,
        &format!("for n in $(seq 100); do grep -q 1 /sys/class/net/{NIC}/carrier && break; sleep 0.1; done"),
    )?;
    let report = ask(machine, "", "")?;
    ensure!(report.status == 0, "the doctor says {}", report.json);
    let ping = ping_both_families(machine, Place::Guest(1), Place::Peer)?;
    Ok(format!("nothing stands in the way; {ping}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cure_is_what_stands_in_backquotes_where_it_says() {
        let cure = "in dom0: `xl a`, then here: `b && c`, and so on; or `d`";
        assert_eq!(
            commands(cure),
            [(DOM0, "xl a".to_owned()), (HERE, "b && c".to_owned())]
        );
        assert_eq!(commands("look at the cable"), []);
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<&str> = TABLE.iter().map(|broken| broken.what).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
