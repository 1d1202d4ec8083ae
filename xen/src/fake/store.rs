//! xenstored in the heap: nodes with owners, transactions, watches, quotas, permissions (docs/misc/xenstore.txt), and requests that
//! fail where a test says so.
mod connection;
#[cfg(test)]
mod tests;
mod tree;

pub use connection::Connection;

use super::lock;
use crate::grant::DomId;
use crate::store::StoreError;
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};
use tree::Tree;

/// Whose the nodes are that a test writes.
const TOOLSTACK: DomId = DomId(0);

/// A request of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// XS_READ
    Read,
    /// XS_WRITE
    Write,
    /// XS_DIRECTORY
    Directory,
    /// XS_RM
    Remove,
    /// XS_TRANSACTION_START
    Begin,
    /// XS_TRANSACTION_END
    End,
    /// XS_WATCH
    Watch,
    /// XS_UNWATCH
    Unwatch,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Directory => "list",
            Self::Remove => "remove",
            Self::Begin => "begin",
            Self::End => "end",
            Self::Watch => "watch",
            Self::Unwatch => "unwatch",
        }
    }
}

/// What a domain may have (xenstored's options `--entry-nb` and `--watch-nb`): beyond it a request fails with EQUOTA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Watches of one connection.
    pub watches: usize,
}

impl Default for Quota {
    /// No bound.
    fn default() -> Self {
        Self {
            nodes: usize::MAX,
            watches: usize::MAX,
        }
    }
}

/// Requests that a test wants to fail.
#[derive(Debug)]
struct Fault {
    request: Request,
    path: String,
    errno: &'static str,
    times: usize,
}

/// A connection's watches and their events.
#[derive(Debug)]
struct Watches {
    /// Path and token, as the connection gave them, with the absolute path.
    watched: BTreeSet<(String, String, String)>,
    events: BTreeSet<(String, String)>,
    wake: UnixStream,
}

impl Watches {
    /// The event of a watch of `given`, whose absolute path is `absolute`, for the node at `path`.
    fn fire(&mut self, given: &str, absolute: &str, token: &str, path: &str) {
        // A relative watch's events are relative.
        let home = absolute.strip_suffix(given).unwrap_or_default();
        let path = path.strip_prefix(home).unwrap_or(path);
        self.events.insert((path.into(), token.into()));
        // A full socket is readable as it is.
        let _ = self.wake.write(&[0]);
    }
}

#[derive(Debug, Default)]
struct Server {
    tree: Tree,
    watchers: Vec<Weak<Mutex<Watches>>>,
    quota: Quota,
    faults: Vec<Fault>,
    /// Paths that no connection may access (EACCES), and all below.
    hidden: BTreeSet<String>,
    /// Paths that no connection may write to (EACCES), and all below.
    read_only: BTreeSet<String>,
    requests: Vec<Request>,
    changes: Vec<String>,
    /// How often connections asked for events.
    listens: u64,
    /// A node that somebody writes all the time.
    storm: Option<String>,
}

/// The store as the test sees it, which plays toolstack and guests. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Store(Arc<Mutex<Server>>);

impl Store {
    /// Writes a node of the toolstack's, and the nodes above it that are not there.
    pub fn set(&self, path: &str, value: &str) {
        self.set_for(TOOLSTACK, path, value);
    }

    /// Writes a node that belongs to a domain and counts for its quota.
    pub fn set_for(&self, owner: DomId, path: &str, value: &str) {
        let mut server = lock(&self.0);
        server.tree.write(path, value, owner);
        server.fire(path, false);
    }

    /// The value of a node.
    pub fn get(&self, path: &str) -> Option<String> {
        lock(&self.0).tree.value(path).map(str::to_owned)
    }

    /// Removes a node and all below it.
    pub fn remove(&self, path: &str) {
        let mut server = lock(&self.0);
        server.tree.remove(path);
        server.fire(path, true);
    }

    /// Hides a node and all below it from every connection, as what a dead domain owned is hidden before it is removed.
    pub fn hide(&self, path: &str) {
        let mut server = lock(&self.0);
        server.hidden.insert(path.into());
        server.fire(path, false);
    }

    /// Lets no connection write to a node or below it.
    pub fn make_read_only(&self, path: &str) {
        lock(&self.0).read_only.insert(path.into());
    }

    /// Bounds what a domain may have, from now on.
    pub fn set_quota(&self, quota: Quota) {
        lock(&self.0).quota = quota;
    }

    /// Number of nodes that a domain owns.
    pub fn nodes_of(&self, domid: DomId) -> usize {
        lock(&self.0).tree.owned(domid)
    }

    /// Has the next `times` requests of this kind whose path contains `path` fail with the error of this name.
    pub fn fail(&self, request: Request, path: &str, errno: &'static str, times: usize) {
        lock(&self.0).faults.push(Fault {
            request,
            path: path.into(),
            errno,
            times,
        });
    }

    /// Requests of connections since the last time this was asked.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.0).requests)
    }

    /// What connections wrote (`path=value`) and removed (`-path`) since the last time this was asked.
    pub fn take_changes(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0).changes)
    }

    /// Has a node written again and again from now on, faster than any connection asks for events.
    pub fn storm(&self, path: &str) {
        lock(&self.0).storm = Some(path.into());
    }

    /// How often connections have asked for events.
    pub fn listens(&self) -> u64 {
        lock(&self.0).listens
    }

    /// Number of watches of all connections.
    pub fn watches(&self) -> usize {
        let server = lock(&self.0);
        let watchers = server.watchers.iter().filter_map(Weak::upgrade);
        watchers.map(|watches| lock(&watches).watched.len()).sum()
    }

    /// A connection of the domain `domid`, whose home relative paths begin at.
    pub fn connect(&self, domid: DomId) -> Connection {
        Connection::new(self.clone(), domid)
    }
}

fn is_below(path: &str, root: &str) -> bool {
    let rest = path.strip_prefix(root);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Server {
    /// Counts a request, and refuses it where it is not permitted or has been told to fail.
    fn admit(&mut self, request: Request, path: &str) -> Result<(), StoreError> {
        self.requests.push(request);
        let writes = matches!(request, Request::Write | Request::Remove);
        let below = |roots: &BTreeSet<String>| roots.iter().any(|root| is_below(path, root));
        if below(&self.hidden) || writes && below(&self.read_only) {
            return Err(refused(request, path, "EACCES"));
        }
        let matches = |fault: &&mut Fault| {
            fault.times > 0 && fault.request == request && path.contains(&fault.path)
        };
        match self.faults.iter_mut().find(matches) {
            Some(fault) => {
                fault.times -= 1;
                Err(refused(request, path, fault.errno))
            }
            None => Ok(()),
        }
    }

    /// Fires the watches of a node that changed, of those above it, and, where it was removed, of those below it.
    fn fire(&mut self, path: &str, removed: bool) {
        self.watchers.retain(|watcher| watcher.strong_count() > 0);
        for watches in self.watchers.iter().filter_map(Weak::upgrade) {
            let mut watches = lock(&watches);
            for (given, token, absolute) in watches.watched.clone() {
                if is_below(path, &absolute) {
                    watches.fire(&given, &absolute, &token, path);
                } else if removed && is_below(&absolute, path) {
                    watches.fire(&given, &absolute, &token, &absolute);
                }
            }
        }
    }
}

fn refused(request: Request, path: &str, errno: &str) -> StoreError {
    match errno {
        "ENOENT" => StoreError::Missing(path.into()),
        "EAGAIN" => StoreError::Conflict,
        _ => StoreError::Refused {
            operation: request.name(),
            path: path.into(),
            errno: errno.into(),
        },
    }
}
