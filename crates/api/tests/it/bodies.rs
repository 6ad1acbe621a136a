//! REST bodies against the live ones (contract 2.6, 2.7).

use pgherd_api::rest::{ClusterBody, DecisionBody, Lag, PatroniStatus};
use pgherd_api::{Cluster, Keys, Record, Secret, json, words};
use pgherd_core::cluster::MemberState;
use pgherd_core::{Decision, Reason, Situation, Time};

const PRIMARY: &str = r#"{"state": "running", "postmaster_start_time": "2026-11-22 18:32:28.598054+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 85031944}, "timeline": 7, "replication": [{"usename": "replicator", "application_name": "pg-node3", "client_addr": "127.0.0.1", "state": "streaming", "sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1795372411, "tags": {"foo": "bar"}, "database_system_identifier": "7711057973605780227", "patroni": {"version": "4.1.4", "scope": "demo", "name": "pg-node1"}}"#;
const REPLICA: &str = r#"{"state": "running", "postmaster_start_time": "2026-11-22 18:32:27.412061+00:00", "role": "replica", "server_version": 150018, "xlog": {"received_location": 85032048, "replayed_location": 85032048, "replayed_timestamp": "2026-11-22 18:34:27.926229+00:00", "paused": false}, "quorum_standby": true, "timeline": 7, "replication_state": "streaming", "dcs_last_seen": 1795372489, "tags": {"foo": "bar"}, "database_system_identifier": "7711057973605780227", "patroni": {"version": "4.1.4", "scope": "demo", "name": "pg-node2"}}"#;
const CLUSTER: &str = r#"{"members": [{"name": "pg-node1", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:18001/patroni", "host": "127.0.0.1", "port": 15431, "timeline": 7, "tags": {"foo": "bar"}}, {"name": "pg-node2", "role": "quorum_standby", "state": "streaming", "api_url": "http://127.0.0.1:18002/patroni", "host": "127.0.0.1", "port": 15432, "timeline": 7, "tags": {"foo": "bar"}, "receive_lag": 0, "receive_lsn": "0/5117C70", "replay_lag": 0, "replay_lsn": "0/5117C70", "lag": 0, "lsn": "0/5117C70"}], "scope": "demo"}"#;

#[test]
fn status_bodies_go_through_unchanged() {
    for live in [PRIMARY, REPLICA] {
        let status: PatroniStatus = serde_json::from_str(live).unwrap();
        assert_eq!(json::spaced(&status).unwrap(), live);
    }
}

#[test]
fn the_cluster_body_is_patronis_byte_for_byte() {
    let values = [
        ("config", r#"{"synchronous_mode":"quorum"}"#),
        ("leader", "pg-node1"),
        ("status", r#"{"optime":85032048}"#),
        ("sync", r#"{"leader":"pg-node1","quorum":0,"sync_standby":"pg-node2"}"#),
        (
            "members/pg-node1",
            r#"{"conn_url":"postgres://127.0.0.1:15431/postgres","api_url":"http://127.0.0.1:18001/patroni","state":"running","role":"primary","version":"4.1.4","tags":{"foo":"bar"},"xlog_location":85032048,"timeline":7}"#,
        ),
        (
            "members/pg-node2",
            r#"{"conn_url":"postgres://127.0.0.1:15432/postgres","api_url":"http://127.0.0.1:18002/patroni","state":"running","role":"replica","version":"4.1.4","tags":{"foo":"bar"},"xlog_location":85032048,"replay_lsn":85032048,"receive_lsn":85032048,"replication_state":"streaming","timeline":7}"#,
        ),
    ];
    let records = values.iter().map(|(key, value)| Record {
        key: format!("/service/demo/{key}").into_bytes(),
        value: value.as_bytes().to_vec(),
        created: 1,
        modified: 2,
        lease: 0,
    });
    let cluster = Cluster::read(Keys::new("service", "demo"), 3, records);
    let body = ClusterBody::new(&cluster);
    assert_eq!(json::spaced(&body).unwrap(), CLUSTER);
    let read: ClusterBody = serde_json::from_str(CLUSTER).unwrap();
    assert_eq!(read, body);
    assert_eq!(read.members[1].positions.as_ref().unwrap().lag, Lag::Bytes(0));
}

#[test]
fn a_decision_has_its_wall_clock_and_its_sentence() {
    let decision = Decision {
        at: Time(7),
        term: None,
        situation: Situation::Replica,
        reason: Reason::Following,
    };
    let body = DecisionBody::new(&decision, 1_795_370_773_194);
    assert_eq!(body.at, "2026-11-22T18:06:13.194+00:00");
    assert_eq!(body.text, "streaming from the leader");
}

#[test]
fn words_and_their_numbers() {
    let all = [
        (MemberState::Initializing, 0),
        (MemberState::CreatingReplica, 4),
        (MemberState::Running, 5),
        (MemberState::Starting, 6),
        (MemberState::Stopping, 11),
        (MemberState::Stopped, 12),
        (MemberState::Crashed, 14),
        (MemberState::Other, -1),
    ];
    for (state, index) in all {
        assert_eq!(words::state_index(words::state(state)), index);
        assert_eq!(words::parse_state(words::state(state)), state);
    }
}

#[test]
fn secrets_compare_and_hide() {
    let secret = Secret::new("tiger");
    assert!(secret.matches(b"tiger"));
    for other in [&b""[..], b"tige", b"tigers", b"TIGER"] {
        assert!(!secret.matches(other));
    }
    assert_eq!(format!("{secret:?}"), "Secret(***)");
    assert_eq!(json::spaced("a\u{e9}\u{1f418}").unwrap(), r#""a\u00e9\ud83d\udc18""#);
}
