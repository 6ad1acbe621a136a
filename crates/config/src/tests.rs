//! What people write into node files, right and wrong.

use crate::settings::Settings;
use pgherd_core::{Duration, SynchronousMode};

use crate::node::resolve;
use crate::problem::Severity;
use crate::sources::Sources;

const GOOD: &str = "\
scope: demo
name: node1
restapi:
  listen: 127.0.0.1:8008
  connect_address: 127.0.0.1:8008
  authentication: {username: admin, password: secret-api}
etcd3:
  hosts: [unix:///run/store.sock, 10.0.0.1:2379]
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    synchronous_mode: quorum
    maximum_lag_on_failover: 16MB
postgresql:
  listen: 127.0.0.1:5442
  connect_address: 127.0.0.1:5442
  data_dir: /data/node1
  authentication:
    superuser: {username: postgres, password: secret-super}
    replication: {username: replicator, password: secret-repl}
  parameters:
    max_connections: 200
    fsync: off
    wal_log_hints: true
tags:
  nofailover: yes
  rack: a1
";

fn good(text: &str) -> Settings {
    match resolve(&Sources::file("node.yml", text)) {
        Ok(resolved) => resolved.value,
        Err(problems) => panic!("{problems:?}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    let problems = resolve(&Sources::file("node.yml", text)).err().expect("mistakes");
    let errors = problems.iter().filter(|p| p.severity == Severity::Error);
    errors.map(ToString::to_string).collect()
}

#[test]
fn a_node_file_as_patroni_knows_it() {
    let node = good(GOOD);
    assert_eq!(node.store.endpoints, ["unix:///run/store.sock", "http://10.0.0.1:2379"]);
    assert!(node.may_found);
    let policy = &node.founding_policy;
    assert_eq!(policy.ttl, Duration::secs(5));
    assert_eq!(policy.synchronous_mode, SynchronousMode::Quorum);
    assert_eq!(policy.maximum_lag_on_failover, 16 << 20);
    assert_eq!(node.parameters["fsync"], "off");
    assert_eq!(node.parameters["wal_log_hints"], "on");
    assert_eq!(node.parameters["max_connections"], "200");
    assert!(crate::tags::meaning(&node.tags).nofailover());
    assert_eq!(node.tags.get("rack").unwrap(), "a1");
    assert_eq!(node.founding_config.get("loop_wait").unwrap(), 1);
    assert_eq!(node.run_dir.to_str(), Some("/data/node1.pgherd"));
    assert_eq!(node.rewind, node.superuser);
}

#[test]
fn all_mistakes_are_named_at_once_with_their_lines() {
    let text = GOOD
        .replace("name: node1", "name: node 1")
        .replace("data_dir: /data/node1", "data_dir: data/node1")
        .replace("ttl: 5", "ttl: soon");
    let said = errors(&text);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("node.yml:2: name: expected 1 to 63 of"), "{}", said[0]);
    assert!(said[1].starts_with("node.yml:11: bootstrap.dcs.ttl: expected a number of seconds"));
    assert!(said[2].starts_with("node.yml:18: postgresql.data_dir: expected an absolute path"));
}

#[test]
fn a_slip_in_a_key_is_an_error_and_a_strange_key_a_warning() {
    let said = errors(&GOOD.replace("  listen: 127.0.0.1:8008", "  lisen: 127.0.0.1:8008"));
    assert!(
        said.iter().any(|w| w == "node.yml:4: restapi.lisen: unknown key; did you mean 'listen'?")
    );
    let resolved =
        resolve(&Sources::file("node.yml", &format!("{GOOD}thread_pool_size: 7\nhobby: 1\n")))
            .ok()
            .unwrap();
    let warned: Vec<String> = resolved.warnings.iter().map(ToString::to_string).collect();
    assert!(warned[3].contains("no effect"), "{warned:?}");
    assert_eq!(warned[4], "node.yml:30: hobby: unknown key, ignored");
}

#[test]
fn secrets_stay_out_of_messages() {
    let said = errors(&GOOD.replace("password: secret-super", "password: [secret-super]"));
    assert!(said.iter().all(|w| !w.contains("secret-super")), "{said:?}");
    assert!(!format!("{:?}", good(GOOD)).contains("secret-"));
}

#[test]
fn another_store_is_refused_with_what_to_write() {
    let said = errors(&GOOD.replace("etcd3:", "consul:"));
    assert!(said.iter().any(|w| w.starts_with("consul: pgherd speaks etcd's v3 API only")));
}
