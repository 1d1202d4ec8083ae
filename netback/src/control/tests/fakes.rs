//! A xenstore and a hypervisor in the heap that several daemons, one after the other, can be started on.
use crate::hypervisor::{Doors, Hypervisor};
use ring::page::PageWords;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use xen::event::{EventChannels, Port};
use xen::grant::{CopyList, DomId, GrantRef, GrantTable, LocalMemory};
use xen::store::{StoreError, Transaction, WatchEvent, XenStore};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// xenstored: a tree, and everybody who watches it.
#[derive(Default)]
struct Tree {
    keys: BTreeMap<String, String>,
    watchers: Vec<Weak<Mutex<Watches>>>,
    reads: u64,
    /// How often daemons asked for events.
    listens: u64,
    /// A key that somebody writes all the time.
    storm: Option<String>,
    /// What daemons may not read (EACCES), and all below it.
    hidden: BTreeSet<String>,
    /// Writes and removals of daemons (not of the test).
    changes: Vec<String>,
}

struct Watches {
    watched: BTreeSet<(String, String)>,
    events: BTreeSet<(String, String)>,
    wake: UnixStream,
}

/// The tree as the test, which is toolstack and guests, sees it.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Tree>>);

impl World {
    pub fn set(&self, path: &str, value: &str) {
        let mut tree = lock(&self.0);
        tree.keys.insert(path.into(), value.into());
        tree.fire(path);
    }
    pub fn get(&self, path: &str) -> Option<String> {
        lock(&self.0).keys.get(path).cloned()
    }
    pub fn remove(&self, path: &str) {
        let mut tree = lock(&self.0);
        tree.cut(path);
        tree.fire(path);
    }
    /// A domain is dead: what it owned is hidden before it is removed.
    pub fn hide(&self, path: &str) {
        let mut tree = lock(&self.0);
        tree.hidden.insert(path.into());
        tree.fire(path);
    }
    /// From now on this key is written again and again, faster than anybody looks.
    pub fn storm(&self, path: &str) {
        lock(&self.0).storm = Some(path.into());
    }
    pub fn listens(&self) -> u64 {
        lock(&self.0).listens
    }
    pub fn reads(&self) -> u64 {
        lock(&self.0).reads
    }
    /// What daemons wrote and removed since the last time this was asked.
    pub fn take_changes(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0).changes)
    }
    /// A daemon's connection.
    pub fn connect(&self) -> Store {
        let (fd, wake) = UnixStream::pair().unwrap();
        fd.set_nonblocking(true).unwrap();
        wake.set_nonblocking(true).unwrap();
        let watches = Watches {
            watched: BTreeSet::new(),
            events: BTreeSet::new(),
            wake,
        };
        let watches = Arc::new(Mutex::new(watches));
        lock(&self.0).watchers.push(Arc::downgrade(&watches));
        Store {
            world: self.clone(),
            watches,
            fd,
        }
    }
}

impl Tree {
    fn cut(&mut self, path: &str) {
        let below = format!("{path}/");
        self.keys
            .retain(|key, _| key != path && !key.starts_with(&below));
    }
    fn check(&self, operation: &'static str, path: &str) -> Result<(), StoreError> {
        let hides = |root: &String| path.starts_with(&**root);
        if !self.hidden.iter().any(hides) {
            return Ok(());
        }
        Err(StoreError::Refused {
            operation,
            path: path.into(),
            errno: "EACCES".into(),
        })
    }
    fn fire(&mut self, path: &str) {
        for watches in self.watchers.iter().filter_map(Weak::upgrade) {
            let mut watches = lock(&watches);
            // A watch fires for what is below it, and for what it is below (a removal).
            let near = |watch: &str| {
                let below = |a: &str, b: &str| {
                    a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'))
                };
                below(path, watch) || below(watch, path)
            };
            let fired: Vec<_> = watches
                .watched
                .iter()
                .filter(|(watch, _)| near(watch))
                .cloned()
                .collect();
            for (watch, token) in fired {
                let at = if path.len() > watch.len() {
                    path.to_owned()
                } else {
                    watch
                };
                watches.events.insert((at, token));
            }
            let _ = watches.wake.write(&[0]);
        }
    }
}

pub struct Store {
    world: World,
    watches: Arc<Mutex<Watches>>,
    fd: UnixStream,
}

impl XenStore for Store {
    fn read(&mut self, _: Transaction, path: &str) -> Result<String, StoreError> {
        let mut tree = lock(&self.world.0);
        tree.reads += 1;
        tree.check("read", path)?;
        let below = format!("{path}/");
        let is_node = tree.keys.keys().any(|key| key.starts_with(&below));
        let value = tree.keys.get(path).cloned();
        value
            .or(is_node.then(String::new))
            .ok_or_else(|| StoreError::Missing(path.into()))
    }
    fn write(&mut self, _: Transaction, path: &str, value: &str) -> Result<(), StoreError> {
        lock(&self.world.0).changes.push(format!("{path}={value}"));
        self.world.set(path, value);
        Ok(())
    }
    fn directory(&mut self, _: Transaction, path: &str) -> Result<Vec<String>, StoreError> {
        let mut tree = lock(&self.world.0);
        tree.reads += 1;
        tree.check("list", path)?;
        let below = format!("{path}/");
        let names: BTreeSet<String> = tree
            .keys
            .keys()
            .filter_map(|key| {
                key.strip_prefix(&below)?
                    .split('/')
                    .next()
                    .map(str::to_owned)
            })
            .collect();
        if names.is_empty() && !tree.keys.contains_key(path) {
            return Err(StoreError::Missing(path.into()));
        }
        // The names come in one message (xen/include/public/io/xs_wire.h, XENSTORE_PAYLOAD_MAX).
        if names.iter().map(|name| name.len() + 1).sum::<usize>() > 4096 {
            return Err(StoreError::Refused {
                operation: "list",
                path: path.into(),
                errno: "E2BIG".into(),
            });
        }
        Ok(names.into_iter().collect())
    }
    fn remove(&mut self, _: Transaction, path: &str) -> Result<(), StoreError> {
        lock(&self.world.0).changes.push(format!("-{path}"));
        self.world.remove(path);
        Ok(())
    }
    fn begin(&mut self) -> Result<Transaction, StoreError> {
        Ok(Transaction(1))
    }
    fn end(&mut self, _: Transaction, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let mut watches = lock(&self.watches);
        watches.watched.insert((path.into(), token.into()));
        watches.events.insert((path.into(), token.into()));
        let _ = watches.wake.write(&[0]);
        Ok(())
    }
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        lock(&self.watches)
            .watched
            .remove(&(path.into(), token.into()));
        Ok(())
    }
    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError> {
        let mut tree = lock(&self.world.0);
        tree.listens += 1;
        if let Some(path) = tree.storm.clone() {
            tree.fire(&path);
        }
        drop(tree);
        while matches!((&self.fd).read(&mut [0; 64]), Ok(1..)) {}
        let events = std::mem::take(&mut lock(&self.watches).events);
        Ok(events
            .into_iter()
            .map(|(path, token)| WatchEvent { path, token })
            .collect())
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The hypervisor: pages that are granted, ports that are there, and who holds them.
#[derive(Default)]
pub struct Machine {
    pages: HashMap<(u16, u32), Arc<PageWords>>,
    /// Remote ports that can be bound, by who has them bound.
    bound: HashMap<(u16, u32), Port>,
    offered: BTreeSet<(u16, u32)>,
    /// Attempts to bind a remote port, in order.
    binds: Vec<(u16, u32)>,
    next: u32,
    mapped: usize,
}

#[derive(Clone, Default)]
pub struct Xen(Arc<Mutex<Machine>>);

impl Xen {
    pub fn grant(&self, domid: u16, gref: u32) -> Arc<PageWords> {
        let page: Arc<PageWords> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
        // A frontend's shared ring begins with both events at 1 (ring.h, SHARED_RING_INIT).
        page[1].store(1, std::sync::atomic::Ordering::Relaxed);
        page[3].store(1, std::sync::atomic::Ordering::Relaxed);
        lock(&self.0).pages.insert((domid, gref), page.clone());
        page
    }
    pub fn offer(&self, domid: u16, port: u32) {
        lock(&self.0).offered.insert((domid, port));
    }
    /// Ports bound and pages mapped now.
    pub fn held(&self) -> (usize, usize) {
        let machine = lock(&self.0);
        (machine.bound.len(), machine.mapped)
    }
    /// Somebody else binds the guest's port.
    pub fn steal(&self, domid: u16, port: u32) {
        lock(&self.0).bound.insert((domid, port), Port(u32::MAX));
    }
    /// Whoever had the guest's port bound lets it go.
    pub fn release(&self, domid: u16, port: u32) {
        lock(&self.0).bound.remove(&(domid, port));
    }
    /// Which remote ports somebody tried to bind since the last time this was asked, in order.
    pub fn take_binds(&self) -> Vec<(u16, u32)> {
        std::mem::take(&mut lock(&self.0).binds)
    }
    pub fn doors(&self, count: usize) -> Vec<Doors<Fake>> {
        let doors = || Doors {
            grants: Grants(self.clone()),
            events: Events {
                xen: self.clone(),
                ours: Mutex::default(),
                pipe: UnixStream::pair().unwrap(),
            },
            granted: None,
        };
        (0..count).map(|_| doors()).collect()
    }
}

pub struct Fake;
impl Hypervisor for Fake {
    type Grants = Grants;
    type Events = Events;
}

pub struct Grants(Xen);

/// A mapped page.
pub struct Page(Arc<PageWords>, Xen);
impl AsRef<PageWords> for Page {
    fn as_ref(&self) -> &PageWords {
        &self.0
    }
}
impl Drop for Page {
    fn drop(&mut self) {
        lock(&self.1.0).mapped -= 1;
    }
}

impl GrantTable for Grants {
    type Page = Page;
    fn map(&self, domid: DomId, gref: GrantRef) -> io::Result<Page> {
        let mut machine = lock(&self.0.0);
        let page = machine.pages.get(&(domid.0, gref.0)).cloned();
        let page = page.ok_or_else(|| io::Error::other("bad grant reference"))?;
        machine.mapped += 1;
        Ok(Page(page, self.0.clone()))
    }
    fn copy<M: LocalMemory>(&self, _: &mut CopyList<M>) -> io::Result<()> {
        Err(io::Error::other("no packet passes in these tests"))
    }
}

/// One open of the event-channel device: its ports die with it.
pub struct Events {
    xen: Xen,
    ours: Mutex<BTreeSet<u32>>,
    pipe: (UnixStream, UnixStream),
}
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.0.as_fd()
    }
}
impl EventChannels for Events {
    fn bind(&self, remote: DomId, remote_port: Port) -> io::Result<Port> {
        let mut machine = lock(&self.xen.0);
        let remote = (remote.0, remote_port.0);
        machine.binds.push(remote);
        if !machine.offered.contains(&remote) || machine.bound.contains_key(&remote) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        machine.next += 1;
        let port = Port(machine.next);
        machine.bound.insert(remote, port);
        lock(&self.ours).insert(port.0);
        Ok(port)
    }
    fn unbind(&self, port: Port) -> io::Result<()> {
        if !lock(&self.ours).remove(&port.0) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        lock(&self.xen.0).bound.retain(|_, bound| *bound != port);
        Ok(())
    }
    fn notify(&self, _: Port) -> io::Result<()> {
        Ok(())
    }
    fn pending(&self, _: &mut [Port]) -> io::Result<usize> {
        Ok(0)
    }
    fn unmask(&self, _: &[Port]) -> io::Result<()> {
        Ok(())
    }
}
impl Drop for Events {
    fn drop(&mut self) {
        let ours = std::mem::take(&mut *lock(&self.ours));
        lock(&self.xen.0)
            .bound
            .retain(|_, bound| !ours.contains(&bound.0));
    }
}
