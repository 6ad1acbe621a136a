//! YAML as a tree that remembers where each value came from, so that every mistake and every
//! effective value can be named with its place.
//! Leaves the meaning of keys to its neighbours.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::origin::Origin;
use crate::problem::Problem;

/// So much of a text is shown when it is wrong.
const SHOWN: usize = 40;

/// A value and its place.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Where the value begins.
    pub origin: Origin,
    /// The value.
    pub value: Value,
}

/// A YAML value. Numbers keep their kind; timestamps and the like are text.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// `true` and `false` only, as YAML 1.2 has it.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Everything else.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in order.
    Map(Vec<Entry>),
}

/// One `key: value`.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where it stands.
    pub origin: Origin,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Reads a whole document that has no name.
    ///
    /// # Errors
    /// The text is no YAML.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::parse_file("", text)
    }

    /// Reads a whole document; an empty one is an empty section.
    ///
    /// # Errors
    /// The text is no YAML.
    pub fn parse_file(name: &str, text: &str) -> Result<Self, Problem> {
        let name: Arc<str> = name.into();
        match serde_saphyr::from_str::<Spanned<Value>>(text) {
            Ok(spanned) => {
                let mut node = Self::from(spanned);
                node.place(&|origin| {
                    if let Origin::File { name: unnamed, .. } = origin {
                        *unnamed = Arc::clone(&name);
                    }
                });
                Ok(node)
            }
            Err(error) => {
                let line = error.location().map_or(1, |l| l.line());
                let words = error.without_snippet().to_string();
                let said = words.lines().next().unwrap_or_default().to_owned();
                Err(Problem::error(
                    Some(Origin::File { name, line }),
                    "",
                    format!("this is not YAML: {said}"),
                ))
            }
        }
    }

    /// A value that nobody wrote into a file.
    #[must_use]
    pub fn of(origin: &Origin, value: Value) -> Self {
        Self { origin: origin.clone(), value }
    }

    /// A JSON value, all of it from one place.
    #[must_use]
    pub fn from_json(json: &serde_json::Value, origin: &Origin) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Value::Int(whole),
                (None, Some(float)) => Value::Float(float),
                (None, None) => Value::Text(number.to_string()),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => {
                Value::List(items.iter().map(|item| Self::from_json(item, origin)).collect())
            }
            Json::Object(map) => Value::Map(Self::entries_of(map, origin)),
        };
        Self::of(origin, value)
    }

    fn entries_of(map: &serde_json::Map<String, serde_json::Value>, origin: &Origin) -> Vec<Entry> {
        let entry = |(key, value): (&String, &serde_json::Value)| Entry {
            key: key.clone(),
            origin: origin.clone(),
            node: Self::from_json(value, origin),
        };
        map.iter().map(entry).collect()
    }

    /// Changes the origin of this value and of everything below it.
    pub fn place(&mut self, change: &impl Fn(&mut Origin)) {
        change(&mut self.origin);
        match &mut self.value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.place(change)),
            Value::Map(entries) => {
                for entry in entries {
                    change(&mut entry.origin);
                    entry.node.place(change);
                }
            }
        }
    }

    /// The keys below a section; none of anything else.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => &[],
        }
    }

    /// What stands under a key; an explicit null counts as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let entry = self.entries().iter().rev().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// What kind of value this is, for "found ...".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("'{value}'"),
            Value::Int(value) => format!("'{value}'"),
            Value::Float(value) => format!("'{value}'"),
            Value::Text(value) if value.chars().count() > SHOWN => {
                format!("'{}...'", value.chars().take(SHOWN).collect::<String>())
            }
            Value::Text(value) => format!("'{value}'"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a section".to_owned(),
        }
    }

    /// A scalar as the text that was written, near enough.
    pub fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(value) => Some(value.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The same as JSON, for documents that are passed on.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => Json::from(*value),
            Value::Text(value) => Json::from(value.as_str()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        let line = spanned.referenced.line();
        Self { origin: Origin::File { name: "".into(), line }, value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Value>>()? {
            items.push(Node::from(item));
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let node = Node::from(access.next_value::<Spanned<Value>>()?);
            let origin = Origin::File { name: "".into(), line: key.referenced.line() };
            entries.push(Entry { origin, key: key.value, node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_remembered() {
        let node = Node::parse("a: 1\nb:\n  - x\n  - y: off\n").unwrap();
        let Value::Map(entries) = node.value else { panic!("no map") };
        let line = |n| Origin::File { name: "".into(), line: n };
        assert_eq!(entries[0].origin, line(1));
        assert_eq!(entries[1].origin, line(2));
        let Value::List(items) = &entries[1].node.value else { panic!("no list") };
        assert_eq!(items[0].origin, line(3));
        let Value::Map(inner) = &items[1].value else { panic!("no map") };
        assert_eq!((&inner[0].origin, inner[0].key.as_str()), (&line(4), "y"));
    }

    #[test]
    fn broken_yaml_is_one_problem_with_a_line() {
        let problem = Node::parse("a: [1\nb: 2\n").unwrap_err();
        assert!(problem.origin.is_some(), "{problem:?}");
    }
}
