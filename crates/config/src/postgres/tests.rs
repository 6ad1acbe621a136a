//! Precedence and GUC rules, case by case.

use serde_json::{Map, Value as Json, json};

use super::{PostgresSettings, Role, effective};
use crate::local::Local;
use crate::yaml::Node;

fn put_together(local: &str, dynamic: Json, role: Role) -> PostgresSettings {
    let local = Local::new(vec![Node::parse_file("node.yml", local).unwrap()]);
    let Json::Object(dynamic) = dynamic else { panic!("no object") };
    effective(&local, &dynamic, role)
}

fn parameter(local: &str, dynamic: Json, name: &str) -> Option<String> {
    let found = put_together(local, dynamic, Role::Primary);
    found.parameters.get(name).or_else(|| found.command_line.get(name)).cloned()
}

const LOCAL: &str = "scope: demo\npostgresql:\n  listen: '*:5433'\n  parameters:\n";

#[test]
fn local_parameters_win_key_by_key() {
    let dynamic = json!({"postgresql": {"parameters": {"work_mem": "8MB", "Jit": false}}});
    let local = format!("{LOCAL}    work_mem: 4MB\n    TimeZone: UTC\n");
    for (name, value) in [("work_mem", "4MB"), ("timezone", "UTC"), ("jit", "off")] {
        assert_eq!(parameter(&local, dynamic.clone(), name).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn what_members_must_agree_on_comes_from_the_dynamic_part_only() {
    let dynamic = json!({"postgresql": {"parameters": {"max_connections": 200}}});
    let local = format!("{LOCAL}    max_connections: 300\n    port: 1\n");
    let found = put_together(&local, dynamic, Role::Replica);
    assert_eq!(found.command_line["max_connections"], "200");
    assert_eq!(found.command_line["port"], "5433");
    assert_eq!(found.command_line["listen_addresses"], "*");
    assert_eq!(found.command_line["cluster_name"], "demo");
    let said: Vec<String> = found.warnings.iter().map(ToString::to_string).collect();
    assert!(said[0].starts_with("node.yml:5: postgresql.parameters.max_connections: ignored"));
    assert!(said[1].contains("it follows from postgresql.listen"), "{said:?}");
}

#[test]
fn controlled_parameters_have_defaults_and_minimums() {
    // name, dynamic value, what holds (contract 3.6)
    let cases = [
        ("max_connections", json!(24), "100"),
        ("max_connections", json!("0x20"), "32"),
        ("max_wal_senders", json!(2), "10"),
        ("max_prepared_transactions", json!(0), "0"),
        ("max_locks_per_transaction", json!("many"), "64"),
        ("max_replication_slots", json!(3), "10"),
        ("max_worker_processes", json!(1), "8"),
        ("track_commit_timestamp", json!("yes"), "on"),
        ("wal_log_hints", json!(false), "off"),
        ("hot_standby", json!("off"), "on"),
        ("wal_level", json!("hot_standby"), "replica"),
        ("wal_level", json!("minimal"), "replica"),
        ("wal_level", json!("logical"), "logical"),
        ("wal_keep_size", json!("15MB"), "128MB"),
        ("wal_keep_size", json!(1024), "1024MB"),
    ];
    for (name, value, expected) in cases {
        let dynamic = json!({"postgresql": {"parameters": {name: value.clone()}}});
        let found = parameter(LOCAL, dynamic, name);
        assert_eq!(found.as_deref(), Some(expected), "{name} = {value}");
    }
    let dynamic = json!({"postgresql": {"parameters": {"wal_keep_segments": 4}}});
    assert_eq!(parameter(LOCAL, dynamic, "wal_keep_size").as_deref(), Some("64MB"));
}

#[test]
fn overlays_are_for_their_role() {
    let local = "postgresql:\n  pg_hba: [a]\n  pg_hba_primary: [b]\n  parameters: {work_mem: 1MB}\n  \
                 parameters_replica: {work_mem: 2MB}\n";
    let dynamic = json!({"postgresql": {
        "parameters_primary": {"work_mem": "3MB", "max_connections": 500},
        "parameters_replica": {"work_mem": "9MB", "jit": "off"},
        "pg_ident": ["x"],
    }});
    let primary = put_together(local, dynamic.clone(), Role::Primary);
    assert_eq!(primary.parameters["work_mem"], "3MB");
    assert_eq!(primary.command_line["max_connections"], "100");
    assert_eq!(primary.hba, Some(vec!["b".to_owned()]));
    assert_eq!(primary.ident, Some(vec!["x".to_owned()]));
    let replica = put_together(local, dynamic.clone(), Role::Replica);
    assert_eq!(replica.parameters["work_mem"], "2MB");
    // The node's overlay replaces the cluster's as a whole.
    assert_eq!(replica.parameters.get("jit"), None);
    assert_eq!(replica.hba, Some(vec!["a".to_owned()]));
    let standby = put_together(local, dynamic, Role::StandbyLeader);
    assert_eq!(standby.parameters["work_mem"], "1MB");
}

#[test]
fn other_keys_are_replaced_and_some_are_one_sides_alone() {
    let local = "postgresql:\n  use_slots: false\n  basebackup: [a]\n  \
                 recovery_conf: {restore_command: cp, primary_conninfo: x}\n";
    let dynamic = json!({"postgresql": {
        "use_slots": true, "use_pg_rewind": true, "basebackup": ["b"],
        "data_dir": "/elsewhere", "authentication": {"superuser": {"password": "no"}},
    }});
    let found = put_together(local, dynamic, Role::Replica);
    assert!(found.use_slots);
    assert_eq!(found.section["basebackup"], json!(["a"]));
    assert_eq!(found.section["use_pg_rewind"], json!(true));
    assert_eq!(found.section.get("data_dir"), None);
    assert_eq!(found.section.get("authentication"), None);
    assert_eq!(found.recovery_conf.len(), 1);
    let off = json!({"postgresql": {"use_slots": "off"}});
    assert!(!put_together("scope: x\n", off, Role::Replica).use_slots);
    assert!(put_together("scope: x\n", Json::Object(Map::new()), Role::Replica).use_slots);
}
