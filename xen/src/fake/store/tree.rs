//! The nodes. Each says when it was changed last, from which a transaction's conflicts are told.
use crate::grant::DomId;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
struct Node {
    value: String,
    owner: DomId,
    /// The tree's clock when its value or its children changed last.
    changed: u64,
}

/// Nodes by absolute path; every node's parent is there too.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    clock: u64,
}

impl Tree {
    pub fn value(&self, path: &str) -> Option<&str> {
        self.nodes.get(path).map(|node| &*node.value)
    }

    /// When the node changed last; `None` where it is not there.
    pub fn changed(&self, path: &str) -> Option<u64> {
        self.nodes.get(path).map(|node| node.changed)
    }

    pub fn owned(&self, domid: DomId) -> usize {
        let owned = self.nodes.values().filter(|node| node.owner == domid);
        owned.count()
    }

    /// The node itself, where it is not there, and those above it that are not there.
    pub fn missing<'a>(&self, path: &'a str) -> Vec<&'a str> {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        let all = parents.filter(|path| !path.is_empty()).chain([path]);
        all.filter(|path| !self.nodes.contains_key(*path)).collect()
    }

    /// Writes a node and makes those above it. What is new belongs to `owner`.
    pub fn write(&mut self, path: &str, value: &str, owner: DomId) {
        self.clock += 1;
        let changed = self.clock;
        for missing in self.missing(path) {
            let node = Node {
                value: String::new(),
                owner,
                changed,
            };
            self.nodes.insert(missing.into(), node);
            self.touch_parent(missing);
        }
        if let Some(node) = self.nodes.get_mut(path) {
            node.value = value.into();
            node.changed = changed;
        }
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &str) {
        self.clock += 1;
        let below = format!("{path}/");
        self.nodes
            .retain(|node, _| node != path && !node.starts_with(&below));
        self.touch_parent(path);
    }

    fn touch_parent(&mut self, path: &str) {
        if let Some(parent) = self.nodes.get_mut(parent(path)) {
            parent.changed = self.clock;
        }
    }

    /// The names of a node's children.
    pub fn children(&self, path: &str) -> Vec<String> {
        let below = format!("{path}/");
        let nodes = self.nodes.range(below.clone()..);
        let nodes = nodes.take_while(|(node, _)| node.starts_with(&below));
        let names = nodes.map(|(node, _)| &node[below.len()..]);
        names
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }
}

/// The path of the node above; empty for the first one.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
