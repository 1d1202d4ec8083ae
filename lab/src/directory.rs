//! The lab's files: sockets, logs, the daemon's run directory, a BPF file system.
use super::namespace::ip;
use super::process;
use anyhow::{Context, Result};
use rustix::fs::statfs;
use sim::namespace::NETNS_DIR;
use std::path::{Path, PathBuf};
use std::process::Command;

/// TMPFS_MAGIC (linux/magic.h).
const TMPFS: u64 = 0x0102_1994;
/// Names of directories and namespaces begin so, then comes the pid.
const DIRECTORY_PREFIX: &str = "netback-lab-";
const NAMESPACE_PREFIX: &str = "nb";

/// A directory on tmpfs, where the daemon's files would be too, with a BPF file system in it. Gone when dropped.
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Make it for lab `id`.
    pub fn create(id: &str) -> Result<Self> {
        let path = parent().join(format!("{DIRECTORY_PREFIX}{id}"));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let directory = Self { path };
        for name in ["run", "bpf"] {
            std::fs::create_dir(directory.path.join(name))?;
        }
        process::run(
            Command::new("mount")
                .args(["-t", "bpf", "bpf"])
                .arg(directory.path.join("bpf")),
        )?;
        Ok(directory)
    }

    /// The directory, and SIM_DIR of everything in the lab.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // What cannot be removed now is swept by the next lab.
    let _ = process::run(Command::new("umount").arg("--lazy").arg(path.join("bpf")));
    let _ = std::fs::remove_dir_all(path);
}

/// The first of the usual places that is a tmpfs, or /tmp.
fn parent() -> PathBuf {
    let is_tmpfs = |path: &&str| statfs(*path).is_ok_and(|fs| fs.f_type as u64 == TMPFS);
    ["/run", "/dev/shm"]
        .iter()
        .copied()
        .find(is_tmpfs)
        .unwrap_or("/tmp")
        .into()
}

/// Remove what labs of processes that are gone left behind.
pub fn sweep() {
    for name in names(Path::new(NETNS_DIR)) {
        if name.strip_prefix(NAMESPACE_PREFIX).is_some_and(is_orphan) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
    let parent = parent();
    for name in names(&parent) {
        if name.strip_prefix(DIRECTORY_PREFIX).is_some_and(is_orphan) {
            remove(&parent.join(name));
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Whether `rest`, "pid-...", names a process that is gone, or dead and not yet waited for.
fn is_orphan(rest: &str) -> bool {
    let Some(pid) = rest
        .split_once('-')
        .and_then(|(pid, _)| pid.parse::<u32>().ok())
    else {
        return false;
    };
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // "pid (name) state ...", and the name may hold anything.
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::is_orphan;

    #[test]
    fn only_names_with_the_number_of_a_dead_process_are_orphans() {
        assert!(!is_orphan(&format!("{}-0-driver", std::process::id())));
        assert!(is_orphan("4194305-0-driver"), "above the largest pid");
        assert!(!is_orphan("x-0") && !is_orphan("17") && !is_orphan(""));
    }
}
