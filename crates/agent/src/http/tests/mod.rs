//! The routing table, access, health checks and pre-checks, on boards made by hand.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod access;
mod failsafe;
mod health;
mod openapi;
mod restart;
mod tls;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, StatusCode};
use pgherd_api::{Client, Cluster, Keys, Record, Secret};
use pgherd_core::peer::{PeerLost, PeerMessage};
use pgherd_core::postgres::{
    PgFacts, PgRole, PgState, PrimaryFacts, ReplicaFacts, RunningFacts, SyncNames, Upstream,
};
use pgherd_core::{
    Decision, Duration, Incarnation, Instance, Lsn, NodeName, Reason, Situation, SystemId, Term,
    Time, Timeline,
};
use pgherd_postgres::Shown;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::failover::{self, Kind};
use super::health::{self as checks, Query};
use super::route::{Route, Unsafe, route};
use super::{Desk, Scheme, metrics, serve, status};
use crate::board::{Board, Journal, StoreSeen};
use crate::clock;
use crate::event::Event;
use crate::peers::{Identity, Peers};
use crate::postgres::Observation;
use pgherd_api::tls::Trust;
use pgherd_config::Login;
use pgherd_config::rest::{RestClient, RestServer};

const CONFIG: (&str, &str) = ("config", r#"{"ttl":30,"synchronous_mode":"quorum"}"#);
const MEMBERS: [(&str, &str); 2] = [
    (
        "members/pg-0",
        r#"{"conn_url":"postgres://h0:5432/postgres","api_url":"http://h0:8008/patroni","state":"running","role":"primary"}"#,
    ),
    (
        "members/pg-1",
        r#"{"conn_url":"postgres://h1:5432/postgres","api_url":"http://h1:8008/patroni","state":"running","role":"replica"}"#,
    ),
];

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn cluster(more: &[(&str, &str)]) -> Cluster {
    let mut values = vec![CONFIG, ("leader", "pg-0"), MEMBERS[0], MEMBERS[1]];
    values.extend_from_slice(more);
    let records = values.iter().map(|(key, value)| Record {
        key: format!("/service/demo/{key}").into_bytes(),
        value: value.as_bytes().to_vec(),
        created: 1,
        modified: 2,
        lease: 0,
    });
    Cluster::read(Keys::new("service", "demo"), 9, records)
}

fn running(role: PgRole) -> PgState {
    PgState::Running(RunningFacts {
        system_id: SystemId(7_711_057_973_605_780_227),
        instance: Instance(1),
        timeline: Timeline(7),
        role,
    })
}

fn primary() -> PgState {
    running(PgRole::Primary(PrimaryFacts {
        flushed: Lsn(2_000),
        names: SyncNames::default(),
        senders: Vec::new(),
        history: Vec::new(),
        checkpointed: true,
        waiting: Vec::new(),
    }))
}

fn replica() -> PgState {
    running(PgRole::Replica(ReplicaFacts {
        received: Lsn(1_500),
        replayed: Lsn(1_000),
        streaming: true,
        upstream: Some(Upstream::Leader(node("pg-0"))),
        at_end: true,
    }))
}

fn shown() -> Shown {
    let senders = r#"[{"usename":"replicator","application_name":"pg-1","client_addr":"127.0.0.1","state":"streaming","sync_state":"quorum","sync_priority":1}]"#;
    Shown {
        room_for_clients: None,
        lost: Arc::default(),
        started: Some(1_795_370_773_598_054),
        replayed: Some(1_795_370_780_000_001),
        replay_paused: true,
        restores: false,
        senders: senders.to_owned(),
    }
}

fn board(state: PgState, leads: bool, more: &[(&str, &str)]) -> Board {
    let now = clock::now();
    let facts = PgFacts { at: now, state };
    Board {
        incarnation: Incarnation(1),
        at: now,
        cluster: Some(Arc::new(cluster(more))),
        store: Some(StoreSeen { at: now, unix_seconds: 1_795_372_411 }),
        observed: Some(Arc::new(Observation {
            facts,
            started: Some(1_795_370_773),
            copied: None,
            shown: shown(),
        })),
        decision: Decision {
            at: now,
            term: None,
            situation: Situation::Leader,
            reason: Reason::Leading,
        },
        leads: leads.then_some(Term(5)),
        belief_until: leads.then(|| now + Duration::secs(3)),
        serving: leads,
        cancelled_waits: 0,
        unreplicated: None,
        vouches: leads.then(|| (Term(5), now + Duration::secs(3))),
        failsafe: false,
        peers: Vec::new(),
        ailment: None,
        disks: pgherd_core::disk::DiskFacts::default(),
        operation: None,
        last_failure: None,
        restarting: false,
        restarts: pgherd_core::Restarts::default(),
        planned: None,
    }
}

struct Fixture {
    desk: Arc<Desk>,
    board: watch::Sender<Arc<Board>>,
    events: mpsc::Receiver<Event>,
}

fn fixture(board: Board, auth: Option<Login>, loopback: bool) -> Fixture {
    let sender = watch::Sender::new(Arc::new(board));
    let (events, receiver) = mpsc::channel(4);
    let identity = Identity {
        name: node("pg-0"),
        scope: "demo".to_owned(),
        secret: Some(Secret::new("herd")),
        login: None,
    };
    let desk = Desk {
        identity,
        board: sender.subscribe(),
        journal: Journal::default(),
        events,
        store: pgherd_store::Client::new(pgherd_store::Options::new(Vec::new())),
        keys: Keys::new("service", "demo"),
        client: Client::new(std::time::Duration::from_secs(2)),
        auth,
        headers: super::headers(&RestServer::default()),
        rest: RestServer::default(),
        loopback,
        tags: json!({"zone": "a", "fast": true}).as_object().unwrap().clone(),
        server_version: 150_018,
    };
    Fixture { desk: Arc::new(desk), board: sender, events: receiver }
}

fn login() -> Option<Login> {
    Some(Login { username: "admin".to_owned(), password: Secret::new("tiger") })
}

/// Every call that changes something, and what it needs.
const UNSAFE: [(Method, &str, Unsafe); 10] = [
    (Method::POST, "/restart", Unsafe::Restart),
    (Method::DELETE, "/restart", Unsafe::DeleteRestart),
    (Method::POST, "/sigterm", Unsafe::Sigterm),
    (Method::POST, "/switchover", Unsafe::Switchover),
    (Method::DELETE, "/switchover", Unsafe::DeleteSwitchover),
    (Method::POST, "/failover", Unsafe::Failover),
    (Method::PATCH, "/config", Unsafe::PatchConfig),
    (Method::PUT, "/config", Unsafe::PutConfig),
    (Method::POST, "/reinitialize", Unsafe::Reinitialize),
    (Method::POST, "/failsafe", Unsafe::Failsafe),
];

#[test]
fn the_table_of_calls() {
    for (method, path, call) in UNSAFE {
        assert_eq!(route(&method, path), Route::Unsafe(call));
    }
    let get = |path| route(&Method::GET, path);
    assert_eq!(get("/patroni/anything"), Route::Patroni);
    assert_eq!(get("/cluster"), Route::Cluster);
    assert_eq!(get("/metrics"), Route::Metrics);
    assert_eq!(get("/peer"), Route::Peer);
    assert_eq!(get("/"), Route::Health);
    assert_eq!(get("/no-such-thing"), Route::Health);
    assert_eq!(route(&Method::HEAD, "/patroni"), Route::Health);
    for (method, path) in [
        (Method::POST, "/citus"),
        (Method::POST, "/mpp"),
        (Method::POST, "/config"),
        (Method::DELETE, "/config"),
        (Method::PATCH, "/switchover"),
        (Method::TRACE, "/"),
        (Method::POST, "/"),
    ] {
        assert_eq!(route(&method, path), Route::Unknown, "{method} {path}");
    }
}

/// The server itself, over TCP.
async fn served(fixture: &Fixture) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(serve(listener, Scheme::Http, desks(&fixture.desk))))
}

#[tokio::test]
async fn no_unsafe_route_answers_without_auth() {
    let fixture = fixture(board(primary(), true, &[]), login(), true);
    let (address, task) = served(&fixture).await;
    let client = Client::new(std::time::Duration::from_secs(5));
    for (method, path, _) in UNSAFE {
        let url = format!("http://{address}{path}");
        let answer = client.request(method.clone(), &url, Some(&json!({"a": 1}))).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(answer.text(), "no auth header received");
    }
    let unknown = client.request(Method::POST, &format!("http://{address}/mpp"), None).await;
    let unknown = unknown.unwrap();
    assert_eq!(unknown.status, StatusCode::NOT_IMPLEMENTED);
    assert!(unknown.text().contains("Server does not support this operation"));
    let peer = client.request(Method::GET, &format!("http://{address}/peer"), None).await.unwrap();
    assert_eq!(peer.status, StatusCode::UPGRADE_REQUIRED);
    task.abort();
}

#[tokio::test]
async fn reads_answer_from_memory() {
    let fixture = fixture(board(primary(), true, &[]), login(), false);
    let (address, task) = served(&fixture).await;
    let client = Client::new(std::time::Duration::from_secs(5));
    let get = async |path: &str| {
        let answer = client.request(Method::GET, &format!("http://{address}{path}"), None).await;
        let answer = answer.unwrap();
        (answer.status.as_u16(), answer.text())
    };
    let (code, body) = get("/primary").await;
    assert_eq!(code, 200);
    let expected = r#"{"state": "running", "postmaster_start_time": "2026-11-22 18:06:13.598054+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 2000}, "timeline": 7, "replication": [{"usename": "replicator", "application_name": "pg-1", "client_addr": "127.0.0.1", "state": "streaming", "sync_state": "quorum", "sync_priority": 1}], "#;
    assert!(body.starts_with(expected), "{body}");
    assert_eq!(get("/replica").await.0, 503);
    assert_eq!(get("/history").await, (200, "[]".to_owned()));
    assert_eq!(get("/config").await.1, r#"{"ttl": 30, "synchronous_mode": "quorum"}"#);
    assert_eq!(get("/failsafe").await.0, 502);
    assert!(get("/cluster").await.1.contains(r#""role": "leader""#));
    let (_, explain) = get("/explain").await;
    let explain: pgherd_api::rest::ExplainBody = serde_json::from_str(&explain).unwrap();
    assert_eq!(explain.current.text, "primary, with the leader key");
    let answer = client.request(Method::HEAD, &format!("http://{address}/leader"), None).await;
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    task.abort();
}

#[tokio::test]
async fn health_checks_follow_the_contracts_table() {
    let code = |board: Board, path: &str, query: Option<&str>| {
        let fixture = fixture(board, None, true);
        checks::check(&fixture.desk, &Method::GET, path, query).as_u16()
    };
    let leader = || board(primary(), true, &[]);
    let sync = ("sync", r#"{"leader":"pg-1","quorum":0,"sync_standby":"pg-0"}"#);
    let other = ("leader", "pg-1");
    let status = ("status", r#"{"optime":2000}"#);
    let standby = || board(replica(), false, &[sync, other, status]);
    for path in [
        "/",
        "/leader",
        "/primary",
        "/master",
        "/read-write",
        "/read-only",
        "/health",
        "/read-only-quorum",
        "/read-only-sync",
        "/liveness",
        "/readiness",
    ] {
        assert_eq!(code(leader(), path, None), 200, "{path}");
    }
    for path in
        ["/replica", "/sync", "/quorum", "/async", "/standby-leader", "/standby_leader", "/other"]
    {
        assert_eq!(code(leader(), path, None), 503, "{path}");
    }
    for path in [
        "/replica",
        "/read-only",
        "/health",
        "/quorum",
        "/read-only-quorum",
        "/liveness",
        "/readiness",
    ] {
        assert_eq!(code(standby(), path, None), 200, "{path}");
    }
    for path in ["/", "/primary", "/leader", "/sync", "/async", "/read-only-sync"] {
        assert_eq!(code(standby(), path, None), 503, "{path}");
    }
    let conditions = [
        ("lag=1000", 200),
        ("lag=999", 503),
        ("lag=1kB", 200),
        ("lag=what", 200),
        ("replication_state=streaming", 200),
        ("replication_state=in%20archive+recovery", 503),
        ("tag_zone=a", 200),
        ("tag_zone=b", 503),
        ("tag_fast=true", 200),
        ("tag_none=1", 503),
    ];
    for (query, expected) in conditions {
        assert_eq!(code(standby(), "/replica", Some(query)), expected, "{query}");
    }
    let mut shunned = fixture(standby(), None, true);
    let desk = Arc::get_mut(&mut shunned.desk).unwrap();
    desk.tags.insert("noloadbalance".to_owned(), json!("yes"));
    for (path, expected) in [("/replica", 503), ("/read-only", 503), ("/health", 200)] {
        let found = checks::check(&shunned.desk, &Method::GET, path, None).as_u16();
        assert_eq!(found, expected, "{path}");
    }
    assert_eq!(code(standby(), "/readiness", Some("lag=600")), 503);
    assert_eq!(code(standby(), "/readiness", Some("lag=600&mode=write")), 200);
}

#[tokio::test]
async fn belief_ends_by_itself() {
    let mut late = board(primary(), true, &[]);
    late.belief_until = Some(clock::now());
    let fixture = fixture(late, None, true);
    assert_eq!(checks::check(&fixture.desk, &Method::GET, "/primary", None), 503);
    let mut hung = board(replica(), false, &[]);
    hung.at = Time(0);
    hung.store = None;
    let fixture = self::fixture(hung, None, true);
    if clock::now().0 > 60_000_000 {
        assert_eq!(checks::check(&fixture.desk, &Method::GET, "/liveness", None), 503);
    }
    assert_eq!(checks::check(&fixture.desk, &Method::GET, "/async", None), 503);
}

#[test]
fn queries_are_read_leniently() {
    let query = Query::parse("lag=16MB&tag_a%20b=c%2Bd&mode=write&x");
    assert_eq!(query.lag, Some(16 << 20));
    assert_eq!(query.tags, [("a b".to_owned(), "c+d".to_owned())]);
    assert!(query.by_received);
    assert_eq!(Query::parse("%"), Query::default());
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let fixture = fixture(board(primary(), true, &[]), None, true);
    let page = metrics::render(&fixture.desk);
    for line in [
        "# HELP patroni_primary Value is 1 if this node is the leader, 0 otherwise.",
        "# TYPE patroni_primary gauge",
        r#"patroni_primary{scope="demo",name="pg-0"} 1"#,
        r#"patroni_version{scope="demo",name="pg-0"} 040105"#,
        r#"patroni_xlog_location{scope="demo",name="pg-0"} 2000"#,
        r#"patroni_postgres_state{scope="demo",name="pg-0"} 5"#,
        r#"pgherd_decision{scope="demo",name="pg-0",situation="leader",reason="leading"} 1"#,
    ] {
        assert!(page.lines().any(|it| it == line), "{line}\n{page}");
    }
    for name in [
        "version postgres_running postmaster_start_time primary xlog_location standby_leader",
        "replica sync_standby quorum_standby xlog_received_location xlog_replayed_location",
        "xlog_replayed_timestamp xlog_paused postgres_streaming postgres_in_archive_recovery",
        "postgres_server_version cluster_unlocked failsafe_mode_is_active failsafe_mode_enabled",
        "failsafe_member postgres_timeline dcs_last_seen pending_restart is_paused postgres_state",
        "failover_priority",
    ]
    .iter()
    .flat_map(|names| names.split(' '))
    {
        let series = format!("patroni_{name}{{scope=\"demo\",name=\"pg-0\"}} ");
        assert!(page.lines().any(|line| line.starts_with(&series)), "{series}");
    }
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names: Vec<_> = names.collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a series is described once");
}

#[test]
fn requests_for_a_new_leader_are_checked_in_patronis_words() {
    let judge = |more: &[(&str, &str)], kind, body: serde_json::Value| {
        let body = body.as_object().unwrap().clone();
        let judged = failover::judge(&cluster(more), kind, &body, 1_795_370_000);
        judged.map(|_| ()).map_err(|(code, words)| (code.as_u16(), words))
    };
    let refused = |code, words: &str| Err((code, words.to_owned()));
    let switchover = |body| judge(&[], Kind::Switchover, body);
    assert_eq!(switchover(json!({"leader": "pg-0"})), Ok(()));
    assert_eq!(switchover(json!({"leader": "pg-0", "candidate": "pg-1"})), Ok(()));
    assert_eq!(judge(&[], Kind::Failover, json!({"member": "pg-1"})), Ok(()));
    let later = json!({"leader": "pg-0", "scheduled_at": "2026-11-22T19:00:00+00:00"});
    assert_eq!(switchover(later), Ok(()));
    assert_eq!(
        switchover(json!({})),
        refused(400, "Switchover could be performed only from a specific leader")
    );
    assert_eq!(
        judge(&[], Kind::Failover, json!({})),
        refused(400, "Failover could be performed only to a specific candidate")
    );
    assert_eq!(
        switchover(json!({"leader": "pg-0", "candidate": "pg-0"})),
        refused(400, "Switchover target and source are the same")
    );
    assert_eq!(switchover(json!({"leader": "pg-1"})), refused(412, "leader name does not match"));
    assert_eq!(
        switchover(json!({"leader": "pg-0", "candidate": "pg-9"})),
        refused(412, "candidate does not exists")
    );
    assert_eq!(
        switchover(json!({"leader": "pg-0", "scheduled_at": "2026-11-22T17:00:00+00:00"})),
        refused(422, "Cannot schedule switchover in the past")
    );
    assert_eq!(
        switchover(json!({"leader": "pg-0", "scheduled_at": "2026-11-22T19:00:00"})),
        refused(400, "Timezone information is mandatory for the scheduled switchover")
    );
    let paused = ("config", r#"{"pause":true}"#);
    assert_eq!(
        judge(&[paused], Kind::Switchover, json!({"leader": "pg-0"})),
        refused(400, "Switchover is possible only to a specific candidate in a paused state")
    );
    let priority = ("config", r#"{"synchronous_mode":true}"#);
    assert_eq!(
        judge(&[priority], Kind::Switchover, json!({"leader": "pg-0", "candidate": "pg-1"})),
        refused(412, "candidate name does not match with sync_standby")
    );
    let tagged = ("members/pg-1", r#"{"state":"running","tags":{"nofailover":true}}"#);
    assert_eq!(
        judge(&[tagged], Kind::Switchover, json!({"leader": "pg-0"})),
        refused(412, "switchover is not possible: no good candidates have been found")
    );
}

#[test]
fn a_standby_is_what_sync_and_the_mode_make_of_it() {
    let sync = ("sync", r#"{"leader":"pg-1","quorum":0,"sync_standby":"pg-0"}"#);
    let priority = ("config", r#"{"synchronous_mode":true}"#);
    let off = ("config", "{}");
    let kind =
        |more: &[(&str, &str)]| status::standby(&board(replica(), false, more), &node("pg-0"));
    assert_eq!(kind(&[]), status::Standby::None);
    assert_eq!(kind(&[sync]), status::Standby::Quorum);
    assert_eq!(kind(&[sync, priority]), status::Standby::Sync);
    assert_eq!(kind(&[sync, off]), status::Standby::None);
}

#[tokio::test]
async fn peers_hear_each_other_and_notice_the_end() {
    let mut here = fixture(board(primary(), true, &[]), login(), true);
    let (address, task) = served(&here).await;
    let (sender, mut there) = mpsc::channel(16);
    let identity = Identity {
        name: node("pg-1"),
        scope: "demo".to_owned(),
        secret: Some(Secret::new("herd")),
        login: None,
    };
    let tls = pgherd_api::tls::client(&RestClient::default(), Trust::Signed).unwrap();
    let mut peers = Peers::new(identity, tls, sender);
    let api = format!(r#"{{"api_url":"http://{address}/patroni","pgherd":"0.1.0"}}"#);
    peers.follow(cluster(&[("members/pg-0", &api)]).members());
    let message = PeerMessage::AskPledge { ballot: pgherd_core::Revision(7) };
    // Nothing is queued before the stream is open, so the first messages are gone.
    let heard = loop {
        peers.send(&node("pg-0"), message.clone());
        let pause = std::time::Duration::from_millis(10);
        if let Ok(event) = tokio::time::timeout(pause, here.events.recv()).await {
            break event.unwrap();
        }
    };
    let Event::Peer { from, message: got } = heard else { unreachable!("{heard:?}") };
    assert_eq!((from, got), (node("pg-1"), message));
    assert!(peers.connected().all(|(_, connected)| connected));
    task.abort();
    let _ = task.await;
    let mut lost = Vec::new();
    while lost.len() < 2 {
        if let Event::PeerLost(how) = there.recv().await.unwrap() {
            lost.push(how);
        }
    }
    assert_eq!(lost, [PeerLost::Closed(node("pg-0")), PeerLost::Refused(node("pg-0"))]);
}

/// Desks of which there is one.
fn desks(desk: &Arc<Desk>) -> watch::Receiver<Arc<Desk>> {
    watch::Sender::new(Arc::clone(desk)).subscribe()
}
