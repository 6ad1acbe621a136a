//! Every mistake in a configuration at once: unknown keys, values that can't be read, and keys that
//! are legal but not heard where they stand, with what to do instead.
//! Leaves missing keys to `node`.

use serde_json::{Map, Value as Json};

use crate::dynamic;
use crate::local::Local;
use crate::origin::Origin;
use crate::postgres::{LOCAL_ONLY, guc_warnings, parameter_text};
use crate::problem::{Problem, Severity, nearest};
use crate::schema::{self, Key, Kind, Scope};
use crate::yaml::{Entry, Node, Value};

/// Which document is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Document {
    /// A node's.
    Local,
    /// The cluster's.
    Dynamic,
}

struct Walk<'a> {
    document: Document,
    /// Stands before each key in messages.
    prefix: &'a str,
    /// Sections that people made up: custom replica and bootstrap methods.
    methods: Vec<String>,
    problems: Vec<Problem>,
}

/// Checks a node's configuration.
#[must_use]
pub fn local(local: &Local) -> Vec<Problem> {
    let root = local.merged();
    let mut walk = Walk::new(Document::Local, "", &root);
    walk.section(&root, "");
    let mut problems = walk.problems;
    if let Some(dcs) = local.get(&["bootstrap", "dcs"]) {
        problems.extend(document(dcs, "bootstrap.dcs."));
        problems.extend(weak_commits(dcs, local.get(&["postgresql"]), ""));
    }
    problems.extend(guc_warnings(local.get(&["postgresql"]), None));
    problems.extend(tags(&root));
    problems
}

/// Checks the cluster's configuration, or a change of it. What can't be read is an error; an unknown
/// key is kept, as Patroni keeps it, and said.
#[must_use]
pub fn dynamic(config: &Map<String, Json>) -> Vec<Problem> {
    let root = Node::from_json(&Json::Object(config.clone()), &Origin::Dynamic);
    let mut problems = document(&root, "");
    for problem in &mut problems {
        // The line of a text that nobody wrote.
        problem.origin = None;
    }
    problems
}

/// What `bootstrap.dcs` says that the cluster doesn't: it was read once, when the cluster began.
#[must_use]
pub fn founded_otherwise(local: &Local, config: &Map<String, Json>) -> Vec<Problem> {
    let Some(dcs) = local.get(&["bootstrap", "dcs"]) else { return Vec::new() };
    let held = Node::from_json(&Json::Object(config.clone()), &Origin::Dynamic);
    let mut problems = Vec::new();
    compare(dcs, Some(&held), "", &mut problems);
    problems
}

fn compare(said: &Node, held: Option<&Node>, path: &str, problems: &mut Vec<Problem>) {
    for Entry { key, node, .. } in said.entries() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let held = held.and_then(|held| held.get(key));
        if matches!(node.value, Value::Map(_)) {
            compare(node, held, &path, problems);
        } else if !held.is_some_and(|held| dynamic::same(&held.to_json(), &node.to_json())) {
            let holds = held.map_or("nothing".to_owned(), Node::describe);
            let words = format!(
                "says {}, but the cluster has {holds}: bootstrap.dcs is read once, when the cluster \
                 is founded; change the cluster with 'pgherd ctl edit-config -s {path}=...'",
                node.describe()
            );
            let origin = Some(node.origin.clone());
            problems.push(Problem::warning(origin, format!("bootstrap.dcs.{path}"), words));
        }
    }
}

fn document(root: &Node, prefix: &str) -> Vec<Problem> {
    let mut walk = Walk::new(Document::Dynamic, prefix, root);
    walk.section(root, "");
    let mut problems = walk.problems;
    problems.extend(guc_warnings(None, root.get("postgresql")).into_iter().map(|problem| {
        let place = format!("{prefix}{}", problem.place);
        Problem { place, ..problem }
    }));
    problems.extend(weak_commits(root, root.get("postgresql"), prefix));
    let all = ["ttl", "loop_wait", "retry_timeout"].iter().all(|key| root.get(key).is_some());
    if let (true, Json::Object(config)) = (all, root.to_json()) {
        for (key, words) in dynamic::timing(&config).adjusted {
            let origin = root.get(key).map(|node| node.origin.clone());
            problems.push(Problem::warning(origin, format!("{prefix}{key}"), words));
        }
    }
    problems
}

/// A synchronous cluster whose commits don't wait until a replica has them on disk (PostgreSQL docs,
/// `synchronous_commit`). Whoever wants less for some of them sets it in the session.
fn weak_commits(cluster: &Node, postgresql: Option<&Node>, prefix: &str) -> Option<Problem> {
    let Json::Object(config) = cluster.to_json() else { return None };
    if !dynamic::from_json(&config).synchronous() {
        return None;
    }
    let node = postgresql?.get("parameters")?.get("synchronous_commit")?;
    let value = parameter_text(node)?;
    let harm = match value.to_ascii_lowercase().as_str() {
        "off" | "false" | "no" | "0" | "local" => {
            "commits wait for no replica, though synchronous_mode is on: a failover loses what \
             was acknowledged last"
        }
        "remote_write" => {
            "a replica acknowledges what is not on its disk yet: when its machine dies together \
             with the leader's, acknowledged commits are lost"
        }
        _ => return None,
    };
    let words =
        format!("'{value}': {harm}; leave it 'on', and set less in the sessions that want it");
    let place = format!("{prefix}postgresql.parameters.synchronous_commit");
    Some(Problem::warning(Some(node.origin.clone()), place, words))
}

impl<'a> Walk<'a> {
    fn new(document: Document, prefix: &'a str, root: &Node) -> Self {
        let postgresql = root.get("postgresql");
        let listed = ["create_replica_methods", "create_replica_method"];
        let listed = listed.into_iter().filter_map(|key| postgresql?.get(key));
        let mut methods = Vec::new();
        for list in listed {
            match &list.value {
                Value::List(items) => methods.extend(items.iter().filter_map(Node::scalar)),
                Value::Null
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::Map(_) => {
                    let text = list.scalar().unwrap_or_default();
                    methods.extend(text.split(',').map(|name| name.trim().to_owned()));
                }
            }
        }
        let method = root.get("bootstrap").and_then(|node| node.get("method"));
        methods.extend(method.and_then(Node::scalar));
        Self { document, prefix, methods, problems: Vec::new() }
    }

    fn section(&mut self, node: &Node, section: &str) {
        for entry in node.entries() {
            let path = if section.is_empty() {
                entry.key.clone()
            } else {
                format!("{section}.{}", entry.key)
            };
            match schema::find(&path) {
                Some(key) => self.known(key, entry, &path),
                None => self.unknown(section, entry, &path),
            }
        }
    }

    fn known(&mut self, key: &'static Key, entry: &Entry, path: &str) {
        if entry.node.value == Value::Null {
            return;
        }
        if let Some(words) = self.not_heard(key) {
            return self.note(Severity::Warning, entry, path, words);
        }
        // What nobody wrote, nobody has to be told of.
        if let Some(why) = key.unused.filter(|_| entry.origin != Origin::Default) {
            self.note(Severity::Warning, entry, path, format!("no effect: {why}"));
        }
        if let Err(expected) = key.kind.check(&entry.node) {
            let secret = key.kind == Kind::Secret;
            let found = if secret { "something else".to_owned() } else { entry.node.describe() };
            let words = format!("expected {expected}, found {found}");
            return self.note(Severity::Error, entry, path, words);
        }
        // What is below it is the cluster's document, which is looked at by itself.
        if key.kind == Kind::Section && key.path != "bootstrap.dcs" {
            self.section(&entry.node, key.path);
        }
    }

    /// Why a key isn't heard in this document.
    fn not_heard(&self, key: &Key) -> Option<String> {
        match (self.document, key.scope) {
            (Document::Local, Scope::Dynamic) => Some(format!(
                "ignored: it is one for the whole cluster and heard in the dynamic configuration \
                 only; change it with 'pgherd ctl edit-config -s {}=...'",
                key.path
            )),
            (Document::Dynamic, Scope::Local) => {
                let private = key.path.strip_prefix("postgresql.");
                let private = private.is_some_and(|name| {
                    LOCAL_ONLY.iter().any(|first| name.split('.').next() == Some(first))
                });
                let why = if private {
                    "each node says it for itself"
                } else {
                    "it is no setting of the cluster"
                };
                Some(format!("ignored: {why}; write it into the nodes' files"))
            }
            (Document::Local, Scope::Local | Scope::Both)
            | (Document::Dynamic, Scope::Dynamic | Scope::Both) => None,
        }
    }

    fn unknown(&mut self, section: &str, entry: &Entry, path: &str) {
        let made_up = matches!(section, "postgresql" | "bootstrap");
        if made_up && self.methods.contains(&entry.key) || section == "tags" || other_store(path) {
            return;
        }
        let heard = |key: &&Key| match self.document {
            Document::Local => key.scope != Scope::Dynamic,
            Document::Dynamic => key.scope != Scope::Local,
        };
        let siblings: Vec<&str> =
            schema::below(section).filter(heard).map(|key| key.name()).collect();
        let slip = nearest(&entry.key, &siblings);
        match (slip, self.document) {
            (Some(meant), Document::Local) => {
                let words = format!("unknown key; did you mean '{meant}'?");
                self.note(Severity::Error, entry, path, words);
            }
            (Some(meant), Document::Dynamic) => {
                let words = format!("unknown key, kept and ignored; did you mean '{meant}'?");
                self.note(Severity::Warning, entry, path, words);
            }
            (None, _) => {
                self.note(Severity::Warning, entry, path, "unknown key, ignored".to_owned());
            }
        }
    }

    fn note(&mut self, severity: Severity, entry: &Entry, path: &str, words: String) {
        let (origin, place) = (Some(entry.origin.clone()), format!("{}{path}", self.prefix));
        self.problems.push(match severity {
            Severity::Error => Problem::error(origin, place, words),
            Severity::Warning => Problem::warning(origin, place, words),
        });
    }
}

/// Sections of stores that pgherd doesn't speak with; `node` refuses them.
fn other_store(path: &str) -> bool {
    matches!(path, "etcd" | "consul" | "zookeeper" | "exhibitor" | "kubernetes" | "raft")
}

/// Contradictions that Patroni warns of, in its words (contract 3.9).
fn tags(root: &Node) -> Vec<Problem> {
    let Some(tags) = root.get("tags") else { return Vec::new() };
    let pairs = [("nofailover", "failover_priority"), ("nosync", "sync_priority")];
    let conflicts = pairs.into_iter().filter_map(|(switch, priority)| {
        let node = tags.get(switch)?;
        let on = crate::parse::boolean(&node.scalar()?).ok()?;
        let number = crate::parse::integer(&tags.get(priority)?.scalar()?).ok()?;
        if on != (number > 0) {
            return None;
        }
        let word = if on { "True" } else { "False" };
        let words = format!(
            "Conflicting configuration between {switch}: {word} and {priority}: {number}. \
             Defaulting to {switch}: {word}"
        );
        Some(Problem::warning(Some(node.origin.clone()), format!("tags.{switch}"), words))
    });
    conflicts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(text: &str) -> Vec<String> {
        let layer = Node::parse_file("node.yml", text).unwrap();
        local(&Local::new(vec![layer])).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn traps_are_named_with_what_to_do() {
        // text, what must be said
        let cases = [
            ("ttl: 20", "node.yml:1: ttl: ignored: it is one for the whole cluster"),
            (
                "postgresql: {use_slots: off}",
                "postgresql.use_slots: ignored: it is one for the whole",
            ),
            (
                "postgresql: {parameters: {max_connections: 500}}",
                "postgresql.parameters.max_connections: ignored: all members must agree",
            ),
            (
                "bootstrap: {dcs: {postgresql: {data_dir: /x}}}",
                "bootstrap.dcs.postgresql.data_dir: ignored: each node says",
            ),
            (
                "bootstrap: {dcs: {restapi: {}}}",
                "bootstrap.dcs.restapi: ignored: it is no setting of the cluster",
            ),
            (
                "bootstrap: {dcs: {ttl: 20, loop_wait: 10, retry_timeout: 10}}",
                "bootstrap.dcs.loop_wait: 1 s instead of 10 s",
            ),
            (
                "restapi: {lisen: x}",
                "node.yml:1: restapi.lisen: unknown key; did you mean 'listen'?",
            ),
            ("thread_pool_size: 5", "thread_pool_size: no effect: it is about Patroni's threads"),
            ("hobby: 1", "hobby: unknown key, ignored"),
            (
                "tags: {nofailover: yes, failover_priority: 1}",
                "Conflicting configuration between nofailover: True and failover_priority: 1. Defaulting to nofailover: True",
            ),
            (
                "postgresql: {parameters_primary: {wal_level: logical}}",
                "parameters_primary.wal_level: ignored",
            ),
            (
                "bootstrap: {dcs: {synchronous_mode: on, postgresql: {parameters: {synchronous_commit: remote_write}}}}",
                "bootstrap.dcs.postgresql.parameters.synchronous_commit: 'remote_write': a replica acknowledges what is not on its disk",
            ),
            (
                "bootstrap: {dcs: {synchronous_mode: quorum}}\npostgresql: {parameters: {synchronous_commit: off}}",
                "node.yml:2: postgresql.parameters.synchronous_commit: 'off': commits wait for no replica",
            ),
            (
                "log: {file_num: many}",
                "log.file_num: expected a whole number, 0 or more, found 'many'",
            ),
        ];
        for (text, expected) in cases {
            let said = said(text);
            assert!(said.iter().any(|words| words.contains(expected)), "{text}: {said:?}");
        }
    }

    #[test]
    fn what_is_right_is_not_spoken_of() {
        let fine = [
            "tags: {rack: a1, nofailover: no}",
            "postgresql: {parameters: {work_mem: 8MB, pg_stat_statements.max: 5}}",
            "bootstrap: {dcs: {ttl: 30, synchronous_mode: quorum, postgresql: {parameters: {max_connections: 200}}}}",
            "tags: {clonefrom: on}",
            "bootstrap: {dcs: {postgresql: {parameters: {synchronous_commit: off}}}}",
            "bootstrap: {dcs: {synchronous_mode: on, postgresql: {parameters: {synchronous_commit: remote_apply}}}}",
        ];
        for text in fine {
            assert_eq!(said(text), Vec::<String>::new(), "{text}");
        }
        let methods =
            "postgresql: {create_replica_methods: [mine, basebackup], mine: {command: x}}";
        assert!(!said(methods).iter().any(|words| words.contains("mine")), "{:?}", said(methods));
    }

    #[test]
    fn a_change_of_the_cluster_is_refused_only_when_it_cannot_be_read() {
        let Json::Object(config) = json!({
            "ttl": "soon", "synchronus_mode": true, "master_start_timeout": 10,
            "postgresql": {"listen": "x", "parameters": {"max_connections": 5}},
        }) else {
            panic!("no object")
        };
        let problems = dynamic(&config);
        let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 1, "{problems:?}");
        assert!(errors[0].to_string().starts_with("ttl: expected a number of seconds"));
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|w| w.contains("did you mean 'synchronous_mode'?")), "{said:?}");
        assert_eq!(said.len(), 4, "{said:?}");
    }

    #[test]
    fn what_was_written_too_late_is_told() {
        let layer =
            Node::parse_file("n.yml", "bootstrap:\n  dcs: {ttl: 20, pause: off}\n").unwrap();
        let Json::Object(config) = json!({"ttl": 30, "pause": "off"}) else { panic!("no object") };
        let problems = founded_otherwise(&Local::new(vec![layer]), &config);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().starts_with("n.yml:2: bootstrap.dcs.ttl: says '20', but"));
    }
}
