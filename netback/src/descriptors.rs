//! Descriptors that outlive the process: the service manager keeps them (sd_notify(3), FDSTORE=1) and hands them to the next one
//! (sd_listen_fds(3)). Where no service manager is told of, they live as long as the process does.
// A number that was inherited becomes a descriptor.
#![allow(unsafe_code)]
use sd_notify::NotifyState::{FdName, FdStore, FdStoreRemove};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use tracing::warn;

/// Descriptors by the names under which they are kept.
#[derive(Debug, Default)]
pub struct Descriptors(BTreeMap<String, OwnedFd>);

impl Descriptors {
    /// Those that the service manager kept for this process. To be called once, before anything else looks for them.
    pub fn inherited() -> Self {
        let mut descriptors = Self::default();
        let inherited = match sd_notify::listen_fds_with_names(false) {
            Ok(inherited) => inherited,
            Err(error) => {
                warn!("descriptors that the service manager kept are of no use: {error}");
                return descriptors;
            }
        };
        for (fd, name) in inherited {
            // SAFETY: sd_listen_fds(3): the descriptor is open and this process's own, and nobody else takes it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            descriptors.0.insert(name, fd);
        }
        descriptors
    }

    /// Duplicates of the descriptors whose names begin with `prefix`, in the order of the numbers behind it, as far as they follow one
    /// another and `fits` says so of each. All others with the prefix are given up.
    pub fn take(&mut self, prefix: &str, fits: impl Fn(&OwnedFd) -> bool) -> Vec<OwnedFd> {
        let mut taken = Vec::new();
        while let Some(fd) = self.0.get(&numbered(prefix, taken.len()))
            && fits(fd)
            && let Ok(duplicate) = fd.try_clone()
        {
            taken.push(duplicate);
        }
        self.keep_first(prefix, taken.len());
        taken
    }

    /// Keeps `fds` under names of `prefix` and a number. Those that are kept under such a name already stay.
    pub fn keep(&mut self, prefix: &str, fds: &[OwnedFd]) {
        for (number, fd) in fds.iter().enumerate() {
            let name = numbered(prefix, number);
            if self.0.contains_key(&name) {
                continue;
            }
            let stored =
                sd_notify::notify_with_fds(false, &[FdStore, FdName(&name)], &[fd.as_fd()]);
            match stored.and_then(|()| fd.try_clone()) {
                Ok(duplicate) => drop(self.0.insert(name, duplicate)),
                Err(error) => warn!("{name} will not outlive the process: {error}"),
            }
        }
        self.keep_first(prefix, fds.len());
    }

    /// Gives up every descriptor whose name begins with `prefix`.
    pub fn forget(&mut self, prefix: &str) {
        self.keep_first(prefix, 0);
    }

    /// The prefixes of all names, which end before a number.
    pub fn prefixes(&self) -> Vec<String> {
        let prefix = |name: &String| {
            name.trim_end_matches(|c: char| c.is_ascii_digit())
                .to_owned()
        };
        let prefixes: BTreeSet<String> = self.0.keys().map(prefix).collect();
        prefixes.into_iter().collect()
    }

    fn keep_first(&mut self, prefix: &str, count: usize) {
        let is_kept = |name: &str| match name.strip_prefix(prefix).map(str::parse::<usize>) {
            Some(Ok(number)) => number < count,
            // Another prefix, that this one is the beginning of.
            _ => true,
        };
        self.0.retain(|name, _| {
            let kept = is_kept(name);
            if !kept {
                // Without a service manager there is nobody to tell.
                let _ = sd_notify::notify(false, &[FdStoreRemove, FdName(name)]);
            }
            kept
        });
    }
}

fn numbered(prefix: &str, number: usize) -> String {
    format!("{prefix}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn descriptors_are_taken_in_order_and_what_does_not_fit_is_given_up() {
        let mut descriptors = Descriptors::default();
        let fds: Vec<OwnedFd> = (0..12).map(|_| open()).collect();
        descriptors.keep("host-br1-", &fds);
        descriptors.keep("host-br1-2-", &fds[..2]);
        assert_eq!(descriptors.take("host-br1-", |_| true).len(), 12);
        let asked = std::cell::Cell::new(0);
        let first_three = |_: &OwnedFd| asked.replace(asked.get() + 1) < 3;
        assert_eq!(descriptors.take("host-br1-", first_three).len(), 3);
        assert_eq!(descriptors.take("host-br1-", |_| true).len(), 3);
        assert_eq!(descriptors.take("host-br1-2-", |_| true).len(), 2);
        descriptors.keep("host-br1-", &fds[..2]);
        assert_eq!(descriptors.prefixes(), ["host-br1-", "host-br1-2-"]);
        assert_eq!(descriptors.take("host-br1-", |_| true).len(), 2);
        descriptors.forget("host-br1-");
        assert_eq!(descriptors.prefixes(), ["host-br1-2-"]);
    }
}
