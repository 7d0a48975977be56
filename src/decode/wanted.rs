//! The wanted paths of a document as a tree, for formats whose schema it is laid over.

use super::fields_text;

/// Paths by their common beginnings; built once per document.
#[derive(Debug)]
pub struct Tree {
    /// Parents come before their children; the first is the root.
    nodes: Vec<Node>,
    slots: usize,
}

#[derive(Debug)]
struct Node {
    path: String,
    slots: Vec<usize>,
    children: Vec<(String, usize)>,
}

/// One place in a document.
#[derive(Debug, Clone, Copy)]
pub struct WantedNode<'t> {
    tree: &'t Tree,
    node: usize,
}

impl Tree {
    /// `paths[slot]` is the path of that slot from the root of the document.
    pub fn new(root_name: &str, paths: &[Vec<String>]) -> Tree {
        let node = |path| Node { path, slots: Vec::new(), children: Vec::new() };
        let mut nodes = vec![node(root_name.to_owned())];
        for (slot, path) in paths.iter().enumerate() {
            let mut at = 0;
            for (depth, name) in path.iter().enumerate() {
                at = match nodes[at].children.iter().find(|(known, _)| known == name) {
                    Some((_, child)) => *child,
                    None => {
                        let child = nodes.len();
                        nodes.push(node(fields_text(root_name, &path[..=depth])));
                        nodes[at].children.push((name.clone(), child));
                        child
                    }
                };
            }
            nodes[at].slots.push(slot);
        }
        Tree { nodes, slots: paths.len() }
    }

    pub fn root(&self) -> WantedNode<'_> {
        WantedNode { tree: self, node: 0 }
    }

    pub fn slots(&self) -> usize {
        self.slots
    }
}

impl<'t> WantedNode<'t> {
    fn get(self) -> &'t Node {
        &self.tree.nodes[self.node]
    }

    /// Slots that take the value here.
    pub fn slots(self) -> &'t [usize] {
        &self.get().slots
    }

    /// For messages.
    pub fn path(self) -> &'t str {
        &self.get().path
    }

    pub fn has_children(self) -> bool {
        !self.get().children.is_empty()
    }

    pub fn child(self, name: &str) -> Option<WantedNode<'t>> {
        self.children().find(|(known, _)| *known == name).map(|(_, child)| child)
    }

    pub fn children(self) -> impl Iterator<Item = (&'t str, WantedNode<'t>)> {
        let tree = self.tree;
        self.get().children.iter().map(move |(name, node)| (name.as_str(), WantedNode { tree, node: *node }))
    }

    /// Slots of everything below here.
    pub fn below(self) -> Vec<usize> {
        let mut slots = Vec::new();
        let mut todo: Vec<WantedNode<'t>> = self.children().map(|(_, child)| child).collect();
        while let Some(node) = todo.pop() {
            slots.extend(node.slots());
            todo.extend(node.children().map(|(_, child)| child));
        }
        slots
    }
}
