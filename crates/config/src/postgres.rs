//! What PostgreSQL is told: the `postgresql` section of both sources put together for one role, and
//! the rules for parameters that are not the user's alone (contract 3.1, 3.6).
//! Leaves writing files, command lines and restarts to `pgherd-postgres`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use crate::guc::{self, CONTROLLED, Place};
use crate::local::Local;
use crate::origin::Origin;
use crate::parse;
use crate::problem::Problem;
use crate::yaml::{Node, Value};

/// A node's part in the cluster, as overlays name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// Follows somebody.
    Replica,
    /// Leads a standby cluster.
    StandbyLeader,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Replica, Self::StandbyLeader];

    /// The word in `parameters_<role>`, `pg_hba_<role>` and `pg_ident_<role>`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::StandbyLeader => "standby_leader",
        }
    }
}

/// Everything that PostgreSQL's configuration is made of, for one role.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PostgresSettings {
    /// For `postgresql.conf`: names in lower case. What pgherd has to set itself is not among them.
    pub parameters: BTreeMap<String, String>,
    /// For the command line, where nothing overrides them (contract 3.6): every parameter that all
    /// members must agree on, with Patroni's default where nobody says anything; and
    /// `listen_addresses`, `port` and `cluster_name`.
    pub command_line: BTreeMap<String, String>,
    /// The lines of `pg_hba.conf`; `None`: nobody wrote any.
    pub hba: Option<Vec<String>>,
    /// The lines of `pg_ident.conf`; `None`: nobody wrote any.
    pub ident: Option<Vec<String>>,
    /// Recovery settings of the user's, without targets and without what says whom to follow.
    pub recovery_conf: BTreeMap<String, String>,
    /// The file to include instead of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,
    /// Whether members have replication slots. Dynamic only; true by default.
    pub use_slots: bool,
    /// Every other key of the `postgresql` section, merged: callbacks, replica methods, rewinding.
    pub section: Map<String, Json>,
    /// What was ignored or could not be read, and why.
    pub warnings: Vec<Problem>,
}

/// Keys of the section that only this node says: the store's are ignored (contract 3.1).
pub const LOCAL_ONLY: &[&str] = &[
    "listen",
    "connect_address",
    "proxy_address",
    "data_dir",
    "config_dir",
    "pgpass",
    "authentication",
];

/// A value, where it came from, and what it overrode (the latest first).
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) origin: Origin,
    pub(crate) overrode: Vec<(String, Origin)>,
}

/// Puts a node's and the cluster's settings for PostgreSQL together.
#[must_use]
pub fn effective(local: &Local, dynamic: &Map<String, Json>, role: Role) -> PostgresSettings {
    let dynamic = Node::from_json(&Json::Object(dynamic.clone()), &Origin::Dynamic);
    let ours = local.get(&["postgresql"]);
    let theirs = dynamic.get("postgresql");
    let mut warnings = Vec::new();
    let (mut parameters, mut command_line) = (BTreeMap::new(), BTreeMap::new());
    for (name, setting) in gucs(ours, theirs, role, &mut warnings) {
        let on_command_line =
            guc::controlled(&name).is_some_and(|guc| guc.place == Place::CommandLine);
        let target = if on_command_line { &mut command_line } else { &mut parameters };
        target.insert(name, setting.value);
    }
    if let Some((hosts, port)) =
        ours.and_then(|node| scalar(node, "listen")).and_then(|text| listen(&text))
    {
        command_line.insert("listen_addresses".to_owned(), hosts);
        command_line.insert("port".to_owned(), port.to_string());
    }
    if let Some(scope) = local.get(&["scope"]).and_then(Node::scalar) {
        command_line.insert("cluster_name".to_owned(), scope);
    }
    let section = section(ours, theirs);
    let founding = local.get(&["bootstrap", "pg_hba"]).and_then(|node| lines(&node));
    let lines = |key: &str| {
        let overlay = section.get(&format!("{key}_{}", role.word()));
        overlay.or_else(|| section.get(key)).and_then(lines)
    };
    let use_slots = theirs.and_then(|node| scalar(node, "use_slots"));
    PostgresSettings {
        parameters,
        command_line,
        // What a new cluster gets holds for as long as nobody says anything else.
        hba: lines("pg_hba").or(founding),
        ident: lines("pg_ident"),
        recovery_conf: recovery_conf(section.get("recovery_conf").copied()),
        custom_conf: section.get("custom_conf").and_then(|node| node.scalar()).map(PathBuf::from),
        use_slots: use_slots.and_then(|text| parse::boolean(&text).ok()).unwrap_or(true),
        section: section.iter().map(|(key, node)| (key.clone(), node.to_json())).collect(),
        warnings,
    }
}

/// The section's keys: the node's over the cluster's, each as a whole.
fn section<'a>(ours: Option<&'a Node>, theirs: Option<&'a Node>) -> BTreeMap<String, &'a Node> {
    let entries = |node: Option<&'a Node>| node.map(Node::entries).unwrap_or_default().iter();
    let set = |entry: &&crate::yaml::Entry| entry.node.value != Value::Null;
    let shared = |key: &str| !LOCAL_ONLY.contains(&key) && !key.starts_with("parameters");
    let dynamic = entries(theirs).filter(|entry| shared(&entry.key)).filter(set);
    let local = entries(ours).filter(|entry| shared(&entry.key) && entry.key != "use_slots");
    let all = dynamic.chain(local.filter(set));
    all.map(|entry| (entry.key.clone(), &entry.node)).collect()
}

/// Every parameter with its history: defaults, then the cluster's, then this node's, then the
/// overlay for the role.
pub(crate) fn gucs(
    ours: Option<&Node>,
    theirs: Option<&Node>,
    role: Role,
    warnings: &mut Vec<Problem>,
) -> BTreeMap<String, Setting> {
    let mut all = BTreeMap::new();
    for guc in CONTROLLED.iter().filter(|guc| guc.name != "wal_keep_segments") {
        set(&mut all, guc.name, guc.default.to_owned(), &Origin::Default);
    }
    let overlay = format!("parameters_{}", role.word());
    let mut layer = |node: Option<&Node>, key: &str, agreed: Agreed| {
        let Some(parameters) = node.and_then(|node| node.get(key)) else { return };
        for entry in parameters.entries() {
            let place = format!("postgresql.{key}.{}", entry.key);
            let mut ignore = |why: String| {
                let origin = Some(entry.node.origin.clone());
                warnings.push(Problem::warning(origin, place.clone(), why));
            };
            let name = entry.key.to_ascii_lowercase();
            if let Some(why) = guc::derived(&name) {
                ignore(format!("ignored: nobody sets this parameter; {why}"));
                continue;
            }
            let guc = guc::controlled(&name);
            if guc.is_some() && agreed == Agreed::No {
                ignore(format!(
                    "ignored: all members must agree on {name}; set it in the dynamic \
                     configuration (pgherd ctl edit-config -p {name}=...)"
                ));
                continue;
            }
            if entry.node.value == Value::Null {
                all.remove(&name);
                continue;
            }
            let Some(text) = parameter_text(&entry.node) else {
                ignore(format!("ignored: expected one value, found {}", entry.node.describe()));
                continue;
            };
            match guc.map_or(Ok(text.clone()), |guc| guc.accept(&text)) {
                Ok(value) if name == "wal_keep_segments" => {
                    // Patroni's rule: segments of 16 MB; the newer word wins (contract 3.6).
                    let newer = parameters.entries().iter();
                    if !newer.clone().any(|e| e.key.eq_ignore_ascii_case("wal_keep_size")) {
                        let megabytes = value.parse::<u64>().unwrap_or(8).saturating_mul(16);
                        let value = format!("{megabytes}MB");
                        set(&mut all, "wal_keep_size", value, &entry.node.origin);
                    }
                }
                Ok(value) => set(&mut all, &name, value, &entry.node.origin),
                Err(wanted) => {
                    let default = guc.map_or("", |guc| guc.default);
                    let found = entry.node.describe();
                    ignore(format!(
                        "ignored: expected {wanted}, found {found}; {default} holds instead"
                    ));
                }
            }
        }
    };
    layer(theirs, "parameters", Agreed::Yes);
    layer(ours, "parameters", Agreed::No);
    let said_here = ours.and_then(|node| node.get(&overlay)).is_some();
    layer(if said_here { ours } else { theirs }, &overlay, Agreed::No);
    all
}

/// What is wrong with the parameters of either side, in any role.
pub(crate) fn guc_warnings(ours: Option<&Node>, theirs: Option<&Node>) -> Vec<Problem> {
    let mut all: Vec<Problem> = Vec::new();
    for role in Role::ALL {
        let mut warnings = Vec::new();
        gucs(ours, theirs, role, &mut warnings);
        // Each role is told of the parameters of all roles.
        warnings.retain(|warning| !all.contains(warning));
        all.extend(warnings);
    }
    all
}

/// Whether every member sees the same values of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreed {
    Yes,
    No,
}

fn set(all: &mut BTreeMap<String, Setting>, name: &str, value: String, origin: &Origin) {
    let mut overrode = Vec::new();
    if let Some(former) = all.remove(name) {
        overrode.push((former.value, former.origin));
        overrode.extend(former.overrode);
    }
    all.insert(name.to_owned(), Setting { value, origin: origin.clone(), overrode });
}

/// A parameter as PostgreSQL reads it: YAML's booleans are its on and off.
#[must_use]
pub fn parameter_text(node: &Node) -> Option<String> {
    match node.value {
        Value::Bool(on) => Some(if on { "on" } else { "off" }.to_owned()),
        Value::Null
        | Value::Int(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_) => node.scalar(),
    }
}

fn scalar(node: &Node, key: &str) -> Option<String> {
    node.get(key).and_then(Node::scalar)
}

fn listen(text: &str) -> Option<(String, u16)> {
    parse::pg_listen(text).ok()
}

/// The lines of a file; an empty list is none, as Patroni has it.
fn lines(node: &&Node) -> Option<Vec<String>> {
    let Value::List(items) = &node.value else { return None };
    let lines: Vec<String> = items.iter().filter_map(Node::scalar).collect();
    (!lines.is_empty()).then_some(lines)
}

fn recovery_conf(node: Option<&Node>) -> BTreeMap<String, String> {
    let entries = node.map(Node::entries).unwrap_or_default().iter();
    let settings = entries.filter_map(|entry| {
        let name = entry.key.to_ascii_lowercase();
        let ours = name.starts_with("recovery_target") || name.starts_with("primary_");
        (!ours).then(|| parameter_text(&entry.node).map(|text| (name, text))).flatten()
    });
    settings.collect()
}

#[cfg(test)]
mod tests;
