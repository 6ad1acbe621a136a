//! Methods and hooks as people write them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::cell::RefCell;
use std::path::Path;

use super::{Command, FirstData, Hooks, ReplicaMethod, bootstrap, hooks};
use crate::problem::Problem;
use crate::section::Section;
use crate::yaml::Node;

fn read<T>(text: &str, read: impl Fn(&Section<'_>) -> T) -> (T, Vec<Problem>) {
    let node = Node::parse(text).unwrap();
    let problems = RefCell::new(Vec::new());
    let value = read(&Section::root(&node, &problems));
    (value, problems.into_inner())
}

#[test]
fn words_are_split_as_a_shell_would() {
    let command = Command::parse("/bin/sh -c 'exit 1' \"a b\"").unwrap();
    assert_eq!(command.program(), "/bin/sh");
    assert_eq!(command.arguments(), ["-c", "exit 1", "a b"]);
    assert!(Command::parse("  ").is_err());
    assert!(Command::parse("a 'b").unwrap_err().contains("quotes"));
}

#[test]
fn a_bootstrap_from_a_backup() {
    let text = "
method: pgbackrest
pgbackrest:
  command: /usr/local/bin/restore --verbose
  stanza: main
  keep_existing_recovery_conf: false
  recovery_conf:
    recovery_target_time: '2026-11-22 12:00:00+00'
    restore_command: pgbackrest archive-get %f \"%p\"
post_init: /seed.sh app
pg_hba:
  - host all all 10.0.0.0/8 scram-sha-256
";
    let (read, problems) = read(text, bootstrap);
    assert_eq!(problems, []);
    let FirstData::Custom(method) = read.method else { panic!("initdb") };
    assert_eq!(method.run.command.arguments(), ["--verbose"]);
    assert_eq!(method.recovery_conf["recovery_target_time"], "2026-11-22 12:00:00+00");
    assert_eq!(
        method.run.for_bootstrap("demo", Path::new("/data")),
        ["--scope=demo", "--datadir=/data", "--stanza=main"]
    );
    assert_eq!(read.post.unwrap().arguments(), ["app"]);
    assert_eq!(read.hba.len(), 1);
}

#[test]
fn options_of_initdb_in_both_forms() {
    let list = "initdb:\n- encoding: UTF8\n- data-checksums\n- locale: C\n";
    let (made, problems) = read(list, bootstrap);
    assert_eq!(problems, []);
    let wanted = ["--encoding=UTF8", "--data-checksums", "--locale=C"].map(str::to_owned);
    assert_eq!(made.method, FirstData::Initdb(wanted.to_vec()));
    let (_, problems) = read("initdb: {pwfile: /x, allow-group-access: true}", bootstrap);
    assert!(problems[0].words.contains("'pwfile' is set by pgherd"), "{problems:?}");
}

#[test]
fn replica_methods_in_their_order() {
    let text = "
create_replica_methods: [wal_g, basebackup]
wal_g: {command: /bin/wal-g-fetch, no_leader: on, keep_data: off, bucket: s3}
basebackup: [{max-rate: 100M}, verbose]
callbacks: {on_role_change: /bin/vip.sh up}
pre_promote: /bin/check
";
    let (Hooks { create_replica, basebackup, callbacks, .. }, problems) = read(text, hooks);
    assert_eq!(problems, []);
    let [ReplicaMethod::Custom(method), ReplicaMethod::BaseBackup] = create_replica.as_slice()
    else {
        panic!("{create_replica:?}")
    };
    assert!(method.no_leader && !method.keep_data);
    let (data, dsn) = (Path::new("/data"), "host=a");
    assert_eq!(
        method.run.for_replica("demo", data, dsn),
        ["--bucket=s3", "--scope=demo", "--role=replica", "--datadir=/data", "--connstring=host=a"]
    );
    let bare = super::Method { no_params: true, ..method.run.clone() };
    assert_eq!(bare.for_replica("demo", data, dsn), ["--bucket=s3"]);
    assert_eq!(basebackup, ["--max-rate=100M", "--verbose"]);
    assert_eq!(callbacks.on_role_change.unwrap().arguments(), ["up"]);
}

#[test]
fn mistakes_are_named() {
    let text = "
create_replica_methods: [barman]
basebackup: {format: tar}
pre_promote: \"'open\"
callbacks: {on_strat: /bin/true}
";
    let (_, problems) = read(text, hooks);
    let words: Vec<_> = problems.iter().map(|problem| problem.words.as_str()).collect();
    assert!(words.iter().any(|words| words.contains("no section 'barman'")), "{words:?}");
    assert!(words.iter().any(|words| words.contains("'format' is set by pgherd")), "{words:?}");
    assert!(words.iter().any(|words| words.contains("closed quotes")), "{words:?}");
    assert!(words.iter().any(|words| words.contains("on_start")), "{words:?}");
    let (_, problems) = read("method: restore\n", bootstrap);
    assert!(problems[0].words.contains("no section 'restore'"), "{problems:?}");
}

/// Each example of the guide is read without a word of complaint.
#[test]
fn the_guides_examples() {
    let guide = include_str!("../../../../docs/lifecycle.md");
    let blocks: Vec<&str> = guide.split("```yaml\n").skip(1).collect();
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        let (text, _) = block.split_once("```").unwrap();
        let ((), problems) = read(text, |root| {
            if root.has("bootstrap") {
                let section = root.section("bootstrap");
                section.section("dcs");
                bootstrap(&section);
                section.finish(&[]);
            } else if root.has("tags") {
                let tags = root.section("tags");
                assert!(tags.entries().all(|entry| entry.node.scalar().is_some()));
            } else {
                let section = root.section("postgresql");
                hooks(&section);
                section.finish(&[]);
            }
        });
        assert_eq!(problems, [], "{text}");
    }
}

#[test]
fn the_founders_hba_holds_until_somebody_says_something_else() {
    let founding = Node::parse("bootstrap: {pg_hba: [local all all trust]}").unwrap();
    let local = crate::Local::new(vec![founding.clone()]);
    let hba = |local: &crate::Local| {
        crate::effective(local, &serde_json::Map::new(), crate::Role::Primary).hba
    };
    assert_eq!(hba(&local), Some(vec!["local all all trust".to_owned()]));
    let other = Node::parse("postgresql: {pg_hba: [local all all md5]}").unwrap();
    let both = crate::Local::new(vec![founding, other]);
    assert_eq!(hba(&both), Some(vec!["local all all md5".to_owned()]));
}
