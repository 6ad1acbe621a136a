//! Keys and values against the live ones quoted in docs (contract 1.3), and lenient reading.

use pgherd_api::{Change, Cluster, Encoder, Keys, MemberSelf, PendingChange, Record, config};
use pgherd_core::cluster::{
    FailoverRequest, HistoryLine, Initialize, Key, MemberRecord, MemberRole, MemberState, Status,
    SyncState, Value,
};
use pgherd_core::{
    Duration, Instance, LeaseId, Lsn, NodeName, Policy, Revision, SynchronousMode, SystemId, Tags,
    Term, Timeline,
};
use serde_json::json;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn record(key: &str, value: &str, modified: u64) -> Record {
    Record {
        key: format!("/service/demo/{key}").into_bytes(),
        value: value.as_bytes().to_vec(),
        created: 5,
        modified,
        lease: 0,
    }
}

fn cluster(records: &[(&str, &str)]) -> Cluster {
    let records = records.iter().zip(10..).map(|((key, value), at)| record(key, value, at));
    Cluster::read(Keys::new("service", "demo"), 100, records)
}

fn encoder() -> Encoder {
    let serde_json::Value::Object(tags) = json!({"foo": "bar"}) else { unreachable!() };
    Encoder {
        member: MemberSelf {
            conn_url: "postgres://127.0.0.1:15432/postgres".to_owned(),
            api_url: "http://127.0.0.1:18002/patroni".to_owned(),
            tags,
            ..MemberSelf::default()
        },
        api_urls: [(node("pg-node2"), "http://127.0.0.1:18002/patroni".to_owned())].into(),
        ..Encoder::default()
    }
}

fn encoded(value: &Value) -> String {
    String::from_utf8(encoder().encode(value).unwrap()).unwrap()
}

#[test]
fn keys_are_where_patroni_has_them() {
    let keys = Keys::new("/db/", "demo");
    assert_eq!(keys.prefix(), "/db/demo/");
    assert_eq!(keys.range(), b"/db/demo/".to_vec()..b"/db/demo0".to_vec());
    assert_eq!(Keys::new("service", "demo").prefix(), "/service/demo/");
    let all = [
        Key::Initialize,
        Key::Config,
        Key::Leader,
        Key::Term,
        Key::Beat,
        Key::Claim,
        Key::Sync,
        Key::Status,
        Key::Failover,
        Key::History,
        Key::Member(node("pg-0")),
    ];
    for key in all {
        assert_eq!(keys.parse(&keys.path(&key)), Some(key));
    }
    for other in ["/db/demo2/leader", "/db/demo/members/a/b", "/db/demo/members/"] {
        assert_eq!(keys.parse(other), None, "{other}");
    }
}

/// How a member value of ours ends: Patroni ignores the field, and has none.
fn signed() -> String {
    format!(r#","pgherd":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}

#[test]
fn a_replicas_member_value_is_patronis_byte_for_byte() {
    let record = MemberRecord {
        state: MemberState::Running,
        role: MemberRole::Replica,
        lsn: Some(Lsn(85_031_944)),
        replayed: Some(Lsn(85_031_944)),
        timeline: Some(Timeline(7)),
        streaming: true,
        tags: Tags::default(),
        paused: false,
        checkpoint_pending: false,
        patroni: false,
    };
    let live = r#"{"conn_url":"postgres://127.0.0.1:15432/postgres","api_url":"http://127.0.0.1:18002/patroni","state":"running","role":"replica","version":"4.1.4","tags":{"foo":"bar"},"xlog_location":85031944,"replay_lsn":85031944,"receive_lsn":85031944,"replication_state":"streaming","timeline":7}"#;
    let ours = live.replace("4.1.4", pgherd_api::COMPATIBLE_VERSION).replace('}', &signed());
    // The tags' object ends with a brace too.
    let ours = ours.replacen(&signed(), "}", 1);
    assert_eq!(encoded(&Value::Member(record.clone())), ours);
    let read = cluster(&[("members/pg-node2", &ours)]);
    assert_eq!(read.view().members[&node("pg-node2")].value, record);
    let read = cluster(&[("members/pg-node2", live)]);
    let patronis = MemberRecord { patroni: true, ..record };
    assert_eq!(read.view().members[&node("pg-node2")].value, patronis);
    let info = &read.members()[&node("pg-node2")];
    assert_eq!((info.host.as_deref(), info.port), (Some("127.0.0.1"), Some(15432)));
    assert_eq!(info.api_address(), Some(("127.0.0.1".to_owned(), 18002)));
}

#[test]
fn a_standby_with_a_restore_command_reads_the_archive_where_it_does_not_stream() {
    let record = |role, state, streaming| MemberRecord {
        state,
        role,
        lsn: None,
        replayed: None,
        timeline: None,
        streaming,
        tags: Tags::default(),
        paused: false,
        checkpoint_pending: false,
        patroni: false,
    };
    let said = |restores, role, state, streaming| {
        let mut encoder = encoder();
        encoder.member.restores = restores;
        let text = encoder.encode(&Value::Member(record(role, state, streaming))).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        json.get("replication_state").and_then(|said| said.as_str()).map(str::to_owned)
    };
    let (running, leads) = (MemberState::Running, MemberRole::StandbyLeader);
    let archive = Some("in archive recovery".to_owned());
    assert_eq!(said(true, leads, running, false), archive);
    assert_eq!(said(true, MemberRole::Replica, running, false), archive);
    assert_eq!(said(true, leads, running, true).as_deref(), Some("streaming"));
    assert_eq!(said(false, leads, running, false), None);
    assert_eq!(said(true, MemberRole::Primary, running, false), None);
    assert_eq!(said(true, leads, MemberState::Starting, false), None);
}

#[test]
fn a_primarys_member_value_has_no_replica_fields() {
    let record = MemberRecord {
        state: MemberState::Running,
        role: MemberRole::Primary,
        lsn: Some(Lsn(85_031_944)),
        replayed: None,
        timeline: Some(Timeline(7)),
        streaming: false,
        tags: Tags::default(),
        paused: true,
        checkpoint_pending: true,
        patroni: false,
    };
    let text = encoded(&Value::Member(record));
    let tail = concat!(
        r#""tags":{"foo":"bar"},"xlog_location":85031944,"timeline":7,"#,
        r#""checkpoint_after_promote":false,"pause":true"#
    );
    assert!(text.ends_with(&format!("{tail}{}", signed())), "{text}");
}

#[test]
fn a_pending_restart_stands_between_tags_and_positions() {
    let record = MemberRecord {
        state: MemberState::Running,
        role: MemberRole::Primary,
        lsn: Some(Lsn(85_031_944)),
        replayed: None,
        timeline: Some(Timeline(7)),
        streaming: false,
        tags: Tags::default(),
        paused: false,
        checkpoint_pending: false,
        patroni: false,
    };
    let mut encoder = encoder();
    encoder.member.proxy_url = Some("postgres://127.0.0.1:16431/postgres".to_owned());
    let change = PendingChange { old_value: "100".to_owned(), new_value: "101".to_owned() };
    encoder.member.pending_restart.insert("max_connections".to_owned(), change);
    let text = String::from_utf8(encoder.encode(&Value::Member(record)).unwrap()).unwrap();
    let tail = concat!(
        r#","proxy_url":"postgres://127.0.0.1:16431/postgres","tags":{"foo":"bar"},"#,
        r#""pending_restart":true,"pending_restart_reason":"#,
        r#"{"max_connections":{"old_value":"100","new_value":"101"}},"#,
        r#""xlog_location":85031944,"timeline":7"#
    );
    assert!(text.ends_with(&format!("{tail}{}", signed())), "{text}");
    let read = cluster(&[("members/n", &text)]);
    assert!(read.members()[&node("n")].pending_restart);
}

#[test]
fn status_carries_the_leaders_slots() {
    let text = concat!(
        r#"{"optime":85031944,"slots":{"pg_node1":85031944,"pg_node2":85031900},"#,
        r#""retain_slots":["pg_node1","pg_node2"]}"#
    );
    let read = cluster(&[("status", text)]);
    let mut encoder = encoder();
    encoder.status = read.status_slots().clone();
    encoder.status.slots.remove("pg_node1");
    encoder.status.own = Some("pg_node1".to_owned());
    let value = Value::Status(Status { optime: Lsn(85_031_944) });
    assert_eq!(String::from_utf8(encoder.encode(&value).unwrap()).unwrap(), text);
    let former = r#"{"optime":7,"slots":"{\"a\":5}","retain_slots":"[\"b\"]"}"#;
    let read = cluster(&[("status", former)]);
    assert_eq!(read.status_slots().slots["a"], Lsn(5));
    assert!(read.status_slots().retain.contains("b"));
}

#[test]
fn small_values_are_patronis_byte_for_byte() {
    let sync = SyncState {
        leader: Some(node("pg-node1")),
        quorum: 1,
        voters: [(node("pg-node2"), None), (node("pg-node3"), None)].into(),
    };
    let history = vec![HistoryLine {
        timeline: Timeline(1),
        end: Lsn(84_324_576),
        reason: "no recovery target specified".to_owned(),
        at: 1_795_370_773,
        leader: Some(node("pg-node3")),
    }];
    let request =
        FailoverRequest { leader: Some(node("pg-node1")), member: Some(node("pg-node2")) };
    let pairs = [
        (Value::Initialize(Initialize::Bootstrapping), ""),
        (
            Value::Initialize(Initialize::Done(SystemId(7_711_057_973_605_780_227))),
            "7711057973605780227",
        ),
        (Value::Leader(node("pg-node1")), "pg-node1"),
        (
            Value::Sync(sync),
            r#"{"leader":"pg-node1","quorum":1,"sync_standby":"pg-node2,pg-node3"}"#,
        ),
        (
            Value::Sync(SyncState { leader: Some(node("me")), ..SyncState::default() }),
            r#"{"leader":"me","quorum":0,"sync_standby":null}"#,
        ),
        (Value::Status(Status { optime: Lsn(85_031_944) }), r#"{"optime":85031944}"#),
        (Value::Failover(None), "{}"),
        (Value::Failover(Some(request)), r#"{"leader":"pg-node1","member":"pg-node2"}"#),
        (Value::History(Vec::new()), "[]"),
        (
            Value::History(history),
            r#"[[1,84324576,"no recovery target specified","2026-11-22T18:06:13+00:00","pg-node3"]]"#,
        ),
    ];
    for (value, text) in pairs {
        assert_eq!(encoded(&value), text);
    }
}

#[test]
fn what_is_written_is_read_back() {
    let sync = SyncState {
        leader: Some(node("a")),
        quorum: 1,
        voters: [(node("b"), Some(Instance(u64::MAX))), (node("c"), None)].into(),
    };
    let text = encoded(&Value::Sync(sync.clone()));
    assert_eq!(cluster(&[("sync", &text)]).view().sync.as_ref().unwrap().value, sync);

    let policy = Policy { ttl: Duration::millis(2_500), pause: true, ..Policy::default() };
    let text = encoded(&Value::Config(policy.clone()));
    assert!(text.starts_with(r#"{"ttl":2.5,"loop_wait":1,"retry_timeout":1,"#), "{text}");
    assert_eq!(cluster(&[("config", &text)]).view().config.as_ref().unwrap().value, policy);
}

#[test]
fn a_new_clusters_config_keeps_patronis_rule() {
    for ttl in [5, 10, 20, 30, 60] {
        let json = config::to_json(&Policy { ttl: Duration::secs(ttl), ..Policy::default() });
        let number = |name: &str| json[name].as_u64().unwrap();
        assert!(number("loop_wait") + 2 * number("retry_timeout") <= number("ttl"), "{json:?}");
    }
}

#[test]
fn former_forms_are_read() {
    let read = cluster(&[
        ("status", "85031944"),
        ("initialize", "12"),
        ("failover", "pg-node1:pg-node2"),
        ("sync", r#"{"sync_standby":"x"}"#),
        (
            "members/old",
            "postgres://10.0.0.1:5433/db?application_name=http://10.0.0.1:8008/patroni",
        ),
        ("members/broken", "{{{"),
        ("history", r#"[[1,5,"r"],[2,6,"r","2026-11-22T18:06:13.194530+00:00"],["x"]]"#),
        ("failsafe", r#"{"a":"http://a:8008/patroni"}"#),
        ("something/else", "1"),
    ]);
    let view = read.view();
    assert_eq!(view.status.as_ref().unwrap().value.optime, Lsn(85_031_944));
    assert_eq!(view.initialize.as_ref().unwrap().value, Initialize::Bootstrapping);
    let failover = &view.failover.as_ref().unwrap().value;
    assert_eq!(
        (failover.leader.clone(), failover.member.clone()),
        (Some(node("pg-node1")), Some(node("pg-node2")))
    );
    assert_eq!(view.sync.as_ref().unwrap().value, SyncState::default());
    let old = &read.members()[&node("old")];
    assert_eq!((old.host.as_deref(), old.port), (Some("10.0.0.1"), Some(5433)));
    assert_eq!(old.api_url.as_deref(), Some("http://10.0.0.1:8008/patroni"));
    assert_eq!(view.members[&node("broken")].value.state, MemberState::Other);
    let lines = &view.history.as_ref().unwrap().value;
    assert_eq!(lines.iter().map(|line| line.at).collect::<Vec<_>>(), [0, 1_795_370_773]);
    assert!(read.failsafe().is_some());
    assert_eq!(view.failsafe.as_ref().unwrap().value, [node("a")].into());
    let names = Value::Failsafe([node("pg-node2")].into());
    assert_eq!(encoded(&names), r#"{"pg-node2":"http://127.0.0.1:18002/patroni"}"#);
}

#[test]
fn an_empty_failover_asks_for_nothing_but_has_a_revision() {
    let read = cluster(&[("failover", "{}")]);
    assert_eq!(read.view().failover, None);
    assert_eq!(read.failover_modified(), Revision(10));
    let later = r#"{"leader":"a","member":"b","scheduled_at":"2026-11-22T19:00:00+00:00"}"#;
    let read = cluster(&[("failover", later)]);
    assert_eq!(read.view().failover, None, "not yet due");
    assert_eq!(read.schedule().unwrap().unix_seconds(), Some(1_795_374_000));
    let read = cluster(&[("failover", &later.replace("00+00", "00.1+00"))]);
    assert_eq!(read.schedule().unwrap().unix_seconds(), Some(1_795_374_001), "not before it");
}

#[test]
fn settings_are_read_in_every_form_that_patroni_takes() {
    let serde_json::Value::Object(json) = json!({
        "ttl": "20", "maximum_lag_on_failover": "16MB", "synchronous_mode": "on",
        "synchronous_mode_strict": "yes", "synchronous_node_count": "2", "pause": 1, "failsafe_mode": "on",
        "master_start_timeout": "5min", "master_stop_timeout": 7, "check_timeline": "on",
        "disk_timeout": "1500ms", "disk_min_free": "64MB", "maximum_lag_on_syncnode": "8kB", "postgresql": {"use_slots": true}
    }) else {
        unreachable!()
    };
    let policy = config::from_json(&json);
    let expected = Policy {
        ttl: Duration::secs(20),
        maximum_lag_on_failover: 16 << 20,
        maximum_lag_on_syncnode: Some(8 << 10),
        check_timeline: true,
        synchronous_mode: SynchronousMode::Priority,
        synchronous_mode_strict: true,
        synchronous_node_count: 2,
        primary_start_timeout: Duration::secs(300),
        primary_stop_timeout: Some(Duration::secs(7)),
        failsafe_mode: true,
        disk_timeout: Duration::millis(1_500),
        disk_min_free: 64 << 20,
        pause: true,
        standby: false,
    };
    assert_eq!(policy, expected);
    assert_eq!(config::from_json(&serde_json::Map::new()), config::patroni_defaults());
}

#[test]
fn a_merge_is_recursive_and_null_removes() {
    let map = |value: serde_json::Value| value.as_object().unwrap().clone();
    let mut config =
        map(json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}}, "x": 1}));
    let patch =
        map(json!({"ttl": "30", "postgresql": {"parameters": {"a": null, "c": 3}}, "x": null}));
    assert!(config::merge(&mut config, &patch));
    assert_eq!(
        serde_json::to_string(&config).unwrap(),
        r#"{"ttl":30,"postgresql":{"parameters":{"b":2,"c":3}}}"#
    );
    assert!(!config::merge(&mut config, &map(json!({"ttl": 30, "nothing": null}))));
}

#[test]
fn the_watch_moves_the_view_on() {
    let mut read = cluster(&[("leader", "a"), ("sync", r#"{"leader":"a","sync_standby":"B"}"#)]);
    let before = read.view();
    let mut leader = record("leader", "b", 101);
    leader.lease = 77;
    let member = record("members/b", "{}", 101);
    assert!(read.apply(101, [Change::Put(leader), Change::Put(member)]));
    let view = read.view();
    let key = view.leader.as_ref().unwrap();
    assert_eq!((key.modified, key.lease), (Revision(101), Some(LeaseId(77))));
    assert_eq!(view.current_term(), Some(Term(5)));
    assert!(
        view.sync.as_ref().unwrap().value.voters.contains_key(&node("b")),
        "spelt as the member"
    );
    assert_eq!(before.leader.as_ref().unwrap().value, node("a"), "the former view stays");
    assert!(!read.apply(99, []), "older news");
    let gone = Change::Delete { key: b"/service/demo/leader".to_vec(), revision: 102 };
    assert!(read.apply(102, [gone]));
    assert_eq!(read.view().leader, None);
}
