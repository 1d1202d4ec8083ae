//! xenstore as far as a replay needs it: a map.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use xen::store::{StoreError, Transaction, WatchEvent, XenStore};

/// Nodes with values; a directory is there while something below it is.
pub struct MapStore {
    pub nodes: BTreeMap<String, String>,
    file: File,
}

impl MapStore {
    /// Nothing in it.
    pub fn new() -> Self {
        let file = File::open("/dev/null").expect("/dev/null is there");
        Self {
            nodes: BTreeMap::new(),
            file,
        }
    }
}

impl XenStore for MapStore {
    fn read(&mut self, _: Transaction, path: &str) -> Result<String, StoreError> {
        self.nodes
            .get(path)
            .cloned()
            .ok_or_else(|| StoreError::Missing(path.into()))
    }

    fn write(&mut self, _: Transaction, path: &str, value: &str) -> Result<(), StoreError> {
        self.nodes.insert(path.into(), value.into());
        Ok(())
    }

    fn directory(&mut self, _: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        let below = format!("{path}/");
        let names: BTreeSet<String> = self
            .nodes
            .keys()
            .filter_map(|node| {
                node.strip_prefix(&below)?
                    .split('/')
                    .next()
                    .map(String::from)
            })
            .collect();
        if names.is_empty() && !self.nodes.contains_key(path) {
            return Err(StoreError::Missing(path.into()));
        }
        Ok(names.into_iter().collect())
    }

    fn remove(&mut self, _: Transaction, path: &str) -> Result<(), StoreError> {
        let below = format!("{path}/");
        self.nodes
            .retain(|node, _| node != path && !node.starts_with(&below));
        Ok(())
    }

    fn begin(&mut self) -> Result<Transaction, StoreError> {
        Ok(Transaction::NONE)
    }

    fn end(&mut self, _: Transaction, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn watch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn unwatch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError> {
        Ok(Vec::new())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
