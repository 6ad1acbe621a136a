//! What this node was told: layers of keys, the later over the earlier, each value with its place.
//! Leaves reading files and the environment to the caller, and meaning to `node` and `effective`.

use std::fmt;

use crate::origin::Origin;
use crate::yaml::{Entry, Node, Value};

/// The local configuration (contract 3.1). Cheap to keep; `Debug` shows no value, for there are
/// passwords among them.
#[derive(Clone, PartialEq, Default)]
pub struct Local {
    layers: Vec<Node>,
    merged: Option<Node>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Local({} layers)", self.layers.len())
    }
}

impl Local {
    /// Layers from the weakest to the strongest.
    #[must_use]
    pub fn new(layers: Vec<Node>) -> Self {
        let merged = layers.iter().cloned().reduce(merge);
        Self { layers, merged }
    }

    /// Every layer, the weakest first.
    #[must_use]
    pub fn layers(&self) -> &[Node] {
        &self.layers
    }

    /// All of it as one document.
    #[must_use]
    pub fn merged(&self) -> Node {
        let empty = || Node::of(&Origin::Default, Value::Map(Vec::new()));
        self.merged.clone().unwrap_or_else(empty)
    }

    /// What stands under a path of keys.
    #[must_use]
    pub fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self.merged.as_ref()?, |node, key| node.get(key))
    }
}

/// One document over another, as `PATCH /config` merges: sections key by key, null removes,
/// everything else replaces.
fn merge(under: Node, over: Node) -> Node {
    let (mut entries, above) = match (under.value, over.value) {
        (Value::Map(under), Value::Map(over)) => (under, over),
        (_, value) => return Node { origin: over.origin, value },
    };
    for Entry { key, origin, node } in above {
        let known = entries.iter_mut().find(|entry| entry.key == key);
        match known {
            Some(entry) if node.value == Value::Null => {
                entry.node = node;
                entry.origin = origin;
            }
            Some(entry) => {
                let below = std::mem::replace(&mut entry.node, Node::of(&origin, Value::Null));
                entry.node = merge(below, node);
                entry.origin = origin;
            }
            None => entries.push(Entry { key, origin, node }),
        }
    }
    Node { origin: under.origin, value: Value::Map(entries) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_key_by_key_and_keep_their_places() {
        let base = Node::parse_file("10.yml", "a: 1\nb: {c: 1, d: [1]}\ne: 1\n").unwrap();
        let over = Node::parse_file("20.yml", "b: {c: 2, d: [2]}\ne:\nf: 1\n").unwrap();
        let local = Local::new(vec![base, over]);
        let place = |path: &[&str]| local.get(path).map(|node| node.origin.to_string());
        assert_eq!(place(&["a"]).as_deref(), Some("10.yml:1"));
        assert_eq!(place(&["b", "c"]).as_deref(), Some("20.yml:1"));
        assert_eq!(local.get(&["b", "d"]).unwrap().to_json(), serde_json::json!([2]));
        assert_eq!(place(&["e"]), None);
        assert_eq!(place(&["f"]).as_deref(), Some("20.yml:3"));
    }
}
