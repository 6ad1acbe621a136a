//! `check-config` and `explain-config` as somebody at a terminal, and a program, sees them.

use std::fs;
use std::process::{Command, Output};

use crate::{stderr, stdout};

/// Runs in a directory of its own, with this file as `node.yml` and nothing in the environment.
fn run(file: Option<&str>, environment: &[(&str, &str)], words: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        fs::write(dir.path().join("node.yml"), text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
    command.current_dir(dir.path()).env_clear().args(words).envs(environment.iter().copied());
    command.output().unwrap()
}

const WRONG: &str = "\
scope: demo
name: node1
ttl: 20
restapi:
  lisen: 127.0.0.1:8008
  connect_address: nowhere
etcd3:
  hosts: 127.0.0.1:1
bootstrap:
  dcs:
    ttl: soon
    postgresql:
      parameters:
        max_connections: 10
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: data
  authentication:
    superuser: {password: [hush]}
    replication: {password: hush}
  parameters:
    max_connections: 500
hobby: 1
";

#[test]
fn every_mistake_has_its_place_and_what_to_write() {
    let output =
        run(Some(WRONG), &[("PATRONI_POSTGRESQL_DATADIR", "/x")], &["check-config", "node.yml"]);
    let expected = "\
error: node.yml:5: restapi.lisen: unknown key; did you mean 'listen'?
error: node.yml:5: restapi.listen: this key is needed; write for example 'listen: 127.0.0.1:8008'
error: node.yml:6: restapi.connect_address: expected HOST:PORT like 10.0.0.5:5432, found 'nowhere'
error: node.yml:11: bootstrap.dcs.ttl: expected a number of seconds, or one with a unit (ms s min h d), 2 s or more, found 'soon'
error: node.yml:18: postgresql.data_dir: expected an absolute path, found 'data'
error: node.yml:20: postgresql.authentication.superuser.password: expected one value, found something else
warning: node.yml:3: ttl: ignored: it is one for the whole cluster and heard in the dynamic configuration only; change it with 'pgherd ctl edit-config -s ttl=...'
warning: node.yml:14: bootstrap.dcs.postgresql.parameters.max_connections: ignored: expected a whole number, 25 or more, found '10'; 100 holds instead
warning: node.yml:23: postgresql.parameters.max_connections: ignored: all members must agree on max_connections; set it in the dynamic configuration (pgherd ctl edit-config -p max_connections=...)
warning: node.yml:24: hobby: unknown key, ignored
warning: environment variable PATRONI_POSTGRESQL_DATADIR: unknown variable, ignored; did you mean PATRONI_POSTGRESQL_DATA_DIR?
6 errors, 5 warnings: the agent would not start
";
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(2));
    let same = run(
        Some(WRONG),
        &[("PATRONI_POSTGRESQL_DATADIR", "/x")],
        &["agent", "node.yml", "--validate-config"],
    );
    assert_eq!((stdout(&same), same.status.code()), (expected.to_owned(), Some(2)));
}

#[test]
fn programs_get_the_mistakes_as_json() {
    let output =
        run(Some("scope: demo\nhobby: 1\n"), &[], &["check-config", "node.yml", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let hobby = list.as_array().unwrap().iter().find(|problem| problem["key"] == "hobby");
    let expected = serde_json::json!({
        "severity": "warning", "key": "hobby", "message": "unknown key, ignored",
        "source": {"kind": "file", "name": "node.yml", "line": 2},
    });
    assert_eq!(hobby, Some(&expected));
}

#[test]
fn the_sample_has_no_mistakes_and_each_value_a_place() {
    let sample = stdout(&run(None, &[], &["agent", "--generate-sample-config"]));
    let output = run(Some(&sample), &[], &["check-config", "node.yml"]);
    assert_eq!(stdout(&output), "no errors, no warnings: the agent would start\n");
    let environment = [("PATRONI_SCOPE", "other")];
    let words = [
        "explain-config",
        "--offline",
        "node.yml",
        "scope",
        "ttl",
        "postgresql.parameters.max_connections",
    ];
    let expected = "\
+--------------------------------------+-------+------------------------------------+-------------------+
| Setting                              | Value | From                               | Overrode          |
+--------------------------------------+-------+------------------------------------+-------------------+
| scope                                | other | environment variable PATRONI_SCOPE | demo (node.yml:2) |
| postgresql.parameters.max_connections | 100   | dynamic configuration              | 100 (default)     |
| ttl                                  | 5     | dynamic configuration              | 30 (default)      |
";
    let output = stdout(&run(Some(&sample), &environment, &words));
    let cells = |text: &str| -> Vec<Vec<String>> {
        let rows = text.lines().filter(|line| line.starts_with("| "));
        rows.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
    };
    assert_eq!(cells(&output), cells(expected), "{output}");
    assert!(
        output.ends_with("There is no cluster yet: the dynamic configuration is bootstrap.dcs.\n")
    );
}

#[test]
fn a_container_needs_no_file() {
    let environment = [
        ("SCOPE", "pg-ha"),
        ("ETCD3_HOSTS", "e1:2379,e2:2379"),
        ("PATRONI_NAME", "pg-0"),
        ("PGPASSWORD_SUPERUSER", "hush"),
        ("PGPASSWORD_STANDBY", "hush"),
    ];
    let output = run(None, &environment, &["check-config"]);
    assert_eq!(stdout(&output), "no errors, no warnings: the agent would start\n");
    let words = ["explain-config", "--offline", "-o", "json", "postgresql.authentication"];
    let output = stdout(&run(None, &environment, &words));
    assert!(output.contains("\"name\": \"PGPASSWORD_SUPERUSER\"") && !output.contains("hush"));
    let nothing = run(None, &[], &["agent"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("nothing says which node this is"), "{}", stderr(&nothing));
}

#[test]
fn a_directory_is_merged_and_secrets_can_be_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("20.yml"), "scope: late\n").unwrap();
    fs::write(dir.path().join("10.yaml"), pgherd_config::SAMPLE).unwrap();
    fs::write(dir.path().join("notes.txt"), "scope: [").unwrap();
    fs::write(dir.path().join("secret"), "hush\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .current_dir(dir.path())
        .env_clear()
        .env("PATRONI_SUPERUSER_PASSWORD_FILE", "secret")
        .args([
            "explain-config",
            "--offline",
            "-o",
            "json",
            "./",
            "scope",
            "postgresql.authentication.superuser",
        ])
        .output()
        .unwrap();
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let scope = &list[0];
    assert_eq!((&scope["value"], &scope["source"]["name"]), (&"late".into(), &"./20.yml".into()));
    assert_eq!(list[2]["source"]["name"], "PATRONI_SUPERUSER_PASSWORD");
}
