//! `docs/reference/openapi.json` and the code say the same: every call with its codes, and every
//! field of the bodies.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use pgherd_api::rest::{
    AskedBody, ClusterBody, ClusterMember, DecisionBody, ExplainBody, Identity, Lag, PatroniStatus,
    Positions, PostgresBody, ReplicationRow, ScheduledSwitchover, TermBody, Xlog,
};
use serde_json::{Map, Value, json};

use super::{board, fixture, node, primary};
use crate::http::health;
use crate::http::route::{Route, TABLE, route};

const TEXT: &str = include_str!("../../../../../docs/reference/openapi.json");
/// Access control answers for every call that changes something.
const REFUSALS: [u16; 2] = [401, 403];

fn document() -> Value {
    serde_json::from_str(TEXT).unwrap()
}

/// Path and method to codes, as the document has them.
fn described() -> BTreeMap<(String, String), BTreeSet<u16>> {
    let document = document();
    let mut calls = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            let codes = call["responses"].as_object().unwrap().keys();
            let codes = codes.map(|code| code.parse().unwrap()).collect();
            calls.insert((path.clone(), method.to_uppercase()), codes);
        }
    }
    calls
}

#[test]
fn every_call_is_described_with_its_codes_and_nothing_else_is() {
    let mut described = described();
    for row in TABLE {
        let key = (format!("/{}", row.segment), row.method.to_string());
        let mut codes: BTreeSet<u16> = row.answers.iter().copied().collect();
        if matches!(row.route, Route::Unsafe(_)) {
            codes.extend(REFUSALS);
        }
        assert_eq!(described.remove(&key), Some(codes), "{key:?}");
    }
    // What is left are health checks, under words that some row of the table knows.
    for ((path, method), codes) in described {
        assert_eq!(codes, BTreeSet::from([200, 503]), "{method} {path}");
        let method: Method = method.parse().unwrap();
        assert_eq!(route(&method, &path), Route::Health, "{method} {path}");
        assert!(health::PATHS.contains(&path.as_str()), "{path}");
    }
}

#[test]
fn every_health_check_is_described() {
    let described = described();
    for path in health::PATHS {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let key = ((*path).to_owned(), method.to_owned());
            assert!(described.contains_key(&key), "{key:?}");
        }
    }
}

/// The fields of a schema are those of a body in which everything is present.
fn same_fields(schema: &Value, body: &Value) {
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&schema["properties"]), names(body));
}

fn full_status() -> PatroniStatus {
    PatroniStatus {
        postmaster_start_time: Some(String::new()),
        server_version: Some(1),
        xlog: Some(Xlog {
            location: Some(pgherd_core::Lsn(1)),
            received_location: Some(pgherd_core::Lsn(1)),
            replayed_location: Some(pgherd_core::Lsn(1)),
            replayed_timestamp: Some(String::new()),
            paused: Some(true),
        }),
        sync_standby: true,
        quorum_standby: true,
        timeline: Some(pgherd_core::Timeline(1)),
        replication_state: Some(String::new()),
        replication: vec![ReplicationRow {
            usename: "a".to_owned(),
            client_addr: Some(String::new()),
            ..ReplicationRow::default()
        }],
        cluster_unlocked: true,
        failsafe_mode_is_active: true,
        pause: true,
        pending_restart: true,
        pending_restart_reason: Some(Value::Null),
        scheduled_restart: Some(Map::new()),
        tags: Map::from_iter([("a".to_owned(), json!(1))]),
        database_system_identifier: Some(String::new()),
        patroni: Identity::default(),
        ailment: Some(pgherd_core::disk::Ailment::DiskFull),
        term: Some(pgherd_core::Term(1)),
        state: String::new(),
        role: String::new(),
        dcs_last_seen: 0,
    }
}

#[test]
fn the_status_has_the_fields_that_are_described() {
    let schemas = &document()["components"]["schemas"];
    let status = serde_json::to_value(full_status()).unwrap();
    same_fields(&schemas["Status"], &status);
    same_fields(&schemas["Status"]["properties"]["xlog"], &status["xlog"]);
    same_fields(&schemas["Status"]["properties"]["patroni"], &status["patroni"]);
    let row = &schemas["Status"]["properties"]["replication"]["items"];
    same_fields(row, &status["replication"][0]);
}

#[test]
fn the_cluster_has_the_fields_that_are_described() {
    let schemas = &document()["components"]["schemas"];
    let text = String::new;
    let member = ClusterMember {
        api_url: Some(text()),
        host: Some(text()),
        port: Some(1),
        timeline: Some(pgherd_core::Timeline(1)),
        pending_restart: true,
        pending_restart_reason: Some(Value::Null),
        scheduled_restart: Some(Value::Null),
        tags: Map::from_iter([("a".to_owned(), json!(1))]),
        positions: Some(Positions {
            receive_lag: Lag::Unknown,
            receive_lsn: text(),
            replay_lag: Lag::Unknown,
            replay_lsn: text(),
            lag: Lag::Unknown,
            lsn: text(),
        }),
        ..ClusterMember::default()
    };
    let switchover = ScheduledSwitchover { at: text(), from: Some(text()), to: Some(text()) };
    let cluster = serde_json::to_value(ClusterBody {
        members: vec![member],
        scope: text(),
        pause: true,
        scheduled_switchover: Some(switchover),
        store_age_ms: Some(1),
    });
    let cluster = cluster.unwrap();
    same_fields(&schemas["Cluster"], &cluster);
    same_fields(&schemas["Member"], &cluster["members"][0]);
    let switchover = &schemas["Cluster"]["properties"]["scheduled_switchover"];
    same_fields(switchover, &cluster["scheduled_switchover"]);
}

#[test]
fn the_term_has_the_fields_that_are_described() {
    let body = TermBody { name: node("a"), scope: String::new(), term: None, valid_ms: 0 };
    let body = serde_json::to_value(body).unwrap();
    same_fields(&document()["components"]["schemas"]["Term"], &body);
}

#[tokio::test]
async fn the_explanation_has_the_fields_that_are_described() {
    let schemas = &document()["components"]["schemas"];
    let fixture = fixture(board(primary(), true, &[]), None, true);
    let decision = fixture.desk.board.borrow().decision.clone();
    let text = || Some(String::new());
    let asked = AskedBody {
        at: String::new(),
        call: String::new(),
        address: String::new(),
        login: text(),
        agent: text(),
    };
    let explain = serde_json::to_value(ExplainBody {
        name: node("pg-0"),
        scope: String::new(),
        incarnation: pgherd_core::Incarnation(1),
        current: DecisionBody::new(&decision, 0),
        recent: Vec::new(),
        belief_ms: None,
        term: None,
        revision: 0,
        store_age_ms: None,
        postgres: PostgresBody::default(),
        peers: Vec::new(),
        asked: vec![asked],
        lost: Vec::new(),
        cancelled_waits: 0,
        unreplicated: None,
        without: None,
    });
    let explain = explain.unwrap();
    same_fields(&schemas["Explain"], &explain);
    same_fields(&schemas["Decision"], &explain["current"]);
    same_fields(&schemas["Asked"], &explain["asked"][0]);
}
