//! Every effective value with where it came from, what it overrode, and what was said in vain.
//! Leaves the reading of sources to `sources`, and drawing to whoever shows it.

use serde_json::{Map, Value as Json};

use crate::check;
use crate::dynamic;
use crate::local::Local;
use crate::origin::Origin;
use crate::parse;
use crate::postgres::{Role, gucs};
use crate::problem::Problem;
use crate::schema::{self, Key, Kind, Scope};
use crate::yaml::{Node, Value};

/// One effective value.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The key with its sections.
    pub key: String,
    /// The value as somebody would write it; `***` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// What it overrode, the strongest first.
    pub overrode: Vec<(String, Origin)>,
    /// What else is to be known: values that are not heard, values that were adjusted.
    pub notes: Vec<String>,
}

/// All effective values of a node in a role, by section.
#[must_use]
pub fn explain(local: &Local, config: &Map<String, Json>, role: Role) -> Vec<Row> {
    let cluster = Node::from_json(&Json::Object(config.clone()), &Origin::Dynamic);
    let mut rows = Vec::new();
    for key in schema::keys() {
        match (key.kind, key.path) {
            (Kind::Section, "tags") => {
                rows.extend(own_tags(local));
            }
            (Kind::Section, _) => {}
            (Kind::Free, "postgresql.parameters") => {
                rows.extend(parameters(local, &cluster, role));
            }
            (Kind::Free, path) if path.starts_with("postgresql.parameters_") => {}
            _ => rows.extend(row(key, local, &cluster)),
        }
    }
    for (name, words) in dynamic::timing(config).adjusted {
        rows.iter_mut().filter(|row| row.key == name).for_each(|row| row.notes.push(words.clone()));
    }
    annotate(&mut rows, check::founded_otherwise(local, config), "bootstrap.dcs.");
    rows
}

/// A local key that says something else than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The key with its sections.
    pub key: String,
    /// Only a start of the agent reads it.
    pub fixed: bool,
}

/// What another reading of the local configuration says differently.
#[must_use]
pub fn changed(old: &Local, new: &Local) -> Vec<Changed> {
    let mut keys = Vec::new();
    differences(Some(&old.merged()), Some(&new.merged()), "", &mut keys);
    let change = |key: String| {
        let fixed = schema::find(&key).is_some_and(|key| key.fixed);
        Changed { key, fixed }
    };
    keys.into_iter().map(change).collect()
}

fn differences(old: Option<&Node>, new: Option<&Node>, path: &str, keys: &mut Vec<String>) {
    let entries = |node: Option<&Node>| -> Vec<String> {
        node.map(Node::entries).unwrap_or_default().iter().map(|entry| entry.key.clone()).collect()
    };
    let mut names = entries(old);
    names.extend(entries(new).into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
    if names.is_empty() {
        let json = |node: Option<&Node>| node.map_or(Json::Null, Node::to_json);
        if json(old) != json(new) {
            keys.push(path.to_owned());
        }
        return;
    }
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let below = |node: Option<&'_ Node>| node.and_then(|node| node.get(&name)).cloned();
        differences(below(old).as_ref(), below(new).as_ref(), &path, keys);
    }
}

/// Adds what was said in vain to the row of the key that it meant.
fn annotate(rows: &mut [Row], problems: Vec<Problem>, prefix: &str) {
    for problem in problems {
        let key = problem.place.strip_prefix(prefix).unwrap_or(&problem.place).to_owned();
        let place = problem.origin.as_ref().map(|origin| format!("{origin} ")).unwrap_or_default();
        for row in rows.iter_mut().filter(|row| row.key == key) {
            row.notes.push(format!("{place}{}: {}", problem.place, problem.words));
        }
    }
}

fn row(key: &Key, local: &Local, cluster: &Node) -> Option<Row> {
    let path: Vec<&str> = key.path.split('.').collect();
    let mut values: Vec<(String, Origin)> = Vec::new();
    let mut notes = Vec::new();
    if !key.default.is_empty() {
        values.push((key.default.to_owned(), Origin::Default));
    }
    let mut hear = |node: &Node, heard: bool, why: &str| {
        let shown = show(key.kind, node);
        if heard {
            values.push((shown, node.origin.clone()));
        } else {
            notes.push(format!("{shown} ({}) is ignored: {why}", node.origin));
        }
    };
    if let Some(node) = at(cluster, &path, key) {
        hear(node, key.scope != Scope::Local, "each node says it for itself");
    }
    for layer in local.layers() {
        if let Some(node) = at(layer, &path, key) {
            let heard = key.scope != Scope::Dynamic;
            hear(node, heard, "only the dynamic configuration is heard");
        }
    }
    let (value, origin) = values.pop()?;
    if key.unused.is_some() && origin == Origin::Default {
        return None;
    }
    if let Some(why) = key.unused {
        notes.push(format!("no effect: {why}"));
    }
    values.reverse();
    Some(Row { key: key.path.to_owned(), value, origin, overrode: values, notes })
}

/// The value at a path, under the key's name or another one for it.
fn at<'a>(root: &'a Node, path: &[&str], key: &Key) -> Option<&'a Node> {
    let (last, sections) = path.split_last()?;
    let section = sections.iter().try_fold(root, |node, name| node.get(name))?;
    section.get(last).or_else(|| section.get(key.instead_of?))
}

fn show(kind: Kind, node: &Node) -> String {
    match (kind, &node.value) {
        (Kind::Secret, _) => "***".to_owned(),
        (Kind::Switch, _) => match node.scalar().and_then(|text| parse::boolean(&text).ok()) {
            Some(true) => "on".to_owned(),
            Some(false) => "off".to_owned(),
            None => node.scalar().unwrap_or_default(),
        },
        (_, Value::List(_) | Value::Map(_)) => node.to_json().to_string(),
        (_, Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_)) => {
            node.scalar().unwrap_or_default()
        }
    }
}

/// Tags that people made up.
fn own_tags(local: &Local) -> Vec<Row> {
    let Some(tags) = local.get(&["tags"]) else { return Vec::new() };
    let own = tags.entries().iter().filter(|entry| {
        schema::find(&format!("tags.{}", entry.key)).is_none() && entry.node.value != Value::Null
    });
    let row = |entry: &crate::yaml::Entry| Row {
        key: format!("tags.{}", entry.key),
        value: show(Kind::Any, &entry.node),
        origin: entry.node.origin.clone(),
        overrode: Vec::new(),
        notes: Vec::new(),
    };
    own.map(row).collect()
}

fn parameters(local: &Local, cluster: &Node, role: Role) -> Vec<Row> {
    let mut warnings = Vec::new();
    let ours = local.get(&["postgresql"]);
    let all = gucs(ours, cluster.get("postgresql"), role, &mut warnings);
    let rows = all.into_iter().map(|(name, setting)| Row {
        key: format!("postgresql.parameters.{name}"),
        value: setting.value,
        origin: setting.origin,
        overrode: setting.overrode,
        notes: Vec::new(),
    });
    let mut rows: Vec<Row> = rows.collect();
    annotate(&mut rows, warnings, "");
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(text: &str, config: &Json) -> Vec<Row> {
        let layer = Node::parse_file("n.yml", text).unwrap();
        let Json::Object(config) = config else { panic!("no object") };
        explain(&Local::new(vec![layer]), config, Role::Primary)
    }

    fn one(rows: &[Row], key: &str) -> Row {
        let found = rows.iter().find(|row| row.key == key);
        found.unwrap_or_else(|| panic!("no {key}")).clone()
    }

    #[test]
    fn changes_are_named_without_their_values() {
        let read = |text| Local::new(vec![Node::parse(text).unwrap()]);
        let old = read("name: a\ntags: {x: 1, y: 2}\npostgresql: {pg_hba: [a]}\n");
        let new = read("name: b\ntags: {x: 1, z: 2}\npostgresql: {pg_hba: [a, b]}\n");
        let found = changed(&old, &new);
        let keys: Vec<(&str, bool)> = found.iter().map(|c| (c.key.as_str(), c.fixed)).collect();
        let expected =
            [("name", true), ("tags.y", false), ("tags.z", false), ("postgresql.pg_hba", false)];
        assert_eq!(keys, expected);
        assert_eq!(changed(&old, &old), []);
    }

    #[test]
    fn each_value_knows_its_place_and_what_it_overrode() {
        let text = "scope: demo\nttl: 15\nbootstrap: {dcs: {ttl: 5}}\npostgresql:\n  \
                    authentication: {superuser: {password: hush}}\n  \
                    parameters: {work_mem: 4MB, max_connections: 7}\ntags: {rack: a}\n";
        let config = json!({"ttl": 20, "loop_wait": 10, "postgresql": {
            "parameters": {"work_mem": "8MB", "max_connections": 50}, "listen": "x:1",
        }});
        let rows = rows(text, &config);
        let ttl = one(&rows, "ttl");
        assert_eq!((ttl.value.as_str(), &ttl.origin), ("20", &Origin::Dynamic));
        assert_eq!(ttl.overrode, [("30".to_owned(), Origin::Default)]);
        assert!(ttl.notes[0].starts_with("15 (n.yml:2) is ignored"), "{:?}", ttl.notes);
        assert!(ttl.notes[1].starts_with("n.yml:3 bootstrap.dcs.ttl: says '5'"), "{:?}", ttl.notes);
        let wait = one(&rows, "loop_wait");
        assert!(wait.notes.iter().any(|note| note.starts_with("1 s instead of 10 s")), "{wait:?}");
        let memory = one(&rows, "postgresql.parameters.work_mem");
        assert_eq!((memory.value.as_str(), memory.origin.to_string().as_str()), ("4MB", "n.yml:6"));
        assert_eq!(memory.overrode, [("8MB".to_owned(), Origin::Dynamic)]);
        let connections = one(&rows, "postgresql.parameters.max_connections");
        assert_eq!(connections.value, "50");
        assert!(connections.notes[0].contains("all members must agree"), "{connections:?}");
        assert_eq!(one(&rows, "postgresql.authentication.superuser.password").value, "***");
        assert_eq!(one(&rows, "tags.rack").value, "a");
        assert!(!format!("{rows:?}").contains("hush"));
        assert_eq!(one(&rows, "namespace").origin, Origin::Default);
    }
}
