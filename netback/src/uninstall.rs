//! What netback leaves on interfaces when it ends, found and taken off again.
use crate::config::Daemon;
use crate::daemon::{Failure, unusable};
use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use xsk_bridge::nic;

/// Takes netback's program off an interface and puts its settings back as they were; for `netback uninstall`.
pub fn take_off(daemon: &Daemon, ifname: &str) -> Result<(), Failure> {
    xsk_bridge::xdp::uninstall(ifname, &daemon.bpf_dir)
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    nic::put_back(ifname, &daemon.run_dir).map_err(|error| Failure::Runtime(error.to_string()))?;
    // netback made this directory; it goes once the last interface's directory is gone from it.
    let _ = std::fs::remove_dir(&daemon.bpf_dir);
    Ok(())
}

/// Interfaces that have something of netback's: its program, pinned, or settings that were noted to be put back.
pub fn installed(daemon: &Daemon) -> Result<BTreeSet<String>, Failure> {
    let bpf_dir = &daemon.bpf_dir;
    let pinned = xsk_bridge::xdp::pinned(bpf_dir).map_err(|error| unusable(bpf_dir, &error))?;
    let recorded = names(&daemon.run_dir)?;
    let recorded = recorded
        .iter()
        .filter_map(|file| file.strip_prefix("nic-")?.strip_suffix(".json"))
        .map(str::to_owned);
    Ok(pinned.into_iter().chain(recorded).collect())
}

/// The note that the TAP `name` is a host port of netback's.
fn host_note(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{HOST_NOTE}{name}"))
}

/// The beginning of such a note's name.
const HOST_NOTE: &str = "host-";

/// Notes that the TAP `name` is netback's, and to be removed by `netback uninstall`.
pub(crate) fn note_host(run_dir: &Path, name: &str) -> io::Result<()> {
    std::fs::write(host_note(run_dir, name), "")
}

/// The TAPs that were noted to be netback's.
pub fn noted_hosts(daemon: &Daemon) -> Result<BTreeSet<String>, Failure> {
    let notes = names(&daemon.run_dir)?;
    let names = notes.iter().filter_map(|file| file.strip_prefix(HOST_NOTE));
    Ok(names.map(str::to_owned).collect())
}

/// Removes a TAP of netback's; for `netback uninstall`.
pub fn take_host_away(daemon: &Daemon, name: &str) -> Result<(), Failure> {
    xsk_bridge::tap::remove(name).map_err(|error| Failure::Runtime(error.to_string()))?;
    let note = host_note(&daemon.run_dir, name);
    std::fs::remove_file(&note).map_err(|error| unusable(&note, &error))
}

/// Names in a directory; none where it is not there.
fn names(directory: &Path) -> Result<Vec<String>, Failure> {
    let list = || -> io::Result<Vec<String>> {
        let name =
            |entry: io::Result<DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        std::fs::read_dir(directory)?.map(name).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| unusable(directory, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_by_its_pins_or_by_its_record() {
        let dir = std::env::temp_dir().join(format!("netback-installed-{}", std::process::id()));
        let daemon = Daemon {
            run_dir: dir.join("run"),
            control_socket: dir.join("run/control"),
            bpf_dir: dir.join("bpf"),
        };
        assert!(installed(&daemon).unwrap().is_empty());
        for directory in ["bpf/eth1", "bpf/eth3", "bpf/tc", "run"] {
            std::fs::create_dir_all(dir.join(directory)).unwrap();
        }
        // The second device's program was detached by hand. What the kernel and other programs pinned is not netback's.
        for pin in [
            "eth1/link",
            "eth1/sockets",
            "eth3/sockets",
            "tc/globals",
            "maps.debug",
        ] {
            std::fs::write(dir.join("bpf").join(pin), "").unwrap();
        }
        for file in ["nic-eth0.json", "nic-eth1.json", "nic-eth2.new", "lock"] {
            std::fs::write(dir.join("run").join(file), "").unwrap();
        }
        assert_eq!(
            Vec::from_iter(installed(&daemon).unwrap()),
            ["eth0", "eth1", "eth3"]
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
