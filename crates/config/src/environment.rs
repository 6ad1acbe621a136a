//! Environment variables as a layer of keys (contract 3.7).
//! Leaves reading the environment to the caller, and checking the values to `check`.

use std::collections::BTreeMap;

use crate::origin::Origin;
use crate::problem::{Problem, nearest};
use crate::yaml::{Entry, Node, Value};

/// What a variable's text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// One value.
    One,
    /// A YAML list, or values with commas.
    List,
    /// A YAML map, or its inside without the braces.
    Map,
    /// One value with Python's placeholders, or else a list.
    LogFormat,
}

/// A variable and the key that it sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// The name in the environment.
    pub name: String,
    /// The key, with its sections.
    pub path: Vec<&'static str>,
    /// How the text is read.
    pub form: Form,
}

const PREFIX: &str = "PATRONI_";

/// Section of the file, prefix behind `PATRONI_`, keys. A variable is `PATRONI_<prefix><KEY>`.
const SECTIONS: &[(&[&str], &str, &[&str])] = &[
    (&[], "", &["name", "namespace", "scope", "thread_pool_size", "thread_stack_size"]),
    (
        &["log"],
        "LOG_",
        &[
            "type",
            "level",
            "traceback_level",
            "format",
            "dateformat",
            "static_fields",
            "max_queue_size",
            "dir",
            "mode",
            "file_num",
            "file_size",
            "loggers",
            "deduplicate_heartbeat_logs",
        ],
    ),
    (
        &["restapi"],
        "RESTAPI_",
        &[
            "listen",
            "connect_address",
            "certfile",
            "keyfile",
            "keyfile_password",
            "cafile",
            "ciphers",
            "verify_client",
            "allowlist",
            "allowlist_include_members",
            "http_extra_headers",
            "https_extra_headers",
            "request_queue_size",
            "thread_pool_size",
            "server_tokens",
        ],
    ),
    (&["restapi", "authentication"], "RESTAPI_", &["username", "password"]),
    (&["ctl"], "CTL_", &["insecure", "cacert", "certfile", "keyfile", "keyfile_password"]),
    (&["ctl", "authentication"], "CTL_", &["username", "password"]),
    (
        &["postgresql"],
        "POSTGRESQL_",
        &[
            "listen",
            "connect_address",
            "proxy_address",
            "data_dir",
            "config_dir",
            "bin_dir",
            "pgpass",
        ],
    ),
    (&["postgresql", "bin_name"], "POSTGRESQL_BIN_", BINARIES),
    (&["postgresql", "authentication", "superuser"], "SUPERUSER_", ACCOUNT),
    (&["postgresql", "authentication", "replication"], "REPLICATION_", ACCOUNT),
    (&["postgresql", "authentication", "rewind"], "REWIND_", ACCOUNT),
    (&["etcd3"], "ETCD3_", STORE),
    (&["etcd"], "ETCD_", STORE),
    (&["citus"], "CITUS_", &["group", "database"]),
];

const BINARIES: &[&str] =
    &["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"];

const ACCOUNT: &[&str] = &[
    "username",
    "password",
    "sslmode",
    "sslkey",
    "sslpassword",
    "sslcert",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

pub(crate) const STORE: &[&str] = &[
    "host",
    "hosts",
    "url",
    "proxy",
    "use_proxies",
    "protocol",
    "srv",
    "srv_suffix",
    "username",
    "password",
    "cacert",
    "cert",
    "key",
];

/// Other names for a variable: old ones, and one that Patroni's documentation has by mistake.
const ALIASES: &[(&str, &str)] = &[
    ("PATRONI_LOGLEVEL", "PATRONI_LOG_LEVEL"),
    ("PATRONI_LOGFORMAT", "PATRONI_LOG_FORMAT"),
    ("PATRONI_LOG_DATEFMT", "PATRONI_LOG_DATEFORMAT"),
    ("PATRONI_POSTGRESQL_BIN_IS_READY", "PATRONI_POSTGRESQL_BIN_PG_ISREADY"),
    ("PATRONI_ETCD3_DISCOVERY_SRV", "PATRONI_ETCD3_SRV"),
    ("PATRONI_ETCD3_SRV_DOMAIN", "PATRONI_ETCD3_SRV"),
];

/// Stores that pgherd doesn't speak with: their variables make the section, which is refused.
const OTHER_STORES: &[(&str, &str)] = &[
    ("PATRONI_CONSUL_", "consul"),
    ("PATRONI_ZOOKEEPER_", "zookeeper"),
    ("PATRONI_EXHIBITOR_", "exhibitor"),
    ("PATRONI_KUBERNETES_", "kubernetes"),
    ("PATRONI_RAFT_", "raft"),
];

/// What is set for pgherd alone.
const OURS: &[(&str, &[&str], Form)] = &[
    ("PGHERD_RUN_DIR", &["pgherd", "run_dir"], Form::One),
    ("PGHERD_PEER_SECRET", &["pgherd", "peer_secret"], Form::One),
    ("PGHERD_RECORD", &["pgherd", "record"], Form::One),
    ("PGHERD_NETWORKS", &["pgherd", "networks"], Form::List),
];

/// The variable that holds a whole file.
pub const WHOLE: &str = "PATRONI_CONFIGURATION";

/// Every variable that sets a key.
#[must_use]
pub fn variables() -> Vec<Variable> {
    let mut all = Vec::new();
    for (section, prefix, keys) in SECTIONS {
        for key in *keys {
            let path: Vec<_> = section.iter().copied().chain([*key]).collect();
            let name = format!("{PREFIX}{prefix}{}", key.to_ascii_uppercase());
            all.push(Variable { name, form: form(key), path });
        }
    }
    for (name, path, form) in OURS {
        all.push(Variable { name: (*name).to_owned(), path: path.to_vec(), form: *form });
    }
    all
}

fn form(key: &str) -> Form {
    match key {
        "hosts" | "allowlist" => Form::List,
        "static_fields" | "loggers" | "http_extra_headers" | "https_extra_headers" => Form::Map,
        "format" => Form::LogFormat,
        _ => Form::One,
    }
}

/// The layer that the variables make. Empty values count as absent.
#[must_use]
pub fn layer(environment: &BTreeMap<String, String>) -> (Node, Vec<Problem>) {
    let mut tree = Tree::default();
    let mut problems = Vec::new();
    let known = variables();
    let set = |name: &str| environment.get(name).filter(|text| !text.is_empty());
    for variable in &known {
        let aliases = ALIASES.iter().filter(|(_, name)| *name == variable.name);
        let names = std::iter::once(variable.name.as_str()).chain(aliases.map(|(old, _)| *old));
        let Some((name, text)) = names.filter_map(|name| Some((name, set(name)?))).next() else {
            continue;
        };
        match read(&Origin::Environment(name.into()), text, variable.form) {
            Ok(node) => tree.put(&variable.path, node),
            Err(problem) => problems.push(Problem { place: variable.path.join("."), ..problem }),
        }
    }
    for (prefix, section) in OTHER_STORES {
        let mut names = environment.keys().filter(|name| name.starts_with(prefix));
        if let Some(name) = names.next() {
            let origin = Origin::Environment(name.as_str().into());
            tree.put(&[section], Node::of(&origin, Value::Map(Vec::new())));
        }
    }
    problems.extend(strangers(environment, &known));
    (tree.root(), problems)
}

/// Variables that look like ours, and aren't.
fn strangers(environment: &BTreeMap<String, String>, known: &[Variable]) -> Vec<Problem> {
    let names: Vec<&str> = known.iter().map(|variable| variable.name.as_str()).collect();
    let strange = environment.keys().filter(|name| {
        let others = OTHER_STORES.iter().map(|(prefix, _)| *prefix);
        name.starts_with(PREFIX)
            && *name != WHOLE
            && !names.contains(&name.as_str())
            && !ALIASES.iter().any(|(old, _)| old == name)
            && !others.clone().any(|prefix| name.starts_with(prefix))
    });
    let problems = strange.map(|name| {
        let hint = nearest(name, &names).map(|meant| format!("; did you mean {meant}?"));
        let words = format!("unknown variable, ignored{}", hint.unwrap_or_default());
        Problem::warning(Some(Origin::Environment(name.as_str().into())), "", words)
    });
    problems.collect()
}

/// Whether the variable may hold a secret or a setting of ours: neither PostgreSQL nor scripts get
/// it (contract 3.1, 3.6).
#[must_use]
pub fn is_ours(name: &str) -> bool {
    const STARTS: &[&str] =
        &[PREFIX, "PGHERD_", "KUBERNETES_", "PGPASSWORD", "SPILO_CONFIG", "WATCHDOG_"];
    STARTS.iter().any(|start| name.starts_with(start))
        || name == "NOTIFY_SOCKET"
        || (name.starts_with("ETCD") && name.contains("PASSWORD"))
}

/// A variable's text as a value.
pub(crate) fn read(origin: &Origin, text: &str, form: Form) -> Result<Node, Problem> {
    let list = || {
        let bare = !(text.trim_start().starts_with('-') || text.contains('['));
        if bare { format!("[{text}]") } else { text.to_owned() }
    };
    let yaml = match form {
        Form::One => return Ok(Node::of(origin, Value::Text(text.to_owned()))),
        Form::LogFormat if text.contains("%(") => {
            return Ok(Node::of(origin, Value::Text(text.to_owned())));
        }
        Form::List | Form::LogFormat => list(),
        Form::Map if text.trim_start().starts_with('{') => text.to_owned(),
        Form::Map => format!("{{{text}}}"),
    };
    let wanted = if form == Form::Map { "a map" } else { "a list" };
    let place = |mut node: Node| {
        node.place(&|place| *place = origin.clone());
        node
    };
    match Node::parse(&yaml) {
        Ok(node) => Ok(place(node)),
        Err(_) => {
            let words = format!("expected {wanted} as YAML, found something that can't be read");
            Err(Problem::error(Some(origin.clone()), "", words))
        }
    }
}

/// A document that is made key by key.
#[derive(Default)]
pub(crate) struct Tree(Vec<Entry>);

impl Tree {
    /// Sets the value under a path. What was there and is no section is replaced.
    pub(crate) fn put(&mut self, path: &[&str], node: Node) {
        put(&mut self.0, path, node);
    }

    /// The document.
    pub(crate) fn root(self) -> Node {
        Node::of(&Origin::Default, Value::Map(self.0))
    }
}

fn put(entries: &mut Vec<Entry>, path: &[&str], node: Node) {
    let Some((first, rest)) = path.split_first() else { return };
    let origin = node.origin.clone();
    let at = entries.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
        let section = Node::of(&origin, Value::Map(Vec::new()));
        entries.push(Entry { key: (*first).to_owned(), origin: origin.clone(), node: section });
        entries.len() - 1
    });
    if rest.is_empty() {
        entries[at] = Entry { key: (*first).to_owned(), origin, node };
    } else if let Value::Map(inner) = &mut entries[at].node.value {
        put(inner, rest, node);
    } else {
        let mut inner = Vec::new();
        put(&mut inner, rest, node);
        entries[at].node = Node::of(&origin, Value::Map(inner));
    }
}

#[cfg(test)]
mod tests;
