//! Where the rig keeps what it builds (shared by all instances) and what one instance leaves while it runs.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What is built once: packages, kernels, the root disk.
#[derive(Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// `$NETBACK_XEN_RIG`, else `$XDG_CACHE_HOME/netback/xen-rig`, else `~/.cache/netback/xen-rig`.
    pub fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = if let Some(root) = set("NETBACK_XEN_RIG") {
            PathBuf::from(root)
        } else {
            let caches = set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
                .context("neither HOME nor XDG_CACHE_HOME is set: name a directory for the rig in NETBACK_XEN_RIG")?;
            caches.join("netback/xen-rig")
        };
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(Self(root))
    }

    /// A file or directory of the cache.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The directory of a running instance, made if missing: QEMU's pid and logs, the options it was started with.
    pub fn instance(&self, number: u8) -> Result<PathBuf> {
        let directory = self.path(format!("instance-{number}"));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }
}
