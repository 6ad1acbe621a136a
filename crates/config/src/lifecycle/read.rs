//! The keys of the two sections that methods and hooks are written in.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::{
    Bootstrap, Callbacks, Command, CustomBootstrap, CustomReplica, FirstData, Hooks, Method,
    Repair, ReplicaMethod,
};
use crate::origin::Origin;
use crate::parse;
use crate::problem::Problem;
use crate::section::Section;
use crate::yaml::{Node, Value};

/// initdb's options that pgherd gives itself (contract 3.3).
const NOT_INITDB: [&str; 7] =
    ["pgdata", "nosync", "pwfile", "pwprompt", "sync-only", "version", "username"];
/// pg_basebackup's (contract 3.8).
const NOT_BASEBACKUP: [&str; 11] = [
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];
/// pg_rewind's.
const NOT_REWIND: [&str; 9] = [
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
];
/// Keys of a method that are no arguments.
const METHOD_KEYS: [&str; 6] = [
    "command",
    "no_params",
    "no_leader",
    "keep_data",
    "keep_existing_recovery_conf",
    "recovery_conf",
];

/// Reads `bootstrap`, all but `dcs`.
pub fn bootstrap(section: &Section<'_>) -> Bootstrap {
    let name = section.optional("method", parse::text).unwrap_or_else(|| "initdb".to_owned());
    let initdb = options(section, "initdb", &NOT_INITDB);
    let method = if name == "initdb" {
        FirstData::Initdb(initdb)
    } else {
        custom_bootstrap(section, &name).map_or_else(FirstData::default, FirstData::Custom)
    };
    let post = section.optional("post_bootstrap", Command::parse);
    let post = post.or_else(|| section.optional("post_init", Command::parse));
    let hba = section.list("pg_hba").unwrap_or_default();
    Bootstrap { method, hba, post }
}

fn custom_bootstrap(section: &Section<'_>, name: &str) -> Option<CustomBootstrap> {
    let method = section.named(name);
    let Some(method) = method else {
        let words = format!("there is no section '{name}' with a 'command' beside it");
        section.note(Problem::error(None, section.place("method"), words));
        return None;
    };
    let command = method.required("command", "/usr/local/bin/restore", Command::parse);
    let keep = method.optional("keep_existing_recovery_conf", parse::boolean).unwrap_or(false);
    let recovery = method.section("recovery_conf");
    let recovery_conf: BTreeMap<_, _> = scalars(&recovery, &[]).into_iter().collect();
    if recovery_conf.get("recovery_target_action").is_some_and(|action| action != "promote") {
        let words = "a cluster is founded with a primary; write 'promote', or leave it out";
        recovery.note(Problem::error(None, recovery.place("recovery_target_action"), words));
    }
    let run = run(&method, command?);
    Some(CustomBootstrap {
        name: name.to_owned(),
        run,
        keep_existing_recovery_conf: keep,
        recovery_conf,
    })
}

/// Reads the methods and hooks of `postgresql`.
pub fn hooks(section: &Section<'_>) -> Hooks {
    let names = section.list("create_replica_methods");
    let names = names.or_else(|| section.list("create_replica_method")).unwrap_or_default();
    let basebackup = options(section, "basebackup", &NOT_BASEBACKUP);
    let create_replica = names.iter().filter_map(|name| match name.as_str() {
        "basebackup" => Some(ReplicaMethod::BaseBackup),
        name => custom_replica(section, name).map(ReplicaMethod::Custom),
    });
    Hooks {
        create_replica: create_replica.collect(),
        basebackup,
        rewind: options(section, "rewind", &NOT_REWIND),
        repair: Repair {
            rewind: section.optional("use_pg_rewind", parse::boolean),
            copy_after_failure: section
                .optional("remove_data_directory_on_rewind_failure", parse::boolean),
            copy_diverged: section
                .optional("remove_data_directory_on_diverged_timelines", parse::boolean),
        },
        pre_promote: section.optional("pre_promote", Command::parse),
        before_stop: section.optional("before_stop", Command::parse),
        callbacks: callbacks(&section.section("callbacks")),
    }
}

fn custom_replica(section: &Section<'_>, name: &str) -> Option<CustomReplica> {
    let Some(method) = section.named(name) else {
        let words =
            format!("'{name}' is listed, but there is no section '{name}' with a 'command'");
        section.note(Problem::error(None, section.place("create_replica_methods"), words));
        return None;
    };
    let command = method.required("command", "/usr/local/bin/restore", Command::parse);
    let flag = |key| method.optional(key, parse::boolean).unwrap_or(false);
    let (keep_data, no_leader) = (flag("keep_data"), flag("no_leader"));
    let run = run(&method, command?);
    Some(CustomReplica { name: name.to_owned(), run, keep_data, no_leader })
}

fn run(section: &Section<'_>, command: Command) -> Method {
    let no_params = section.optional("no_params", parse::boolean).unwrap_or(false);
    Method { command, no_params, extras: scalars(section, &METHOD_KEYS) }
}

fn callbacks(section: &Section<'_>) -> Callbacks {
    let command = |key| section.optional(key, Command::parse);
    let callbacks = Callbacks {
        on_start: command("on_start"),
        on_stop: command("on_stop"),
        on_restart: command("on_restart"),
        on_reload: command("on_reload"),
        on_role_change: command("on_role_change"),
    };
    section.finish(&[]);
    callbacks
}

/// The section's keys with one value each.
fn scalars(section: &Section<'_>, without: &[&str]) -> Vec<(String, String)> {
    let entries = section.entries().filter(|entry| !without.contains(&entry.key.as_str()));
    let pair = |entry: &crate::yaml::Entry| match entry.node.scalar() {
        Some(value) => Some((entry.key.clone(), value)),
        None if entry.node.value == Value::Null => None,
        None => {
            section.wrong(&entry.key, &entry.node, "one value");
            None
        }
    };
    entries.filter_map(pair).collect()
}

/// A tool's options: a list of words and of `key: value`, or a map. Options that pgherd gives itself
/// are mistakes.
fn options(section: &Section<'_>, key: &'static str, forbidden: &[&str]) -> Vec<String> {
    let Some(node) = section.take(key) else { return Vec::new() };
    let mut all = Vec::new();
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| match item.scalar() {
            Some(word) => all.push(word),
            None => all.extend(item.entries().iter().filter_map(pair)),
        }),
        Value::Map(entries) => all.extend(entries.iter().filter_map(pair)),
        Value::Null => {}
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {
            section.wrong(key, node, "a list of options");
        }
    }
    all.retain(|option| {
        let name = option.split('=').next().unwrap_or_default();
        let known = forbidden.contains(&name);
        if known {
            let words = format!("'{name}' is set by pgherd itself; leave it out");
            section.note(Problem::error(Some(node.origin.clone()), section.place(key), words));
        }
        !known
    });
    all.into_iter().map(|option| format!("--{option}")).collect()
}

fn pair(entry: &crate::yaml::Entry) -> Option<String> {
    match entry.node.scalar()?.as_str() {
        "true" => Some(entry.key.clone()),
        "false" => None,
        value => Some(format!("{}={value}", entry.key)),
    }
}

/// The hooks that hold, from the merged `postgresql` section of both sources
/// ([`crate::PostgresSettings::section`]), and what is wrong with them.
#[must_use]
pub fn merged(section: &Map<String, Json>) -> (Hooks, Vec<Problem>) {
    let node = Node::from_json(&Json::Object(section.clone()), &Origin::Dynamic);
    let problems = RefCell::new(Vec::new());
    let hooks = hooks(&Section::root(&node, &problems));
    (hooks, problems.into_inner())
}
