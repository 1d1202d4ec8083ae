//! xenstored: connections, requests, transactions and watches over the tree.
mod tree;

use self::tree::{Change, Log, Permission, Refusal, Tree, absolute, rights};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use xen::store::wire::{self, HEADER, Header, Inbox, Kind, PAYLOAD_MAX};

/// Watches and open transactions of a domain's connection, unless the toolstack says otherwise (oxenstored.conf: quota-maxwatch,
/// quota-transaction).
const WATCHES_MAX: usize = 100;
const TRANSACTIONS_MAX: usize = 10;
/// Replies not yet taken by a client before its next requests wait; events not yet taken before it is cut off.
const REPLIES_MAX: usize = 16;
const EVENTS_MAX: usize = 100_000;

/// Everything xenstored holds.
pub struct Store {
    tree: Tree,
    connections: BTreeMap<u32, Connection>,
    transactions: u32,
    watches_max: usize,
}

struct Watch {
    path: Rc<str>,
    /// What events' paths lose, where the watch was relative.
    prefix: usize,
    token: String,
}

struct Connection {
    stream: UnixStream,
    domid: u16,
    inbox: Inbox,
    /// Messages to send, and how much of the first is sent.
    outbox: VecDeque<Vec<u8>>,
    sent: usize,
    /// Events in the outbox: the same one is not put in twice.
    events: HashSet<Vec<u8>>,
    watches: Vec<Watch>,
    transactions: HashMap<u32, (Tree, Log)>,
}

/// What the event loop should wait for on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Store {
    /// Empty but for the root.
    pub fn new() -> Self {
        Self {
            tree: Tree::new(),
            connections: BTreeMap::new(),
            transactions: 0,
            watches_max: WATCHES_MAX,
        }
    }

    /// Sets what each domain may have from now on (`xl xenstore-quota-set -g`): nodes that it owns, watches of a connection.
    pub fn set_quota(&mut self, nodes: usize, watches: usize) {
        self.tree.set_quota(nodes);
        self.watches_max = watches;
    }

    /// A client came; the stream is non-blocking.
    pub fn connect(&mut self, id: u32, stream: UnixStream, domid: u16) {
        let connection = Connection {
            stream,
            domid,
            inbox: Inbox::default(),
            outbox: VecDeque::new(),
            sent: 0,
            events: HashSet::new(),
            watches: Vec::new(),
            transactions: HashMap::new(),
        };
        self.connections.insert(id, connection);
    }

    /// The descriptor of a connection.
    pub fn fd(&self, id: u32) -> Option<BorrowedFd<'_>> {
        self.connections
            .get(&id)
            .map(|connection| connection.stream.as_fd())
    }

    /// Something may be done on a connection; an error means that it is to be closed.
    pub fn serve(&mut self, id: u32) -> io::Result<()> {
        let mut bytes = [0; HEADER + PAYLOAD_MAX];
        let connection = self
            .connections
            .get_mut(&id)
            .ok_or(io::ErrorKind::NotFound)?;
        if connection.interest().read {
            match connection.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => connection.inbox.extend(bytes.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        self.answer(id)
    }

    /// Answer what was asked, as far as the answers are taken.
    fn answer(&mut self, id: u32) -> io::Result<()> {
        loop {
            let connection = self
                .connections
                .get_mut(&id)
                .ok_or(io::ErrorKind::NotFound)?;
            connection.flush()?;
            if !connection.interest().read {
                return Ok(());
            }
            let next = connection
                .inbox
                .next_message()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let Some((header, payload)) = next else {
                return Ok(());
            };
            let payload = payload.to_vec();
            self.request(id, header, &payload);
        }
    }

    /// What to wait for on each connection whose interest may have changed.
    pub fn interests(&self) -> impl Iterator<Item = (u32, Interest)> {
        self.connections
            .iter()
            .map(|(id, connection)| (*id, connection.interest()))
    }

    /// Send what events put into outboxes; connections that broke.
    pub fn flush(&mut self) -> Vec<u32> {
        let waiting = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.outbox.is_empty());
        let waiting: Vec<u32> = waiting.map(|(id, _)| *id).collect();
        waiting
            .into_iter()
            .filter(|id| self.answer(*id).is_err())
            .collect()
    }

    /// A client is gone.
    pub fn disconnect(&mut self, id: u32) {
        self.connections.remove(&id);
    }

    /// Connections of a domain.
    pub fn connections_of(&self, domid: u16) -> Vec<u32> {
        self.connections
            .iter()
            .filter(|(_, connection)| connection.domid == domid)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Nodes, watches, connections.
    pub fn counts(&self) -> (usize, usize, usize) {
        let watches = self
            .connections
            .values()
            .map(|connection| connection.watches.len())
            .sum();
        (self.tree.len(), watches, self.connections.len())
    }

    /// What the toolstack writes for a domain that begins.
    pub fn introduce(&mut self, domid: u16, name: &str) {
        let home = format!("/local/domain/{domid}");
        let readable = [
            Permission::parse(b"n0"),
            Permission::parse(format!("r{domid}").as_bytes()),
        ];
        self.privileged(|tree, log| {
            let at = |name: &str| Rc::from(format!("{home}{name}"));
            tree.mkdir(0, &at(""), log)?;
            tree.set_permissions(0, &at(""), readable.into_iter().flatten().collect(), log)?;
            tree.write(0, &at("/name"), name.as_bytes(), log)?;
            tree.write(0, &at("/domid"), domid.to_string().as_bytes(), log)?;
            tree.mkdir(0, &at("/device"), log)?;
            tree.mkdir(0, &at("/data"), log)?;
            tree.set_permissions(
                0,
                &at("/data"),
                Permission::parse(format!("n{domid}").as_bytes())
                    .into_iter()
                    .collect(),
                log,
            )
        });
    }

    /// What the toolstack does for a domain that is gone: its backends are told to close (`online` 0, `state` 5), its home is removed.
    pub fn release(&mut self, domid: u16) {
        let vifs = self.backends_of(domid);
        self.privileged(|tree, log| {
            for vif in vifs {
                for device in tree.children(&vif) {
                    tree.write(0, &format!("{vif}/{device}/online").into(), b"0", log)?;
                    tree.write(0, &format!("{vif}/{device}/state").into(), b"5", log)?;
                }
            }
            tree.remove(0, &format!("/local/domain/{domid}").into(), log)
        });
    }

    /// Remove what a gone domain's backends leave behind: a directory they do not own, when it is empty. False: not yet.
    pub fn sweep(&mut self, domid: u16) -> bool {
        let mut swept = true;
        for vif in self.backends_of(domid) {
            let empty = self.tree.children(&vif).is_empty();
            if empty {
                self.privileged(|tree, log| tree.remove(0, &vif.as_str().into(), log));
            }
            swept &= empty;
        }
        swept
    }

    fn backends_of(&self, domid: u16) -> Vec<String> {
        let backends = self
            .tree
            .children("/local/domain")
            .into_iter()
            .map(|id| format!("/local/domain/{id}/backend/vif/{domid}"));
        backends
            .filter(|path| self.tree.permissions(path).is_some())
            .collect()
    }

    fn privileged(&mut self, body: impl FnOnce(&mut Tree, &mut Log) -> Result<(), Refusal>) {
        let mut log = Log::default();
        // Dom0 is refused nothing and the paths are well-formed: what is left is a parent that is gone, and then so is the node.
        let _ = body(&mut self.tree, &mut log);
        self.fire(&log.changes);
    }

    fn request(&mut self, id: u32, header: Header, payload: &[u8]) {
        let kind = Kind::from_number(header.kind);
        let result = kind
            .ok_or("ENOSYS")
            .and_then(|kind| self.perform(id, kind, header.transaction, payload));
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (kind, reply) = match (kind, result) {
            (Some(kind), Ok(reply)) if reply.len() <= PAYLOAD_MAX => (kind, reply),
            (_, Ok(_)) => (Kind::Error, b"E2BIG\0".to_vec()),
            (_, Err(errno)) => (Kind::Error, format!("{errno}\0").into_bytes()),
        };
        connection.outbox.push_back(wire::message(
            kind,
            header.request,
            header.transaction,
            &reply,
        ));
        if kind == Kind::Watch {
            // The first event, behind the reply.
            connection.first_event();
        }
    }

    fn perform(
        &mut self,
        id: u32,
        kind: Kind,
        transaction: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let ok = || b"OK\0".to_vec();
        match kind {
            Kind::TransactionStart => self.begin(id),
            Kind::TransactionEnd => self.end(id, transaction, payload).map(|()| ok()),
            Kind::Watch | Kind::Unwatch => {
                let most = self.watches_max;
                let connection = self.connections.get_mut(&id).ok_or("EINVAL")?;
                let mut strings = wire::strings(payload);
                let (path, token) = (
                    strings.next().ok_or("EINVAL")?,
                    strings.next().ok_or("EINVAL")?,
                );
                let token = String::from_utf8_lossy(token).into_owned();
                if kind == Kind::Watch {
                    connection.watch(path, token, most)
                } else {
                    connection.unwatch(path, &token)
                }
                .map(|()| ok())
            }
            Kind::GetDomainPath => {
                let domid = wire::strings(payload).next().unwrap_or_default();
                Ok([b"/local/domain/", domid, b"\0"].concat())
            }
            _ => self.on_tree(id, kind, transaction, payload),
        }
    }

    /// A request on nodes, in a transaction or not.
    fn on_tree(
        &mut self,
        id: u32,
        kind: Kind,
        transaction: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let connection = self.connections.get_mut(&id).ok_or("EINVAL")?;
        let (domid, mut direct) = (connection.domid, Log::default());
        let (tree, log) = match transaction {
            0 => (&mut self.tree, &mut direct),
            _ => connection
                .transactions
                .get_mut(&transaction)
                .map(|(tree, log)| (tree, log))
                .ok_or("ENOENT")?,
        };
        let result = on_node(tree, log, domid, kind, payload);
        self.fire(&direct.changes);
        result
    }

    fn begin(&mut self, id: u32) -> Result<Vec<u8>, Refusal> {
        let connection = self.connections.get_mut(&id).ok_or("EINVAL")?;
        if connection.domid != 0 && connection.transactions.len() >= TRANSACTIONS_MAX {
            return Err("EQUOTA");
        }
        self.transactions = self.transactions.wrapping_add(1).max(1);
        connection
            .transactions
            .insert(self.transactions, (self.tree.clone(), Log::default()));
        Ok(format!("{}\0", self.transactions).into_bytes())
    }

    fn end(&mut self, id: u32, transaction: u32, payload: &[u8]) -> Result<(), Refusal> {
        let connection = self.connections.get_mut(&id).ok_or("EINVAL")?;
        let (_, log) = connection
            .transactions
            .remove(&transaction)
            .ok_or("ENOENT")?;
        match payload {
            b"T\0" => {
                let changes = self.tree.commit(connection.domid, log)?;
                self.fire(&changes);
                Ok(())
            }
            b"F\0" => Ok(()),
            _ => Err("EINVAL"),
        }
    }

    /// Tell watches what changed.
    fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            let (path, permissions, removed) = match change {
                Change::Write(path, _) | Change::Mkdir(path) => {
                    (path, self.tree.permissions(path), false)
                }
                Change::Permissions(path, permissions) => {
                    (path, Some(Rc::clone(permissions)), false)
                }
                Change::Remove(path, permissions) => (path, Some(Rc::clone(permissions)), true),
            };
            // A node that a later change of the same transaction removed is told of by that.
            let Some(permissions) = permissions else {
                continue;
            };
            for connection in self
                .connections
                .values_mut()
                .filter(|c| rights(&permissions, c.domid).0)
            {
                connection.fire(path, removed);
            }
        }
    }
}

fn on_node(
    tree: &mut Tree,
    log: &mut Log,
    domid: u16,
    kind: Kind,
    payload: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let (path, rest) = match payload.iter().position(|byte| *byte == 0) {
        Some(end) => (
            payload.get(..end).unwrap_or_default(),
            payload.get(end + 1..).unwrap_or_default(),
        ),
        None => return Err("EINVAL"),
    };
    let path = absolute(domid, path)?;
    let ok = |()| b"OK\0".to_vec();
    match kind {
        Kind::Read => tree.read(domid, &path, log),
        Kind::Directory => tree.directory(domid, &path, log),
        Kind::GetPerms => tree.get_permissions(domid, &path, log),
        Kind::Write => tree.write(domid, &path, rest, log).map(ok),
        Kind::Mkdir => tree.mkdir(domid, &path, log).map(ok),
        Kind::Rm => tree.remove(domid, &path, log).map(ok),
        Kind::SetPerms => {
            let permissions: Option<Vec<_>> = wire::strings(rest).map(Permission::parse).collect();
            tree.set_permissions(domid, &path, permissions.ok_or("EINVAL")?, log)
                .map(ok)
        }
        _ => Err("ENOSYS"),
    }
}

impl Connection {
    fn interest(&self) -> Interest {
        let replies = self.outbox.len().saturating_sub(self.events.len());
        Interest {
            read: replies < REPLIES_MAX,
            write: !self.outbox.is_empty(),
        }
    }

    fn watch(&mut self, path: &[u8], token: String, most: usize) -> Result<(), Refusal> {
        let absolute = absolute(self.domid, path)?;
        if self
            .watches
            .iter()
            .any(|watch| watch.path == absolute && watch.token == token)
        {
            return Err("EEXIST");
        }
        if self.domid != 0 && self.watches.len() >= most {
            return Err("EQUOTA");
        }
        let prefix = absolute.len() - path.len();
        self.watches.push(Watch {
            path: absolute,
            prefix,
            token,
        });
        Ok(())
    }

    fn unwatch(&mut self, path: &[u8], token: &str) -> Result<(), Refusal> {
        let absolute = absolute(self.domid, path)?;
        let index = self
            .watches
            .iter()
            .position(|watch| watch.path == absolute && watch.token == token);
        self.watches.remove(index.ok_or("ENOENT")?);
        Ok(())
    }

    fn first_event(&mut self) {
        if let Some(watch) = self.watches.last() {
            let event = event(watch, &watch.path);
            self.put_event(event);
        }
    }

    fn fire(&mut self, path: &str, removed: bool) {
        let events: Vec<_> = self
            .watches
            .iter()
            .filter_map(|watch| match () {
                () if is_at_or_below(path, &watch.path) => Some(event(watch, path)),
                () if removed && is_at_or_below(&watch.path, path) => {
                    Some(event(watch, &watch.path))
                }
                () => None,
            })
            .collect();
        events.into_iter().for_each(|event| self.put_event(event));
    }

    fn put_event(&mut self, event: Vec<u8>) {
        // One that waits, even half sent, tells of this change too: the client looks after it has received it.
        if self.events.insert(event.clone()) {
            self.outbox.push_back(event);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.events.len() > EVENTS_MAX {
            return Err(io::Error::other("the client takes no events"));
        }
        while let Some(message) = self.outbox.front() {
            match self
                .stream
                .write(message.get(self.sent..).unwrap_or_default())
            {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
            if self.sent >= message.len() {
                self.events.remove(message);
                self.outbox.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }
}

fn is_at_or_below(path: &str, parent: &str) -> bool {
    parent == "/"
        || path
            .strip_prefix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn event(watch: &Watch, path: &str) -> Vec<u8> {
    let shown = path.get(watch.prefix..).unwrap_or_default();
    wire::message(
        Kind::WatchEvent,
        0,
        0,
        format!("{shown}\0{}\0", watch.token).as_bytes(),
    )
}
