//! A domain's connection to the store.
use super::tree::{Tree, parent};
use super::{Request, Server, Store, Watches, lock, refused};
use crate::grant::DomId;
use crate::store::{StoreError, Transaction, WatchEvent, XenStore};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// Most bytes of a request's or an answer's payload (xs_wire.h, XENSTORE_PAYLOAD_MAX).
const PAYLOAD_MAX: usize = 4096;

/// A change that a transaction has not committed.
enum Change {
    Write(String, String),
    Remove(String),
}

/// A transaction that is open: its own view, and what of it others must not change meanwhile.
struct Open {
    tree: Tree,
    /// The nodes that it looked at or changed, and when each had changed last.
    seen: BTreeMap<String, Option<u64>>,
    changes: Vec<Change>,
}

/// A domain's connection. Its watches end with it.
pub struct Connection {
    store: Store,
    domid: DomId,
    watches: Arc<Mutex<Watches>>,
    reader: UnixStream,
    open: BTreeMap<u32, Open>,
    last: u32,
}

impl Connection {
    pub(super) fn new(store: Store, domid: DomId) -> Self {
        let (reader, wake) = UnixStream::pair().expect("a socket pair");
        for end in [&reader, &wake] {
            end.set_nonblocking(true).expect("a socket of ours");
        }
        let watches = Arc::new(Mutex::new(Watches {
            watched: BTreeSet::new(),
            events: BTreeSet::new(),
            wake,
        }));
        lock(&store.0).watchers.push(Arc::downgrade(&watches));
        Self {
            store,
            domid,
            watches,
            reader,
            open: BTreeMap::new(),
            last: 0,
        }
    }

    /// The path from the root on; the watches of events (`@...`) have none.
    fn absolute(&self, path: &str) -> String {
        match path.starts_with(['/', '@']) {
            true => path.into(),
            false => format!("/local/domain/{}/{path}", self.domid),
        }
    }

    /// Performs a request on the tree that the transaction sees.
    fn perform<R>(
        &mut self,
        t: Transaction,
        request: Request,
        path: &str,
        body: impl FnOnce(&mut View<'_>, &str) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let absolute = self.absolute(path);
        let mut server = lock(&self.store.0);
        server.admit(request, &absolute)?;
        let open = match t {
            Transaction::NONE => None,
            Transaction(number) => {
                let open = self.open.get_mut(&number);
                Some(open.ok_or_else(|| refused(request, path, "ENOENT"))?)
            }
        };
        let mut view = View {
            server: &mut server,
            open,
            domid: self.domid,
        };
        body(&mut view, &absolute)
    }
}

/// The store as a request sees it: as it is, or as its transaction has it.
struct View<'a> {
    server: &'a mut Server,
    open: Option<&'a mut Open>,
    domid: DomId,
}

impl View<'_> {
    fn tree(&self) -> &Tree {
        match &self.open {
            Some(open) => &open.tree,
            None => &self.server.tree,
        }
    }

    /// Remembers when a node had changed last, if that is for a transaction to know.
    fn see(&mut self, path: &str) {
        if let Some(open) = &mut self.open
            && !open.seen.contains_key(path)
        {
            let changed = open.tree.changed(path);
            open.seen.insert(path.into(), changed);
        }
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        let new = self.tree().missing(path).len();
        if self.tree().owned(self.domid) + new > self.server.quota.nodes && new > 0 {
            return Err(refused(Request::Write, path, "EQUOTA"));
        }
        if value.len() > PAYLOAD_MAX {
            return Err(refused(Request::Write, path, "E2BIG"));
        }
        self.see(path);
        match &mut self.open {
            Some(open) => {
                open.tree.write(path, value, self.domid);
                open.changes.push(Change::Write(path.into(), value.into()));
            }
            None => self.server.write(path, value, self.domid),
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        if self.tree().value(path).is_none() {
            return match self.tree().value(parent(path)) {
                Some(_) => Ok(()),
                None => Err(StoreError::Missing(path.into())),
            };
        }
        self.see(path);
        match &mut self.open {
            Some(open) => {
                open.tree.remove(path);
                open.changes.push(Change::Remove(path.into()));
            }
            None => self.server.remove(path),
        }
        Ok(())
    }

    fn directory(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        self.see(path);
        if self.tree().value(path).is_none() {
            return Err(StoreError::Missing(path.into()));
        }
        let names = self.tree().children(path);
        // Each name ends with a null byte.
        if names.iter().map(|name| name.len() + 1).sum::<usize>() > PAYLOAD_MAX {
            return Err(refused(Request::Directory, path, "E2BIG"));
        }
        Ok(names)
    }
}

impl Server {
    fn write(&mut self, path: &str, value: &str, owner: DomId) {
        self.tree.write(path, value, owner);
        self.changes.push(format!("{path}={value}"));
        self.fire(path, false);
    }

    fn remove(&mut self, path: &str) {
        self.tree.remove(path);
        self.changes.push(format!("-{path}"));
        self.fire(path, true);
    }
}

impl XenStore for Connection {
    fn read(&mut self, t: Transaction, path: &str) -> Result<String, StoreError> {
        self.perform(t, Request::Read, path, |view, path| {
            view.see(path);
            let value = view.tree().value(path).map(str::to_owned);
            value.ok_or_else(|| StoreError::Missing(path.into()))
        })
    }

    fn write(&mut self, t: Transaction, path: &str, value: &str) -> Result<(), StoreError> {
        self.perform(t, Request::Write, path, |view, path| {
            view.write(path, value)
        })
    }

    fn directory(&mut self, t: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        self.perform(t, Request::Directory, path, |view, path| {
            view.directory(path)
        })
    }

    fn remove(&mut self, t: Transaction, path: &str) -> Result<(), StoreError> {
        self.perform(t, Request::Remove, path, |view, path| view.remove(path))
    }

    fn begin(&mut self) -> Result<Transaction, StoreError> {
        let mut server = lock(&self.store.0);
        server.admit(Request::Begin, "")?;
        self.last += 1;
        let open = Open {
            tree: server.tree.clone(),
            seen: BTreeMap::new(),
            changes: Vec::new(),
        };
        self.open.insert(self.last, open);
        Ok(Transaction(self.last))
    }

    fn end(&mut self, t: Transaction, commit: bool) -> Result<(), StoreError> {
        let mut server = lock(&self.store.0);
        let open = self.open.remove(&t.0);
        server.admit(Request::End, "")?;
        let open = open.ok_or_else(|| refused(Request::End, "", "EINVAL"))?;
        if !commit {
            return Ok(());
        }
        let tree = &server.tree;
        if open
            .seen
            .iter()
            .any(|(path, changed)| tree.changed(path) != *changed)
        {
            return Err(StoreError::Conflict);
        }
        for change in open.changes {
            match change {
                Change::Write(path, value) => server.write(&path, &value, self.domid),
                Change::Remove(path) => server.remove(&path),
            }
        }
        Ok(())
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let absolute = self.absolute(path);
        let mut server = lock(&self.store.0);
        server.admit(Request::Watch, &absolute)?;
        let mut watches = lock(&self.watches);
        if watches.watched.len() >= server.quota.watches {
            return Err(refused(Request::Watch, path, "EQUOTA"));
        }
        let watch = (path.into(), token.into(), absolute.clone());
        if !watches.watched.insert(watch) {
            return Err(refused(Request::Watch, path, "EEXIST"));
        }
        watches.fire(path, &absolute, token, &absolute);
        Ok(())
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let absolute = self.absolute(path);
        lock(&self.store.0).admit(Request::Unwatch, &absolute)?;
        let mut watches = lock(&self.watches);
        let watch = (path.into(), token.into(), absolute);
        if !watches.watched.remove(&watch) {
            return Err(StoreError::Missing(path.into()));
        }
        watches.events.retain(|(_, of)| of != token);
        Ok(())
    }

    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError> {
        while matches!((&self.reader).read(&mut [0; 64]), Ok(1..)) {}
        let events = std::mem::take(&mut lock(&self.watches).events);
        let event = |(path, token)| WatchEvent { path, token };
        let events = events.into_iter().map(event).collect();
        let mut server = lock(&self.store.0);
        server.listens += 1;
        if let Some(path) = server.storm.clone() {
            server.fire(&path, false);
        }
        Ok(events)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
