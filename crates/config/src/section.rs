//! Reading one section of a settings file: takes keys out, notes every mistake, and at the end
//! names the keys that nobody took.
//! Leaves which keys there are to `node`, `router` and `control`.

use std::cell::{Cell, RefCell};

use crate::origin::Origin;
use crate::problem::{Problem, nearest};
use crate::yaml::{Entry, Node, Value};

/// A section being read. Every mistake lands in one list, so that all are said at once.
pub struct Section<'a> {
    path: String,
    origin: Option<Origin>,
    entries: Vec<(&'a Entry, Cell<bool>)>,
    asked: RefCell<Vec<&'static str>>,
    problems: &'a RefCell<Vec<Problem>>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(node: &'a Node, problems: &'a RefCell<Vec<Problem>>) -> Self {
        Self::of(Some(node), String::new(), problems)
    }

    fn of(node: Option<&'a Node>, path: String, problems: &'a RefCell<Vec<Problem>>) -> Self {
        let mut entries = Vec::new();
        match node.map(|n| &n.value) {
            Some(Value::Map(map)) => entries.extend(map.iter().map(|e| (e, Cell::new(false)))),
            None | Some(Value::Null) => {}
            Some(
                Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_),
            ) => {
                let found = node.map(Node::describe).unwrap_or_default();
                let origin = node.map(|n| n.origin.clone());
                let words = format!("expected a section of keys, found {found}");
                problems.borrow_mut().push(Problem::error(origin, path.clone(), words));
            }
        }
        let origin = node.map(|n| n.origin.clone());
        Self { path, origin, entries, asked: RefCell::default(), problems }
    }

    /// The node under a key; an explicit null counts as absent.
    pub fn take(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        let (entry, used) = self.entries.iter().find(|(e, _)| e.key == key)?;
        used.set(true);
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// A section below this one; empty when absent.
    pub fn section(&self, key: &'static str) -> Self {
        Self::of(self.take(key), self.place(key), self.problems)
    }

    /// The section under a name that the settings themselves gave; `None` when there is none.
    pub fn named(&self, name: &str) -> Option<Self> {
        let (entry, used) = self.entries.iter().find(|(e, _)| e.key == name)?;
        used.set(true);
        Some(Self::of(Some(&entry.node), self.place(name), self.problems))
    }

    /// Whether the section has the key at all.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(e, _)| e.key == key)
    }

    /// An optional scalar, read by `parse`, whose error says what was expected.
    pub fn optional<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.take(key)?;
        let Some(text) = node.scalar() else {
            self.wrong(key, node, "one value");
            return None;
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.wrong(key, node, &expected);
                None
            }
        }
    }

    /// A scalar that must be there; `example` is what to write.
    pub fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.entries.iter().any(|(e, _)| e.key == key && e.node.value != Value::Null) {
            return self.optional(key, parse);
        }
        self.asked.borrow_mut().push(key);
        let words = format!("this key is needed; write for example '{key}: {example}'");
        self.note(Problem::error(self.origin.clone(), self.place(key), words));
        None
    }

    /// A list of scalars, or one text with commas.
    pub fn list(&self, key: &'static str) -> Option<Vec<String>> {
        let node = self.take(key)?;
        if let Value::List(items) = &node.value {
            let texts = items.iter().map(|item| {
                item.scalar().or_else(|| {
                    self.wrong(key, item, "one value");
                    None
                })
            });
            return Some(texts.flatten().collect());
        }
        let text = node.scalar()?;
        Some(text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect())
    }

    /// Names every key that nobody took: a slip of the hand is an error, another word a warning.
    /// `unused` are words of Patroni's that have no effect here yet.
    pub fn finish(&self, unused: &[&str]) {
        let asked = self.asked.borrow();
        for (entry, used) in &self.entries {
            if used.get() {
                continue;
            }
            let place = self.place(&entry.key);
            let origin = Some(entry.origin.clone());
            let problem = if unused.contains(&entry.key.as_str()) {
                Problem::warning(
                    origin,
                    place,
                    "pgherd reads this key of Patroni's but has no use for it yet",
                )
            } else if let Some(meant) = nearest(&entry.key, &asked) {
                Problem::error(origin, place, format!("unknown key; did you mean '{meant}'?"))
            } else {
                Problem::warning(origin, place, "unknown key, ignored")
            };
            self.note(problem);
        }
    }

    /// Notes that the value under `key` is not what was expected.
    pub fn wrong(&self, key: &str, node: &Node, expected: &str) {
        let found = if is_secret(key) { "something else".to_owned() } else { node.describe() };
        let words = format!("expected {expected}, found {found}");
        self.note(Problem::error(Some(node.origin.clone()), self.place(key), words));
    }

    /// Notes a mistake.
    pub fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// A key with the sections above it.
    pub fn place(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The entries as they stand, all counted as taken.
    pub fn entries(&self) -> impl Iterator<Item = &'a Entry> + '_ {
        self.entries.iter().map(|(entry, used)| {
            used.set(true);
            *entry
        })
    }
}

fn is_secret(key: &str) -> bool {
    key.contains("password")
}
