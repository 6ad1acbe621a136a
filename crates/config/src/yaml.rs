//! YAML as a tree that remembers lines, so that every mistake can be named with its place.
//! Leaves the meaning of keys to its neighbours.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::problem::Problem;

/// So much of a text is shown when it is wrong.
const SHOWN: usize = 40;

/// A value and the line it stands on.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Where the value begins, from 1.
    pub line: u64,
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
    /// Where it stands, from 1.
    pub line: u64,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Reads a whole document.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match serde_saphyr::from_str::<Spanned<Value>>(text) {
            Ok(spanned) => Ok(Self::from(spanned)),
            Err(error) => {
                let line = error.location().map(|l| l.line());
                let words = error.without_snippet().to_string();
                let said = words.lines().next().unwrap_or_default().to_owned();
                Err(Problem::error(line, "", format!("this is not YAML: {said}")))
            }
        }
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
        Self { line: spanned.referenced.line(), value: spanned.value }
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
            entries.push(Entry { line: key.referenced.line(), key: key.value, node });
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
        assert_eq!(entries[0].line, 1);
        assert_eq!(entries[1].line, 2);
        let Value::List(items) = &entries[1].node.value else { panic!("no list") };
        assert_eq!(items[0].line, 3);
        let Value::Map(inner) = &items[1].value else { panic!("no map") };
        assert_eq!((inner[0].line, inner[0].key.as_str()), (4, "y"));
    }

    #[test]
    fn broken_yaml_is_one_problem_with_a_line() {
        let problem = Node::parse("a: [1\nb: 2\n").unwrap_err();
        assert!(problem.line.is_some(), "{problem:?}");
    }
}
