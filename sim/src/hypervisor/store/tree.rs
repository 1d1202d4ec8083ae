//! xenstore's nodes: values, permissions, generations, and what a transaction must know about them.
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use xen::store::wire::ABS_PATH_MAX;

/// An error name as it goes over the wire.
pub type Refusal = &'static str;

/// Nodes a domain may own unless the toolstack says otherwise, and bytes of a value (oxenstored.conf: quota-maxentity, quota-maxsize).
const NODES_MAX: usize = 1000;
const VALUE_MAX: usize = 2048;

/// One permission: the first of a node names its owner and everybody else's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    domid: u16,
    read: bool,
    write: bool,
}

impl Permission {
    /// From `n5`, `r0`, `w1`, `b2`.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (letter, number) = bytes.split_first()?;
        let (read, write) = match letter {
            b'n' => (false, false),
            b'r' => (true, false),
            b'w' => (false, true),
            b'b' => (true, true),
            _ => return None,
        };
        Some(Self {
            domid: std::str::from_utf8(number).ok()?.parse().ok()?,
            read,
            write,
        })
    }

    /// The other way.
    pub fn format(self) -> String {
        let letter = match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        };
        format!("{letter}{}", self.domid)
    }
}

/// Whether `domid` may read and write under these permissions.
pub fn rights(permissions: &[Permission], domid: u16) -> (bool, bool) {
    let Some(first) = permissions.first() else {
        return (domid == 0, domid == 0);
    };
    if domid == 0 || domid == first.domid {
        return (true, true);
    }
    let rule = permissions
        .iter()
        .skip(1)
        .find(|rule| rule.domid == domid)
        .unwrap_or(first);
    (rule.read, rule.write)
}

#[derive(Debug, Clone)]
struct Node {
    value: Vec<u8>,
    permissions: Rc<[Permission]>,
    children: BTreeSet<String>,
    generation: u64,
}

/// A change that was made, to be made again by a commit, and to be told to watches.
#[derive(Debug, Clone)]
pub enum Change {
    /// The node has this value now.
    Write(Rc<str>, Vec<u8>),
    /// The node is there now.
    Mkdir(Rc<str>),
    /// The node and all below are gone; these were its permissions.
    Remove(Rc<str>, Rc<[Permission]>),
    /// The node has these permissions now.
    Permissions(Rc<str>, Rc<[Permission]>),
}

/// What requests of one domain touched (with the generation found, 0 for nothing) and changed.
#[derive(Debug, Default)]
pub struct Log {
    touched: HashMap<Rc<str>, u64>,
    pub changes: Vec<Change>,
}

/// All nodes. Cloning one is what a transaction works on.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: HashMap<Rc<str>, Rc<Node>>,
    owned: HashMap<u16, usize>,
    generation: u64,
    nodes_max: usize,
}

/// The path with its relative form resolved against the domain's home, or why it is none.
pub fn absolute(domid: u16, path: &[u8]) -> Result<Rc<str>, Refusal> {
    let path = std::str::from_utf8(path).map_err(|_| "EINVAL")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
    let trailing = path.len() > 1 && path.ends_with('/');
    if path.is_empty() || trailing || path.contains("//") || !path.chars().all(allowed) {
        return Err("EINVAL");
    }
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/local/domain/{domid}/{path}")
    };
    if path.len() > ABS_PATH_MAX {
        Err("EINVAL")
    } else {
        Ok(path.into())
    }
}

/// The parent's path and the last name.
fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    (!name.is_empty()).then_some((if parent.is_empty() { "/" } else { parent }, name))
}

fn join(path: &str, name: &str) -> String {
    if path == "/" {
        format!("/{name}")
    } else {
        format!("{path}/{name}")
    }
}

impl Tree {
    /// Only a root, readable to all.
    pub fn new() -> Self {
        let permissions = Rc::from([Permission {
            domid: 0,
            read: true,
            write: false,
        }]);
        let root = Node {
            value: Vec::new(),
            permissions,
            children: BTreeSet::new(),
            generation: 1,
        };
        Self {
            nodes: HashMap::from([("/".into(), Rc::new(root))]),
            owned: HashMap::new(),
            generation: 1,
            nodes_max: NODES_MAX,
        }
    }

    /// Sets how many nodes a domain may own from now on.
    pub fn set_quota(&mut self, nodes: usize) {
        self.nodes_max = nodes;
    }

    /// Nodes in all.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node's permissions, where it is there.
    pub fn permissions(&self, path: &str) -> Option<Rc<[Permission]>> {
        self.nodes
            .get(path)
            .map(|node| Rc::clone(&node.permissions))
    }

    /// A node's children, whoever asks.
    pub fn children(&self, path: &str) -> Vec<String> {
        self.nodes
            .get(path)
            .map(|node| node.children.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn look(&self, path: &Rc<str>, log: &mut Log) -> Option<&Rc<Node>> {
        let node = self.nodes.get(path);
        log.touched
            .entry(Rc::clone(path))
            .or_insert(node.map_or(0, |node| node.generation));
        node
    }

    fn readable(&self, domid: u16, path: &Rc<str>, log: &mut Log) -> Result<&Rc<Node>, Refusal> {
        let node = self.look(path, log).ok_or("ENOENT")?;
        if rights(&node.permissions, domid).0 {
            Ok(node)
        } else {
            Err("EACCES")
        }
    }

    /// The value.
    pub fn read(&self, domid: u16, path: &Rc<str>, log: &mut Log) -> Result<Vec<u8>, Refusal> {
        Ok(self.readable(domid, path, log)?.value.clone())
    }

    /// The children's names, each ended by a NUL.
    pub fn directory(&self, domid: u16, path: &Rc<str>, log: &mut Log) -> Result<Vec<u8>, Refusal> {
        let node = self.readable(domid, path, log)?;
        Ok(node
            .children
            .iter()
            .flat_map(|name| name.bytes().chain([0]))
            .collect())
    }

    /// The permissions, each ended by a NUL.
    pub fn get_permissions(
        &self,
        domid: u16,
        path: &Rc<str>,
        log: &mut Log,
    ) -> Result<Vec<u8>, Refusal> {
        let node = self.readable(domid, path, log)?;
        Ok(node
            .permissions
            .iter()
            .flat_map(|p| p.format().into_bytes().into_iter().chain([0]))
            .collect())
    }

    /// Set the value, making the node and its parents.
    pub fn write(
        &mut self,
        domid: u16,
        path: &Rc<str>,
        value: &[u8],
        log: &mut Log,
    ) -> Result<(), Refusal> {
        if domid != 0 && value.len() > VALUE_MAX {
            return Err("ENOSPC");
        }
        self.make(domid, path, log)?;
        self.change(path, |node| node.value = value.to_vec());
        log.changes
            .push(Change::Write(Rc::clone(path), value.to_vec()));
        Ok(())
    }

    /// Make the node and its parents; nothing where it is there.
    pub fn mkdir(&mut self, domid: u16, path: &Rc<str>, log: &mut Log) -> Result<(), Refusal> {
        if self.make(domid, path, log)? {
            log.changes.push(Change::Mkdir(Rc::clone(path)));
        }
        Ok(())
    }

    /// Remove the node and all below.
    pub fn remove(&mut self, domid: u16, path: &Rc<str>, log: &mut Log) -> Result<(), Refusal> {
        let (parent, name) = split(path).ok_or("EINVAL")?;
        let Some(node) = self.look(path, log) else {
            return if self.nodes.contains_key(parent) {
                Ok(())
            } else {
                Err("ENOENT")
            };
        };
        let permissions = Rc::clone(&node.permissions);
        if !rights(&permissions, domid).1 {
            return Err("EACCES");
        }
        let parent: Rc<str> = parent.into();
        self.look(&parent, log);
        self.change(&parent, |node| {
            node.children.remove(name);
        });
        self.drop_below(path);
        log.changes
            .push(Change::Remove(Rc::clone(path), permissions));
        Ok(())
    }

    /// Set permissions; only the owner and dom0 may, and only dom0 gives a node away.
    pub fn set_permissions(
        &mut self,
        domid: u16,
        path: &Rc<str>,
        permissions: Vec<Permission>,
        log: &mut Log,
    ) -> Result<(), Refusal> {
        let first = *permissions.first().ok_or("EINVAL")?;
        let node = self.look(path, log).ok_or("ENOENT")?;
        let owner = node.permissions.first().map_or(0, |first| first.domid);
        if domid != 0 && (owner != domid || first.domid != domid) {
            return Err(if owner == domid { "EPERM" } else { "EACCES" });
        }
        self.count(owner, -1);
        self.count(first.domid, 1);
        let permissions: Rc<[Permission]> = permissions.into();
        self.change(path, |node| node.permissions = Rc::clone(&permissions));
        log.changes
            .push(Change::Permissions(Rc::clone(path), permissions));
        Ok(())
    }

    /// Make the changes of a transaction that ran as `domid`, unless somebody changed what it touched.
    pub fn commit(&mut self, domid: u16, log: Log) -> Result<Vec<Change>, Refusal> {
        let current = |path: &Rc<str>| self.nodes.get(path).map_or(0, |node| node.generation);
        if log
            .touched
            .iter()
            .any(|(path, generation)| current(path) != *generation)
        {
            return Err("EAGAIN");
        }
        let mut again = Log::default();
        for change in log.changes {
            match change {
                Change::Write(path, value) => self.write(domid, &path, &value, &mut again),
                Change::Mkdir(path) => self.mkdir(domid, &path, &mut again),
                Change::Remove(path, _) => self.remove(domid, &path, &mut again),
                Change::Permissions(path, permissions) => {
                    self.set_permissions(domid, &path, permissions.to_vec(), &mut again)
                }
            }?;
        }
        Ok(again.changes)
    }

    /// True: the node was not there. A new node has its parent's permissions, and belongs to its maker unless that is dom0.
    fn make(&mut self, domid: u16, path: &Rc<str>, log: &mut Log) -> Result<bool, Refusal> {
        if let Some(node) = self.look(path, log) {
            return if rights(&node.permissions, domid).1 {
                Ok(false)
            } else {
                Err("EACCES")
            };
        }
        let (parent, name) = split(path).ok_or("EINVAL")?;
        let parent: Rc<str> = parent.into();
        if self.look(&parent, log).is_none() {
            self.make(domid, &parent, log)?;
        }
        let mut permissions = self.permissions(&parent).ok_or("ENOENT")?.to_vec();
        if !rights(&permissions, domid).1 {
            return Err("EACCES");
        }
        if let Some(first) = permissions.first_mut().filter(|_| domid != 0) {
            first.domid = domid;
        }
        let owner = permissions.first().map_or(0, |first| first.domid);
        if domid != 0
            && self
                .owned
                .get(&owner)
                .is_some_and(|count| *count >= self.nodes_max)
        {
            return Err("EQUOTA");
        }
        self.count(owner, 1);
        self.generation += 1;
        let node = Node {
            value: Vec::new(),
            permissions: permissions.into(),
            children: BTreeSet::new(),
            generation: self.generation,
        };
        self.nodes.insert(Rc::clone(path), Rc::new(node));
        self.change(&parent, |node| {
            node.children.insert(name.to_owned());
        });
        Ok(true)
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&mut Node)) {
        self.generation += 1;
        if let Some(node) = self.nodes.get_mut(path) {
            let node = Rc::make_mut(node);
            node.generation = self.generation;
            change(node);
        }
    }

    fn drop_below(&mut self, path: &str) {
        let mut paths = vec![path.to_owned()];
        while let Some(path) = paths.pop() {
            if let Some(node) = self.nodes.remove(path.as_str()) {
                self.count(node.permissions.first().map_or(0, |first| first.domid), -1);
                paths.extend(node.children.iter().map(|name| join(&path, name)));
            }
        }
    }

    fn count(&mut self, owner: u16, by: isize) {
        let count = self.owned.entry(owner).or_default();
        *count = count.saturating_add_signed(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Rc<str> {
        path.into()
    }

    fn tree() -> Tree {
        let (mut tree, mut log) = (Tree::new(), Log::default());
        tree.write(0, &path("/local/domain/5/name"), b"g", &mut log)
            .unwrap();
        let permissions = vec![
            Permission::parse(b"n5").unwrap(),
            Permission::parse(b"r3").unwrap(),
        ];
        tree.mkdir(0, &path("/local/domain/5/device/vif/0"), &mut log)
            .unwrap();
        tree.set_permissions(
            0,
            &path("/local/domain/5/device/vif/0"),
            permissions,
            &mut log,
        )
        .unwrap();
        tree
    }

    #[test]
    fn only_the_owner_writes_and_only_the_named_read() {
        let (mut tree, mut log) = (tree(), Log::default());
        let key = path("/local/domain/5/device/vif/0/state");
        tree.write(5, &key, b"1", &mut log).unwrap();
        assert_eq!(tree.read(3, &key, &mut log).unwrap(), b"1");
        assert_eq!(tree.read(4, &key, &mut log), Err("EACCES"));
        assert_eq!(tree.write(3, &key, b"2", &mut log), Err("EACCES"));
        assert_eq!(
            tree.write(5, &path("/local/domain/5/device/vif/1"), b"", &mut log),
            Err("EACCES")
        );
        assert_eq!(
            tree.remove(5, &path("/local/domain/5/device/vif"), &mut log),
            Err("EACCES")
        );
        tree.remove(5, &path("/local/domain/5/device/vif/0"), &mut log)
            .unwrap();
        assert_eq!(tree.read(0, &key, &mut log), Err("ENOENT"));
    }

    #[test]
    fn a_transaction_loses_to_whoever_touched_the_same() {
        let mut live = tree();
        let key = path("/local/domain/5/device/vif/0/state");
        let (mine, mut log) = (live.clone(), Log::default());
        assert_eq!(mine.read(5, &key, &mut log), Err("ENOENT"));
        live.write(5, &key, b"1", &mut Log::default()).unwrap();
        assert_eq!(live.commit(5, log).unwrap_err(), "EAGAIN");
        let (mut mine, mut log) = (live.clone(), Log::default());
        mine.write(5, &key, b"4", &mut log).unwrap();
        live.write(0, &path("/elsewhere"), b"x", &mut Log::default())
            .unwrap();
        assert_eq!(live.commit(5, log).unwrap().len(), 1);
        assert_eq!(live.read(5, &key, &mut Log::default()).unwrap(), b"4");
    }

    #[test]
    fn a_domain_owns_a_thousand_nodes() {
        let (mut tree, mut log) = (tree(), Log::default());
        let made = (0..2000)
            .take_while(|i| {
                tree.mkdir(
                    5,
                    &path(&format!("/local/domain/5/device/vif/0/{i}")),
                    &mut log,
                )
                .is_ok()
            })
            .count();
        assert_eq!(made, NODES_MAX - 1);
        tree.remove(5, &path("/local/domain/5/device/vif/0"), &mut log)
            .unwrap();
        assert_eq!(tree.owned[&5], 0);
    }

    #[test]
    fn paths() {
        assert_eq!(&*absolute(3, b"a/b").unwrap(), "/local/domain/3/a/b");
        for bad in [
            &b""[..],
            b"/a/",
            b"//a",
            b"a b",
            b"/a\0b",
            b"/\xff",
            b"/a.b",
        ] {
            assert_eq!(absolute(3, bad), Err("EINVAL"), "{bad:?}");
        }
    }
}
