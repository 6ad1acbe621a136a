//! Each variable lands under its key.

use serde_json::json;

use super::*;

fn layer_of(pairs: &[(&str, &str)]) -> (Node, Vec<Problem>) {
    let environment = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    layer(&environment.collect())
}

#[test]
fn each_variable_sets_its_key() {
    for variable in variables() {
        let text = match variable.form {
            Form::One => "x",
            Form::List | Form::LogFormat => "a, b",
            Form::Map => "a: b",
        };
        let (root, problems) = layer_of(&[(&variable.name, text)]);
        assert!(problems.is_empty(), "{}: {problems:?}", variable.name);
        let found = variable.path.iter().try_fold(&root, |node, key| node.get(key));
        let found = found.unwrap_or_else(|| panic!("{} sets nothing", variable.name));
        let expected = match variable.form {
            Form::One => json!("x"),
            Form::List | Form::LogFormat => json!(["a", "b"]),
            Form::Map => json!({"a": "b"}),
        };
        assert_eq!(found.to_json(), expected, "{}", variable.name);
        assert_eq!(found.origin, Origin::Environment(variable.name.as_str().into()));
    }
}

#[test]
fn the_names_are_those_of_the_contract() {
    let names: Vec<String> = variables().into_iter().map(|variable| variable.name).collect();
    for name in [
        "PATRONI_NAME",
        "PATRONI_LOG_DEDUPLICATE_HEARTBEAT_LOGS",
        "PATRONI_RESTAPI_ALLOWLIST_INCLUDE_MEMBERS",
        "PATRONI_CTL_KEYFILE_PASSWORD",
        "PATRONI_POSTGRESQL_DATA_DIR",
        "PATRONI_POSTGRESQL_BIN_PG_ISREADY",
        "PATRONI_SUPERUSER_SSLNEGOTIATION",
        "PATRONI_REPLICATION_PASSWORD",
        "PATRONI_REWIND_CHANNEL_BINDING",
        "PATRONI_ETCD3_SRV_SUFFIX",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    assert_eq!(names.len(), 124);
}

#[test]
fn lists_and_maps_have_two_forms_and_empty_is_absent() {
    let both = [
        ("PATRONI_ETCD3_HOSTS", "- a:1\n- b:2"),
        ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "{X: 1}"),
        ("PATRONI_LOG_FORMAT", "%(message)s"),
        ("PATRONI_SCOPE", ""),
    ];
    let (root, problems) = layer_of(&both);
    assert!(problems.is_empty(), "{problems:?}");
    let expected = json!({
        "log": {"format": "%(message)s"},
        "restapi": {"http_extra_headers": {"X": 1}},
        "etcd3": {"hosts": ["a:1", "b:2"]},
    });
    assert_eq!(root.to_json(), expected);
    let (_, problems) = layer_of(&[("PATRONI_LOG_LOGGERS", "a: [")]);
    assert!(problems[0].to_string().contains("log.loggers: expected a map"), "{problems:?}");
}

#[test]
fn old_names_work_and_slips_are_named() {
    let (root, _) = layer_of(&[("PATRONI_LOGLEVEL", "DEBUG")]);
    assert_eq!(root.to_json(), json!({"log": {"level": "DEBUG"}}));
    let (_, problems) = layer_of(&[("PATRONI_POSTGRESQL_DATADIR", "/x")]);
    let said = problems[0].to_string();
    assert!(said.ends_with("did you mean PATRONI_POSTGRESQL_DATA_DIR?"), "{said}");
    let (root, _) = layer_of(&[("PATRONI_CONSUL_HOST", "x")]);
    assert!(root.get("consul").is_some());
}

#[test]
fn neither_postgresql_nor_scripts_get_secrets() {
    for name in ["PATRONI_SCOPE", "PGPASSWORD_SUPERUSER", "SPILO_CONFIGURATION", "ETCD3_PASSWORD"] {
        assert!(is_ours(name), "{name}");
    }
    assert!(!is_ours("PATH") && !is_ours("PGTZ") && !is_ours("ETCD3_HOSTS"));
}
